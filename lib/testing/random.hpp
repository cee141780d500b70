// Seeded choices: the same on every machine and with every standard library.
// Floor 8, room testing.
#pragma once

#include "base/mix_bits.hpp"

#include <cstdint>

namespace penstock::testing::detail {

/// splitmix64.
class random_source {
 public:
  explicit constexpr random_source(std::uint64_t seed) noexcept : state_(seed) {}

  constexpr std::uint64_t next() noexcept { return mix_bits(state_ += 0x9e3779b97f4a7c15ULL); }

  /// 0 ≤ result < n; n ≥ 1. The bias for n below 2^32 is beyond what any test could see.
  constexpr std::uint64_t below(std::uint64_t n) noexcept {
    if (n <= 0xffffffffULL) return ((next() >> 32) * n) >> 32;
    return next() % n;
  }

 private:
  std::uint64_t state_;
};

}  // namespace penstock::testing::detail
