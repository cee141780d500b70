// The places of an asynchronous publish in the lines of full channels, and how it is told.
// Floor 5, room bus.
#pragma once

#include "base/ref_count.hpp"
#include "bus/subscription_core.hpp"
#include "bus/wait_graph.hpp"
#include "sync/channel.hpp"

#include <penstock/bus/publish_operation.hpp>

#include <cstddef>
#include <cstring>

namespace penstock::detail {

/// The event at `index` of a span in slot form, as hooks see it.
inline const void* payload_at(const sync::channel& channel, const std::byte* events, std::size_t index) noexcept {
  const std::byte* at = events + index * channel.payload_bytes();
  if (!channel.blocks()) return at;
  const void* block = nullptr;
  std::memcpy(&block, at, sizeof block);
  return block;
}

struct operation_line : sync::waiter {
  publish_operation* operation = nullptr;
  ref_ptr<subscription_core> target;
  ref_ptr<subscription_core> producer_core;  // of `edge.producer`, when it is a lane's output
  lane* producer = nullptr;
  output_edge edge;
};

/// What publishing needs of an operation.
class async_lines {
 public:
  /// The next free line; null when there is no memory. Beyond four one allocation serves all.
  static operation_line* next(publish_operation& operation, std::size_t most) noexcept;
  static void prepare(publish_operation& operation, operation_line& line, lane* producer,
                      subscription_core& target) noexcept;
  /// It did not have to stand in line after all.
  static void unprepare(publish_operation& operation, operation_line& line) noexcept;
};

}  // namespace penstock::detail
