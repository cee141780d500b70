// Whether a case ran all its seeds, so that it may ask how often it met what it is about; and whether anybody was left
// waiting. Floor 9, room tests.
#pragma once

#include <penstock/testing/simulation.hpp>

#include <chrono>
#include <cstdlib>

namespace penstock_test {

/// False while PENSTOCK_SEED or PENSTOCK_SEEDS picks other seeds than the case's own.
inline bool all_seeds_ran() {
  return std::getenv("PENSTOCK_SEED") == nullptr && std::getenv("PENSTOCK_SEEDS") == nullptr;
}

/// Nobody had to look by himself, which comes after 4 ms at the earliest. Time may have passed: who waits for a
/// producer that is just writing naps for 50 us.
inline bool nobody_looked(const penstock::testing::simulation& sim) {
  return sim.elapsed() < std::chrono::milliseconds(2);
}

}  // namespace penstock_test
