// In what capacity the running code was called: as a lane, as posted work, or inside a hook.
// Floor 2, room exec.
#pragma once

#include <penstock/base/export.hpp>

#include <cstdint>

namespace penstock {
class runnable;
}

namespace penstock::exec {

enum class context_kind {
  lane,    ///< a handler: waiting publishes park, close never blocks
  worker,  ///< posted work on a pool that may not wait: what would wait is refused
  hook,    ///< a user hook (on_drop, on_failure, …): may not wait either
  reader,  ///< a stream's reader under one of its deliveries, on a thread of its own: may wait
  awaited,  ///< what a runtime's end waits for (a task's function, the shutdown itself): may wait, but not for that end
};

/// Lives on the stack of whoever calls user code.
struct context {
  context_kind kind;
  void* lane = nullptr;         ///< for `lane`: the bus's lane; for `awaited`: by whom
  bool under_delivery = false;  ///< what it publishes is caused by a stream's delivery: taken during a drain
  const void* task = nullptr;   ///< for `awaited`: the background task whose function it is
  // For a watchdog, where a publish waits.
  const runnable* in_hand = nullptr;  ///< what its worker has in hand that runs a task
  std::uint64_t stream = 0;           ///< under a delivery: the stream's number
};

/// The context of the running code; null on a thread that may wait. Compiled: see this_thread_slot.
PENSTOCK_API context* current_context() noexcept;

/// Whether the running code may wait for others.
PENSTOCK_API bool may_wait_here() noexcept;

/// Makes a context current for a scope. A null one means: this thread may wait here.
class PENSTOCK_API context_scope {
 public:
  explicit context_scope(context* made) noexcept;
  ~context_scope();
  context_scope(const context_scope&) = delete;
  context_scope& operator=(const context_scope&) = delete;

 private:
  void* before_;
};

}  // namespace penstock::exec
