// Medians, and the choice of the state.
// Floor 9, bench.
#include "series.hpp"

#include <algorithm>
#include <utility>

namespace bench {

statistics summarize(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  statistics result;
  result.count = values.size();
  result.min = values.front();
  result.max = values.back();
  const std::size_t middle = values.size() / 2;
  result.median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return result;
}

void series::add(double value, core_state before, core_state after) {
  if (before == after)
    by_state_[index(before)].push_back(value);
  else
    ++disagreed_;
}

std::size_t least_counted(const std::vector<const series*>& all, core_state state) {
  std::size_t least = all.empty() ? 0 : all.front()->values(state).size();
  for (const series* one : all) least = std::min(least, one->values(state).size());
  return least;
}

std::optional<core_state> common_state(const std::vector<const series*>& all) {
  std::optional<core_state> chosen;
  std::pair<std::size_t, std::size_t> best{0, 0};
  for (const core_state state : {core_state::near, core_state::far, core_state::one_core}) {
    std::size_t together = 0;
    for (const series* one : all) together += one->values(state).size();
    const std::pair<std::size_t, std::size_t> here{least_counted(all, state), together};
    if (here.first != 0 && here > best) {
      best = here;
      chosen = state;
    }
  }
  return chosen;
}

}  // namespace bench
