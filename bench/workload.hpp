// The workloads: what is run for one figure, with which unit.
// Floor 9, bench.
#pragma once

#include "system.hpp"

#include <functional>
#include <string>
#include <vector>

namespace bench {

enum class better { higher, lower };
/// Whether a figure depends on how far apart the cores are. Counts of allocations do not.
enum class dependence { core_state, none };
enum class effort { full, quick };

/// One measured value, or why there is none.
struct measurement {
  std::string problem;
  bool stuck = false;
  double value = 0;
};

struct workload {
  std::string id;     ///< as in the table of README.md
  std::string group;  ///< what `--only` names
  std::string what;
  std::string unit;
  better direction = better::higher;
  dependence depends_on = dependence::core_state;
  std::function<bool(const system_entry&)> applies;
  std::function<measurement(const system_entry&)> run;
  std::function<measurement(const system_entry&)> warm_up;  ///< a short run before the counted ones; may be empty
};

std::vector<workload> workloads(effort how_much);

}  // namespace bench
