// The thread slot behind the parking seam.
// Floor 0, room base.
#include <penstock/base/agent.hpp>

namespace penstock {

agent::~agent() = default;

// At a fixed distance from the thread's pointer, so that reaching it is two instructions and no call, and needs no memory. The
// price: whoever loads this library at run time needs these few bytes in what the loader keeps for that; glibc keeps 512.
thread_slot& this_thread_slot() noexcept {
  [[gnu::tls_model("initial-exec")]] static thread_local thread_slot slot;
  return slot;
}

}  // namespace penstock
