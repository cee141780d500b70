// A lane of its own on a pool, for a task that belongs to no subscription.
// Floor 2, room exec.
#pragma once

#include "base/ref_count.hpp"
#include "exec/lane_queue.hpp"

#include <penstock/exec/lane.hpp>

#include <atomic>
#include <utility>

namespace penstock::exec {

/// At rest until something is put on it; then in the pool's ready list or running. Kept alive by whoever has it and by
/// each turn.
class pool_lane final : public lane_base, public runnable, public ref_counted<pool_lane> {
 public:
  /// Throws std::bad_alloc.
  explicit pool_lane(scheduler_ptr pool) : pool_(std::move(pool)) { queue_.rest(); }
  ~pool_lane() { goes_on(); }

  void post(lane_item& item) noexcept override;
  scheduler& pool() const noexcept override { return *pool_; }
  void keep() noexcept override { retain(); }
  void let_go() noexcept override { release(); }

  void run(unsigned budget) override;
  void dropped() noexcept override;
  /// A thread is inside one of its items, or between two. Any thread; already old when it returns.
  bool in_turn() const noexcept { return in_turn_.load(); }

 private:
  /// It has something to wait for while it rests: a task that has ended lets go of its lane.
  bool rest() noexcept;
  void goes_on() noexcept {
    if (std::exchange(holds_work_, false)) pool_->release_work();
  }

  const scheduler_ptr pool_;
  lane_queue queue_;
  std::atomic<bool> in_turn_{false};
  bool holds_work_ = false;    // the lane's own
  lane_item* left_ = nullptr;  // the lane's own: taken from the queue, not yet run
};

}  // namespace penstock::exec
