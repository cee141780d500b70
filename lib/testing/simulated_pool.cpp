// A pool of simulated workers: a thin shell over the simulation's own lists.
// Floor 8, room testing.
#include "exec/worker_pool_options.hpp"
#include "testing/simulation_core.hpp"

#include <cstdio>
#include <system_error>
#include <utility>

namespace penstock::testing::detail {
namespace {

/// The machine's number of cores would make a seed mean something else on another machine.
constexpr unsigned default_threads = 4;

}  // namespace

simulated_pool::simulated_pool(simulation_core& core, std::string name, std::uint32_t index_in_simulation,
                               worker_pool_options options)
    : index(index_in_simulation), core_(core), name_(std::move(name)), options_(std::move(options)) {
  const auto refuse = [&](const char* text) {
    throw std::system_error(make_error_code(errc::invalid_argument), "worker pool \"" + name_ + "\": " + text);
  };
  auto& fields = options_.get();
  if (!fields.threads_set) fields.threads = default_threads;
  if (name_.empty()) refuse("a pool needs a name");
  if (fields.threads == 0) refuse("threads(0) leaves nobody to work; give at least 1");
  if (fields.budget == 0) refuse("budget(0) lets no event through; give at least 1");
  if (fields.on_thread_start)
    for (unsigned worker = 0; worker < fields.threads; ++worker) fields.on_thread_start(worker);
}

simulated_pool::~simulated_pool() = default;

void simulated_pool::schedule(runnable& item) noexcept { core_.schedule(*this, item); }
errc simulated_pool::post(unique_function<void()> work) { return core_.post(*this, std::move(work)); }
const clock& simulated_pool::time() const noexcept { return core_.time(); }
timer_service& simulated_pool::timers() noexcept { return core_; }
std::shared_ptr<environment_parts> simulated_pool::parts() const noexcept { return core_.parts(); }
unsigned simulated_pool::stop(steady_time deadline) noexcept { return core_.stop_pool(*this, deadline); }
std::size_t simulated_pool::ready_approx() const noexcept { return core_.ready_in(*this); }
unsigned simulated_pool::threads() const noexcept { return options_.get().threads; }
pool_snapshot simulated_pool::snapshot() const {
  pool_snapshot seen;
  seen.name = name_;
  seen.workers = threads();
  seen.may_wait = may_wait();
  seen.busy = busy;
  seen.parked = parked_approx();
  core_.count(*this, seen);
  return seen;
}
bool simulated_pool::may_wait() const noexcept { return options_.get().may_wait; }

// As a pool of threads, or as an executor that knows nothing. In a model build the moment passes where the lane spins.
scheduler::when_empty simulated_pool::after_work() const noexcept {
  if (!core_.looks_again()) return when_empty::rest;
  if (overflow != nullptr || core_.ready_in(*this) > 0) return when_empty::yield;
#if !defined(PENSTOCK_MODEL)
  core_.pause_here();
#endif
  return when_empty::look_again;
}

unsigned simulated_pool::budget() const noexcept { return options_.get().budget; }

void simulated_pool::watch(std::shared_ptr<penstock::detail::worker_bell> bell) noexcept {
  rings_ = false;
  bell_ = std::move(bell);
}

penstock::detail::pool_look simulated_pool::look() {
  penstock::detail::pool_look seen;
  seen.name = name_;
  seen.threads = threads();
  seen.ready = core_.ready_in(*this);
  core_.working_in(*this, seen.working);
  return seen;
}

bool simulated_pool::rest() noexcept {
  if (busy > 0 || overflow != nullptr || core_.ready_in(*this) > 0) return false;
  rings_ = bell_ != nullptr;
  return true;
}

void simulated_pool::ring_next() noexcept { rings_ = bell_ != nullptr; }

std::vector<std::string> simulated_pool::stack_of(const penstock::detail::working_look&) { return {}; }

void simulated_pool::begin_turn() noexcept {
  if (!std::exchange(rings_, false)) return;
  const auto bell = bell_;
  if (bell) bell->ring();
}

void simulated_pool::report(const failure& record) noexcept {
  try {
    if (options_.get().on_failure) {
      options_.get().on_failure(record);
      return;
    }
    std::fputs(("penstock: " + to_string(record) + "\n").c_str(), stderr);
  } catch (...) {
    std::fputs("penstock: a failure hook threw, and the failure it was told of could not be described\n", stderr);
  }
}

}  // namespace penstock::testing::detail
