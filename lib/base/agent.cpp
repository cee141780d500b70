// The thread slot behind the parking seam.
// Floor 0, room base.
#include <penstock/base/agent.hpp>

namespace penstock {

agent::~agent() = default;

thread_slot& this_thread_slot() noexcept {
  static thread_local thread_slot slot;
  return slot;
}

}  // namespace penstock
