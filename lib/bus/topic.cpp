// Membership of a topic.
// Floor 5, room bus.
#include "bus/topic.hpp"

#include "bus/bus_core.hpp"

#include <cstdlib>
#include <new>
#include <system_error>
#include <utility>

namespace penstock::detail {

topic::topic(ref_ptr<bus_core> bus, topic_identity&& made) : identity(std::move(made)), bus_(std::move(bus)) {
  segments_[0].store(first_slots_);
  lock_guard lock(m_);
  current_ = allocate_snapshot(0);
  tail_.store(std::uint64_t{current_->slot} << slot_shift);
}

topic::~topic() {
  // Nobody publishes any more, so nobody is inside: what is left is the last snapshot, and none of the older ones.
  free_snapshot(*current_);
  for (unsigned i = 1; i < segments; ++i) delete[] sync::peek(segments_[i]);
}

// Segment 0 has slots 0 to 7, segment k the 8 << (k - 1) slots from 8 << (k - 1).
sync::atomic<snapshot*>* topic::far_place(std::uint16_t slot) noexcept {
  unsigned segment = 1;
  std::size_t begin = first_segment;
  while (slot >= begin * 2) {
    begin *= 2;
    ++segment;
  }
  return &segments_[segment].load()[slot - begin];
}

snapshot* topic::allocate_snapshot(std::size_t members) {
  // A free slot, so that the word in tail_ can name the snapshot without a pointer that might be stale.
  std::uint32_t slot = 0;
  std::size_t size = first_segment;
  for (unsigned segment = 0; segment < segments; ++segment) {
    sync::atomic<snapshot*>* places = segments_[segment].load();
    if (places == nullptr) {
      places = new sync::atomic<snapshot*>[size]{};
      segments_[segment].store(places);
    }
    for (std::size_t i = 0; i < size; ++i) {
      if (places[i].load() != nullptr) continue;
      void* memory = std::malloc(sizeof(snapshot) + members * sizeof(subscription_core*));
      if (memory == nullptr) throw std::bad_alloc();
      auto* made = ::new (memory) snapshot{};
      made->slot = static_cast<std::uint16_t>(slot + i);
      places[i].store(made);
      return made;
    }
    slot += static_cast<std::uint32_t>(size);
    if (segment > 0) size *= 2;
  }
  throw std::system_error(make_error_code(errc::not_enough_memory),
                          "topic \"" + identity.name + "\": 65,536 memberships are in use at once");
}

void topic::free_snapshot(snapshot& dead) noexcept {
  place(dead.slot)->store(nullptr);
  for (std::size_t i = 0; i < dead.count; ++i) dead.members()[i]->release();
  dead.~snapshot();
  std::free(&dead);
}

void topic::make_current(snapshot& made) noexcept {
  member_count_.store(made.count);
  const std::uint64_t before = tail_.exchange(std::uint64_t{made.slot} << slot_shift);
  snapshot* old = std::exchange(current_, &made);
  retire(*old, before & entered_mask);
}

void topic::retire(snapshot& old, std::uint64_t entered) noexcept {
  const auto inside = static_cast<std::int64_t>(entered);
  if (old.balance.fetch_sub(inside) == inside) free_snapshot(old);
}

void topic::renew() noexcept {
  try {
    lock_guard lock(m_);
    if ((tail_.load() & entered_mask) < renew_after_) return;
    snapshot* made = allocate_snapshot(current_->count);
    for (std::size_t i = 0; i < current_->count; ++i) {
      made->members()[made->count++] = current_->members()[i];
      current_->members()[i]->retain();
    }
    make_current(*made);
  } catch (...) {  // no memory now: tried again when the count has doubled
  }
}

void topic::add(subscription_core& member) {
  lock_guard lock(m_);
  snapshot* made = allocate_snapshot(current_->count + 1);
  for (std::size_t i = 0; i <= current_->count; ++i) {
    subscription_core* each = i < current_->count ? current_->members()[i] : &member;
    if (each->removed) continue;
    made->members()[made->count++] = each;
    each->retain();
  }
  make_current(*made);
}

ref_ptr<subscription_core> topic::any_member() noexcept {
  lock_guard lock(m_);
  for (std::size_t i = 0; i < current_->count; ++i)
    if (!current_->members()[i]->removed) return ref_ptr<subscription_core>::share(current_->members()[i]);
  return {};
}

void topic::remove(subscription_core& member) noexcept {
  lock_guard lock(m_);
  if (member.removed) return;
  member.removed = true;
  try {
    snapshot* made = allocate_snapshot(current_->count);
    for (std::size_t i = 0; i < current_->count; ++i) {
      subscription_core* each = current_->members()[i];
      if (each->removed) continue;
      made->members()[made->count++] = each;
      each->retain();
    }
    make_current(*made);
  } catch (...) {
    // No memory for a smaller snapshot: the member stays in this one, where it refuses every offer as not matched, and
    // is left out of the next.
  }
}

}  // namespace penstock::detail
