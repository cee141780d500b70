// What stands behind worker_pool_options.
// Floor 2, room exec.
#pragma once

#include "exec/stack_signal.hpp"

#include <penstock/exec/worker_pool.hpp>

#include <memory>

namespace penstock {

struct worker_pool_options::fields {
  unsigned threads = 0;  ///< 0: not set
  bool threads_set = false;
  unsigned budget = 64;
  wait_strategy strategy = wait_strategy::park;
  std::chrono::nanoseconds spin_time{};
  bool may_wait = false;
  unique_function<void(unsigned)> on_thread_start;
  unique_function<void(const failure&)> on_failure;
  std::shared_ptr<exec::stack_signal> stacks;  ///< by which its workers tell where they stand; null: they do not
};

}  // namespace penstock
