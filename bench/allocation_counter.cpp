// The stand-ins for malloc and its kin. The executable's symbols come first, for the shared library too.
// Floor 9, bench.
#include "allocation_counter.hpp"

#include <malloc.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <tuple>

namespace {
std::atomic<bool> counting{false};
std::atomic<std::uint64_t> calls{0};
std::atomic<std::int64_t> live_bytes{0};
std::array<std::atomic<std::int64_t>, std::tuple_size_v<bench::live_blocks>> blocks_by_size{};
}  // namespace

namespace bench {

allocation_count allocation_counter::start() noexcept {
  counting = true;
  return {calls, live_bytes};
}
allocation_count allocation_counter::stop() noexcept {
  counting = false;
  return {calls, live_bytes};
}
live_blocks allocation_counter::blocks() noexcept {
  live_blocks now{};
  std::copy(blocks_by_size.begin(), blocks_by_size.end(), now.begin());
  return now;
}

}  // namespace bench

#ifdef BENCH_INTERPOSE

namespace bench {
bool allocation_counter::available() noexcept { return true; }
}  // namespace bench

extern "C" {
void* __libc_malloc(std::size_t bytes);
void __libc_free(void* memory);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* memory, std::size_t bytes);
void* __libc_memalign(std::size_t align, std::size_t bytes);
void* __libc_valloc(std::size_t bytes);
void* __libc_pvalloc(std::size_t bytes);
}

namespace {

// What the allocator takes for a block: what it lets us use, and one word in front.
std::int64_t footprint(void* memory) noexcept {
  return memory == nullptr ? 0 : static_cast<std::int64_t>(malloc_usable_size(memory) + sizeof(std::size_t));
}

/// A block of that footprint has come, by 1, or gone, by -1.
void tally(std::int64_t bytes, std::int64_t by) noexcept {
  if (bytes == 0) return;
  live_bytes.fetch_add(by * bytes, std::memory_order_relaxed);
  const auto place = std::min(static_cast<std::size_t>(bytes) / bench::block_step, blocks_by_size.size() - 1);
  blocks_by_size[place].fetch_add(by, std::memory_order_relaxed);
}

void* counted(void* memory) noexcept {
  if (counting.load(std::memory_order_relaxed)) {
    calls.fetch_add(1, std::memory_order_relaxed);
    tally(footprint(memory), 1);
  }
  return memory;
}

bool power_of_two(std::size_t value) noexcept { return value != 0 && (value & (value - 1)) == 0; }

}  // namespace

#define BENCH_SHOWN [[gnu::visibility("default")]]

extern "C" {

BENCH_SHOWN void* malloc(std::size_t bytes) { return counted(__libc_malloc(bytes)); }
BENCH_SHOWN void* calloc(std::size_t count, std::size_t bytes) { return counted(__libc_calloc(count, bytes)); }
BENCH_SHOWN void* memalign(std::size_t align, std::size_t bytes) { return counted(__libc_memalign(align, bytes)); }
BENCH_SHOWN void* aligned_alloc(std::size_t align, std::size_t bytes) { return counted(__libc_memalign(align, bytes)); }
BENCH_SHOWN void* valloc(std::size_t bytes) { return counted(__libc_valloc(bytes)); }
BENCH_SHOWN void* pvalloc(std::size_t bytes) { return counted(__libc_pvalloc(bytes)); }

BENCH_SHOWN int posix_memalign(void** result, std::size_t align, std::size_t bytes) {
  if (!power_of_two(align) || align % sizeof(void*) != 0) return EINVAL;
  void* memory = counted(__libc_memalign(align, bytes));
  if (memory == nullptr) return ENOMEM;
  *result = memory;
  return 0;
}

BENCH_SHOWN void* realloc(void* memory, std::size_t bytes) {
  const bool on = counting.load(std::memory_order_relaxed);
  const std::int64_t before = on ? footprint(memory) : 0;
  void* moved = __libc_realloc(memory, bytes);
  if (on) {
    calls.fetch_add(1, std::memory_order_relaxed);
    if (moved != nullptr || bytes == 0) {
      tally(footprint(moved), 1);
      tally(before, -1);
    }
  }
  return moved;
}

BENCH_SHOWN void free(void* memory) {
  if (counting.load(std::memory_order_relaxed)) tally(footprint(memory), -1);
  __libc_free(memory);
}
}

#else

namespace bench {
bool allocation_counter::available() noexcept { return false; }
}  // namespace bench

#endif
