// Turns a counter into bits that look random.
// Floor 0, room base.
#pragma once

#include <cstdint>

namespace penstock {

/// One step of splitmix64's finalizer: spreads every bit of the argument over the result.
/// Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014).
constexpr std::uint64_t mix_bits(std::uint64_t value) noexcept {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31);
}

/// What a counter is moved by, so that `mix_bits` of it passes for random. Source: SplitMix64, Steele, Lea and Flood, 2014.
inline constexpr std::uint64_t mix_step = 0x9e3779b97f4a7c15ULL;

}  // namespace penstock
