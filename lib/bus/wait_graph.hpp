// Who waits for whom: lanes that rest on outputs, channels that only a resting lane empties, calls that close each other.
// Floor 5, room bus.
#pragma once

#include "base/mutex.hpp"
#include "sync/waiter.hpp"

#include <cstdint>
#include <string>

namespace penstock::detail {

class close_operation;
class lane;
class subscription_core;

/// One output of a lane that stands in line at its target. Linked under the graph's mutex from the moment it stands there
/// until it has been decided.
struct output_edge {
  lane* producer = nullptr;
  subscription_core* target = nullptr;
  sync::waiter* place = nullptr;
  output_edge* next = nullptr;
  output_edge* previous = nullptr;
};

/// A lane is alive if it has no output in line, or if all channels its outputs stand at are alive; a channel is alive if one
/// of its lanes is, or if it is a stream. An output whose lane would not be alive is refused: nothing could ever empty the
/// channel but the very lanes that wait. The question and the place in line are one step under `m`, on the slow path only.
/// One graph per bus; an output to another bus is not looked through.
class wait_graph {
 public:
  mutex m;  // a channel's mutex may be taken while it is held, no other

  /// Whether `producer` would be alive with one more output, at `target`.
  bool alive_with(lane& producer, subscription_core& target) noexcept PENSTOCK_REQUIRES(m);
  /// "“a” waits for “b”, which waits for “a”", right after `alive_with` said no. Empty when there is no memory.
  std::string chain(lane& producer, subscription_core& target) noexcept PENSTOCK_REQUIRES(m);

  void link(output_edge& edge) noexcept PENSTOCK_REQUIRES(m);
  void unlink(output_edge& edge) noexcept PENSTOCK_REQUIRES(m);

  /// Whether a call on `closer` that waits for the end of `target` would wait for itself.
  bool closes_itself(lane& closer, subscription_core& target) noexcept PENSTOCK_REQUIRES(m);

 private:
  static bool in_line(const output_edge& edge) noexcept;
  bool all_targets_alive(lane& each) noexcept PENSTOCK_REQUIRES(m);
  std::uint32_t walk_ PENSTOCK_GUARDED_BY(m) = 0;
};

}  // namespace penstock::detail
