// Which lanes can still go on.
// Floor 5, room bus.
#include "bus/wait_graph.hpp"

#include "bus/handler_lane.hpp"
#include "bus/subscription_core.hpp"

namespace penstock::detail {

bool wait_graph::in_line(const output_edge& edge) noexcept { return edge.target->channel.stands_in_line(*edge.place); }

void wait_graph::link(output_edge& edge) noexcept {
  lane& owner = *edge.producer;
  edge.previous = nullptr;
  edge.next = owner.edges;
  if (owner.edges != nullptr) owner.edges->previous = &edge;
  owner.edges = &edge;
}

void wait_graph::unlink(output_edge& edge) noexcept {
  (edge.previous != nullptr ? edge.previous->next : edge.producer->edges) = edge.next;
  if (edge.next != nullptr) edge.next->previous = edge.previous;
}

bool wait_graph::all_targets_alive(lane& each) noexcept {
  for (const output_edge* edge = each.edges; edge != nullptr; edge = edge->next)
    if (in_line(*edge) && !(edge->target->walk.seen == walk_ && edge->target->walk.alive)) return false;
  return true;
}

// The least fixed point: what is not shown to be alive is not. First everything within reach, in a list that lies in the
// subscriptions themselves; then rounds over it until nothing changes.
bool wait_graph::alive_with(lane& producer, subscription_core& target) noexcept {
  const std::uint32_t walk = ++walk_;
  subscription_core* first = nullptr;
  subscription_core** end = &first;
  const auto reach = [&](subscription_core& found) {
    if (found.walk.seen == walk) return;
    found.walk.seen = walk;
    found.walk.alive = false;
    found.walk.next = nullptr;
    *end = &found;
    end = &found.walk.next;
  };
  const auto reach_targets = [&](lane& each) {
    for (const output_edge* edge = each.edges; edge != nullptr; edge = edge->next)
      if (in_line(*edge)) reach(*edge->target);
  };
  reach(target);
  reach_targets(producer);
  for (subscription_core* each = first; each != nullptr; each = each->walk.next)
    for (lane* one = each->first_lane(); one != nullptr; one = each->lane_after(*one))
      if (one != &producer) reach_targets(*one);
  for (bool changed = true; changed;) {
    changed = false;
    for (subscription_core* each = first; each != nullptr; each = each->walk.next) {
      if (each->walk.alive) continue;
      bool alive = each->first_lane() == nullptr;  // a stream: somebody outside reads it
      for (lane* one = each->first_lane(); one != nullptr && !alive; one = each->lane_after(*one))
        alive = all_targets_alive(*one) && (one != &producer || target.walk.alive);
      if (!alive) continue;
      each->walk.alive = true;
      changed = true;
    }
  }
  return target.walk.alive && all_targets_alive(producer);
}

std::string wait_graph::chain(lane& producer, subscription_core& target) noexcept {
  try {
    const auto quoted = [](const subscription_core& core) { return "\"" + core.name + "\""; };
    std::string text = quoted(*producer.core) + " waits for " + quoted(target);
    const subscription_core* at = &target;
    // Each step goes to a target that is not alive; after as many steps as there are names one has come twice.
    for (unsigned steps = 0; steps < 16 && at != producer.core; ++steps) {
      const subscription_core* next = nullptr;
      for (lane* one = at->first_lane(); one != nullptr && next == nullptr; one = at->lane_after(*one)) {
        if (one == &producer) next = producer.core;
        for (const output_edge* edge = one->edges; edge != nullptr && next == nullptr; edge = edge->next)
          if (in_line(*edge) && !edge->target->walk.alive) next = edge->target;
      }
      if (next == nullptr) break;
      text += ", which waits for " + quoted(*next);
      at = next;
    }
    return text;
  } catch (...) {
    return {};
  }
}

bool wait_graph::closes_itself(lane& closer, subscription_core& target) noexcept {
  const std::uint32_t walk = ++walk_;
  subscription_core* first = &target;
  subscription_core** end = &target.walk.next;
  target.walk.seen = walk;
  target.walk.next = nullptr;
  for (subscription_core* each = first; each != nullptr; each = each->walk.next) {
    for (lane* one = each->first_lane(); one != nullptr; one = each->lane_after(*one)) {
      if (one == &closer) return true;
      for (close_operation* each_close = one->closes(); each_close != nullptr;
           each_close = close_access::next_of_lane(*each_close)) {
        subscription_core& waited = *close_access::core(*each_close);
        if (waited.walk.seen == walk) continue;
        waited.walk.seen = walk;
        waited.walk.next = nullptr;
        *end = &waited;
        end = &waited.walk.next;
      }
    }
  }
  return false;
}

}  // namespace penstock::detail
