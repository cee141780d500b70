// Worker threads.
// Floor 2, room exec.
#include <penstock/exec/worker_pool.hpp>

#include "base/forced_unwind.hpp"
#include "exec/context.hpp"
#include "exec/pool_core.hpp"
#include "exec/thread_start.hpp"
#include "exec/timer_thread.hpp"
#include "sync/parker.hpp"

#include <algorithm>
#include <cstdio>
#include <system_error>
#include <utility>

namespace penstock {

worker_pool_options::worker_pool_options() : fields_(std::make_unique<fields>()) {}
worker_pool_options::worker_pool_options(worker_pool_options&&) noexcept = default;
worker_pool_options& worker_pool_options::operator=(worker_pool_options&&) noexcept = default;
worker_pool_options::~worker_pool_options() = default;

worker_pool_options::fields& worker_pool_options::made() {
  if (!fields_) fields_ = std::make_unique<fields>();  // set again after it was moved from
  return *fields_;
}

worker_pool_options& worker_pool_options::threads(unsigned count) & {
  made().threads = count;
  made().threads_set = true;
  return *this;
}
worker_pool_options&& worker_pool_options::threads(unsigned count) && { return std::move(threads(count)); }
worker_pool_options& worker_pool_options::budget(unsigned events) & {
  made().budget = events;
  return *this;
}
worker_pool_options&& worker_pool_options::budget(unsigned events) && { return std::move(budget(events)); }
worker_pool_options& worker_pool_options::wait(wait_strategy strategy) & {
  return wait(strategy, strategy == wait_strategy::adaptive ? adaptive_spin : fixed_spin);
}
worker_pool_options&& worker_pool_options::wait(wait_strategy strategy) && { return std::move(wait(strategy)); }
worker_pool_options& worker_pool_options::wait(wait_strategy strategy, std::chrono::nanoseconds spin_time) & {
  constexpr std::chrono::nanoseconds longest = std::chrono::milliseconds(1);
  made().strategy = strategy;
  made().spin_time = std::clamp(spin_time, std::chrono::nanoseconds::zero(), longest);
  return *this;
}
worker_pool_options&& worker_pool_options::wait(wait_strategy strategy, std::chrono::nanoseconds spin_time) && {
  return std::move(wait(strategy, spin_time));
}
worker_pool_options& worker_pool_options::may_wait(bool yes) & {
  made().may_wait = yes;
  return *this;
}
worker_pool_options&& worker_pool_options::may_wait(bool yes) && { return std::move(may_wait(yes)); }
worker_pool_options& worker_pool_options::on_thread_start(unique_function<void(unsigned)> hook) & {
  made().on_thread_start = std::move(hook);
  return *this;
}
worker_pool_options&& worker_pool_options::on_thread_start(unique_function<void(unsigned)> hook) && {
  return std::move(on_thread_start(std::move(hook)));
}
worker_pool_options& worker_pool_options::on_failure(unique_function<void(const failure&)> hook) & {
  made().on_failure = std::move(hook);
  return *this;
}
worker_pool_options&& worker_pool_options::on_failure(unique_function<void(const failure&)> hook) && {
  return std::move(on_failure(std::move(hook)));
}

namespace exec {
namespace {

worker_pool_options::fields checked(const std::string& name, worker_pool_options&& given) {
  const auto refuse = [&](const std::string& text) {
    throw std::system_error(make_error_code(errc::invalid_argument), "worker pool \"" + name + "\": " + text);
  };
  if (name.empty()) refuse("a pool needs a name");
  if (given.moved_from()) refuse("its options were moved from; make new ones");
  worker_pool_options::fields& fields = given.get();
  if (!fields.threads_set) fields.threads = std::max(2U, std::thread::hardware_concurrency());
  if (fields.threads == 0) refuse("threads(0) leaves nobody to work; give at least 1");
  if (fields.budget == 0) refuse("budget(0) lets no event through; give at least 1");
  return std::move(fields);
}

spin_gauge gauge_of(const worker_pool_options::fields& options) noexcept {
  switch (options.strategy) {
    case wait_strategy::park:
      break;
    case wait_strategy::spin_then_park:
      return options.spin_time;
    case wait_strategy::adaptive:
      if (std::thread::hardware_concurrency() == 1) break;  // whoever would bring work cannot run meanwhile
      return spin_gauge::adaptive(options.spin_time);
  }
  return std::chrono::nanoseconds::zero();
}

}  // namespace

pool_core::pool_core(std::string given, worker_pool_options made, const clock& clock)
    : name(std::move(given)), options(checked(name, std::move(made))), time(clock), list(gauge_of(options), clock) {}

void pool_core::start_one(unsigned index) {
  lock_guard lock(workers_m_);
  worker& made = workers_.emplace_back();
  made.index = index;
  try {
    made.thread = start_thread([self = shared_from_this(), &made] { self->run_worker(made); });
  } catch (...) {
    workers_.pop_back();
    throw;
  }
}

void pool_core::start_workers() {
  unsigned asked = 0;
  std::exception_ptr no_thread;
  try {
    for (; asked < options.threads; ++asked) start_one(asked);
  } catch (...) {
    no_thread = std::current_exception();
  }
  std::exception_ptr hook_threw;
  unsigned hook_at = 0;
  for (;;) {
    const std::uint32_t seen = changes_.load();
    {
      lock_guard lock(workers_m_);
      if (started_ >= asked) {
        hook_threw = start_error_;
        hook_at = start_error_at_;
        break;
      }
    }
    sync::park(changes_, seen, no_deadline);
  }
  if (!no_thread && !hook_threw) return;
  stop(no_deadline);
  const std::string who = "worker pool \"" + name + "\": ";
  try {
    std::rethrow_exception(no_thread ? no_thread : hook_threw);
  } catch (const std::system_error& failed) {
    if (no_thread)
      throw std::system_error(failed.code(), who + "thread " + std::to_string(asked + 1) + " of " +
                                                 std::to_string(options.threads) + " did not start");
    throw std::system_error(failed.code(),
                            who + "the on_thread_start hook of thread " + std::to_string(hook_at) + " threw");
  }
}

PENSTOCK_CATCHES_FORCED_UNWIND
void pool_core::run_worker(worker& self) {
  std::string number("-");  // appended to, not "-" + …: g++ 12 warns falsely of that at -O3
  number += std::to_string(self.index + 1);
  name_this_thread(name, number);
  if (options.stacks) options.stacks->answer_here();
  list.enlist(self.sleeper, self.index);
  this_thread_slot().works_for = this;
  bool good = true;
  try {
    if (options.on_thread_start) options.on_thread_start(self.index);
  } catch (...) {
    good = false;
    lock_guard lock(workers_m_);
    if (!start_error_) {
      start_error_ = std::current_exception();
      start_error_at_ = self.index + 1;
    }
  }
  {
    lock_guard lock(workers_m_);
    ++started_;
  }
  changes_.fetch_add(1);
  sync::unpark_all(&changes_);
  try {
    while (good) {
      const ready_list::ready found = list.next(self.sleeper);
      if (found.kind == ready_list::what::stopped) break;
      self.in_call.store(true, std::memory_order_relaxed);  // only looked at long after; `stop` looks again
      if (found.kind == ready_list::what::lane)
        found.lane->run(options.budget);
      else
        run_posted(self);
      self.in_call.store(false, std::memory_order_relaxed);
    }
  } catch (const forced_unwind&) {
    worker_lost(self);  // pthread_cancel or pthread_exit in a handler: this thread cannot be kept
    throw;
  }
  list.leave(self.sleeper);
  self.in_call.store(true, std::memory_order_relaxed);
  if (list.stopping()) drop_left();
  {
    lock_guard lock(workers_m_);
    self.ended = true;
  }
  changes_.fetch_add(1);
  sync::unpark_all(&changes_);
}

void pool_core::worker_lost(worker& self) noexcept {
  list.leave(self.sleeper);
  bool replaced = false;
  if (!list.stopping()) {
    try {
      start_one(self.index);
      replaced = true;
    } catch (...) {
    }
  }
  try {
    failure record;
    record.subscription = name;
    record.exception.type_name = "abi::__forced_unwind";
    record.exception.what = replaced ? "a worker was lost to thread cancellation and has been replaced"
                                     : "a worker was lost to thread cancellation and could not be replaced";
    report(record);
  } catch (...) {
  }
  {
    lock_guard lock(workers_m_);
    self.ended = true;
  }
  changes_.fetch_add(1);
  sync::unpark_all(&changes_);
}

// One item, and those behind it, until a lane waits for its turn or nothing is left.
PENSTOCK_CATCHES_FORCED_UNWIND
void pool_core::run_posted(worker& self) {
  context inside{context_kind::worker};
  context_scope scope(options.may_wait ? nullptr : &inside);
  do {
    unique_function<void()> work = posted.pop();
    if (!work) return;  // stopped meanwhile, and dropped
    try {
      work();
    } catch (const forced_unwind&) {
      throw;
    } catch (...) {
      failure record;
      record.exception = describe_current_exception();
      try {
        record.subscription = name;
        record.event = "posted work";
      } catch (...) {
      }
      report(record);
    }
  } while (list.next_posted(self.sleeper));
}

pool_snapshot pool_core::snapshot() {
  pool_snapshot seen;
  seen.name = name;
  seen.workers = options.threads;
  seen.may_wait = options.may_wait;
  list.count(seen);
  lock_guard lock(workers_m_);
  for (const worker& each : workers_) seen.busy += !each.ended && each.in_call.load() ? 1 : 0;
  return seen;
}

void pool_core::report(const failure& record) noexcept {
  try {
    if (options.on_failure) {
      options.on_failure(record);
      return;
    }
    std::uint64_t left_out = 0;
    {
      lock_guard lock(lines_m_);
      const steady_time now = time.now();
      if (lines_.over(now)) left_out = lines_.take_left_out();
      if (!lines_.ask(now)) return;
    }
    tell_left_out(left_out);
    std::fputs(("penstock: " + to_string(record) + "\n").c_str(), stderr);
  } catch (...) {
    std::fputs("penstock: a failure hook threw, and the failure it was told of could not be described\n", stderr);
  }
}

void pool_core::tell_left_out(std::uint64_t count) const noexcept {
  if (count > 0)
    std::fprintf(stderr, "penstock: worker pool \"%s\": … and %llu more failures\n", name.c_str(),
                 static_cast<unsigned long long>(count));
}

errc pool_core::post(unique_function<void()>& work) noexcept {
  if (!work) return errc::invalid_argument;
  if (fork.forked()) return errc::forked;
  if (list.stopping()) return errc::closed;
  if (!posted.push(work)) return errc::not_enough_memory;
  if (list.push_posted()) return errc::none;
  while (posted.pop()) {  // stopped meanwhile: nobody will run what is left
  }
  return errc::closed;
}

detail::pool_look pool_core::look() {
  detail::pool_look seen;
  seen.name = name;
  seen.threads = options.threads;
  seen.working.reserve(options.threads);  // the list's mutex is not to be held while memory is found
  list.look(seen);
  return seen;
}

std::vector<std::string> pool_core::stack_of(const detail::working_look& worker) {
  if (!options.stacks) return {};
  stack_question question(*options.stacks);
  if (!list.ask(worker, question)) return {};
  std::vector<std::string> frames = question.answer();
  if (!list.in_turn(worker)) frames.clear();  // it may show what came after
  return frames;
}

void pool_core::drop_left() noexcept {
  while (runnable* dropped = list.take_left()) dropped->dropped();
  while (posted.pop()) {
  }
}

unsigned pool_core::stop(steady_time deadline) noexcept {
  if (fork.forked()) return 0;  // nobody to wait for
  list.stop();
  const auto own = std::this_thread::get_id();
  unsigned left = 0;
  for (;;) {
    const std::uint32_t seen = changes_.load();
    std::list<worker> ended;
    bool waiting = false;
    {
      lock_guard lock(workers_m_);
      for (auto each = workers_.begin(); each != workers_.end();) {
        const auto current = each++;
        if (current->thread.get_id() == own || !current->thread.joinable()) continue;
        if (current->ended)
          ended.splice(ended.end(), workers_, current);
        else
          waiting = true;
      }
    }
    for (worker& each : ended) each.thread.join();
    if (!waiting) break;
    if (sync::park(changes_, seen, deadline)) continue;
    // Who is in a call by now is left to itself: its thread keeps this core alive, and nothing else. Who is in none has
    // only not had the processor: it ends in a moment, or turns out to be in a call after all.
    bool in_none = false;
    lock_guard lock(workers_m_);
    for (worker& each : workers_) {
      if (each.ended || !each.thread.joinable() || each.thread.get_id() == own) continue;
      if (!each.in_call.load(std::memory_order_relaxed)) {
        in_none = true;
        continue;
      }
      each.thread.detach();
      ++left;
    }
    deadline = in_none ? deadline_after(time.now(), std::chrono::milliseconds(1)) : no_deadline;
  }
  {
    lock_guard lock(workers_m_);
    for (worker& each : workers_)
      if (each.thread.get_id() == own) each.thread.detach();  // it cannot join itself; it ends when its call returns
  }
  drop_left();
  std::uint64_t left_out = 0;
  {
    lock_guard lock(lines_m_);
    left_out = lines_.take_left_out();
  }
  tell_left_out(left_out);
  return left;
}

namespace {

class threads_pool final : public worker_pool {
 public:
  threads_pool(std::shared_ptr<pool_core> core, std::shared_ptr<timer_service> timers,
               std::shared_ptr<environment_parts> parts)
      : core_(std::move(core)), timers_(std::move(timers)), parts_(std::move(parts)) {}
  ~threads_pool() override { stop(no_deadline); }

  void schedule(runnable& item) noexcept override {
    if (core_->fork.forked())
      return item.dropped();  // nobody would come to it, and the list's lock may be held for ever
    const bool within = this_thread_slot().works_for == core_.get();
    if (!(within ? core_->list.push_within(item) : core_->list.push(item))) core_->drop_left();
  }
  void schedule_again(runnable& item) noexcept override { core_->list.push_again(item); }
  errc post(unique_function<void()> work) override { return core_->post(work); }
  const clock& time() const noexcept override { return core_->time; }
  timer_service& timers() noexcept override { return *timers_; }
  const std::string& name() const noexcept override { return core_->name; }
  std::shared_ptr<environment_parts> parts() const noexcept override { return parts_; }
  errc why_dropped() const noexcept override { return core_->fork.forked() ? errc::forked : errc::closed; }
  detail::watched_pool* watched() noexcept override { return core_.get(); }
  when_empty after_work() const noexcept override {
    return core_->list.nothing_waits() ? when_empty::look_again : when_empty::yield;
  }
  unsigned stop(steady_time deadline) noexcept override {
    const unsigned left = core_->stop(deadline);
    if (parts_ == nullptr) timers_->stop();  // its own: a runtime's pools share theirs
    return left;
  }
  std::size_t ready_approx() const noexcept override { return core_->list.size(); }
  unsigned parked_approx() const noexcept override { return core_->list.sleeping(); }
  unsigned threads() const noexcept override { return core_->options.threads; }
  pool_snapshot snapshot() const override { return core_->snapshot(); }
  bool may_wait() const noexcept override { return core_->options.may_wait; }
  void begin_stop() noexcept {
    if (!core_->fork.forked()) core_->list.stop();
  }

 private:
  std::shared_ptr<pool_core> core_;
  std::shared_ptr<timer_service> timers_;
  std::shared_ptr<environment_parts> parts_;
};

}  // namespace

void begin_stop(worker_pool& pool) noexcept { static_cast<threads_pool&>(pool).begin_stop(); }

std::shared_ptr<worker_pool> start_pool(std::string_view name, worker_pool_options options, const clock& time,
                                        std::shared_ptr<timer_service> timers,
                                        std::shared_ptr<environment_parts> parts) {
  auto core = std::make_shared<pool_core>(std::string(name), std::move(options), time);
  core->start_workers();
  return std::make_shared<threads_pool>(std::move(core), std::move(timers), std::move(parts));
}

}  // namespace exec

std::shared_ptr<worker_pool> worker_pool::start(std::string_view name, worker_pool_options options) {
  return exec::start_pool(name, std::move(options), real_clock(), real_timers(), nullptr);
}

std::shared_ptr<worker_pool> worker_pool::start(std::string_view name) { return start(name, worker_pool_options()); }

}  // namespace penstock
