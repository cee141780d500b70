// The cells that events lie in, and how events are copied in and out.
// Floor 1, room sync.
#pragma once

#include "sync/atomic.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace penstock::sync {

/// The sequence word of an event, which follows it. seq = p + 1: the event at position p is written; else older.
struct cell {
  atomic<std::uint64_t> seq;
  std::byte* payload() noexcept { return reinterpret_cast<std::byte*>(this + 1); }
};
static_assert(sizeof(cell) == sizeof(std::uint64_t));

/// Payloads begin 8 bytes into a cell; the consumer copies them to aligned memory before anybody looks at them.
constexpr std::size_t cell_bytes(std::size_t payload_bytes) noexcept {
  return (sizeof(cell) + payload_bytes + alignof(cell) - 1) / alignof(cell) * alignof(cell);
}

/// Copies of a size that the compiler knows are a few instructions; others are a call.
inline void copy_payload(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
  if (bytes == 64)
    std::memcpy(to, from, 64);
  else if (bytes == sizeof(void*))
    std::memcpy(to, from, sizeof(void*));
  else
    std::memcpy(to, from, bytes);
}

/// The same from an event that has just been made, member by member. A load that is wider than the store before it waits
/// until the store has left the processor, and so until all that came before have: so it goes by words, and the compiler
/// may not make one load of two.
inline void copy_fresh(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
  using word [[gnu::may_alias, gnu::aligned(1)]] = std::uint64_t;
  const auto copy_word = [to, from](std::size_t at) noexcept {
    const word each = *reinterpret_cast<const volatile word*>(from + at);
    *reinterpret_cast<word*>(to + at) = each;
  };
  std::size_t done = 0;
  if (bytes == 64) {
    for (; done < 64; done += sizeof(word)) copy_word(done);
    return;
  }
  for (; done + sizeof(word) <= bytes; done += sizeof(word)) copy_word(done);
  for (; done < bytes; ++done) to[done] = from[done];
}

/// Waits until the event at that position is written, though not for longer than a nap: looks for about a microsecond, and
/// naps for 50 at most.
void await_cell(const cell& awaited, std::uint64_t position) noexcept;

}  // namespace penstock::sync
