// Counts calls of the allocator, of the whole process, by standing in front of malloc and its kin.
// Floor 9, bench.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace bench {

struct allocation_count {
  std::uint64_t calls = 0;      ///< malloc, calloc, realloc, aligned_alloc, posix_memalign, memalign, valloc, pvalloc
  std::int64_t live_bytes = 0;  ///< heap taken minus heap given back while counting, the allocator's own words included
};

/// Live blocks by what the allocator takes for each, in its steps of 16 bytes; the last place has all that are larger.
inline constexpr std::size_t block_step = 16;
using live_blocks = std::array<std::int64_t, 257>;

/// Threads: start and stop from one thread; allocations of all threads are counted in between.
class allocation_counter {
 public:
  /// False in a sanitizer build, whose own allocator must not be replaced.
  static bool available() noexcept;
  static allocation_count start() noexcept;
  static allocation_count stop() noexcept;
  /// Taken minus given back while counting.
  static live_blocks blocks() noexcept;
};

}  // namespace bench
