// Whether a case ran all its seeds, so that it may ask how often it met what it is about.
// Floor 9, room tests.
#pragma once

#include <cstdlib>

namespace penstock_test {

/// False while PENSTOCK_SEED or PENSTOCK_SEEDS picks other seeds than the case's own.
inline bool all_seeds_ran() {
  return std::getenv("PENSTOCK_SEED") == nullptr && std::getenv("PENSTOCK_SEEDS") == nullptr;
}

}  // namespace penstock_test
