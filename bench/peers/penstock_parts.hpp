// The parts of penstock's own row that have a file to themselves.
// Floor 9, bench.
#pragma once

#include "../system.hpp"

namespace bench {

task_outcome penstock_functions(const task_run& run);   ///< worker_pool::post
task_outcome penstock_coroutines(const task_run& run);  ///< start_task
growth_outcome penstock_growth(const growth_run& run);
growth_outcome penstock_changes(const growth_run& run);

}  // namespace bench
