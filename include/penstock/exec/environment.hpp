// What a runtime is built on: real threads and time, or a simulation.
// Floor 2, room exec.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/exec/scheduler.hpp>
#include <penstock/exec/worker_pool.hpp>

#include <cstdint>
#include <memory>
#include <string_view>

namespace penstock {

/// Makes the pools of a runtime and tells the time. One per runtime. Threads: thread-safe.
class PENSTOCK_API execution_environment {
 public:
  virtual ~execution_environment();
  virtual const clock& time() const noexcept = 0;
  /// 64 random bits, for jitter; no secret. A simulation draws them from its seed.
  virtual std::uint64_t random() noexcept = 0;
  /// Throws what `worker_pool::start` throws.
  virtual scheduler_ptr make_pool(std::string_view name, worker_pool_options options) = 0;
  /// Whether its threads and its time are simulated.
  virtual bool simulated() const noexcept { return false; }
  /// Stops all pools it made; returns how many workers were left inside a call.
  virtual unsigned stop_pools(steady_time deadline) noexcept = 0;
};

/// Real threads, real time.
PENSTOCK_API std::shared_ptr<execution_environment> real_environment();

}  // namespace penstock
