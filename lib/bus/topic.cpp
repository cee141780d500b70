// Membership of a topic.
// Floor 5, room bus.
#include "bus/topic.hpp"

#include "bus/bus_core.hpp"

#include <cstdlib>
#include <new>
#include <system_error>
#include <utility>

namespace penstock::detail {

topic::topic(ref_ptr<bus_core> bus, topic_identity&& made)
    : identity(std::move(made)),
      bus_(std::move(bus)),
      log_(identity.in_place ? identity.size : sizeof(void*), !identity.in_place) {
  segments_[0].store(first_slots_);
  lock_guard lock(log_.m);
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
    lock_guard lock(log_.m);
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
  lock_guard lock(log_.m);
  snapshot* made = allocate_snapshot(current_->count + 1);
  for (std::size_t i = 0; i <= current_->count; ++i) {
    subscription_core* each = i < current_->count ? current_->members()[i] : &member;
    if (each->removed) continue;
    made->members()[made->count++] = each;
    each->retain();
  }
#if !defined(PENSTOCK_OWN_RINGS)  // for tests: then nobody shares, and everything is decided in the channels' own rings
  if (member.channel.may_share()) sharers_.fetch_add(1);
#endif
  log_.shut_now();
  make_current(*made);
  note_readers(log_.readers());
  log_.open();
  const bool too_many = current_->count > most_readers && log_.readers() > 0;
  lock.unlock();
  if (!too_many) return;
  snapshot& seen = enter();
  for (std::size_t i = 0; i < seen.count; ++i) leave_log(*seen.members()[i]);
  leave(seen);
}

ref_ptr<subscription_core> topic::any_member() noexcept {
  lock_guard lock(log_.m);
  for (std::size_t i = 0; i < current_->count; ++i)
    if (!current_->members()[i]->removed) return ref_ptr<subscription_core>::share(current_->members()[i]);
  return {};
}

void topic::remove(subscription_core& member) noexcept {
  log_waits told;
  auto left = sync::channel::leaving::not_there;
  {
    lock_guard lock(log_.m);
    if (member.removed) return;
    member.removed = true;
    snapshot* made = nullptr;
    try {
      made = allocate_snapshot(current_->count);
    } catch (...) {
      // No memory for a smaller snapshot: the member stays in this one, where it refuses every offer as not matched, and
      // is left out of the next.
    }
    for (std::size_t i = 0; made != nullptr && i < current_->count; ++i) {
      subscription_core* each = current_->members()[i];
      if (each->removed) continue;
      made->members()[made->count++] = each;
      each->retain();
    }
#if !defined(PENSTOCK_OWN_RINGS)
    if (member.channel.may_share()) sharers_.fetch_sub(1);
#endif
    log_.shut_now();
    left = leave_log_locked(member, true);
    if (made != nullptr) make_current(*made);
    note_readers(log_.readers() - (left != sync::channel::leaving::not_there ? 1 : 0));
    log_.open();
    serve_log_locked(told);
  }
  after_leaving(member, left);
  told.settle_all();
}

// --- the log -----------------------------------------------------------------------------------------------------------

// After every change, with as many readers as there are now. A limit that was right for more of them is not too high.
void topic::note_readers(std::uint32_t readers) noexcept {
  log_.change(readers, current_->count, readers > 0 ? log_.limit() : 0);
}

// The limit of all, and who has the lowest. Only who wants to go beyond the last one found looks at all of them.
std::uint64_t topic::find_last() noexcept {
  std::uint64_t limit = 0;
  last_ = nullptr;
  for (std::size_t i = 0; i < current_->count; ++i) {
    const subscription_core& each = *current_->members()[i];
    if (!each.channel.in_log()) continue;
    const std::uint64_t own = each.channel.log_limit();  // once: it moves
    if (last_ != nullptr && own >= limit) continue;
    limit = own;
    last_ = &each;
  }
  log_.raise_limit(limit);
  return limit;
}

std::size_t topic::provide_log() noexcept {
  std::size_t cells = 0;
  for (std::size_t i = 0; i < current_->count; ++i)
    if (const std::size_t wanted = current_->members()[i]->channel.log_cells(); wanted > cells) cells = wanted;
  return log_.provide(cells);
}

bool topic::enter_log(subscription_core& member) noexcept {
  lock_guard lock(log_.m);
  if (member.removed) return false;
  if (log_.readers() == 0 && provide_log() == 0) return false;
  if (member.channel.log_cells() > log_.size()) return false;
  log_.shut_now();
  const bool entered = member.channel.enter_log(log_);
  if (entered) {
    const std::uint64_t own = member.channel.log_limit();
    const std::uint32_t others = log_.readers();
    log_.change(others + 1, current_->count, others > 0 && log_.limit() < own ? log_.limit() : own);
  }
  log_.open();
  return entered;
}

// Who waits for seats of its own in the log stands in its line from now on.
sync::channel::leaving topic::leave_log_locked(subscription_core& member, bool for_good) noexcept {
  if (last_ == &member) last_ = nullptr;
  return member.channel.leave_log(log_, for_good, bus_->forked(), [&](std::uint64_t seated) {
    log_.m.is_held();
    for (log_wait* each = waits_.front(); each != nullptr; each = each->next) {
      if (each->end <= seated) continue;
      const std::size_t index = each->first < seated ? static_cast<std::size_t>(seated - each->first) : 0;
      const std::byte* rest = each->events + index * member.channel.payload_bytes();
      member.channel.stand(each->line_up(*each, member, index), rest, each->end - each->first - index, each->published);
    }
  });
}

void topic::after_leaving(subscription_core& member, sync::channel::leaving left) noexcept {
  if (left == sync::channel::leaving::not_there) return;
  bool wakes = left == sync::channel::leaving::left_and_wakes;
  if (member.channel.wants_service()) {
    member.channel.serve(false);
    // Its consumer may have looked for waiters before they stood in line, and have gone to sleep before they were seated.
    if (member.channel.claim_sleeper()) wakes = true;
  }
  if (wakes) member.wake();
}

void topic::leave_log(subscription_core& member) noexcept {
  if (!member.channel.in_log()) return;
  log_waits told;
  auto left = sync::channel::leaving::not_there;
  {
    lock_guard lock(log_.m);
    log_.shut_now();
    left = leave_log_locked(member, false);
    if (left != sync::channel::leaving::not_there) note_readers(log_.readers() - 1);
    log_.open();
    serve_log_locked(told);
  }
  after_leaving(member, left);
  told.settle_all();
}

void topic::await_first() noexcept {
  const log_wait* first = waits_.front();
  log_.await(first != nullptr ? first->end : 0, first != nullptr && first->at_once);
}

void topic::serve_log_locked(log_waits& told) noexcept {
  bool any = false;
  // In the order of their ends; when nobody reads the log any more, all stand in lines of their own.
  while (log_wait* first = waits_.front()) {
    if (log_.readers() > 0 && first->end > log_.limit()) {
      const bool behind = last_ != nullptr && last_->channel.log_limit() < first->end;
      if (behind || first->end > find_last()) break;
    }
    waits_.remove(*first);
    first->waits = false;
    told.push_back(*first);
    any = true;
  }
  if (any) await_first();
}

void topic::serve_log() noexcept {
  log_waits told;
  {
    lock_guard lock(log_.m);
    serve_log_locked(told);
  }
  told.settle_all();
}

bool topic::look_at(log_wait& waits) noexcept {
  log_waits told;
  {
    lock_guard lock(log_.m);
    if (!waits.waits) return false;
    waits.at_once = true;
    if (waits_.front() == &waits) await_first();
    if (waits.end > log_.limit() && waits.end > find_last()) return false;
    waits_.remove(waits);
    waits.waits = false;
    await_first();
    serve_log_locked(told);  // whoever is first now may have been passed by
  }
  told.settle_all();
  return true;
}

bool topic::take_out(log_wait& waits) noexcept {
  for (;;) {
    ref_ptr<subscription_core> full;
    auto left = sync::channel::leaving::not_there;
    log_waits told;
    {
      lock_guard lock(log_.m);
      if (!waits.waits) return false;
      for (std::size_t i = 0; i < current_->count && !full; ++i) {
        subscription_core& each = *current_->members()[i];
        if (each.channel.in_log() && each.channel.log_limit() < waits.end) full = ref_ptr<subscription_core>::share(&each);
      }
      if (full) {
        log_.shut_now();
        left = leave_log_locked(*full, false);
        note_readers(log_.readers() - 1);
        log_.open();
      } else {
        waits_.remove(waits);
        waits.waits = false;
        await_first();
      }
      serve_log_locked(told);
    }
    told.settle_all();
    if (!full) return true;
    after_leaving(*full, left);
  }
}

}  // namespace penstock::detail
