// A serial execution context, and what can be put on it from elsewhere.
// Floor 2, room exec.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/exec/scheduler.hpp>

namespace penstock {

/// One thing to run on a lane: a resumption, a completion, a request. Intrusive, so that posting allocates nothing. In one
/// queue at most once at a time; its owner keeps it alive until it has run.
struct lane_item {
  /// What becomes of an item.
  enum class turn : unsigned char {
    run,      ///< on the lane
    dropped,  ///< the lane's pool has ended: release what waits for this, resume nothing
  };
  void (*run_item)(lane_item& self, turn how) = nullptr;
  lane_item* next_item = nullptr;  ///< the queue's
  bool after_turn = false;         ///< the lane gives up its worker before it runs this; cleared by the lane
};

/// A serial execution context: what is put on it runs one after the other, never two at a time, each seeing the effects of
/// those before. A subscription's handler has one (several with `concurrency`), and so has each task. Threads: thread-safe.
class PENSTOCK_API lane_base {
 public:
  lane_base() noexcept = default;
  lane_base(const lane_base&) = delete;
  lane_base& operator=(const lane_base&) = delete;

  /// Runs the item on this lane, never on the caller's stack (unless the pool has ended: then it is dropped there).
  /// Waits: never. Cost: no allocation. Order: first in, first out.
  virtual void post(lane_item& item) noexcept = 0;
  /// Where the lane runs: its timers and its clock.
  virtual scheduler& pool() const noexcept = 0;
  virtual void keep() noexcept = 0;
  virtual void let_go() noexcept = 0;

 protected:
  ~lane_base() = default;
};

}  // namespace penstock
