// Whether a case ran the seeds it was written for.
// Floor 9, room tests.
#pragma once

#include <cstdlib>

namespace penstock_test {

/// False while PENSTOCK_SEED or PENSTOCK_SEEDS picks other seeds than the case's own: then it may not ask how often it met
/// what it is about.
inline bool all_seeds_ran() {
  return std::getenv("PENSTOCK_SEED") == nullptr && std::getenv("PENSTOCK_SEEDS") == nullptr;
}

}  // namespace penstock_test
