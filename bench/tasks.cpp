// Workload H and goal 6: tasks per second, allocations per task.
// Floor 9, bench.
#include "tasks.hpp"

#include <optional>
#include <tuple>
#include <utility>

namespace bench {

namespace {

using runner = task_outcome (*system_entry::*)(const task_run&);

workload speed_of(const char* id, const char* what, runner kind, std::uint64_t tasks) {
  workload made;
  made.id = id;
  made.group = std::string(1, 'H');
  made.what = what;
  made.unit = std::string("M tasks/s");
  made.applies = [kind](const system_entry& system) { return system.*kind != nullptr; };
  const auto measured_run = [kind](const system_entry& system, std::uint64_t count) {
    task_run run;
    run.tasks = count;
    const task_outcome outcome = (system.*kind)(run);
    if (!outcome.problem.empty()) return failed_run(outcome.problem, outcome.stuck);
    measurement done;
    done.value = static_cast<double>(outcome.tasks) / outcome.seconds / 1e6;
    return done;
  };
  made.run = [=](const system_entry& system) { return measured_run(system, tasks); };
  made.warm_up = [=](const system_entry& system) { return measured_run(system, tasks / 20 + 1); };
  return made;
}

workload allocations_of(const char* id, const char* what, runner kind, std::uint64_t tasks) {
  workload made;
  made.id = id;
  made.group = std::string(1, 'H');
  made.what = what;
  made.unit = std::string("allocations/task");
  made.direction = better::lower;
  made.depends_on = dependence::none;
  made.applies = [kind](const system_entry& system) { return system.*kind != nullptr; };
  made.run = [=](const system_entry& system) {
    task_run run;
    run.tasks = tasks;
    const task_outcome outcome = (system.*kind)(run);
    if (!outcome.problem.empty()) return failed_run(outcome.problem, outcome.stuck);
    measurement done;
    done.value = outcome.allocations_per_task;
    return done;
  };
  return made;
}

goal against_asio(const std::vector<row>& rows, const char* id, const char* what, double target, const char* workload) {
  goal made;
  made.id = id;
  made.what = what;
  made.target = target;
  const row* subject = find_row(rows, workload, "penstock", default_mode);
  const row* peer = find_row(rows, workload, "Boost.Asio", "thread_pool");
  if (subject == nullptr || peer == nullptr || !subject->figure || !peer->figure || subject->state != peer->state)
    return made;
  made.measured = subject->figure->median / peer->figure->median;
  made.met = *made.measured >= target;
  return made;
}

}  // namespace

void add_task_workloads(std::vector<workload>& all, effort how_much) {
  const std::uint64_t part = how_much == effort::full ? 1 : 20;
  all.push_back(speed_of("H.functions", "1,000,000 empty functions, spawned and joined, 2 workers",
                         &system_entry::functions, 1'000'000 / part));
  all.push_back(speed_of("H.coroutines", "1,000,000 empty coroutines, spawned and joined, 2 workers",
                         &system_entry::coroutines, 1'000'000 / part));
  if (!allocation_counter::available()) return;
  all.push_back(allocations_of("H.functions.allocations", "allocations per empty function", &system_entry::functions,
                               200'000 / part));
  all.push_back(allocations_of("H.coroutines.allocations", "allocations per empty coroutine, its frame included",
                               &system_entry::coroutines, 200'000 / part));
}

void judge_tasks(std::vector<goal>& goals, const std::vector<row>& rows) {
  goals.push_back(against_asio(rows, "6a", "H: post / asio::post on its thread_pool, at least", 2, "H.functions"));
  goal allocations;
  allocations.id = "6b";
  allocations.what = "H: allocations per task of post, at most";
  allocations.target = 1;
  if (const row* one = find_row(rows, "H.functions.allocations", "penstock", default_mode);
      one != nullptr && one->figure) {
    allocations.measured = one->figure->median;
    // A queue's block now and then, shared by many tasks, is none of a task's: hence the hundredths.
    allocations.met = *allocations.measured <= allocations.target + 0.05;
  }
  goals.push_back(std::move(allocations));
  goals.push_back(
      against_asio(rows, "6c", "H: a coroutine by start_task / by asio::co_spawn, at least", 1, "H.coroutines"));
}

}  // namespace bench
