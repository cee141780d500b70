// What stands behind worker_pool_options.
// Floor 2, room exec.
#pragma once

#include "exec/stack_signal.hpp"

#include <penstock/exec/worker_pool.hpp>

#include <chrono>
#include <memory>

namespace penstock {

// Of no class: a static member of one that the library shows would be a unique symbol, which keeps it from being unloaded.
constexpr std::chrono::nanoseconds fixed_spin = std::chrono::microseconds(20);
constexpr std::chrono::nanoseconds adaptive_spin = std::chrono::microseconds(100);

struct worker_pool_options::fields {
  unsigned threads = 0;  ///< 0: not set
  bool threads_set = false;
  unsigned budget = 64;
  wait_strategy strategy = wait_strategy::adaptive;
  std::chrono::nanoseconds spin_time = adaptive_spin;
  bool may_wait = false;
  unique_function<void(unsigned)> on_thread_start;
  unique_function<void(const failure&)> on_failure;
  std::shared_ptr<exec::stack_signal> stacks;  ///< by which its workers tell where they stand; null: they do not
};

}  // namespace penstock
