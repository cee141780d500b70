// Real threads and real time for a runtime.
// Floor 2, room exec.
#include <penstock/exec/environment.hpp>

#include "base/mix_bits.hpp"
#include "exec/pool_core.hpp"
#include "exec/timer_thread.hpp"

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

namespace penstock {
namespace {

class real final : public execution_environment {
 public:
  const clock& time() const noexcept override { return real_clock(); }

  std::uint64_t random() noexcept override {
    return mix_bits(random_.fetch_add(mix_step, std::memory_order_relaxed));
  }

  scheduler_ptr make_pool(std::string_view name, worker_pool_options options) override {
    auto pool = exec::start_pool(name, std::move(options), real_clock(), timers_, parts_);
    lock_guard lock(m_);
    pools_.push_back(pool);
    return pool;
  }

  unsigned stop_pools(steady_time deadline) noexcept override {
    std::vector<std::shared_ptr<worker_pool>> pools;
    {
      lock_guard lock(m_);
      pools.swap(pools_);
    }
    unsigned left = 0;
    parts_->stop();
    // All are told before one is waited for: a call that lasts until the deadline leaves the next pool no time to end.
    for (const auto& pool : pools) static_cast<exec::pool_core&>(*pool->watched()).begin_stop();
    for (const auto& pool : pools) left += pool->stop(deadline);
    timers_->stop();
    return left;
  }

 private:
  std::shared_ptr<exec::timer_thread> timers_ = std::make_shared<exec::timer_thread>(real_clock());
  const std::shared_ptr<environment_parts> parts_ = std::make_shared<environment_parts>(false);
  std::atomic<std::uint64_t> random_{static_cast<std::uint64_t>(real_clock().now().time_since_epoch().count())};
  mutex m_;  // protects pools_; taken with no other lock held
  std::vector<std::shared_ptr<worker_pool>> pools_ PENSTOCK_GUARDED_BY(m_);
};

}  // namespace

std::shared_ptr<execution_environment> real_environment() { return std::make_shared<real>(); }

}  // namespace penstock
