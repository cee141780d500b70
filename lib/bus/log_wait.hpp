// A publish that has its positions in a topic's log and waits for the seats.
// Floor 5, room bus.
#pragma once

#include "sync/waiter.hpp"

#include <cstddef>
#include <cstdint>

namespace penstock::detail {

class subscription_core;

/// An intrusive node. Whoever waits owns it, and the events it points to, until it is settled. Guarded by the mutex of the log.
struct log_wait {
  log_wait* next = nullptr;
  log_wait* previous = nullptr;
  const std::byte* events = nullptr;  ///< in slot form
  std::uint64_t first = 0;            ///< positions in the log
  std::uint64_t end = 0;
  std::int64_t published = 0;  ///< for the seats' stamps
  bool waits = false;    ///< it is in the topic's list
  bool at_once = false;  ///< its owner has looked, and is to be told as soon as it has its seats
  /// A place in the line of a subscription that leaves the log, for the events from `index` of the span on. There is one for
  /// each reader of the log, once.
  sync::waiter& (*line_up)(log_wait&, subscription_core& left, std::size_t index) noexcept = nullptr;
  /// Called once, without a lock, after it was taken from the list; the node may be gone when it returns.
  void (*settle)(log_wait&) noexcept = nullptr;
};

/// Those who wait, in the order of their positions.
using log_waits = sync::settle_list<log_wait>;

}  // namespace penstock::detail
