// The items of one lane: many put, one takes, and "nobody runs me" is a state of the same word.
// Floor 2, room exec.
#pragma once

#include "sync/atomic.hpp"

#include <penstock/exec/lane.hpp>

namespace penstock::exec {

/// One word: null = empty, and the lane is running or will look again; `resting` = empty, and whoever puts the next item
/// must schedule the lane; else a list of items, the newest first.
/// Transitions: put: any → item. take (lane): any → null. rest (lane): null → resting.
/// So a lane that rests is scheduled by exactly one of those who put, and never while it runs.
class lane_queue {
 public:
  /// Any thread. True: the lane rested; the caller must schedule it.
  bool put(lane_item& item) noexcept {
    lane_item* head = head_.load();
    do {
      item.next_item = head == resting() ? nullptr : head;
    } while (!head_.compare_exchange_weak(head, &item));
    return head == resting();
  }

  /// The lane: all items, the oldest first.
  lane_item* take() noexcept {
    lane_item* newest = head_.exchange(nullptr);
    if (newest == resting()) return nullptr;
    lane_item* oldest = nullptr;
    while (newest != nullptr) {
      lane_item* before = newest->next_item;
      newest->next_item = oldest;
      oldest = newest;
      newest = before;
    }
    return oldest;
  }

  /// The lane has nothing to run. True: it rests now, and somebody else may already run it. False: an item has come.
  bool rest() noexcept {
    lane_item* expected = nullptr;
    return head_.compare_exchange_strong(expected, resting());
  }

 private:
  // The queue's own address: no item can have it.
  lane_item* resting() noexcept { return reinterpret_cast<lane_item*>(this); }
  sync::atomic<lane_item*> head_{nullptr};
};

}  // namespace penstock::exec
