// What a shutdown's drain watches: whether all has come to rest, and how deep events are caused by events.
// Floor 5, room bus.
#pragma once

#include "base/ref_count.hpp"

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace penstock::detail {

class subscription_core;
class topic;

/// How many generations of events a drain takes: beyond that, what handlers publish is refused with `closed`.
inline constexpr unsigned most_generations = 64;

/// The subscriptions of a bus whose intake is closed, as the one who waits for the drain sees them. Throws std::bad_alloc
/// nowhere but when it is made.
class drain_watch {
 public:
  explicit drain_watch(std::vector<ref_ptr<subscription_core>> all);

  /// Whether everything was at rest at one instant: two rounds in which everybody was, and nobody had been offered anything in
  /// between. It goes on where it found somebody busy, so that a look costs little while that one is.
  bool all_at_rest() noexcept;

  /// How many generations have passed at least. One has when all events that had been accepted when it began have ended. What
  /// is alive then was caused by one of them, or later: by induction, after n generations every event that is alive has n causes
  /// before it, all of them since the drain began. An event costs nothing to be counted so.
  unsigned generations() noexcept;
  /// The names of those that are not at rest.
  std::vector<std::string> fed() const;

 private:
  const std::vector<ref_ptr<subscription_core>> all_;
  std::size_t rest_at_ = 0;
  bool rest_whole_ = true;     // nobody was busy in this round
  bool before_known_ = false;  // the round before was whole
  std::uint64_t offered_ = 0;
  std::uint64_t offered_before_ = 0;

  void begin_generation() noexcept;
  std::vector<std::uint64_t> marks_;  // per subscription: how many seats had been taken, or were waited for
  std::size_t generation_at_ = 0;
  unsigned passed_ = 0;
};

/// Who published to which topic: guarded by the bus.
using feeding_edges = std::set<std::pair<const subscription_core*, const topic*>>;

/// The names along a ring of `edges`, of those that are subscribed first the shortest; empty: there is none.
std::vector<std::string> find_loop(const std::vector<ref_ptr<subscription_core>>& all, const feeding_edges& edges);

}  // namespace penstock::detail
