// The simulation as a test sees it: a thin face of the core.
// Floor 8, room testing.
#include <penstock/testing/simulation.hpp>

#include "testing/simulation_core.hpp"

#include <cstdio>
#include <exception>
#include <utility>

namespace penstock::testing {

const char* to_string(strategy chosen) noexcept {
  switch (chosen) {
    case strategy::random:
      return "random";
    case strategy::fifo:
      return "fifo";
    case strategy::starve_one:
      return "starve_one";
    case strategy::priority_change:
      return "priority_change";
  }
  return "unknown";
}

simulation_failure::simulation_failure(const std::string& text) : std::runtime_error(text) {}
simulation_failure::simulation_failure(const simulation_failure&) noexcept = default;
simulation_failure::~simulation_failure() = default;

simulation_options::simulation_options() noexcept = default;

// gate

gate::gate(std::shared_ptr<detail::gate_state> made) noexcept : state_(std::move(made)) {}

void gate::wait() const {
  struct count {
    std::size_t& waiting;
    explicit count(std::size_t& counter) : waiting(counter) { ++waiting; }
    ~count() { --waiting; }
  };
  detail::gate_state& state = *state_;
  while (!state.open) {
    count here(state.waiting);
    state.core->wait_here(&state, no_deadline, true, state.place);
  }
}

void gate::open() const noexcept {
  state_->open = true;
  state_->core->wake_all(state_.get());
}

void gate::close() const noexcept { state_->open = false; }
bool gate::is_open() const noexcept { return state_->open; }
std::size_t gate::waiting() const noexcept { return state_->waiting; }

// simulated_thread

bool simulated_thread::done() const noexcept { return state_->now == detail::thread_state::status::done; }

void simulated_thread::join() const {
  const std::string place = "for '" + state_->name + "' to end";
  while (!done()) core_->wait_here(state_, no_deadline, true, place);
}

// simulation

simulation::simulation() : simulation(simulation_options()) {}

simulation::simulation(const simulation_options& options)
    : core_(std::make_shared<detail::simulation_core>(options, nullptr)) {}

simulation::simulation(std::shared_ptr<detail::simulation_core> core) noexcept : core_(std::move(core)) {}

simulation::~simulation() {
  if (core_->ended()) return;
  if (std::uncaught_exceptions() == 0) core_->ask_finished();
  end();
  if (!core_->failed() || core_->told() || std::uncaught_exceptions() != 0) return;
  std::fputs(
      ("penstock: a simulation ended with a failure that nobody was told of; call finish()\n" + core_->report() + "\n")
          .c_str(),
      stderr);
  std::terminate();
}

void simulation::finish() {
  core_->require_scenario("simulation::finish");
  core_->ask_finished();
  end();
  if (core_->failed() && !core_->told()) core_->throw_failure();
}

void simulation::end() noexcept {
  core_->begin_end();
  runtime_.reset();
  core_->end_threads();
  core_->leave();
}

runtime& simulation::runtime() {
  if (!runtime_) return runtime(runtime_options());
  return *runtime_;
}

runtime& simulation::runtime(runtime_options options) {
  if (runtime_) throw std::logic_error("this simulation has a runtime already: build others with environment()");
  runtime_ = std::make_unique<penstock::runtime>(std::move(options).environment(environment()));
  return *runtime_;
}

std::shared_ptr<execution_environment> simulation::environment() const noexcept { return core_; }

simulated_thread simulation::thread(std::string_view name, unique_function<void()> body) {
  return {*core_, core_->start_thread(name, std::move(body))};
}

testing::gate simulation::gate(std::string_view name) {
  auto state = std::make_shared<detail::gate_state>();
  state->core = core_;
  state->place = "at gate '" + std::string(name) + "'";
  return testing::gate(std::move(state));
}

void simulation::run_until_idle() {
  core_->require_scenario("simulation::run_until_idle");
  core_->run_until_idle();
}

void simulation::run_within(std::chrono::nanoseconds wait) {
  core_->require_scenario("simulation::run_for");
  core_->run_within(wait);
}

bool simulation::step() {
  core_->require_scenario("simulation::step");
  return core_->step();
}

void simulation::require_all_done() {
  core_->require_scenario("simulation::require_all_done");
  core_->require_all_done();
}

steady_time simulation::now() const noexcept { return core_->now(); }
std::chrono::nanoseconds simulation::elapsed() const noexcept { return core_->elapsed(); }

void simulation::sleep_within(std::chrono::nanoseconds wait) {
  const steady_time until = deadline_after(core_->now(), wait);
  const char address = 0;  // nobody else knows it
  while (core_->now() < until) core_->wait_here(&address, until, true, "in sleep_for");
}

void simulation::yield() { core_->yield_here(); }

void simulation::require(bool holds, std::string_view text, call_site where) {
  if (holds) return;
  std::string failure = "require failed at " + std::string(where.file) + ":" + std::to_string(where.line);
  if (!text.empty()) failure += ": " + std::string(text);
  core_->fail(failure);
  throw simulation_failure(failure);
}

std::uint64_t simulation::random(std::uint64_t n) {
  if (n == 0) throw std::invalid_argument("simulation::random(0): there is nothing to choose from");
  return core_->random(n);
}

void simulation::note(std::string_view text) { core_->note(text); }
void simulation::progress() noexcept { core_->progress(); }
std::uint64_t simulation::seed() const noexcept { return core_->seed(); }
strategy simulation::strategy() const noexcept { return core_->strategy(); }
std::uint64_t simulation::steps() const noexcept { return core_->steps(); }
std::uint64_t simulation::trace_hash() const noexcept { return core_->trace_hash(); }
std::string simulation::trace() const { return core_->trace(); }

}  // namespace penstock::testing
