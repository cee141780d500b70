// Workload K: what each optional feature costs, beside penstock without it.
// Floor 9, bench.
#pragma once

#include "report.hpp"
#include "workload.hpp"

#include <vector>

namespace bench {

void add_feature_workloads(std::vector<workload>& all, effort how_much);
/// Goal 7.
void judge_features(std::vector<goal>& goals, const std::vector<row>& rows);

}  // namespace bench
