// What a processor can be told. A hint: without it everything is the same, and slower.
// Floor 1, room sync.
#pragma once

#if defined(PENSTOCK_MODEL)
#include <penstock/base/agent.hpp>
#endif

namespace penstock::sync {

/// For a loop that looks again and again: leaves the core to its other thread for a moment.
inline void relax() noexcept {
#if defined(PENSTOCK_MODEL)
  if (agent* simulated = this_thread_slot().simulated_by) return simulated->pause();
#endif
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace penstock::sync
