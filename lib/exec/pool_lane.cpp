// A lane of its own on a pool.
// Floor 2, room exec.
#include "exec/pool_lane.hpp"

#include "base/forced_unwind.hpp"
#include "exec/context.hpp"

#include <utility>

namespace penstock::exec {

void pool_lane::post(lane_item& item) noexcept {
  if (!queue_.put(item)) return;
  retain();
  const scheduler_ptr pool = pool_;  // the lane may run, and end, before this returns
  pool->schedule(*this);
}

// Before it rests: then somebody else may run it.
bool pool_lane::rest() noexcept {
  holds_work_ = true;
  pool_->hold_work();
  in_turn_.store(false);
  if (queue_.rest()) return true;
  in_turn_.store(true);
  goes_on();
  return false;
}

PENSTOCK_CATCHES_FORCED_UNWIND
void pool_lane::run(unsigned budget) {
  auto keep = ref_ptr<pool_lane>::adopt(this);
  context working{context_kind::worker};
  working.in_hand = this;
  context_scope scope(&working);
  in_turn_.store(true);
  goes_on();
  try {
    for (;;) {
      if (left_ == nullptr) left_ = queue_.take();
      if (left_ == nullptr) {
        if (rest()) return;
        continue;
      }
      if (budget == 0 || std::exchange(left_->after_turn, false)) break;
      --budget;
      lane_item* item = std::exchange(left_, left_->next_item);
      item->run_item(*item, lane_item::turn::run);
    }
  } catch (const forced_unwind&) {
    in_turn_.store(false);
    keep.release();
    pool_->schedule(*this);  // the worker dies under us; the lane goes on on another one
    throw;
  }
  in_turn_.store(false);
  keep.release();
  pool_->schedule_again(*this);
}

void pool_lane::dropped() noexcept {
  const auto keep = ref_ptr<pool_lane>::adopt(this);
  context working{context_kind::worker};
  context_scope scope(&working);
  goes_on();
  do {
    if (left_ == nullptr) left_ = queue_.take();
    while (left_ != nullptr) {
      lane_item* item = std::exchange(left_, left_->next_item);
      item->run_item(*item, lane_item::turn::dropped);
    }
  } while (!queue_.rest());
}

}  // namespace penstock::exec
