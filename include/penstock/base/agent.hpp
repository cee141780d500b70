// The parking seam: what a simulation provides in place of the operating system's threads.
// Floor 0, room base.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/export.hpp>

namespace penstock {

/// Stands in for the operating system while simulated threads run. A real program has none.
/// Everything below is called on the one thread that runs the simulation.
class PENSTOCK_API agent {
 public:
  virtual ~agent();

  /// Called before each atomic operation and each lock in a library built with PENSTOCK_MODEL: a place to switch.
  virtual void preempt() = 0;

  /// Called in such a library where it passes a moment before it looks again, without waiting: a place to switch.
  virtual void pause() = 0;

  /// Suspends the running simulated thread until `wake_all(address)` or `wake_one(address)` picks it, or the deadline
  /// passes in virtual time. May return early. The caller has just checked its condition; no other simulated thread ran
  /// in between.
  virtual void wait(const void* address, steady_time deadline) = 0;

  /// Makes one simulated thread that waits at `address` ready again, or all of them. Never dereferences `address`.
  virtual void wake_one(const void* address) noexcept = 0;
  virtual void wake_all(const void* address) noexcept = 0;

  /// Virtual now.
  virtual steady_time now() const noexcept = 0;
};

/// What the library keeps per thread. A simulation swaps `context` when it switches between its simulated threads.
struct thread_slot {
  agent* simulated_by = nullptr;  ///< the simulation this thread runs, or null
  void* context = nullptr;        ///< the execution context of the running callback, see exec/context.hpp
  const void* works_for = nullptr;  ///< what the workers of its pool share, if it is one; to be compared, never followed
};

/// This thread's slot. Compiled, never inlined: code on a fiber or a coroutine may not cache its address.
PENSTOCK_API thread_slot& this_thread_slot() noexcept;

}  // namespace penstock
