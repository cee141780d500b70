// Peer of workload H: oneTBB's task_group; the waiting thread takes part in the work.
// Floor 9, bench.
#include "../tasks.hpp"

#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_group.h>

#include <string>

namespace bench {
namespace {

class in_a_group {
 public:
  // The spawning thread is one of them.
  explicit in_a_group(unsigned workers) : threads_(oneapi::tbb::global_control::max_allowed_parallelism, workers + 1) {}
  void spawn(task_counter& counter) {
    group_.run([&counter] { counter.ran(); });
  }
  void join() { group_.wait(); }
  std::string finish(std::uint64_t) { return {}; }

 private:
  oneapi::tbb::global_control threads_;
  oneapi::tbb::task_group group_;
};

const bool registered = register_system({
    .name = "oneTBB",
    .mode = "task_group",
    .kind = system_kind::unbounded,
    .note = "task_group::run; the thread that spawned takes part in the work while it waits",
    .functions = run_tasks<in_a_group>,
});

}  // namespace
}  // namespace bench
