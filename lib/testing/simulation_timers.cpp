// The timers of a simulation: a heap by virtual due time, fired by one simulated thread.
// Floor 8, room testing.
#include "testing/simulation_core.hpp"

namespace penstock::testing::detail {

void simulation_core::place(std::size_t at, const armed_timer& timer) noexcept {
  heap_[at] = timer;
  timer.node->heap_index = at;
}

namespace {
bool sooner(steady_time due, std::uint64_t order, steady_time other_due, std::uint64_t other_order) noexcept {
  return due != other_due ? due < other_due : order < other_order;
}
}  // namespace

void simulation_core::sift_up(std::size_t at) noexcept {
  const armed_timer timer = heap_[at];
  while (at > 0) {
    const std::size_t above = (at - 1) / 2;
    if (!sooner(timer.due, timer.order, heap_[above].due, heap_[above].order)) break;
    place(at, heap_[above]);
    at = above;
  }
  place(at, timer);
}

void simulation_core::sift_down(std::size_t at) noexcept {
  const armed_timer timer = heap_[at];
  for (;;) {
    std::size_t below = 2 * at + 1;
    if (below >= heap_.size()) break;
    if (below + 1 < heap_.size() &&
        sooner(heap_[below + 1].due, heap_[below + 1].order, heap_[below].due, heap_[below].order))
      ++below;
    if (!sooner(heap_[below].due, heap_[below].order, timer.due, timer.order)) break;
    place(at, heap_[below]);
    at = below;
  }
  place(at, timer);
}

errc simulation_core::arm(timer_node& node) noexcept {
  if (ended_ || timers_stopped_) return errc::closed;
  // Timers due at one instant fire in no promised order.
  const std::uint64_t order = options_.strategy_ == strategy::fifo ? timer_order_++ : choices_.next();
  try {
    heap_.push_back({node.due, order, &node});
  } catch (...) {
    return errc::not_enough_memory;
  }
  if (!node.background) ++foreground_timers_;
  sift_up(heap_.size() - 1);
  list_timers();
  return errc::none;
}

bool simulation_core::disarm(timer_node& node) noexcept {
  const std::size_t at = node.heap_index;
  if (at >= heap_.size() || heap_[at].node != &node) return false;
  node.heap_index = timer_node::not_armed;
  if (!node.background) --foreground_timers_;
  const armed_timer last = heap_.back();
  heap_.pop_back();
  if (at < heap_.size()) {
    place(at, last);
    sift_up(at);
    sift_down(last.node->heap_index);
  }
  return true;
}

void simulation_core::list_timers() noexcept {
  if (timers_listed_ || timers_->now != thread_state::status::idle) return;
  if (heap_.empty() || heap_.front().due > now_) return;
  ready_.push_back({ready_entry::what::timers, timers_->entity, nullptr, nullptr});
  timers_listed_ = true;
}

void simulation_core::fire_one_timer() {
  timer_node& node = *heap_.front().node;
  disarm(node);
  node.fire(node);
}

}  // namespace penstock::testing::detail
