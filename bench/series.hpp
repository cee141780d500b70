// The runs of one system in one workload, and which of them count.
// Floor 9, bench. No clock, no threads: tested by itself.
#pragma once

#include "probe.hpp"

#include <cstddef>
#include <optional>
#include <vector>

namespace bench {

struct statistics {
  double median = 0;
  double min = 0;
  double max = 0;
  std::size_t count = 0;
  /// (max - min) / median, in percent.
  double spread_percent() const noexcept { return median == 0 ? 0 : (max - min) / median * 100; }
};
/// Of at least one value.
statistics summarize(std::vector<double> values);

/// The values of one system, filed under the state both probes around the run agreed on.
class series {
 public:
  /// A run whose probes disagree is noted and does not count.
  void add(double value, core_state before, core_state after);
  const std::vector<double>& values(core_state state) const noexcept { return by_state_[index(state)]; }
  std::size_t disagreed() const noexcept { return disagreed_; }

 private:
  static std::size_t index(core_state state) noexcept { return static_cast<std::size_t>(state); }
  std::vector<double> by_state_[3];
  std::size_t disagreed_ = 0;
};

/// The one state in which all systems of a workload are compared: where the least-measured of them has most runs; among
/// equals, where there are most runs together. Nothing when no state has a run of every system.
std::optional<core_state> common_state(const std::vector<const series*>& all);
/// The smallest number of counted runs any of them has in `state`.
std::size_t least_counted(const std::vector<const series*>& all, core_state state);

}  // namespace bench
