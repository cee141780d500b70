// What the bench checks about itself.
// Floor 9, bench.
#pragma once

#include <string>
#include <vector>

namespace bench {

/// Runs systems with known faults and demands that each is noticed; checks the choice of the state, the goals, and that
/// allocations are really counted. Returns what failed.
std::vector<std::string> check_the_checks();

}  // namespace bench
