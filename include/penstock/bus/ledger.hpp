// The counters of the accounting law.
// Floor 5, room bus.
#pragma once

#include <penstock/base/export.hpp>

#include <cstdint>
#include <string>

namespace penstock {

/// Refused offers by reason: these events never had a seat.
struct rejected_counts {
  std::uint64_t full = 0;
  std::uint64_t timed_out = 0;
  std::uint64_t cancelled = 0;
  std::uint64_t closed = 0;
  std::uint64_t would_block = 0;
  std::uint64_t cycle = 0;
  std::uint64_t no_memory = 0;
  std::uint64_t total() const noexcept {
    return full + timed_out + cancelled + closed + would_block + cycle + no_memory;
  }
};

/// What became of every event that was offered to one subscription. Two laws hold for it, at any instant without traffic:
/// `offered = accepted + dropped + rejected + pending` and
/// `accepted = handled + filtered + failed + discarded + evicted + queued + running`.
struct ledger {
  std::uint64_t offered = 0;
  std::uint64_t accepted = 0;   ///< got a seat
  std::uint64_t dropped = 0;    ///< refused by `drop_newest`
  rejected_counts rejected;     ///< never seated
  std::uint64_t pending = 0;    ///< waiting for a seat: threads and parked outputs
  std::uint64_t handled = 0;
  std::uint64_t filtered = 0;
  std::uint64_t failed = 0;
  std::uint64_t discarded = 0;  ///< seated, and will never begin
  std::uint64_t evicted = 0;    ///< seated, then pushed out by `drop_oldest` or `latest`
  std::uint64_t queued = 0;     ///< seated, waiting for their call
  std::uint64_t running = 0;    ///< begun, fate open

  /// Whether both laws hold.
  PENSTOCK_API bool balanced() const noexcept;
  /// Nothing is queued, running or pending.
  bool quiescent() const noexcept { return queued == 0 && running == 0 && pending == 0; }
};

/// "offered 10 = accepted 8 + dropped 0 + …", for test messages and reports.
PENSTOCK_API std::string to_string(const ledger& counters);

}  // namespace penstock
