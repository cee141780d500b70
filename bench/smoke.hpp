// What the bench checks about itself.
// Floor 9, bench.
#pragma once

#include "faulty.hpp"
#include "measure.hpp"

#include <string>
#include <vector>

namespace bench {

/// Runs systems with known faults and demands that each is noticed; checks the choice of the state, the goals, and that
/// allocations are really counted. Returns what failed.
std::vector<std::string> check_the_checks();

/// Its part for paced events, ping-pongs, back-pressure, idle subscriptions, and workloads with several figures.
void check_further_runs(findings& found);

/// Its part for goals and peers: what is missing leaves the goals that need it without an answer.
void check_missing(findings& found);

/// A made-up row with one figure.
row made_row(std::string workload, std::string system, std::string mode, system_kind kind, double value,
             std::string state);

}  // namespace bench
