// Runs a whole runtime on one thread, from a seed, with a virtual clock: for tests that find races and replay them.
// Floor 8, room testing.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/export.hpp>
#include <penstock/base/unique_function.hpp>
#include <penstock/exec/environment.hpp>
#include <penstock/runtime/runtime.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace penstock::testing {

namespace detail {
class simulation_core;
struct gate_state;
struct exploration_plan;
struct thread_state;
}  // namespace detail

/// How a simulation chooses what runs next.
enum class strategy {
  random,           ///< any ready thread or lane, all equally likely
  fifo,             ///< the one that has been ready longest
  starve_one,       ///< random, but one seeded victim runs only when nothing else is ready
  priority_change,  ///< seeded priorities, changed at two seeded steps: finds every bug of depth 3 with a known
                    ///< probability
};
PENSTOCK_API const char* to_string(strategy chosen) noexcept;

/// What a scenario found wrong. Its text says everything needed to replay it.
class PENSTOCK_API simulation_failure : public std::runtime_error {
 public:
  explicit simulation_failure(const std::string& text);
  simulation_failure(const simulation_failure&) noexcept;
  ~simulation_failure() override;
};

/// Thrown into simulated threads and handlers that wait at a gate or sleep when the simulation ends. Let it through.
struct simulation_ended {};

/// How one simulation is to be. The setters check nothing; the simulation does, and names what is out of range.
class PENSTOCK_API simulation_options {
 public:
  simulation_options() noexcept;
  simulation_options& seed(std::uint64_t value) { return seed_ = value, *this; }
  simulation_options& strategy(testing::strategy chosen) { return strategy_ = chosen, *this; }
  /// More steps than this are a failure. Default 1,000,000.
  simulation_options& step_limit(std::uint64_t steps) { return step_limit_ = steps, *this; }
  /// So many steps without progress are a livelock. Progress is: a simulated thread starts or ends, the scenario gets
  /// control, or somebody calls `progress()`. The second half of them is run in fair order. Default 100,000.
  simulation_options& livelock_after(std::uint64_t steps) { return livelock_after_ = steps, *this; }
  /// At most so many switches inside library code, for a library built with PENSTOCK_MODEL. Default 3.
  simulation_options& preemptions(unsigned count) { return preemptions_ = count, *this; }
  /// Threads and handlers that have not ended when the scenario does are no failure.
  simulation_options& allow_unfinished(bool yes = true) { return allow_unfinished_ = yes, *this; }

 private:
  friend class detail::simulation_core;
  friend struct detail::exploration_plan;
  std::uint64_t seed_ = 1;
  testing::strategy strategy_ = testing::strategy::random;
  std::uint64_t step_limit_ = 1'000'000;
  std::uint64_t livelock_after_ = 100'000;
  unsigned preemptions_ = 3;
  bool allow_unfinished_ = false;
};

/// A place where simulated threads and handlers stay until a test opens it. A handle: copies mean the same gate.
class PENSTOCK_API gate {
 public:
  /// Returns when the gate is open, at once if it is. A handler that waits here keeps its worker. Throws
  /// `simulation_ended` in a simulated thread or handler when the simulation ends first, and `simulation_failure` in
  /// the scenario itself when nothing can ever open it.
  void wait() const;
  /// Lets through whoever waits, and whoever comes until `close`.
  void open() const noexcept;
  void close() const noexcept;
  bool is_open() const noexcept;
  /// How many wait here now.
  std::size_t waiting() const noexcept;

 private:
  friend class simulation;
  explicit gate(std::shared_ptr<detail::gate_state> made) noexcept;
  std::shared_ptr<detail::gate_state> state_;
};

/// A handle to a thread started by `simulation::thread`. May be copied; may outlive the thread, not the simulation.
class PENSTOCK_API simulated_thread {
 public:
  bool done() const noexcept;
  /// Waits until the thread has ended. Throws as `gate::wait` does.
  void join() const;

 private:
  friend class simulation;
  simulated_thread(detail::simulation_core& core, detail::thread_state& state) noexcept
      : core_(&core), state_(&state) {}
  detail::simulation_core* core_;
  detail::thread_state* state_;
};

/// The simulation. While it exists, this operating-system thread belongs to it: everything that the library and the
/// scenario do is one of its simulated threads, and only one of them runs at a time. *The scenario itself* (the code
/// that made it) is one of them: where it waits in the library, for example in `subscription::close`, the others run.
///
/// Time stands still while anything is ready and then jumps to the next timer or deadline.
///
/// In half of the seeds its pools are as pools of threads: a lane that has handled what there was lets a moment pass,
/// in which others may run, and looks again before it rests; or it makes room for another lane that waits for its
/// worker. In the others it rests at once, as on an executor of the program's own.
///
/// Threads: bound to the thread that made it; one at a time per thread.
/// The end: a simulated thread that waits at a gate or sleeps is unwound by `simulation_ended`; one that waits inside
/// the library and that nothing wakes is never resumed, what stands on its stack is not destroyed, and leak checkers
/// are told.
class PENSTOCK_API simulation {
 public:
  simulation();
  explicit simulation(const simulation_options& options);
  simulation(const simulation&) = delete;
  simulation& operator=(const simulation&) = delete;
  /// Ends the runtime and every simulated thread. A failure that nobody was told of ends the program with its text on
  /// the standard error stream: no test passes with one. `finish` throws it instead.
  ~simulation();

  /// A runtime on this environment, with four workers in each of the pools; made by the first call.
  penstock::runtime& runtime();
  /// The same, built as told. Throws std::logic_error when there is one already.
  penstock::runtime& runtime(runtime_options options);
  /// What runtimes of one's own are built on: `runtime_options().environment(sim.environment())`.
  std::shared_ptr<execution_environment> environment() const noexcept;

  /// Starts a simulated thread. What it throws is a failure of the scenario.
  simulated_thread thread(std::string_view name, unique_function<void()> body);
  /// A closed gate. The name appears in reports.
  testing::gate gate(std::string_view name = "gate");

  /// For the scenario itself. They throw `simulation_failure` when something has failed, here or in a simulated thread.
  /// Runs until nothing is ready and no timer or deadline is left. Threads that wait for ever are no error here.
  void run_until_idle();
  /// Runs everything that is due within `wait`; afterwards that much virtual time has passed.
  template <class Rep, class Period>
  void run_for(std::chrono::duration<Rep, Period> wait) {
    run_within(clamp_duration(wait));
  }
  /// One choice; if nothing is ready, time jumps first. False: nothing is left to do.
  bool step();
  /// Steps until `condition()` holds; false: it does not, and nothing is left to do.
  template <class Condition>
  bool run_until(Condition condition) {
    while (!condition())
      if (!step()) return condition();
    return true;
  }
  /// Fails, and names them, when a simulated thread has not ended or a worker is inside a call.
  void require_all_done();
  /// Ends the simulation as the destructor does, and throws what failed. Afterwards only the destructor may be called.
  void finish();

  /// For everybody: the scenario, simulated threads, handlers.
  steady_time now() const noexcept;
  /// Virtual time since the simulation began.
  std::chrono::nanoseconds elapsed() const noexcept;
  /// Waits in virtual time. Throws as `gate::wait` does.
  template <class Rep, class Period>
  void sleep_for(std::chrono::duration<Rep, Period> wait) {
    sleep_within(clamp_duration(wait));
  }
  /// Lets others go first, if the strategy says so.
  void yield();
  /// Records a failure unless `holds`, and throws it. In a handler the throw is caught by the bus; the record stays.
  void require(bool holds, std::string_view text = {}, call_site where = call_site::here());
  /// A seeded choice of the scenario's own: 0 ≤ result < n; n ≥ 1. Independent of the order things run in the same
  /// order.
  std::uint64_t random(std::uint64_t n);
  /// A line for the trace.
  void note(std::string_view text);
  /// Tells the livelock check that something was achieved.
  void progress() noexcept;

  std::uint64_t seed() const noexcept;
  testing::strategy strategy() const noexcept;
  /// How many choices were made, and a hash of all of them with their virtual times: equal for equal runs.
  std::uint64_t steps() const noexcept;
  std::uint64_t trace_hash() const noexcept;
  /// The last choices, one a line.
  std::string trace() const;

 private:
  friend struct detail::exploration_plan;
  explicit simulation(std::shared_ptr<detail::simulation_core> core) noexcept;
  void run_within(std::chrono::nanoseconds wait);
  void sleep_within(std::chrono::nanoseconds wait);
  void end() noexcept;

  std::shared_ptr<detail::simulation_core> core_;
  std::unique_ptr<penstock::runtime> runtime_;
};

/// How a scenario is explored. Default: 10,000 seeds from 1 on, all strategies in turn.
class PENSTOCK_API explore_options {
 public:
  explore_options() noexcept;
  explore_options& seeds(std::uint64_t count) { return seeds_ = count, *this; }
  explore_options& first_seed(std::uint64_t seed) { return first_seed_ = seed, *this; }
  /// Only this strategy, whatever the seed.
  explore_options& strategy(testing::strategy chosen) { return strategy_ = chosen, all_strategies_ = false, *this; }
  /// Each n-th seed is run twice, and the two runs must be equal. Default 100; 0: never.
  explore_options& replay_every(std::uint64_t n) { return replay_every_ = n, *this; }
  /// Limits and permissions of each simulation; its seed and strategy are set by the exploration.
  explore_options& each(const simulation_options& options) { return each_ = options, *this; }

 private:
  friend struct detail::exploration_plan;
  std::uint64_t seeds_ = 10'000;
  std::uint64_t first_seed_ = 1;
  testing::strategy strategy_ = testing::strategy::random;
  bool all_strategies_ = true;
  std::uint64_t replay_every_ = 100;
  simulation_options each_;
};

/// What an exploration did.
struct exploration {
  std::uint64_t schedules = 0;  ///< runs of the scenario, replays included
  std::uint64_t replays = 0;    ///< runs that were compared with an earlier one
  std::uint64_t steps = 0;      ///< choices made in all of them
};

/// Runs the scenario once per seed, each in a new simulation, and checks that nothing failed. A scenario fails by
/// `require`, by any exception, by deadlock, livelock, too many steps, or by simulated threads that have not ended.
/// Throws simulation_failure with the seed, the strategy, what failed, the last lines of the trace, and one command
/// that replays it; that command is written to the standard error stream as well, where no reporter breaks its line, also
/// when the scenario crashes. The environment variables PENSTOCK_SEED=N (only that seed) and PENSTOCK_SEEDS=N (another
/// count) are obeyed; PENSTOCK_EXPLORED=FILE adds a line to a file for each exploration in which nothing failed: its schedules,
/// replays and steps. The scenario runs on a stack of 8 MiB of its own; when a deadlock leaves it stuck inside the library it
/// is never resumed.
PENSTOCK_API exploration explore(const explore_options& options, unique_function<void(simulation&)> scenario);
PENSTOCK_API exploration explore(std::uint64_t seeds, unique_function<void(simulation&)> scenario);

}  // namespace penstock::testing
