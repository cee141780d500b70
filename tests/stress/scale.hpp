// How much a stress test does, and from which seed.
// Floor 9, room tests.
#pragma once

#include "../support/gate.hpp"

#include <cstdint>
#include <cstdlib>
#include <random>

namespace penstock_test {

/// `full` scaled by PENSTOCK_STRESS percent (default 100), and divided by `slower` under a sanitizer; at least 1.
inline int scaled(int full, int slower = 20) {
  const char* percent = std::getenv("PENSTOCK_STRESS");
  const double share = percent != nullptr ? std::atof(percent) / 100 : 1.0;
  const double count = full * share / (sanitized ? slower : 1);
  return count < 1 ? 1 : static_cast<int>(count);
}

inline std::uint64_t seed_of_run() {
  const char* given = std::getenv("PENSTOCK_TEST_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
}

}  // namespace penstock_test
