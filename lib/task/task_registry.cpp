// The handles: of one task, and of a registry or one of its groups.
// Floor 4, room task.
#include <penstock/task/task_registry.hpp>

#include "exec/context.hpp"
#include "task/periodic.hpp"
#include "task/registry_core.hpp"

#include <system_error>
#include <utility>

namespace penstock {

const char* restart_policy::complaint() const noexcept {
  if (attempts_ == 0 || attempts_ > 10'000) return "restart_policy::attempts needs 1 to 10,000";
  if (within_ <= std::chrono::nanoseconds::zero()) return "restart_policy::within needs a time above zero";
  return pauses_.complaint();
}

// --- one task ----------------------------------------------------------------------------------------------------------

task_handle::task_handle(const task_handle& other) noexcept : entry_(other.entry_) {
  if (entry_ != nullptr) entry_->retain();
}
task_handle::~task_handle() {
  if (entry_ != nullptr) entry_->release();
}

std::string task_handle::name() const { return entry_ != nullptr ? entry_->name() : std::string(); }
std::uint64_t task_handle::id() const noexcept { return entry_ != nullptr ? entry_->id() : 0; }
task_status task_handle::status() const noexcept { return entry_ != nullptr ? entry_->status() : task_status::closed; }
std::exception_ptr task_handle::error() const noexcept { return entry_ != nullptr ? entry_->error() : nullptr; }
task_info task_handle::info() const {
  if (entry_ != nullptr) return entry_->info();
  task_info nothing;
  nothing.status = task_status::closed;
  return nothing;
}

bool task_handle::request_cancel(std::string_view reason, std::string_view who) const noexcept {
  if (entry_ == nullptr) return false;
  return entry_->request_stop(entry_->core().make_cause(cancel_kind::requested, who, reason));
}

task_status task_handle::wait_until(steady_time deadline) const {
  if (entry_ == nullptr) return task_status::closed;
  if (done()) return status();
  const auto refuse_wait = [&](const char* why) {
    throw std::system_error(make_error_code(errc::would_deadlock),
                            "waiting for task \"" + escape_control_bytes(name()) + "\": " + why);
  };
  if (!exec::may_wait_here())
    refuse_wait("a handler, a hook, a task or posted work may not wait; co_await async_wait()");
  if (detail::registry_core::task_here() == entry_) refuse_wait("this code is that task's own");
  const detail::registry_core::wait_edge edge(*entry_, deadline);
  if (edge.closes_a_cycle()) refuse_wait("that task waits for this one, itself or through others");
  return entry_->wait_until(deadline);
}

scheduler_ptr task_handle::completion_pool() const noexcept {
  return entry_ != nullptr ? entry_->core().coroutines() : nullptr;
}

steady_time task_handle::deadline_after(std::chrono::nanoseconds limit) const noexcept {
  return entry_ != nullptr ? penstock::deadline_after(entry_->core().time().now(), limit) : steady_time{};
}

void task_handle::on_done(unique_function<void(const task_handle&)> told) const {
  if (entry_ != nullptr && told) entry_->on_done(std::move(told));
}

// --- all of them -------------------------------------------------------------------------------------------------------

task_registry::task_registry(const task_registry& other) : core_(other.core_), owner_(other.owner_) {
  if (core_ != nullptr) core_->retain();
}
task_registry::task_registry(task_registry&& other) noexcept
    : core_(std::exchange(other.core_, nullptr)), owner_(std::move(other.owner_)) {}
task_registry& task_registry::operator=(task_registry other) noexcept {
  std::swap(core_, other.core_);
  std::swap(owner_, other.owner_);
  return *this;
}
task_registry::~task_registry() {
  if (core_ != nullptr) core_->release();
}

errc task_registry::errc_of(const std::system_error& refused) noexcept {
  return refused.code().category() == error_category() ? static_cast<errc>(refused.code().value())
                                                       : errc::invalid_argument;
}

namespace {

[[noreturn]] void refuse(errc code, std::string_view name, const std::string& text) {
  throw std::system_error(make_error_code(code), "task \"" + escape_control_bytes(std::string(name)) + "\": " + text);
}

}  // namespace

void task_registry::refuse_empty(std::string_view name) {
  refuse(errc::invalid_argument, name, "its function, or its coroutine, is empty");
}

detail::entry_recipe task_registry::recipe(std::string_view name, spawn_options&& options, detail::task_body body, bool once,
                                           call_site where) const {
  if (core_ == nullptr) refuse(errc::closed, name, "its registry handle is empty");
  if (name.empty()) refuse(errc::invalid_argument, name, "a task needs a name");
  if (options.restart()) {
    if (const char* wrong = options.restart()->complaint()) refuse(errc::invalid_argument, name, wrong);
    if (once)
      refuse(errc::invalid_argument, name,
             "a coroutine that is there already cannot be started again; give a function that makes it");
  }
  detail::entry_recipe made;
  made.core = core_;
  made.name = name;
  made.owner = owner_name();
  made.file = where.file;
  made.line = where.line;
  made.options = std::move(options);
  made.body = body;
  const bool is_function = body != detail::task_body::coroutine;
  if (!made.options.pool()) made.options.on(is_function ? core_->functions() : core_->coroutines());
  made.may_wait = is_function && made.options.pool()->may_wait();
  return made;
}

void task_registry::admit(detail::task_entry* made) const {
  switch (core_->admit(*made)) {
    case errc::none: return made->begin();
    case errc::not_enough_memory: throw std::bad_alloc();
    case errc::forked: refuse(errc::forked, made->name(), "this process has none of the runtime's threads");
    default: refuse(errc::closed, made->name(), "the registry is closing; it takes no new tasks");
  }
}

scheduler_ptr task_registry::completion_pool() const noexcept {
  return core_ != nullptr ? core_->coroutines() : nullptr;
}

task_registry task_registry::owner(std::string_view name) const {
  if (name.empty()) throw std::system_error(make_error_code(errc::invalid_argument), "task_registry::owner: a group needs a name");
  task_registry group(*this);
  group.owner_ = std::make_shared<const std::string>(name);
  return group;
}

std::vector<task_info> task_registry::snapshot() const {
  std::vector<task_info> seen;
  if (core_ == nullptr || core_->forked()) return seen;
  for (const auto& each : core_->live({owner_name(), {}})) {
    task_info info = each->info();
    if (info.status == task_status::running) seen.push_back(std::move(info));
  }
  return seen;
}

task_counts task_registry::counts() const noexcept { return core_ != nullptr ? core_->counts() : task_counts{}; }

void task_registry::cancel_all(std::string_view reason) const noexcept {
  if (core_ == nullptr || core_->forked()) return;
  core_->ask_all(owner_name(), core_->make_cause(cancel_kind::requested, "task registry", reason));
}

task_report task_registry::close_within(std::chrono::nanoseconds limit, std::string_view reason) const {
  if (core_ == nullptr || core_->forked()) return task_report();
  const steady_time began = core_->time().now();
  core_->refuse(owner_name());
  const auto tasks = core_->live({owner_name(), {}});
  detail::registry_core::ask(tasks, core_->make_cause(cancel_kind::closed, "task registry", reason));
  static_cast<void>(detail::registry_core::wait_ended(tasks, deadline_after(began, limit)));
  return core_->report(tasks, began);
}

task_handle task_registry::start_periodic(std::string_view name, std::chrono::nanoseconds period, spawn_options&& options,
                                          missed_ticks missed, unique_function<task<void>()> makes,
                                          unique_function<void(std::stop_token)> calls, call_site where) const {
  if (period <= std::chrono::nanoseconds::zero()) refuse(errc::invalid_argument, name, "a period must be above zero");
  if (options.restart())
    refuse(errc::invalid_argument, name, "a periodic task goes on after a failed tick; it takes no restart policy");
  if (core_ == nullptr) refuse(errc::closed, name, "its registry handle is empty");
  auto plan = std::make_shared<detail::periodic>();
  plan->period = period;
  plan->missed = missed;
  plan->makes = std::move(makes);
  plan->calls = std::move(calls);
  if (plan->calls) {
    // The function runs there; the waiting, a coroutine, is elsewhere and holds no thread.
    plan->where = options.pool() ? options.pool() : core_->functions();
    options.on(core_->coroutines());
  }
  auto* made = new detail::coroutine_entry<void>(recipe(name, std::move(options), detail::task_body::coroutine, false, where),
                                                 [plan] { return detail::tick_for_ever(plan); });
  plan->entry = made;
  return start(made);
}

}  // namespace penstock
