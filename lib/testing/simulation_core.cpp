// Choosing, resuming, waiting, and the passage of virtual time.
// Floor 8, room testing.
#include "testing/simulation_core.hpp"

#include "exec/context.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <utility>

namespace penstock::testing::detail {

simulation_core::simulation_core(const simulation_options& options, scenario_host* host)
    : options_(options),
      host_(host),
      choices_(mix_bits(options.seed_ + 1)),
      scenario_choices_(mix_bits(~options.seed_)),
      jitter_(mix_bits(options.seed_ ^ 0x6a69747465720000)),
      step_limit_(options.step_limit_),
      looks_again_((mix_bits(options.seed_ ^ 0x6c6f6f6b73000000) & 1) != 0) {
  thread_slot& slot = this_thread_slot();
  if (slot.simulated_by != nullptr)
    throw std::logic_error("a simulation exists on this thread already: end it before making another one");
  if (options.step_limit_ == 0 || options.livelock_after_ == 0)
    throw std::invalid_argument("simulation_options: step_limit and livelock_after must be at least 1");
  clock_.core = this;
  ready_.reserve(32);
  eligible_.reserve(32);
  waiting_.reserve(16);
  idle_workers_.reserve(16);
  entities_.reserve(32);
  scenario_ = &threads_.emplace_back();
  scenario_->is = thread_state::role::scenario;
  scenario_->now = thread_state::status::running;
  scenario_->core = this;
  scenario_->name = "the scenario";
  scenario_->entity = add_entity(entity_info::what::scenario, 0, 0);
  timers_ = &threads_.emplace_back();
  timers_->is = thread_state::role::timers;
  timers_->core = this;
  timers_->name = "the timer thread";
  timers_->entity = add_entity(entity_info::what::timers, 1, 0);
  reserve_for_threads();
  // The steps at which a priority changes: within a horizon that itself is seeded, because nobody knows how long the
  // scenario will be.
  const std::uint64_t horizon = std::uint64_t{16} << choices_.below(7);
  for (std::uint64_t& at : change_at_) at = choices_.below(horizon);
  spurious_wakeups_ = choices_.below(8) == 0;
  plan_preemptions();
  current_ = scenario_;
  slot_before_ = slot;
  slot = {this, nullptr};
}

simulation_core::~simulation_core() = default;

// Entities and the ready list

std::uint32_t simulation_core::add_entity(entity_info::what kind, std::uint32_t number, std::uint32_t pool) {
  const auto id = static_cast<std::uint32_t>(entities_.size());
  entities_.push_back({kind, number, pool, 0});
  entities_.back().priority = lowest_priority_ + 1 + (choices_.next() >> 1);
  // Each newcomer becomes the victim with probability 1/n, so that in the end all are equally likely to be it.
  if (choices_.below(++victim_seen_) == 0) victim_ = id;
  return id;
}

void simulation_core::reserve_for_threads() {
  // Waking a thread must not allocate: there is room for each of them beyond the lanes that are listed.
  const std::size_t wanted = ready_.size() + threads_.size() + 1;
  if (ready_.capacity() < wanted) ready_.reserve(2 * wanted);
  if (eligible_.capacity() < ready_.capacity()) eligible_.reserve(ready_.capacity());
  if (waiting_.capacity() < threads_.size()) waiting_.reserve(2 * threads_.size());
  if (idle_workers_.capacity() < threads_.size()) idle_workers_.reserve(2 * threads_.size());
}

bool simulation_core::push_ready(const ready_entry& entry) noexcept {
  try {
    reserve_for_threads();
  } catch (...) {
    return false;
  }
  ready_.push_back(entry);
  return true;
}

void simulation_core::make_ready(thread_state& thread) noexcept {
  if (thread.now == thread_state::status::waiting) std::erase(waiting_, &thread);
  thread.now = thread_state::status::ready;
  ready_.push_back({ready_entry::what::thread, thread.entity, nullptr, &thread});
}

void simulation_core::schedule(simulated_pool& pool, runnable& item) noexcept {
  if (ended_ || pool.stopped) {
    item.dropped();
    return;
  }
  try {
    if (item.scheduler_mark == 0) item.scheduler_mark = add_entity(entity_info::what::lane, lanes_++, pool.index);
  } catch (...) {
    // It is numbered when there is memory; until then it goes under the name of the timers.
  }
  const auto entity = item.scheduler_mark != 0 ? static_cast<std::uint32_t>(item.scheduler_mark) : timers_->entity;
  if (push_ready({ready_entry::what::lane, entity, &pool, &item})) return;
  item.next_ready = pool.overflow;
  pool.overflow = &item;
  overflow_ = true;
}

void simulation_core::take_overflow() noexcept {
  overflow_ = false;
  for (const auto& pool : pools_) {
    while (runnable* item = pool->overflow) {
      pool->overflow = item->next_ready;
      item->next_ready = nullptr;
      schedule(*pool, *item);
      if (overflow_) return;  // still no memory
    }
  }
}

errc simulation_core::post(simulated_pool& pool, unique_function<void()> work) {
  if (!work) return errc::invalid_argument;
  if (ended_ || pool.stopped) return errc::closed;
  std::unique_ptr<posted_work> node(new (std::nothrow) posted_work{std::move(work)});
  if (!node) return errc::not_enough_memory;
  try {
    const std::uint32_t entity = add_entity(entity_info::what::posted, posts_++, pool.index);
    if (!push_ready({ready_entry::what::posted, entity, &pool, node.get()})) return errc::not_enough_memory;
  } catch (const std::bad_alloc&) {
    return errc::not_enough_memory;
  }
  node.release();
  return errc::none;
}

std::size_t simulation_core::ready_in(const simulated_pool& pool) const noexcept {
  std::size_t count = 0;
  for (const ready_entry& entry : ready_) count += entry.pool == &pool ? 1 : 0;
  return count;
}

void simulation_core::working_in(const simulated_pool& pool,
                                 std::vector<penstock::detail::working_look>& seen) const {
  unsigned index = 0;
  for (const thread_state& thread : threads_) {
    if (thread.is != thread_state::role::worker || thread.now == thread_state::status::idle) continue;
    if (thread.pool == &pool) seen.push_back({index++, thread.turn, thread.item});
  }
}

void simulation_core::count(const simulated_pool& pool, pool_snapshot& seen) const noexcept {
  for (const ready_entry& entry : ready_) {
    if (entry.pool != &pool) continue;
    if (entry.is == ready_entry::what::lane) ++seen.ready;
    if (entry.is == ready_entry::what::posted) ++seen.queued;
  }
}

void simulation_core::drop_work(const simulated_pool* only) noexcept {
  // One at a time: what is dropped may look into the lists.
  for (;;) {
    const auto found = std::find_if(ready_.begin(), ready_.end(), [&](const ready_entry& entry) {
      return entry.pool != nullptr && (only == nullptr || entry.pool == only);
    });
    if (found == ready_.end()) break;
    const ready_entry entry = *found;
    ready_.erase(found);
    if (entry.is == ready_entry::what::lane)
      static_cast<runnable*>(entry.subject)->dropped();
    else
      delete static_cast<posted_work*>(entry.subject);
  }
  for (const auto& pool : pools_) {
    if (only != nullptr && pool.get() != only) continue;
    while (runnable* item = pool->overflow) {
      pool->overflow = item->next_ready;
      item->dropped();
    }
  }
}

// Choosing

bool simulation_core::eligible(const ready_entry& entry) const noexcept {
  return entry.pool == nullptr || !entry.pool->saturated();
}

std::size_t simulation_core::choose() {
  if (ready_.empty()) return nobody;
  if (saturated_pools_ == 0 && excluded_ == 0) return choose_among(ready_.size(), nullptr);
  eligible_.clear();
  std::uint32_t excluded_at = 0;
  bool excluded_found = false;
  for (std::uint32_t at = 0; at < ready_.size(); ++at) {
    if (!eligible(ready_[at])) continue;
    if (excluded_ != 0 && ready_[at].entity + 1 == excluded_) {
      excluded_found = true;
      excluded_at = at;
      continue;
    }
    eligible_.push_back(at);
  }
  if (eligible_.empty() && excluded_found) eligible_.push_back(excluded_at);
  if (eligible_.empty()) return nobody;
  return choose_among(eligible_.size(), eligible_.data());
}

std::size_t simulation_core::choose_among(std::size_t count, const std::uint32_t* places) {
  const auto place_of = [&](std::size_t index) { return places != nullptr ? places[index] : index; };
  std::size_t picked = 0;
  const bool fair = since_progress_ > options_.livelock_after_ / 2;  // an unfair order alone is no livelock
  if (count > 1 && !fair) {
    switch (options_.strategy_) {
      case strategy::fifo:
        break;
      case strategy::random:
        picked = choices_.below(count);
        break;
      case strategy::starve_one: {
        std::size_t victim = 0;
        while (victim < count && ready_[place_of(victim)].entity != victim_) ++victim;
        if (victim == count) {
          picked = choices_.below(count);
        } else {
          picked = choices_.below(count - 1);
          if (picked >= victim) ++picked;
        }
        break;
      }
      case strategy::priority_change: {
        const auto priority = [&](std::size_t index) { return entities_[ready_[place_of(index)].entity].priority; };
        for (std::size_t index = 1; index < count; ++index)
          if (priority(index) > priority(picked)) picked = index;
        if (steps_ == change_at_[0] || steps_ == change_at_[1])
          entities_[ready_[place_of(picked)].entity].priority = lowest_priority_--;
        break;
      }
    }
  }
  const std::size_t at = place_of(picked);
  trace_.mix((static_cast<std::uint64_t>(count) << 32) | picked, ready_[at].entity);
  return at;
}

bool simulation_core::run_choice() {
  if (overflow_) take_overflow();
  for (;;) {
    const std::size_t at = choose();
    excluded_ = 0;
    if (at == nobody) return false;
    const ready_entry entry = ready_[at];
    ready_.erase(ready_.begin() + static_cast<std::ptrdiff_t>(at));
    if (entry.is == ready_entry::what::timers) {
      timers_listed_ = false;
      if (heap_.empty() || heap_.front().due > now_) continue;  // disarmed meanwhile
    }
    ++steps_;
    ++since_progress_;
    spin_limit_ = atomic_steps_ + long_spin;
    run_entry(entry);
    if (const char* wrong = parts_->complaint()) fail(wrong);
    return true;
  }
}

void simulation_core::run_entry(const ready_entry& entry) {
  switch (entry.is) {
    case ready_entry::what::thread: {
      auto& thread = *static_cast<thread_state*>(entry.subject);
      if (&thread == scenario_) {
        record(trace_kind::scenario_goes_on, entry.entity);
        scenario_->now = thread_state::status::running;
        current_ = scenario_;
        return;
      }
      record(trace_kind::run_thread, entry.entity);
      if (thread.stack == nullptr) {
        thread.stack = fiber::acquire(stack_size::worker);
        thread.stack->assign(&run_job, &thread);
        progress();
      }
      resume(thread);
      return;
    }
    case ready_entry::what::lane:
      record(trace_kind::run_lane, entry.entity);
      run_on_worker(*entry.pool, static_cast<runnable*>(entry.subject), nullptr, entry.entity);
      return;
    case ready_entry::what::posted:
      record(trace_kind::run_posted, entry.entity);
      run_on_worker(*entry.pool, nullptr, static_cast<posted_work*>(entry.subject), entry.entity);
      return;
    case ready_entry::what::timers:
      record(trace_kind::fire_timer, entry.entity);
      if (timers_->stack == nullptr) timers_->stack = fiber::acquire(stack_size::worker);
      timers_->stack->assign(&run_job, timers_);
      resume(*timers_);
      return;
  }
}

void simulation_core::run_on_worker(simulated_pool& pool, runnable* item, posted_work* work, std::uint32_t entity) {
  if (idle_workers_.empty()) {
    thread_state& made = threads_.emplace_back();
    made.is = thread_state::role::worker;
    made.core = this;
    reserve_for_threads();
    idle_workers_.push_back(&made);
  }
  thread_state& worker = *idle_workers_.back();
  if (worker.stack == nullptr) worker.stack = fiber::acquire(stack_size::worker);
  idle_workers_.pop_back();
  worker.pool = &pool;
  worker.item = item;
  worker.posted = work;
  worker.entity = entity;
  worker.context = nullptr;
  worker.turn = ++turns_;
  if (++pool.busy == pool.threads()) ++saturated_pools_;
  worker.stack->assign(&run_job, &worker);
  resume(worker);
}

void simulation_core::resume(thread_state& thread) {
  thread_slot& slot = this_thread_slot();
  void* const scenario_context = std::exchange(slot.context, thread.context);
  current_ = &thread;
  thread.now = thread_state::status::running;
  thread.stack->resume();
  thread.context = std::exchange(slot.context, scenario_context);
  current_ = scenario_;
  if (thread.stack->idle()) retire(thread);
}

void simulation_core::retire(thread_state& thread) noexcept {
  switch (thread.is) {
    case thread_state::role::scenario:
      return;
    case thread_state::role::started:
      record(trace_kind::thread_ends, thread.entity);
      thread.now = thread_state::status::done;
      fiber::release(std::exchange(thread.stack, nullptr));
      progress();
      wake_all(&thread);
      return;
    case thread_state::role::timers:
      thread.now = thread_state::status::idle;
      list_timers();
      return;
    case thread_state::role::worker: {
      simulated_pool& pool = *thread.pool;
      thread.now = thread_state::status::idle;
      if (pool.saturated()) --saturated_pools_;
      --pool.busy;
      idle_workers_.push_back(&thread);
      if (pool.stopped) wake_all(&pool);
      return;
    }
  }
}

void simulation_core::run_job(void* argument) {
  auto& thread = *static_cast<thread_state*>(argument);
  switch (thread.is) {
    case thread_state::role::scenario:
      break;
    case thread_state::role::started:
      thread.core->run_body(thread);
      break;
    case thread_state::role::worker:
      thread.core->run_call(thread);
      break;
    case thread_state::role::timers:
      thread.core->fire_one_timer();
      break;
  }
}

void simulation_core::run_body(thread_state& thread) {
  unique_function<void()> body = std::move(thread.body);
  try {
    body();
  } catch (const simulation_ended&) {
  } catch (...) {
    fail_by_current_exception("simulated thread '" + thread.name + "'");
  }
}

void simulation_core::run_call(thread_state& thread) {
  thread.pool->begin_turn();
  if (thread.item != nullptr) {
    try {
      thread.item->run(thread.pool->budget());
    } catch (...) {
      fail_by_current_exception(name_of(thread.entity));
    }
    return;
  }
  const std::unique_ptr<posted_work> work(std::exchange(thread.posted, nullptr));
  exec::context inside{exec::context_kind::worker};
  exec::context_scope scope(thread.pool->may_wait() ? nullptr : &inside);
  try {
    work->body();
  } catch (const simulation_ended&) {
  } catch (const simulation_failure&) {  // recorded where it was thrown
  } catch (...) {
    failure record;
    record.exception = describe_current_exception();
    record.subscription = thread.pool->name();
    record.event = "posted work";
    thread.pool->report(record);
  }
  work->body = nullptr;  // the closure dies as posted work, too
}

// Waiting and waking

void simulation_core::wait_here(const void* address, steady_time deadline, bool interruptible, std::string_view place) {
  thread_state& self = *current_;
  if (interruptible && ending_) throw_end(self);
  if (ended_) return;
  self.address = address;
  self.deadline = deadline;
  self.interruptible = interruptible;
  self.place = place;
  self.now = thread_state::status::waiting;
  waiting_.push_back(&self);
  record(trace_kind::waits, self.entity);
  if (deadline <= now_) {
    make_ready(self);
  } else if (spurious_wakeups_ && !interruptible && choices_.below(16) == 0) {
    record(trace_kind::spurious, self.entity);
    make_ready(self);
  }
  switch_away(self);
  self.place = {};
  if (std::exchange(self.interrupted, false)) throw_end(self);
}

void simulation_core::yield_here() {
  thread_state& self = *current_;
  if (ended_) return;
  make_ready(self);
  switch_away(self);
}

void simulation_core::switch_away(thread_state& self) {
  if (&self == scenario_)
    drive();
  else
    self.stack->suspend();
}

void simulation_core::throw_end(const thread_state& self) {
  if (&self != scenario_) throw simulation_ended{};
  fail("the scenario waits " + std::string(self.place) + " after the simulation has ended");
  throw_failure();
}

void simulation_core::wake_one(const void* address) noexcept {
  std::size_t count = 0;
  for (const thread_state* thread : waiting_) count += thread->address == address ? 1 : 0;
  if (count == 0) return;
  std::size_t picked = options_.strategy_ == strategy::fifo || count == 1 ? 0 : choices_.below(count);
  for (thread_state* thread : waiting_) {
    if (thread->address != address || picked-- != 0) continue;
    record(trace_kind::wakes, thread->entity);
    make_ready(*thread);
    return;
  }
}

void simulation_core::wake_all(const void* address) noexcept {
  for (std::size_t at = 0; at < waiting_.size();) {
    thread_state& thread = *waiting_[at];
    if (thread.address == address) {
      record(trace_kind::wakes, thread.entity);
      make_ready(thread);  // takes it out of the list
    } else {
      ++at;
    }
  }
}

// Driving

void simulation_core::drive() {
  for (;;) {
    if (must_bail_) bail();
    if (over_limit()) {
      if (excesses_ > 1) bail();
      ending_ = true;
      interrupt_waits();
    }
    if (run_choice()) {
      if (scenario_->now == thread_state::status::running) break;
    } else if (!advance_time(no_deadline)) {
      on_stuck();
    }
  }
  progress();
}

bool simulation_core::advance_time(steady_time limit) {
  steady_time next = no_deadline;
  const bool timers_run = timers_->now == thread_state::status::idle;
  if (timers_run && !heap_.empty()) next = heap_.front().due;
  steady_time wanted = foreground_timers_ > 0 ? next : no_deadline;
  for (const thread_state* thread : waiting_) wanted = std::min(wanted, thread->deadline);
  if (limit == no_deadline && wanted == no_deadline) return false;  // timers in the background alone are nothing to do
  next = std::min(next, wanted);
  if (next == no_deadline || next > limit) return false;
  if (next > now_) {
    now_ = next;
    trace_.mix(static_cast<std::uint64_t>(elapsed().count()), 0);
    record(trace_kind::time_jumps, 0);
  }
  list_timers();
  for (std::size_t at = 0; at < waiting_.size();) {
    if (waiting_[at]->deadline <= now_)
      make_ready(*waiting_[at]);
    else
      ++at;
  }
  return true;
}

bool simulation_core::over_limit() {
  if (steps_ >= step_limit_) {
    fail("step limit: " + std::to_string(steps_) +
         " steps were not enough; raise simulation_options::step_limit if that is right");
    step_limit_ = steps_ + options_.step_limit_;
  } else if (since_progress_ >= options_.livelock_after_) {
    fail("livelock: " + std::to_string(since_progress_) +
         " steps without progress; if they were useful, call simulation::progress() or raise livelock_after");
  } else {
    return false;
  }
  progress();
  ++excesses_;
  return true;
}

void simulation_core::on_stuck() {
  if (!failed_) {
    std::string others;
    for (const thread_state* thread : waiting_)
      if (thread != scenario_) others += (others.empty() ? "" : ", ") + describe(*thread);
    fail("deadlock: the scenario waits " + std::string(scenario_->place) + " for ever, and nothing can wake it; " +
         (others.empty() ? "no simulated thread waits" : "also waiting: " + others));
  }
  if (scenario_->interruptible) {
    std::erase(waiting_, scenario_);
    scenario_->now = thread_state::status::running;
    throw_failure();
  }
  if (!ending_) {
    ending_ = true;
    if (interrupt_waits()) return;  // a handler that leaves its gate may be what the scenario waits for
  }
  bail();
}

bool simulation_core::interrupt_waits() noexcept {
  next_point_ = never;
  bool any = false;
  for (std::size_t at = 0; at < waiting_.size();) {
    thread_state& thread = *waiting_[at];
    if (thread.interruptible && &thread != scenario_) {
      thread.interrupted = true;
      make_ready(thread);
      any = true;
    } else {
      ++at;
    }
  }
  return any;
}

void simulation_core::bail() {
  if (host_ == nullptr) {
    std::fputs((report() + "\n").c_str(), stderr);
    scenario_->now = thread_state::status::running;
    std::erase(waiting_, scenario_);
    throw_failure();
  }
  for (thread_state& thread : threads_)
    if (thread.stack != nullptr && !thread.stack->idle()) fiber::abandon(thread.stack);
  host_->stuck = true;
  hand_over();
  host_->scenario->suspend();
  std::abort();  // an abandoned scenario was resumed
}

void simulation_core::require_scenario(const char* what) const {
  if (current_ != scenario_)
    throw std::logic_error(std::string(what) +
                           " is for the scenario itself: simulated threads and handlers wait at gates");
}

void simulation_core::run_until_idle() {
  progress();
  for (;;) {
    throw_if_failed();
    if (!run_choice() && !advance_time(no_deadline)) break;
    if (must_bail_) bail();
    over_limit();
  }
  throw_if_failed();
  progress();
}

void simulation_core::run_within(std::chrono::nanoseconds wait) {
  const steady_time limit = deadline_after(now_, wait);
  progress();
  for (;;) {
    throw_if_failed();
    if (!run_choice() && !advance_time(limit)) break;
    if (must_bail_) bail();
    over_limit();
  }
  throw_if_failed();
  if (limit != no_deadline) now_ = limit;
  progress();
}

bool simulation_core::step() {
  throw_if_failed();
  bool any = run_choice();
  while (!any && advance_time(no_deadline)) any = run_choice();
  if (must_bail_) bail();
  over_limit();
  throw_if_failed();
  return any;
}

// Preemption inside library code, in a model build

void simulation_core::plan_preemptions() {
  if (options_.preemptions_ == 0) return;
  const std::uint64_t horizon = std::uint64_t{8} << choices_.below(8);
  const std::uint64_t count = choices_.below(options_.preemptions_ + 1);
  for (std::uint64_t i = 0; i < count; ++i) preemption_points_.push_back(1 + choices_.below(horizon));
  std::sort(preemption_points_.begin(), preemption_points_.end(), std::greater<>());
  if (preemption_points_.empty()) return;
  next_point_ = preemption_points_.back();
  preemption_points_.pop_back();
}

void simulation_core::preempt_here() noexcept {
  next_point_ = never;
  if (ending_ || ended_ || failed_) return;
  if (!preemption_points_.empty()) {
    next_point_ = std::max(preemption_points_.back(), contended_steps_ + 1);
    preemption_points_.pop_back();
  }
  thread_state& self = *current_;
  record(trace_kind::preempted, self.entity);
  if (options_.strategy_ == strategy::priority_change) entities_[self.entity].priority = lowest_priority_--;
  make_ready(self);
  excluded_ = self.entity + 1;
  switch_away(self);
}

// Where nobody else is ready nothing can come: time stands still meanwhile.
void simulation_core::pause_here() noexcept {
  if (looks_again_ && !ready_.empty() && !ending_ && !ended_ && !failed_) {
    thread_state& self = *current_;
    record(trace_kind::pauses, self.entity);
    make_ready(self);
    switch_away(self);
  }
  paused_at_ = atomic_steps_;
}

void simulation_core::stop_spinning() noexcept {
  spin_limit_ = atomic_steps_ + long_spin;
  if (ended_) return;
  thread_state& self = *current_;
  if (++spins_ > 20) {
    fail("livelock: " + describe(self) + " goes round inside the library without waiting");
    if (&self == scenario_) bail();
    must_bail_ = true;
    self.stack->suspend();
  } else if (!ready_.empty()) {
    make_ready(self);
    excluded_ = self.entity + 1;
    switch_away(self);
  }
}

// Threads and pools

thread_state& simulation_core::start_thread(std::string_view name, unique_function<void()> body) {
  if (ending_ || ended_) throw std::logic_error("the simulation has ended: no thread can be started");
  if (!body) throw std::invalid_argument("simulation::thread: the function is empty");
  thread_state& made = threads_.emplace_back();
  made.is = thread_state::role::started;
  made.core = this;
  made.name = name;
  made.body = std::move(body);
  made.entity = add_entity(entity_info::what::started, static_cast<std::uint32_t>(threads_.size() - 1), 0);
  reserve_for_threads();
  progress();
  make_ready(made);
  return made;
}

scheduler_ptr simulation_core::make_pool(std::string_view name, worker_pool_options options) {
  auto pool = std::make_unique<simulated_pool>(*this, std::string(name), static_cast<std::uint32_t>(pools_.size()),
                                               std::move(options));
  pools_.push_back(std::move(pool));
  return {shared_from_this(), pools_.back().get()};
}

unsigned simulation_core::stop_pool(simulated_pool& pool, steady_time deadline) noexcept {
  pool.stopped = true;
  drop_work(&pool);
  const unsigned own = current_->is == thread_state::role::worker && current_->pool == &pool ? 1 : 0;
  while (pool.busy > own && now_ < deadline && !ended_)
    wait_here(&pool, deadline, false, "for the calls of a pool to end");
  return pool.busy - own;
}

unsigned simulation_core::stop_pools(steady_time deadline) noexcept {
  unsigned left = 0;
  parts_->stop();
  for (std::size_t at = 0; at < pools_.size(); ++at) left += stop_pool(*pools_[at], deadline);
  timers_stopped_ = true;
  while (!heap_.empty()) {  // as the timer thread: who still waits is told now
    timer_node& node = *heap_.front().node;
    disarm(node);
    node.fire(node);
  }
  return left;
}

// The end

void simulation_core::forget(thread_state& thread) noexcept {
  std::erase(waiting_, &thread);
  std::erase_if(ready_, [&](const ready_entry& entry) { return entry.subject == &thread; });
}

void simulation_core::give_up(thread_state& thread) noexcept {
  forget(thread);
  if (thread.stack != nullptr) {
    if (thread.stack->idle())
      fiber::release(thread.stack);
    else
      fiber::abandon(thread.stack);
    thread.stack = nullptr;
  }
  thread.body = nullptr;
  thread.now = thread_state::status::done;
}

void simulation_core::begin_end() noexcept {
  ending_ = true;
  interrupt_waits();
  if (options_.allow_unfinished_ && !failed_) return;
  // What a started thread refers to may have died with the scenario; only what unwinds it is still to run.
  for (thread_state& thread : threads_)
    if (thread.is == thread_state::role::started && !thread.interrupted && thread.now != thread_state::status::done)
      give_up(thread);
}

void simulation_core::end_threads() noexcept {
  const std::uint64_t limit = steps_ + options_.livelock_after_;
  while (steps_ < limit && !must_bail_ && (run_choice() || advance_time(no_deadline))) {
  }
  ended_ = true;
  for (thread_state& thread : threads_)
    if (&thread != scenario_) give_up(thread);
  drop_work(nullptr);
  while (!heap_.empty()) disarm(*heap_.front().node);
}

void simulation_core::hand_over() noexcept {
  host_->failed = failed_;
  host_->failure = std::move(failure_);
  host_->trace = std::move(failure_trace_);
  host_->hash = trace_.hash();
  host_->steps = steps_;
}

void simulation_core::leave() noexcept { this_thread_slot() = slot_before_; }

}  // namespace penstock::testing::detail
