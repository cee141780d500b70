// Anchors of the scheduler seam.
// Floor 2, room exec.
#include <penstock/exec/environment.hpp>
#include <penstock/exec/scheduler.hpp>

namespace penstock {

timer_service::~timer_service() = default;
scheduler::~scheduler() = default;
execution_environment::~execution_environment() = default;

}  // namespace penstock
