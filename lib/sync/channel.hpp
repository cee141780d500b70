// The bounded channel of one subscription: exact capacity, FIFO waiters, seats freed when a call begins.
// Floor 1, room sync.
#pragma once

#include "base/mutex.hpp"
#include "sync/atomic.hpp"
#include "sync/cell.hpp"
#include "sync/shared_log.hpp"
#include "sync/waiter.hpp"

#include <penstock/sync/event_block.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace penstock::sync {

/// What a full channel does.
enum class full_policy : std::uint8_t { block, fail, drop_newest, drop_oldest };

/// How far an offer may go.
enum class offer_patience : std::uint8_t {
  never,  ///< `block` refuses with `full`
  line,   ///< `block` takes a place in line with the waiter that was passed
};

/// What came of one offer of a span.
struct offer_outcome {
  std::size_t accepted = 0;
  std::size_t dropped = 0;
  std::size_t rejected = 0;    ///< `why` says the reason
  errc why = errc::none;
  std::size_t unmatched = 0;   ///< found closed before they were decided: not offered
  bool queued_in_line = false; ///< the waiter that was passed holds the rest
  bool evicted = false;        ///< `evicted_event` was pushed out and belongs to the caller
  bool again = false;          ///< not all were decided; call again (one eviction at a time)
  bool wake = false;           ///< an idle consumer was claimed: the caller must schedule it
  bool in_log = false;         ///< nothing was decided: the channel reads the log. Make it leave, and call again
};

/// What a seat remembers besides its event, where the topic keeps that.
struct seat_stamp {
  std::int64_t published = 0;   ///< nanoseconds of the steady clock
  std::uint64_t lost = 0;       ///< events dropped or rejected as full here before this one got its seat, or evicted before it was taken
};

/// Told of each event that is discarded, once, by whoever discards it, with no lock held; the payload is as it lies in
/// its cell, perhaps not aligned, and is released afterwards.
struct discard_listener {
  void (*discarded)(void* owner, const std::byte* payload, std::uint64_t sequence,
                    const seat_stamp& stamp) noexcept = nullptr;
  void* owner = nullptr;
};

/// What the consumer finds.
enum class take_status : std::uint8_t { taken, empty, stopped };

/// The counters the channel keeps. Read together under its mutex.
struct channel_counts {
  std::uint64_t tail = 0;       ///< seats ever taken
  std::uint64_t begun = 0;      ///< seats freed: begun or evicted
  std::uint64_t evicted = 0;
  std::uint64_t discarded = 0;  ///< seated when the channel was stopped
  std::uint64_t dropped = 0;
  std::uint64_t pending = 0;
  std::uint64_t rejected[8] = {};  ///< by errc; the first is not used
};

/// A ring of sequence cells under many producers. `exclusive` channels have one consumer at a time and take without a
/// lock; `shared` ones (several lanes, or evicting policies) take under the mutex. A channel that evicts is written under
/// the mutex too, so that the oldest event is never half written.
///
/// Words.
///  tail_: bit 63 = slow: from then on seats are taken only under m_. Bit 62 = idle: a consumer sleeps; whoever clears the
///    bit must schedule one, after it has written what it took seats for. Low bits: seats ever taken.
///  begun_: bit 63 = stopped: no event begins any more. Low bits: seats ever freed.
///  cell.seq: p + 1 = the event at position p is written; else older. The consumer writes it once more (`take_line`).
///  hint_: bit 0 = somebody stands in line, bit 1 = somebody was admitted and is not told. Written under m_.
///  phase_: open → draining → stopped, under m_.
///
/// Invariants.
///  1. tail - begun <= capacity <= ring size; known_begun_ is stale only downwards.
///  2. slow set => only the holder of m_ takes seats; somebody in line => slow. Hence nobody overtakes.
///  3. The consumer copies an event out before it frees the seat by adding to begun_; a producer writes a cell only when
///     the event one lap before has been freed.
///  4. An event begins iff its consumer's addition to begun_ came before the stopped bit; all others in [begun, tail)
///     belong to whoever stopped it (`discard_queued`).
///  5. The idle bit is set by an exchange that finds every seat ever taken begun. So a consumer that sleeps has left nothing
///     behind, and the first who takes a seat after that finds the bit, clears it with the same exchange, and wakes.
///  6. A seat that was taken is written a moment later: between the two a producer runs no code but this class's, and waits
///     for nobody. So who needs the event, a consumer or a stopper, may wait for it (`await_writer`), as for a lock.
///     Hence a producer writes with a release and looks at nothing afterwards. With a full barrier there, each publish
///     would wait until the line of its cell has come from the consumer's core.
///  7. Only its consumer frees a cell of an exclusive channel. So between reading it and `begin` the consumer may copy it, and write
///     there what is there (`take_line`), however many cells ahead.
/// Source: the ring of sequence cells is Dmitry Vyukov's bounded MPMC queue; the rest is this project's.
class channel {
 public:
  struct config {
    std::size_t capacity = 1;
    full_policy policy = full_policy::block;
    bool shared = false;  ///< several consumers
    std::size_t payload_bytes = 0;
    bool blocks = false;  ///< payloads are pointers to event blocks; each seat owns a reference
    bool stamped = false;  ///< each seat has room for a stamp
    discard_listener listener{};
    shared_log* log = nullptr;  ///< the topic's; outlives the channel
  };

  explicit channel(const config& made) noexcept;
  ~channel();
  channel(const channel&) = delete;
  channel& operator=(const channel&) = delete;

  enum class seating : std::uint8_t {
    refused,           ///< nothing was taken: go on with `offer_quickly`
    seated,
    seated_and_wakes,  ///< an idle consumer was claimed: the caller must schedule it
  };
  /// Takes seats for all of `count` events, or for none. No lock, no policy: the way of a publish that need not wait.
  seating seat(const std::byte* events, std::size_t count, std::int64_t published = 0) noexcept {
    std::uint64_t first = 0;
    bool slow = false;
    bool wakes = false;
    if (claim(count, count, first, slow, wakes) == 0) return seating::refused;
    write(ring_.load(), first, events, count, published);
    return wakes ? seating::seated_and_wakes : seating::seated;
  }

  /// Offers `count` events without a lock: takes what fits, decides what the policy decides. True: all decided. False: go
  /// on with `offer_slowly` for what is left.
  /// `published` goes into the seats' stamps.
  bool offer_quickly(const std::byte* events, std::size_t count, offer_outcome& outcome,
                     std::int64_t published = 0) noexcept;

  /// Decides the rest of an offer under the mutex. `evicted_event` has room for one payload. With `line`, `place` is put
  /// in line when the policy is `block` and there is no seat. `refusal` is the reason given when it may not wait.
  void offer_slowly(const std::byte* events, std::size_t count, offer_patience patience, errc refusal, waiter* place,
                    std::byte* evicted_event, offer_outcome& outcome, std::int64_t published = 0) noexcept;

  /// Consumer: copies the next event to `out` and frees its seat. `sequence` counts seats from 1. `stamp` may be null.
  take_status take(std::byte* out, std::uint64_t& sequence, seat_stamp* stamp = nullptr) noexcept {
    if (shared_) return take_shared(out, sequence, stamp);
    std::byte* const ring = ring_.load();
    if (ring == nullptr) return take_status::empty;
    cell& next = at(ring, head_);
    if (next.seq.load(std::memory_order_acquire) != head_ + 1)
      return stopped_.load() != 0 ? take_status::stopped : take_status::empty;
    copy_payload(out, next.payload());
    read_stamp(next, stamp);
    take_line(next, head_);
    return begin(sequence);
  }
  /// Whether its consumer may look ahead in its own ring.
  bool exclusive() const noexcept { return !shared_; }
  /// Consumer of an exclusive channel: copies as many of the next events as are written to its own ring, at most `most`, each
  /// `stride` bytes after the one before, and their stamps. Frees nothing; `begin` is called for each. 0: `take` says why.
  std::size_t read_ahead(std::byte* out, std::size_t stride, std::size_t most, seat_stamp* stamps = nullptr) noexcept {
    std::byte* const ring = ring_.load();
    if (ring == nullptr) return 0;
    // Of its own, since what is written through a pointer to bytes might be anything.
    const std::size_t cell_stride = stride_;
    const std::uint64_t mask = mask_;
    const std::size_t bytes = payload_bytes_;
    std::uint64_t position = head_;
    std::size_t count = 0;
    for (; count < most; ++count, ++position) {
      cell& next = *reinterpret_cast<cell*>(ring + (position & mask) * cell_stride);
      if (next.seq.load(std::memory_order_acquire) != position + 1) break;
      sync::copy_payload(out + count * stride, next.payload(), bytes);
      if (stamps != nullptr) read_stamp(next, stamps + count);
      take_line(next, position);
    }
    return count;
  }
  /// Consumer: whether the next `count` events are written; a hint.
  bool written_ahead(std::size_t count) noexcept {
    const std::uint64_t last = head_ + count - 1;
    if (in_log()) return log_->written(last + shift_);
    std::byte* const ring = ring_.load();
    return ring != nullptr && at(ring, last).seq.load(std::memory_order_relaxed) == last + 1;
  }
  /// Consumer of a channel that reads the log: copies as many of the next events as there are, at most `most`, each `stride`
  /// bytes after the one before, and their stamps. Frees nothing. 0: there is none, or the channel has left the log. Cost: a lock.
  std::size_t look_ahead(std::byte* out, std::size_t stride, std::size_t most, seat_stamp* stamps = nullptr) noexcept;
  /// Consumer: frees the seat of the next event, whose copy it has. It stays the next one if the channel leaves the log.
  take_status begin(std::uint64_t& sequence) noexcept {
    if ((begun_.fetch_add(1) & flag) != 0) return take_status::stopped;  // invariant 4: it belongs to the stopper
    sequence = ++head_;
    const std::uint32_t hint = hint_.load();
    if (hint != 0 && (hint != hint_untold || head_ >= tell_from_)) serve(false);
    return take_status::taken;
  }
  /// Consumer of a channel that reads the log, after `begin`: whether somebody waits in the log who may be told now.
  bool wants_log_service() noexcept {
    const std::uint64_t awaited = log_->awaited();
    if (awaited == 0 || awaited == looked_at_) return false;
    // As for an own line: told when half the seats are free, so that one wake-up serves many events.
    const std::uint64_t margin = (awaited & 1) != 0 ? capacity_ : capacity_ / 2;
    if (head_ + shift_ + margin < awaited / 2) return false;
    looked_at_ = awaited;
    return true;
  }
  /// Consumer: looks for waiters to admit and to tell. `resting`: it is about to rest, tell all.
  void serve(bool resting) noexcept;
  /// Whether anybody is in line or admitted and untold: then call `serve` before resting.
  bool wants_service() const noexcept { return hint_.load() != 0; }
  /// Consumer: goes to sleep. False: a seat is taken that has not begun: go on. True: asleep, or already claimed by a
  /// producer, which schedules it.
  bool try_sleep() noexcept;
  /// Consumer that found nothing. True: a producer is just writing the next event, or has lost its processor there; then
  /// this has waited for it: looked for about a microsecond, and napped for 50 at most.
  bool await_writer() noexcept;
  /// Whether `await_writer` would wait.
  bool unwritten() noexcept;
  /// Whether an event is ready to be taken; exact for the consumer only.
  bool ready() noexcept;
  /// Claims a sleeping consumer; true: the caller must schedule it.
  bool claim_sleeper() noexcept { return (tail_.load() & idle) != 0 && (tail_.fetch_and(~idle) & idle) != 0; }

  // The log. A channel enters it in its consumer's turn, when it has nothing queued, and leaves it when it is to do what the log
  // cannot: refuse, drop, put in line, end. Then what it has not begun is copied to its own ring, at the same places.

  /// Whether it may read a log at all.
  bool may_share() const noexcept { return log_cells_ != 0; }
  /// How many cells a log must have to serve it: twice its own, so that others may go on while it is full.
  std::size_t log_cells() const noexcept { return log_cells_; }
  /// Whether it reads the log. Only the consumer makes it so.
  bool in_log() const noexcept { return in_log_.load() != 0; }
  /// Consumer that found nothing, while the log is shut. False: there is something after all, or it has begun to end.
  bool enter_log(shared_log& log) noexcept PENSTOCK_REQUIRES(log.m);
  enum class leaving : std::uint8_t {
    not_there,
    left,            ///< then `serve` is to be called if `wants_service`
    left_and_wakes,  ///< also, a consumer that slept in the log was claimed: the caller must schedule it
  };
  /// While the log is shut. `for_good`: it will not enter again. `line_up(position)` is called under both mutexes when publishes
  /// wait for seats from that position on: puts each of them in line with `stand`.
  template <class LineUp>
  leaving leave_log(shared_log& log, bool for_good, bool forked, LineUp&& line_up) noexcept PENSTOCK_REQUIRES(log.m) {
    lock_guard lock(m_);
    if (for_good) barred_ = true;
    if (in_log_.load() == 0) return leaving::not_there;
    const std::uint64_t end = log.position_locked();
    const std::uint64_t seated = move_out(log, end, forked);
    if (seated != end) line_up(seated);
    const bool wakes = take_over_sleeper();
    refresh_locked();
    return wakes ? leaving::left_and_wakes : leaving::left;
  }
  /// For `line_up`.
  void stand(waiter& place, const std::byte* events, std::size_t count, std::int64_t published) noexcept;
  /// A consumer that sleeps in the log; true: the caller must schedule it.
  bool claim_log_sleeper() noexcept { return asleep_.load() != 0 && asleep_.exchange(0) != 0; }
  /// The first position of the log that it has no seat for; and its cursor there. For the holder of the log's mutex.
  std::uint64_t log_limit() const noexcept { return log_cursor() + capacity_; }
  std::uint64_t log_cursor() const noexcept { return begun_.load() + shift_; }

  /// Takes the waiter out of the line: it is settled by the caller then. False: it has been decided, `settle` comes or came;
  /// or it was admitted and untold: then it is settled now, with `why` none.
  enum class withdrawal : std::uint8_t { withdrawn, was_admitted, settled_elsewhere };
  withdrawal withdraw(waiter& place, errc why) noexcept;
  /// The owner will not look by itself any more. True: it was admitted meanwhile and is settled now.
  bool ask_to_be_told(waiter& place) noexcept;
  /// Whether it stands in line at this instant.
  bool stands_in_line(const waiter& place) noexcept;

  /// Takes no more offers; callers that wait and may be released are put on `released` (settle them after).
  /// Parked outputs (tell_at_once from the start, `keep_parked`) stay in line.
  void begin_drain(waiter_list& released) noexcept;
  /// Releases waiting threads (not parked outputs) while staying open.
  void release_callers(waiter_list& released) noexcept;
  /// No event begins any more, and who waits is rejected. True: `discard_queued` is the caller's to do. False: it was
  /// stopped before.
  bool stop(waiter_list& released) noexcept;
  /// Once, after `stop`. Destroys user events. Waits for producers that are just writing; not in a child process, where
  /// they are gone: then what is not written is left.
  void discard_queued(bool forked = false) noexcept;

  bool draining() const noexcept { return phase_.load() == draining_phase; }
  bool stopped() const noexcept { return phase_.load() == stopped_phase; }
  /// Draining, nothing queued, nobody in line.
  bool drained() noexcept;

  channel_counts counts() noexcept;
  /// Who stands in line with an origin, first come first, and how many events of each wait. As many as there is room for.
  struct place_in_line {
    waiter_origin origin;
    std::size_t remaining = 0;
  };
  std::size_t line(place_in_line* places, std::size_t room) noexcept;
  std::size_t capacity() const noexcept { return capacity_; }
  std::size_t payload_bytes() const noexcept { return payload_bytes_; }
  bool blocks() const noexcept { return blocks_; }
  bool stamped() const noexcept { return stamp_offset_ != 0; }
  full_policy policy() const noexcept { return policy_; }
  /// Whether the policy makes an offer wait.
  bool waits_when_full() const noexcept { return policy_ == full_policy::block; }

 private:
  static constexpr std::uint64_t flag = std::uint64_t{1} << 63;
  static constexpr std::uint64_t idle = std::uint64_t{1} << 62;
  static constexpr std::uint64_t position_mask = idle - 1;
  static constexpr std::uint32_t hint_line = 1;
  static constexpr std::uint32_t hint_untold = 2;
  static constexpr std::uint32_t open_phase = 0;
  static constexpr std::uint32_t draining_phase = 1;
  static constexpr std::uint32_t stopped_phase = 2;

  cell& at(std::byte* ring, std::uint64_t position) const noexcept {
    return *reinterpret_cast<cell*>(ring + (position & mask_) * stride_);
  }
  /// Takes at least `least` and at most `most` seats, from `first` on. 0: there are not so many, or `slow`. `wakes`: a
  /// consumer slept, and is the caller's to schedule once it has written.
  std::size_t claim(std::size_t least, std::size_t most, std::uint64_t& first, bool& slow, bool& wakes) noexcept {
    std::uint64_t word = tail_.load();
    for (;;) {
      slow = (word & flag) != 0;
      if (slow) return 0;
      first = word & position_mask;
      // acquire: pairs with the release below; without it the cell is written while another producer's view of "freed" is not
      // yet ours (test: TSan over "many producers and one consumer lose nothing").
      std::uint64_t waiting = first - known_begun_.load(std::memory_order_acquire);
      if (waiting + least > capacity_) {
        const std::uint64_t begun = begun_.load() & ~flag;
        known_begun_.store(begun, std::memory_order_release);
        waiting = first - begun;
        if (static_cast<std::int64_t>(waiting) < 0) {  // the tail was stale
          word = tail_.load();
          continue;
        }
        if (waiting + least > capacity_) return 0;  // at the instant begun_ was read, at least so many waited
      }
      // With a stale tail this means nothing, and the exchange fails.
      const std::uint64_t room = capacity_ - waiting;
      const std::size_t taken = most <= room ? most : static_cast<std::size_t>(room);
      wakes = (word & idle) != 0;
      if (tail_.compare_exchange_weak(word, first + taken)) return taken;
    }
  }

  void copy_payload(std::byte* to, const std::byte* from) const noexcept { sync::copy_payload(to, from, payload_bytes_); }
  /// The head cell of the span is written last: a consumer that finds it finds the whole span behind it.
  void write(std::byte* ring, std::uint64_t first, const std::byte* events, std::size_t count,
             std::int64_t published) noexcept {
    for (std::size_t i = count; i-- > 0;) {
      cell& target = at(ring, first + i);
      copy_fresh(target.payload(), events + i * payload_bytes_, payload_bytes_);
      if (stamp_offset_ != 0) write_stamp(target, stamp_now(published));
      if (blocks_) retain_in(target);
      // release: pairs with the acquire in take; without it a torn event is seen (test: "a span is handled in order").
      target.seq.store(first + i + 1, std::memory_order_release);
    }
  }
  bool sleep_in_log() noexcept;
  bool take_over_sleeper() noexcept PENSTOCK_REQUIRES(m_);
  std::uint64_t move_out(shared_log& log, std::uint64_t end, bool forked) noexcept PENSTOCK_REQUIRES(m_, log.m);
  channel_counts counts_locked() noexcept PENSTOCK_REQUIRES(m_);
  static void retain_in(cell& written) noexcept;
  seat_stamp stamp_now(std::int64_t published) const noexcept {
    return {published, refused_[0].load(std::memory_order_relaxed) +
                           refused_[static_cast<std::size_t>(errc::full)].load(std::memory_order_relaxed)};
  }
  void write_stamp(cell& to, const seat_stamp& stamp) const noexcept {
    std::memcpy(reinterpret_cast<std::byte*>(&to) + stamp_offset_, &stamp, sizeof stamp);
  }
  /// Writes what is there already. But now the cell's line is in this core alone, and modified; from there the producer of the
  /// next lap has it sooner than it may write to a line of its own that this core has only read.
  static void take_line(cell& read, std::uint64_t position) noexcept {
    // release: pairs with the acquire of who discards the event, should this consumer not begin it, and with that of the other
    // readers of a log: the event's own producer is not the last any more to have written here.
    read.seq.store(position + 1, std::memory_order_release);
  }
  void read_stamp(cell& from, seat_stamp* to) const noexcept {
    if (stamp_offset_ != 0 && to != nullptr)
      std::memcpy(to, reinterpret_cast<const std::byte*>(&from) + stamp_offset_, sizeof *to);
  }
  take_status take_shared(std::byte* out, std::uint64_t& sequence, seat_stamp* stamp) noexcept;
  void discard(std::byte* ring, std::uint64_t position) noexcept;
  bool allocate_ring() noexcept PENSTOCK_REQUIRES(m_);
  std::size_t seat_locked(const std::byte* events, std::size_t count, std::int64_t published) noexcept
      PENSTOCK_REQUIRES(m_);
  void admit_locked(waiter_list& told) noexcept PENSTOCK_REQUIRES(m_);
  void tell_locked(waiter_list& told) noexcept PENSTOCK_REQUIRES(m_);
  void settle_locked(waiter& place, errc why, waiter_list& told) noexcept PENSTOCK_REQUIRES(m_);
  void refresh_locked() noexcept PENSTOCK_REQUIRES(m_);

  // Constant after construction, but for the ring, which comes with the first event.
  const std::size_t capacity_;
  const std::size_t payload_bytes_;
  const std::uint32_t stamp_offset_;  // within a cell; 0: none
  const std::size_t stride_;
  const std::uint64_t mask_;
  const full_policy policy_;
  const bool shared_;
  const bool blocks_;
  const bool locked_writes_;
  const discard_listener listener_;
  shared_log* const log_;
  const std::size_t log_cells_;  // 0: it reads no log
  atomic<std::byte*> ring_{nullptr};
  atomic<std::uint32_t> stopped_{0};
  atomic<std::uint32_t> phase_{open_phase};

  // Producers. What is behind the first two is touched when the channel is full, evicts or ends.
  alignas(64) atomic<std::uint64_t> tail_{flag | idle};  // slow until the ring is there
  atomic<std::uint64_t> known_begun_{0};
  waiter_list untold_ PENSTOCK_GUARDED_BY(m_);
  std::uint64_t stopped_begun_ PENSTOCK_GUARDED_BY(m_) = 0;
  std::uint64_t evicted_ PENSTOCK_GUARDED_BY(m_) = 0;
  std::uint64_t pending_ PENSTOCK_GUARDED_BY(m_) = 0;
  bool barred_ PENSTOCK_GUARDED_BY(m_) = false;  // from the log

  // Consumer.
  alignas(64) atomic<std::uint64_t> begun_{0};
  std::uint64_t head_ = 0;        // begun without the flag; the consumer's own
  std::uint64_t tell_from_ = 0;   // untold waiters are told when begun reaches this
  std::uint64_t shift_ = 0;       // in the log: from an own position to the log's; written by the consumer, under both mutexes
  std::uint64_t looked_at_ = 0;   // what `awaited` was when this consumer last served the log
  atomic<std::uint32_t> in_log_{0};  // raised by the consumer, under both mutexes; lowered under both
  std::uint64_t sleeps_ = 0;         // how often it has gone to sleep in the log
  atomic<std::uint64_t> asleep_{0};  // which of these times it sleeps there, or 0: whoever clears it has the consumer

  // Both, rarely.
  alignas(64) atomic<std::uint32_t> hint_{0};
  mutex m_;  // protects what says so; no lock is taken while it is held
  waiter_list line_ PENSTOCK_GUARDED_BY(m_);

  /// One line: [0] the dropped, then the rejected by errc.
  alignas(64) atomic<std::uint64_t> refused_[8] = {};
  static_assert(static_cast<std::size_t>(errc::not_enough_memory) == 7, "every reason to reject has a counter");
  atomic<std::uint64_t>& dropped_() noexcept { return refused_[0]; }
  atomic<std::uint64_t>& rejected_(errc why) noexcept { return refused_[static_cast<std::size_t>(why)]; }
};

}  // namespace penstock::sync
