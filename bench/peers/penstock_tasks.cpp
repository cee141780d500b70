// penstock in workload H: work posted to a pool, coroutines started on it, and both as tasks of the registry.
// Floor 9, bench.
#include "../tasks.hpp"
#include "penstock_parts.hpp"

#include <penstock/penstock.hpp>

#include <chrono>
#include <memory>
#include <optional>
#include <string>

namespace bench {
namespace {

using namespace std::chrono_literals;

penstock::task<void> empty_coroutine(task_counter& counter) {
  counter.ran();
  co_return;
}

class on_a_pool {
 public:
  explicit on_a_pool(unsigned workers)
      : pool_(penstock::worker_pool::start("default", penstock::worker_pool_options().threads(workers))) {}
  ~on_a_pool() { finish(0); }
  std::string finish(std::uint64_t) {
    const unsigned left = pool_->stop(penstock::steady_time::max());
    return left == 0 ? std::string() : std::to_string(left) + " workers did not end";
  }

 protected:
  std::shared_ptr<penstock::worker_pool> pool_;
};

class posted : public on_a_pool {
 public:
  using on_a_pool::on_a_pool;
  // The counter notices work that was refused.
  void spawn(task_counter& counter) {
    (void)pool_->post([&counter] { counter.ran(); });
  }
};

class started : public on_a_pool {
 public:
  using on_a_pool::on_a_pool;
  void spawn(task_counter& counter) {
    penstock::start_task(pool_, empty_coroutine(counter), [](penstock::outcome<void>&&) noexcept {});
  }
};

class in_the_registry {
 public:
  explicit in_the_registry(unsigned workers)
      : runtime_(penstock::runtime_options().pool("default", penstock::worker_pool_options().threads(workers))),
        options_(penstock::spawn_options().on(runtime_.pool("default"))) {}

  std::string finish(std::uint64_t spawned) {
    const auto report = runtime_.shutdown(10s, "the run is over");
    if (!report.clean()) return to_string(report);
    const auto counts = runtime_.tasks().counts();
    if (counts.spawned != spawned || counts.completed != spawned)
      return "the registry counted " + std::to_string(counts.completed) + " completed of " +
             std::to_string(counts.spawned) + " spawned tasks, not " + std::to_string(spawned);
    return {};
  }

 protected:
  penstock::runtime runtime_;
  penstock::spawn_options options_;
};

class registered_functions : public in_the_registry {
 public:
  using in_the_registry::in_the_registry;
  void spawn(task_counter& counter) {
    (void)runtime_.tasks().spawn("empty", options_, [&counter] { counter.ran(); });
  }
};

class registered_coroutines : public in_the_registry {
 public:
  using in_the_registry::in_the_registry;
  void spawn(task_counter& counter) { (void)runtime_.tasks().spawn("empty", options_, empty_coroutine(counter)); }
};

/// A tenth of them: a whole run would take ten seconds.
template <class System>
task_outcome run_fewer(const task_run& run) {
  task_run fewer = run;
  fewer.tasks = run.tasks / 10 + 1;
  return run_tasks<System>(fewer);
}

const bool registry = register_system({
    .name = "penstock task_registry",
    .mode = default_mode,
    .kind = system_kind::subject,
    .note = "a task with a name, a state, an account and a place in the shutdown, spawned on the pool \"default\"; "
            "1/10 of the tasks",
    .functions = run_fewer<registered_functions>,
    .coroutines = run_fewer<registered_coroutines>,
});

}  // namespace

task_outcome penstock_functions(const task_run& run) { return run_tasks<posted>(run); }
task_outcome penstock_coroutines(const task_run& run) { return run_tasks<started>(run); }

}  // namespace bench
