// The bounded channel of one subscription.
// Floor 1, room sync.
#include "sync/channel.hpp"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <new>

namespace penstock::sync {
namespace {

constexpr std::size_t round_up(std::size_t bytes, std::size_t to) noexcept { return (bytes + to - 1) / to * to; }

/// No log for a channel whose events need more than this: one ring of that size is enough.
constexpr std::size_t largest_shared = std::size_t{1} << 20;

std::size_t cells_in_log(const channel::config& made) noexcept {
  const bool may = made.log != nullptr && !made.shared && made.policy != full_policy::drop_oldest;
  if (!may || made.capacity > largest_shared / cell_bytes(made.payload_bytes)) return 0;
  return 2 * std::bit_ceil(made.capacity);
}

}  // namespace

channel::channel(const config& made) noexcept
    : capacity_(made.capacity),
      payload_bytes_(made.payload_bytes),
      stamp_offset_(made.stamped ? static_cast<std::uint32_t>(cell_bytes(made.payload_bytes)) : 0),
      stride_(cell_bytes(made.payload_bytes) + (made.stamped ? sizeof(seat_stamp) : 0)),
      mask_(std::bit_ceil(std::uint64_t{made.capacity}) - 1),
      policy_(made.policy),
      shared_(made.shared || made.policy == full_policy::drop_oldest),
      blocks_(made.blocks),
      locked_writes_(made.policy == full_policy::drop_oldest),
      listener_(made.listener),
      log_(made.log),
      log_cells_(cells_in_log(made)) {}

channel::~channel() { std::free(peek(ring_)); }

bool channel::allocate_ring() noexcept {
  const std::uint64_t cells = mask_ + 1;
  if (cells > SIZE_MAX / stride_) return false;
  const std::size_t bytes = round_up(static_cast<std::size_t>(cells) * stride_, 64);
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(64, bytes));
  if (memory == nullptr) return false;
  for (std::uint64_t i = 0; i < cells; ++i) ::new (memory + i * stride_) cell{};
  ring_.store(memory);
  return true;
}

void channel::retain_in(cell& written) noexcept {
  void* block = nullptr;
  std::memcpy(&block, written.payload(), sizeof block);
  detail::retain_block(block);
}

void channel::discard(std::byte* ring, std::uint64_t position) noexcept {
  cell& written = at(ring, position);
  if (listener_.discarded != nullptr) {
    seat_stamp stamp;
    read_stamp(written, &stamp);
    listener_.discarded(listener_.owner, written.payload(), position + 1, stamp);
  }
  if (!blocks_) return;
  void* block = nullptr;
  std::memcpy(&block, written.payload(), sizeof block);
  detail::release_block(block);
}

bool channel::offer_quickly(const std::byte* events, std::size_t count, offer_outcome& outcome,
                            std::int64_t published) noexcept {
  std::size_t left = count;
  while (left > 0) {
    std::uint64_t first = 0;
    bool slow = false;
    bool wakes = false;
    const std::size_t taken = claim(1, left, first, slow, wakes);
    if (slow) return false;
    if (taken == 0) {
      // Full: the policy decides.
      if (policy_ == full_policy::fail) {
        rejected_(errc::full).fetch_add(left, std::memory_order_relaxed);
        outcome.rejected += left;
        outcome.why = errc::full;
        return true;
      }
      if (policy_ == full_policy::drop_newest) {
        dropped_().fetch_add(left, std::memory_order_relaxed);
        outcome.dropped += left;
        return true;
      }
      return false;
    }
    write(ring_.load(), first, events, taken, published);
    if (wakes) outcome.wake = true;
    outcome.accepted += taken;
    events += taken * payload_bytes_;
    left -= taken;
  }
  return true;
}

std::size_t channel::seat_locked(const std::byte* events, std::size_t count, std::int64_t published) noexcept {
  const std::uint64_t tail = tail_.load() & position_mask;
  const std::uint64_t begun = begun_.load() & ~flag;
  const std::uint64_t room = capacity_ - (tail - begun);
  const std::size_t taken = count < room ? count : static_cast<std::size_t>(room);
  if (taken == 0) return 0;
  tail_.fetch_add(taken);  // slow: nobody else does; a consumer may go to sleep meanwhile
  write(ring_.load(), tail, events, taken, published);
  return taken;
}

void channel::offer_slowly(const std::byte* events, std::size_t count, offer_patience patience, errc refusal,
                           waiter* place, std::byte* evicted_event, offer_outcome& outcome,
                           std::int64_t published) noexcept {
  outcome.again = false;
  lock_guard lock(m_);
  outcome.in_log = in_log_.load() != 0;
  if (outcome.in_log) {
    outcome.again = true;
    return;
  }
  if (phase_.load() != open_phase) {
    outcome.unmatched += count;
    return;
  }
  if (ring_.load() == nullptr && !allocate_ring()) {
    rejected_(errc::not_enough_memory).fetch_add(count);
    outcome.rejected += count;
    outcome.why = errc::not_enough_memory;
    return;
  }
  if ((tail_.load() & flag) == 0) tail_.fetch_or(flag);
  const bool in_line = policy_ == full_policy::block && patience == offer_patience::line;
  std::size_t left = count;
  if (line_.empty()) {
    const std::size_t taken = seat_locked(events, left, published);
    outcome.accepted += taken;
    events += taken * payload_bytes_;
    left -= taken;
  }
  if (left > 0 && in_line) {
    if (line_.empty()) {
      // Invariant 5 for seats: the consumer frees a seat, then looks at the hint; so set the hint, then look for a seat.
      hint_.fetch_or(hint_line);
      const std::size_t taken = seat_locked(events, left, published);
      outcome.accepted += taken;
      events += taken * payload_bytes_;
      left -= taken;
    }
    if (left > 0) {
      place->line = this;
      place->events = events;
      place->published = published;
      place->remaining = left;
      place->admitted = 0;
      place->why = errc::none;
      place->state = waiter_state::waiting;
      pending_ += left;
      line_.push_back(*place);
      outcome.queued_in_line = true;
      left = 0;
    }
  }
  if (left > 0) {
    if (policy_ == full_policy::drop_oldest) {
      // One at a time: the evicted event is shown to a hook, outside the lock.
      std::byte* ring = ring_.load();
      const std::uint64_t begun = begun_.load();
      copy_payload(evicted_event, at(ring, begun).payload());
      begun_.store(begun + 1);
      head_ = begun + 1;
      ++evicted_;
      outcome.evicted = true;
      outcome.accepted += seat_locked(events, 1, published);
      left -= 1;
      outcome.again = left > 0;
    } else if (policy_ == full_policy::drop_newest) {
      dropped_().fetch_add(left);
      outcome.dropped += left;
    } else {
      const errc why = policy_ == full_policy::fail ? errc::full : refusal;
      rejected_(why).fetch_add(left);
      outcome.rejected += left;
      outcome.why = why;
    }
  }
  refresh_locked();
  lock.unlock();
  if (claim_sleeper()) outcome.wake = true;
}

void channel::refresh_locked() noexcept {
  if (line_.empty() && phase_.load() == open_phase && !locked_writes_ && ring_.load() != nullptr && in_log_.load() == 0 &&
      (tail_.load() & flag) != 0)
    tail_.fetch_and(~flag);
  const std::uint32_t hint = (line_.empty() ? 0 : hint_line) | (untold_.empty() ? 0 : hint_untold);
  if (hint_.load() != hint) hint_.store(hint);
}

// Moves as many waiting events in as there are seats, first come first served. Waiters that are in entirely are put on
// `told`.
void channel::admit_locked(waiter_list& told) noexcept {
  while (waiter* first = line_.front()) {
    const std::size_t taken = seat_locked(first->events, first->remaining, first->published);
    if (taken == 0) return;
    first->events += taken * payload_bytes_;
    first->remaining -= taken;
    first->admitted += taken;
    pending_ -= taken;
    if (first->remaining > 0) return;
    line_.remove(*first);
    told.push_back(*first);
  }
}

void channel::tell_locked(waiter_list& told) noexcept {
  while (waiter* node = untold_.front()) {
    untold_.remove(*node);
    node->state = waiter_state::settled;
    told.push_back(*node);
  }
}

void channel::settle_locked(waiter& place, errc why, waiter_list& told) noexcept {
  line_.remove(place);
  pending_ -= place.remaining;
  rejected_(why).fetch_add(place.remaining);
  place.why = why;
  place.state = waiter_state::settled;
  told.push_back(place);
}

void channel::serve(bool resting) noexcept {
  waiter_list told;
  {
    lock_guard lock(m_);
    if (!line_.empty()) {
      waiter_list admitted;
      admit_locked(admitted);
      while (waiter* node = admitted.front()) {
        admitted.remove(*node);
        if (node->tell_at_once) {
          node->state = waiter_state::settled;
          told.push_back(*node);
        } else {
          if (untold_.empty()) tell_from_ = (tail_.load() & position_mask) - capacity_ / 2;
          node->state = waiter_state::admitted;
          untold_.push_back(*node);
        }
      }
    }
    // Telling is put off until half the seats are free, so that one wake-up serves many events; who waits looks by itself
    // after a few milliseconds.
    if (!untold_.empty() && (resting || (begun_.load() & ~flag) >= tell_from_)) tell_locked(told);
    refresh_locked();
  }
  told.settle_all();
}

bool channel::ready() noexcept {
  if (in_log()) return log_->written(head_ + shift_);
  std::byte* ring = ring_.load();
  const std::uint64_t head = begun_.load() & ~flag;
  return ring != nullptr && at(ring, head).seq.load() == head + 1;
}

take_status channel::take_shared(std::byte* out, std::uint64_t& sequence, seat_stamp* stamp) noexcept {
  bool serving = false;
  {
    lock_guard lock(m_);
    if (phase_.load() == stopped_phase) return take_status::stopped;
    std::byte* ring = ring_.load();
    const std::uint64_t head = begun_.load();
    if (ring == nullptr || at(ring, head).seq.load(std::memory_order_acquire) != head + 1) return take_status::empty;
    copy_payload(out, at(ring, head).payload());
    read_stamp(at(ring, head), stamp);
    if (stamp != nullptr) stamp->lost += evicted_;
    begun_.store(head + 1);
    head_ = head + 1;
    sequence = head + 1;
    serving = !line_.empty() || (!untold_.empty() && head_ >= tell_from_);
  }
  if (serving) serve(false);
  return take_status::taken;
}

bool channel::try_sleep() noexcept {
  if (in_log()) return sleep_in_log();
  const std::uint64_t begun = begun_.load() & ~flag;
  std::uint64_t word = tail_.load();
  do {
    if ((word & position_mask) != begun) return false;
  } while ((word & idle) == 0 && !tail_.compare_exchange_weak(word, word | idle));
  return true;
}

bool channel::await_writer() noexcept {
  if (!unwritten()) return false;
  if (in_log())
    await_cell(log_->at(head_ + shift_), head_ + shift_);
  else
    await_cell(at(ring_.load(), begun_.load() & ~flag), begun_.load() & ~flag);
  return true;
}

bool channel::unwritten() noexcept {
  if (in_log()) return log_->position() != head_ + shift_ && !ready();
  return ring_.load() != nullptr && (tail_.load() & position_mask) != (begun_.load() & ~flag) && !ready();
}

channel::withdrawal channel::withdraw(waiter& place, errc why) noexcept {
  lock_guard lock(m_);
  switch (place.state) {
    case waiter_state::waiting: {
      waiter_list mine;
      settle_locked(place, why, mine);
      mine.remove(place);
      refresh_locked();
      return withdrawal::withdrawn;
    }
    case waiter_state::admitted:
      untold_.remove(place);
      place.state = waiter_state::settled;
      refresh_locked();
      return withdrawal::was_admitted;
    default: return withdrawal::settled_elsewhere;
  }
}

bool channel::ask_to_be_told(waiter& place) noexcept {
  lock_guard lock(m_);
  place.tell_at_once = true;
  if (place.state != waiter_state::admitted) return false;
  untold_.remove(place);
  place.state = waiter_state::settled;
  refresh_locked();
  return true;
}

bool channel::stands_in_line(const waiter& place) noexcept {
  lock_guard lock(m_);
  return place.state == waiter_state::waiting;
}

void channel::release_callers(waiter_list& released) noexcept {
  lock_guard lock(m_);
  for (waiter* node = line_.front(); node != nullptr;) {
    waiter* following = node->next;
    if (!node->parked) settle_locked(*node, errc::closed, released);
    node = following;
  }
  tell_locked(released);
  refresh_locked();
}

void channel::begin_drain(waiter_list& released) noexcept {
  {
    lock_guard lock(m_);
    if (phase_.load() != open_phase) return;
    phase_.store(draining_phase);
    tail_.fetch_or(flag);
  }
  release_callers(released);
}

bool channel::stop(waiter_list& released) noexcept {
  lock_guard lock(m_);
  if (phase_.load() == stopped_phase) return false;
  phase_.store(stopped_phase);
  tail_.fetch_or(flag);
  stopped_begun_ = begun_.fetch_or(flag) & ~flag;
  while (waiter* node = line_.front()) settle_locked(*node, errc::closed, released);
  tell_locked(released);
  refresh_locked();
  stopped_.store(1);
  return true;
}

void channel::discard_queued(bool forked) noexcept {
  std::byte* const ring = ring_.load();
  if (ring == nullptr) return;
  std::uint64_t first = 0;
  {
    lock_guard lock(m_);
    first = stopped_begun_;
  }
  // Events of the user's are told of and destroyed here: outside the lock. No more seats are taken.
  const std::uint64_t last = tail_.load() & position_mask;
  for (std::uint64_t position = first; position != last; ++position) {
    const auto written = [&] { return at(ring, position).seq.load(std::memory_order_acquire) == position + 1; };
    while (!forked && !written()) await_cell(at(ring, position), position);
    if (written()) discard(ring, position);
  }
}

bool channel::drained() noexcept {
  lock_guard lock(m_);
  return phase_.load() != open_phase && line_.empty() && (tail_.load() & position_mask) == (begun_.load() & ~flag);
}

std::size_t channel::line(place_in_line* places, std::size_t room) noexcept {
  if ((hint_.load() & hint_line) == 0) return 0;
  std::size_t found = 0;
  lock_guard lock(m_);
  for (const waiter* each = line_.front(); each != nullptr && found < room; each = each->next)
    if (each->origin.task != nullptr || each->origin.stream != 0) places[found++] = {each->origin, each->remaining};
  return found;
}

// --- the log -----------------------------------------------------------------------------------------------------------

bool channel::enter_log(shared_log& log) noexcept {
  lock_guard lock(m_);
  if (barred_ || phase_.load() != open_phase || ring_.load() == nullptr || !line_.empty() || !untold_.empty()) return false;
  std::uint64_t word = tail_.load();
  do {
    if (word != head_) return false;  // also if it is slow
  } while (!tail_.compare_exchange_weak(word, word | flag));
  shift_ = log.position_locked() - head_;
  looked_at_ = 0;
  in_log_.store(1);
  return true;
}

// Copies out what has a seat; gives the position where that ends. No new copies are made by the consumer meanwhile, for that
// takes m_; what it has in hand has a seat, for the limit only grows.
std::uint64_t channel::move_out(shared_log& log, std::uint64_t end, bool forked) noexcept {
  const std::uint64_t first = begun_.load() + shift_;
  const std::uint64_t seated = end - first > capacity_ ? first + capacity_ : end;
  std::byte* const ring = ring_.load();
  for (std::uint64_t position = first; position != end; ++position) {
    while (!forked && !log.written(position)) await_cell(log.at(position), position);
    if (!log.written(position)) continue;
    cell& from = log.at(position);
    if (position - first < seated - first) {
      cell& to = at(ring, position - shift_);
      copy_payload(to.payload(), from.payload());
      if (stamp_offset_ != 0) write_stamp(to, stamp_now(log.published(from)));  // in the log nothing was refused
      to.seq.store(position - shift_ + 1, std::memory_order_release);
    } else if (blocks_) {
      log.let_go(position);  // who waits for the seat has the event
    }
  }
  tail_.store((seated - shift_) | flag);
  in_log_.store(0);
  return seated;
}

// After in_log_ was lowered: a consumer that is going to sleep sees that, or is found here. If it has nothing to do it goes on
// sleeping, with its token in this channel's own word.
bool channel::take_over_sleeper() noexcept {
  if (!claim_log_sleeper()) return false;
  if ((tail_.load() & position_mask) != begun_.load() || !line_.empty()) return true;
  tail_.fetch_or(idle);
  return false;
}

void channel::stand(waiter& place, const std::byte* events, std::size_t count, std::int64_t published) noexcept {
  m_.is_held();
  hint_.fetch_or(hint_line);
  place.line = this;
  place.events = events;
  place.remaining = count;
  place.published = published;
  place.admitted = 0;
  place.why = errc::none;
  place.state = waiter_state::waiting;
  pending_ += count;
  line_.push_back(place);
}

std::size_t channel::look_ahead(std::byte* out, std::size_t stride, std::size_t most, seat_stamp* stamps) noexcept {
  lock_guard lock(m_);
  if (in_log_.load() == 0) return 0;
  if (most > capacity_) most = capacity_;
  // Of its own, since what is written through a pointer to bytes might be anything.
  const shared_log::cells cells = log_->all();
  const std::size_t bytes = payload_bytes_;
  std::uint64_t position = head_ + shift_;
  std::size_t found = 0;
  for (; found < most; ++found, ++position) {
    cell& next = cells.at(position);
    if (next.seq.load(std::memory_order_acquire) != position + 1) break;
    sync::copy_payload(out + found * stride, next.payload(), bytes);
    take_line(next, position);
    if (stamps != nullptr && stamp_offset_ != 0) stamps[found] = stamp_now(log_->published(next));
  }
  return found;
}

bool channel::sleep_in_log() noexcept {
  const std::uint64_t cursor = head_ + shift_;
  std::uint64_t mine = ++sleeps_;
  asleep_.store(mine);
  // From here on the consumer may be somebody else's: nothing that is its own is looked at any more. The channel may leave
  // meanwhile: whoever makes it leave lowers in_log_, then looks whether a consumer sleeps.
  if (in_log() && log_->sleep(cursor)) return true;
  return !asleep_.compare_exchange_strong(mine, 0);
}

channel_counts channel::counts() noexcept {
  if (!in_log()) {
    lock_guard lock(m_);
    if (in_log_.load() == 0) return counts_locked();
  }
  lock_guard log_lock(log_->m);
  lock_guard lock(m_);
  channel_counts result = counts_locked();
  if (in_log_.load() == 0) return result;
  const std::uint64_t end = log_->position_locked() - shift_;
  result.pending = end - result.begun > capacity_ ? end - result.begun - capacity_ : 0;
  result.tail = end - result.pending;
  return result;
}

channel_counts channel::counts_locked() noexcept {
  channel_counts result;
  result.evicted = evicted_;
  result.begun = begun_.load();
  if ((result.begun & flag) != 0) result.begun = stopped_begun_;
  result.tail = tail_.load() & position_mask;
  if (phase_.load() == stopped_phase) result.discarded = result.tail - result.begun;
  result.pending = pending_;
  result.dropped = dropped_().load();
  for (std::size_t i = 1; i < 8; ++i) result.rejected[i] = refused_[i].load();
  return result;
}

}  // namespace penstock::sync
