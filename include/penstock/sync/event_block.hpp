// The shared, immutable home of one event that is too large or too lively to be copied into a channel.
// Floor 1, room sync.
#pragma once

#include <penstock/base/export.hpp>

#include <cstddef>
#include <cstdint>

namespace penstock::detail {

/// What the core knows of an event type. Lives in the user's binary; the core copies what it keeps.
struct payload_type {
  std::size_t size = 0;
  std::size_t align = 1;
  bool in_place = false;                      ///< trivially copyable and at most `largest_in_place` bytes
  void (*destroy)(void*) noexcept = nullptr;  ///< null when the destructor does nothing
};

inline constexpr std::size_t largest_in_place = 64;
inline constexpr std::size_t largest_in_place_align = 16;

/// Allocates a block with one reference and raw payload memory; null when there is no memory. The block remembers how to
/// destroy its payload, so that it can outlive every subscription. Cost: one allocation.
PENSTOCK_API void* allocate_block(const payload_type& type) noexcept;
/// Frees a block whose payload was never constructed.
PENSTOCK_API void free_raw_block(void* payload) noexcept;
PENSTOCK_API void retain_block(void* payload, std::uint64_t references = 1) noexcept;
/// Drops a reference; the last one destroys the payload and frees the memory.
PENSTOCK_API void release_block(void* payload) noexcept;

}  // namespace penstock::detail
