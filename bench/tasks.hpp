// Workload H: empty tasks, spawned and joined; what a system has to have for it.
// Floor 9, bench.
#pragma once

#include "allocation_counter.hpp"
#include "report.hpp"
#include "sink.hpp"
#include "system.hpp"
#include "workload.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace bench {

/// All that a task does. It is what the join waits for, and the check that each ran once.
class task_counter {
 public:
  explicit task_counter(std::uint64_t tasks) : missing_(static_cast<std::int64_t>(tasks)) {}

  void ran() noexcept {
    if (missing_.fetch_sub(1) == 1) all_ran_.arrived();
  }
  bool wait(std::chrono::milliseconds limit) { return all_ran_.wait(limit); }
  steady::time_point done_at() { return all_ran_.done_at(); }
  std::int64_t missing() const noexcept { return missing_.load(); }

 private:
  alignas(64) std::atomic<std::int64_t> missing_;
  alignas(64) finish_line all_ran_{1};
};

// A system is a class
//
//   class some_tasks {
//    public:
//     explicit some_tasks(unsigned workers);  // starts them
//     ~some_tasks();                          // joins them
//     void spawn(task_counter& counter);      // a task that calls counter.ran()
//     void join();                            // only where waiting takes part in the work
//     std::string finish(std::uint64_t spawned);  // after the last task; a text when something was not in order
//   };

template <class System>
struct task_state {
  explicit task_state(const task_run& run) : counter(run.tasks), system(run.workers) {}
  task_counter counter;
  System system;
};

template <class System>
task_outcome run_tasks(const task_run& run) {
  task_outcome outcome;
  outcome.tasks = run.tasks;
  auto state = std::make_unique<task_state<System>>(run);
  const allocation_count before = allocation_counter::start();
  const auto begin = steady::now();
  for (std::uint64_t i = 0; i < run.tasks; ++i) state->system.spawn(state->counter);
  if constexpr (requires { state->system.join(); }) state->system.join();
  const bool complete = state->counter.wait(run.give_up);
  const allocation_count after = allocation_counter::stop();
  if (!complete) {
    outcome.problem = std::to_string(state->counter.missing()) + " of " + std::to_string(run.tasks) +
                      " tasks did not run within " + std::to_string(run.give_up.count()) + " ms";
    outcome.stuck = true;
    (void)state.release();
    return outcome;
  }
  outcome.seconds = std::chrono::duration<double>(state->counter.done_at() - begin).count();
  outcome.allocations_per_task = static_cast<double>(after.calls - before.calls) / static_cast<double>(run.tasks);
  outcome.problem = state->system.finish(run.tasks);
  if (state->counter.missing() != 0) outcome.problem = std::to_string(-state->counter.missing()) + " tasks ran twice";
  return outcome;
}

void add_task_workloads(std::vector<workload>& all, effort how_much);
/// Goal 6.
void judge_tasks(std::vector<goal>& goals, const std::vector<row>& rows);

}  // namespace bench
