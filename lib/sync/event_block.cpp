// Allocation and counting of event blocks.
// Floor 1, room sync.
#include <penstock/sync/event_block.hpp>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace penstock::detail {
namespace {

/// Lies directly before the payload. `owner` has room for whoever owns the payload's code, so that it can be counted.
struct block_header {
  std::atomic<std::uint64_t> references;
  void* memory;  // what was allocated; the payload may need a wider alignment than malloc gives
  void (*destroy)(void*) noexcept;
  void* owner;
};
static_assert(sizeof(block_header) == 32);

block_header* header_of(void* payload) noexcept { return static_cast<block_header*>(payload) - 1; }

}  // namespace

void* allocate_block(const payload_type& type) noexcept {
  const std::size_t align = type.align < alignof(block_header) ? alignof(block_header) : type.align;
  const std::size_t slack = align > alignof(std::max_align_t) ? align : 0;
  const std::size_t offset = (sizeof(block_header) + align - 1) / align * align;
  if (type.size > SIZE_MAX - offset - slack) return nullptr;
  auto* memory = static_cast<std::byte*>(std::malloc(offset + slack + type.size));
  if (memory == nullptr) return nullptr;
  auto address = reinterpret_cast<std::uintptr_t>(memory) + offset;
  address = (address + align - 1) / align * align;
  auto* payload = memory + (address - reinterpret_cast<std::uintptr_t>(memory));
  ::new (payload - sizeof(block_header)) block_header{{1}, memory, type.destroy, nullptr};
  return payload;
}

void free_raw_block(void* payload) noexcept { std::free(header_of(payload)->memory); }

void retain_block(void* payload, std::uint64_t references) noexcept {
  header_of(payload)->references.fetch_add(references, std::memory_order_relaxed);
}

void release_block(void* payload) noexcept {
  block_header* header = header_of(payload);
  const std::uint64_t before = header->references.fetch_sub(1, std::memory_order_acq_rel);
#if defined(PENSTOCK_MODEL)
  // Released once too often: the memory is free, and what the allocator wrote there is no count.
  if (before == 0 || before >= std::uint64_t{1} << 32) std::abort();
#endif
  if (before != 1) return;
  if (header->destroy != nullptr) header->destroy(payload);
  std::free(header->memory);
}

}  // namespace penstock::detail
