// The log that the subscriptions of a topic share: an event is written once, and each reads it at its own place.
// Floor 1, room sync.
#pragma once

#include "base/mutex.hpp"
#include "sync/atomic.hpp"
#include "sync/cell.hpp"

#include <cstddef>
#include <cstdint>

namespace penstock::sync {

/// A ring of sequence cells with many writers, in which each reader is a channel with a cursor of its own (`channel::begun_`
/// plus where it came in). It only accepts. Whatever else can become of an offer is decided in the channel's own ring:
/// a channel that cannot take an event leaves the log with what it has, and comes back when it has nothing.
///
/// Words.
///  tail_: bit 63 = shut: the readers, or what follows from them, are being changed; only the holder of m takes positions.
///    Bit 62 = idle: a reader sleeps; whoever clears the bit must wake those who do, after it has written. Low bits, the
///    ticket: positions ever taken plus changes ever made.
///  changes_, form_, readers_, ring_: written by the holder of m while shut. How many cells a ring has lies in front of it.
///  limit_: at most the first position that a reader has no seat for. Written by the holder of m: while shut, or upwards.
///  awaited_: 0, or twice the end of the first publish that waits for seats, plus 1 when it asked to be told at once.
///  cell.seq: p + 1 = the event at position p is written; else older. Each reader that copies it writes it once more
///    (`channel::take_line`).
///
/// Invariants.
///  1. An exchange on tail_ that succeeds proves that nothing else has changed since it was read: so every change of the
///     readers is a cut at an exact position, and nobody is handed a position with readers, limit or ring of another time.
///     The ticket only grows, so there is no second time with the same one.
///  2. A reader with cursor c and capacity n has admitted position p iff p < c + n. A position is taken at or beyond the limit
///     only by the holder of m, for a publish that then waits there (`topic`).
///  3. A position is taken only below every reader's cursor plus the size: no cell is written that a reader has to read yet, nor one
///     whose sequence word a reader writes again: that comes before its cursor goes on.
///  4. A position that was taken is written a moment later, as in a channel; who needs it waits for that.
class shared_log {
 public:
  explicit shared_log(std::size_t payload_bytes, bool blocks) noexcept
      : payload_bytes_(payload_bytes), blocks_(blocks), stride_(cell_bytes(payload_bytes)) {}
  ~shared_log();
  shared_log(const shared_log&) = delete;
  shared_log& operator=(const shared_log&) = delete;

  /// Each event keeps the time at which it was published. Before there is any.
  void keep_times() noexcept {
    time_offset_ = cell_bytes(payload_bytes_);
    stride_ = time_offset_ + sizeof(std::int64_t);
  }

  /// Protects the topic's membership, who reads the log, and who waits for seats in it. A reader's mutex may be taken while
  /// it is held, no other.
  mutex m;

  enum class form : std::uint32_t {
    unused,  ///< nobody reads it
    sole,    ///< all members of the topic do
    mixed,   ///< some do
  };
  form shape() const noexcept { return form_.load(); }

  enum class offered : std::uint8_t {
    unwritten,          ///< not for all: somebody has no seat, or the log does not serve all members just now
    written,
    written_and_wakes,  ///< the caller must wake the readers that sleep
  };
  /// Writes a span if all members of the topic read the log and have seats for all of it. `readers`: how many do. `published`
  /// is kept if times are. Cost: one exchange and one write.
  offered offer(const std::byte* events, std::size_t count, std::int64_t published, std::uint32_t& readers) noexcept {
    std::uint64_t word = tail_.load();
    for (;;) {
      if ((word & shut) != 0 || form_.load() != form::sole) return offered::unwritten;
      claimed got;
      if (!fits(word, count, got)) return offered::unwritten;
      if (!tail_.compare_exchange_weak(word, (word & ticket_mask) + count)) continue;
      write(got, events, count, published);
      readers = got.readers;
      return (word & idle) != 0 ? offered::written_and_wakes : offered::written;
    }
  }

  /// Positions taken, and what the log was at that instant.
  struct claimed {
    std::byte* ring = nullptr;
    std::uint64_t mask = 0;
    std::uint64_t first = 0;
    std::uint32_t readers = 0;
  };
  /// `offer` in three steps, for who has to find out something between the first two: `look`, then `claim` what is as it was
  /// then, then `write`.
  std::uint64_t look() const noexcept { return tail_.load(); }
  enum class claiming : std::uint8_t { refused, again, taken, taken_and_wakes };
  claiming claim(std::uint64_t seen, std::size_t count, claimed& got) noexcept {
    if ((seen & shut) != 0 || !fits(seen, count, got)) return claiming::refused;
    std::uint64_t word = seen;
    if (!tail_.compare_exchange_strong(word, (word & ticket_mask) + count)) return claiming::again;
    return (seen & idle) != 0 ? claiming::taken_and_wakes : claiming::taken;
  }
  /// The head cell of the span is written last: a reader that finds it finds the whole span behind it.
  void write(const claimed& at, const std::byte* events, std::size_t count, std::int64_t published) noexcept {
    for (std::size_t i = count; i-- > 0;) {
      cell& target = place(at.ring, at.mask, at.first + i);
      copy_fresh(target.payload(), events + i * payload_bytes_, payload_bytes_);
      if (time_offset_ != 0) std::memcpy(time_in(target), &published, sizeof published);
      if (blocks_) retain_for(target, at.readers);
      // release: pairs with the acquire in `written`; without it a torn event is seen.
      target.seq.store(at.first + i + 1, std::memory_order_release);
    }
  }

  // --- for readers -------------------------------------------------------------------------------------------------------

  /// The cell at a position that this reader has not freed, while it reads the log.
  cell& at(std::uint64_t position) noexcept {
    std::byte* const ring = ring_.load();
    return place(ring, header_of(ring).mask, position);
  }
  /// The same for many of them.
  class cells {
   public:
    cell& at(std::uint64_t position) const noexcept {
      return *reinterpret_cast<cell*>(ring_ + (position & mask_) * stride_);
    }

   private:
    friend class shared_log;
    cells(std::byte* ring, std::uint64_t mask, std::size_t stride) noexcept : ring_(ring), mask_(mask), stride_(stride) {}
    std::byte* ring_;
    std::uint64_t mask_;
    std::size_t stride_;
  };
  cells all() noexcept {
    std::byte* const ring = ring_.load();
    return {ring, header_of(ring).mask, stride_};
  }
  bool written(std::uint64_t position) noexcept {
    return at(position).seq.load(std::memory_order_acquire) == position + 1;
  }
  /// When the event in a cell was published; 0 where no times are kept.
  std::int64_t published(cell& written) const noexcept {
    std::int64_t time = 0;
    if (time_offset_ != 0) std::memcpy(&time, time_in(written), sizeof time);
    return time;
  }
  /// The next position to be taken, at some instant of the call. Takes m if it is shut: not for who holds m or a reader's.
  std::uint64_t position() noexcept;
  /// Tells that a reader sleeps. False: a position is taken that is not below its cursor. As `position`.
  bool sleep(std::uint64_t cursor) noexcept;
  std::uint64_t awaited() const noexcept { return awaited_.load(); }

  // --- for the holder of m -----------------------------------------------------------------------------------------------

  /// From here until `open` the position stands still, but for `claim_locked`.
  void shut_now() noexcept PENSTOCK_REQUIRES(m) { tail_.fetch_or(shut); }
  std::uint64_t position_locked() const noexcept PENSTOCK_REQUIRES(m) {
    return (tail_.load() & ticket_mask) - changes_.load();
  }
  /// Takes positions while shut. True: a reader sleeps, and the caller must wake those who do.
  bool claim_locked(std::size_t count, claimed& got) noexcept PENSTOCK_REQUIRES(m);
  /// Readers or members have changed; while shut. `all`: how many members the topic has.
  void change(std::uint32_t readers, std::size_t all, std::uint64_t limit) noexcept PENSTOCK_REQUIRES(m);
  void open() noexcept PENSTOCK_REQUIRES(m) { tail_.fetch_and(~shut); }
  void raise_limit(std::uint64_t limit) noexcept PENSTOCK_REQUIRES(m) {
    if (limit > limit_.load()) limit_.store(limit);
  }
  std::uint32_t readers() const noexcept PENSTOCK_REQUIRES(m) { return readers_.load(); }
  std::uint64_t limit() const noexcept PENSTOCK_REQUIRES(m) { return limit_.load(); }
  void await(std::uint64_t end, bool at_once) noexcept PENSTOCK_REQUIRES(m) {
    awaited_.store(end * 2 + (at_once ? 1 : 0));
  }
  bool provided() const noexcept { return ring_.load() != nullptr; }
  /// Room for so many cells; 0: there is no memory. While there are readers it stays as it is.
  std::size_t provide(std::size_t cells) noexcept PENSTOCK_REQUIRES(m);
  std::uint64_t size() const noexcept { return provided() ? header_of(ring_.load()).mask + 1 : 0; }
  /// A channel that leaves has no use for this event.
  void let_go(std::uint64_t position) noexcept PENSTOCK_REQUIRES(m);

  bool blocks() const noexcept { return blocks_; }

 private:
  static constexpr std::uint64_t shut = std::uint64_t{1} << 63;
  static constexpr std::uint64_t idle = std::uint64_t{1} << 62;
  static constexpr std::uint64_t ticket_mask = idle - 1;

  /// In front of the cells of a ring. A reader may look into a ring that it has just left, so each lives as long as the log,
  /// with its size; each is at least twice as large as the one before.
  struct alignas(64) header {
    std::byte* before = nullptr;
    std::uint64_t mask = 0;
  };
  static header& header_of(std::byte* ring) noexcept { return *reinterpret_cast<header*>(ring - sizeof(header)); }
  cell& place(std::byte* ring, std::uint64_t mask, std::uint64_t position) const noexcept {
    return cells(ring, mask, stride_).at(position);
  }
  /// With a stale word this means nothing, and the exchange fails.
  bool fits(std::uint64_t word, std::size_t count, claimed& got) const noexcept {
    got.first = (word & ticket_mask) - changes_.load();
    got.ring = ring_.load();
    got.mask = header_of(got.ring).mask;
    got.readers = readers_.load();
    // acquire: pairs with the store by who saw the readers' cursors; without it a cell is written that, in this thread's
    // view, is still being read.
    return got.first + count <= limit_.load(std::memory_order_acquire);
  }
  void retain_for(cell& target, std::uint32_t readers) const noexcept;
  std::byte* time_in(cell& of) const noexcept { return reinterpret_cast<std::byte*>(&of) + time_offset_; }

  // Constant, or changed with the readers.
  const std::size_t payload_bytes_;
  const bool blocks_;
  std::size_t stride_;           // constant from the first ring on, as the next
  std::size_t time_offset_ = 0;  // within a cell; 0: none
  atomic<form> form_{form::unused};
  atomic<std::uint32_t> readers_{0};
  atomic<std::byte*> ring_{nullptr};
  atomic<std::uint64_t> changes_{0};
  /// Looked at by every reader before each event; written when somebody waits.
  atomic<std::uint64_t> awaited_{0};

  // Producers.
  alignas(64) atomic<std::uint64_t> tail_{0};
  atomic<std::uint64_t> limit_{0};
};

}  // namespace penstock::sync
