// One offer that stands in line at a full channel.
// Floor 1, room sync.
#pragma once

#include <penstock/base/errc.hpp>

#include <cstddef>
#include <cstdint>

namespace penstock::sync {

class channel;

/// States: idle → waiting → admitted → settled, or waiting → settled. All but idle and settled are left under the
/// channel's mutex only.
enum class waiter_state : std::uint8_t {
  idle,      ///< not in any line
  waiting,   ///< in the line; its events are not all in
  admitted,  ///< all its events have seats; its owner is not told yet
  settled,   ///< decided: `settle` is being called, or the owner took it out itself
};

/// Who stands in line, for a look from outside. To be compared, never followed.
struct waiter_origin {
  const void* task = nullptr;   ///< what a worker had in hand that ran the task; null: it was none
  std::uint64_t stream = 0;     ///< the stream under whose delivery it was published; 0: none
};

/// An intrusive node. Whoever waits owns it and the events it points to until it is settled.
struct waiter {
  waiter* next = nullptr;
  waiter* previous = nullptr;
  channel* line = nullptr;
  const std::byte* events = nullptr;  ///< the first event not yet admitted, in slot form
  std::size_t remaining = 0;          ///< events not yet admitted; what is rejected when it is settled early
  std::size_t admitted = 0;
  std::int64_t published = 0;         ///< for the seats' stamps
  errc why = errc::none;              ///< none: all admitted; else the reason the remaining ones were rejected
  waiter_state state = waiter_state::idle;
  waiter_origin origin;
  bool parked = false;                ///< a handler's output: stays in line when callers are released
  bool tell_at_once = false;          ///< its owner does not look by itself: settle as soon as it is admitted
  /// Called once, without a lock, after the state became `settled`; the node may be gone when it returns.
  void (*settle)(waiter&) noexcept = nullptr;
};

/// A doubly linked list of those who wait to be settled, first in first out. Guarded by the mutex of where they wait, or private
/// to one thread.
template <class Node>
class settle_list {
 public:
  bool empty() const noexcept { return first_ == nullptr; }
  Node* front() const noexcept { return first_; }
  void push_back(Node& node) noexcept {
    node.next = nullptr;
    node.previous = last_;
    (last_ != nullptr ? last_->next : first_) = &node;
    last_ = &node;
  }
  void remove(Node& node) noexcept {
    (node.previous != nullptr ? node.previous->next : first_) = node.next;
    (node.next != nullptr ? node.next->previous : last_) = node.previous;
    node.next = node.previous = nullptr;
  }
  /// Settles each node; a node may vanish as soon as it has been told.
  void settle_all() noexcept {
    while (Node* node = first_) {
      remove(*node);
      node->settle(*node);
    }
  }

 private:
  Node* first_ = nullptr;
  Node* last_ = nullptr;
};

using waiter_list = settle_list<waiter>;

}  // namespace penstock::sync
