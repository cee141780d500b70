// Stackful fibers: one simulated thread each. The one door to Boost.Context.
// Floor 8, room testing.
#pragma once

#include <cstddef>
#include <memory>

namespace penstock::testing::detail {

enum class stack_size : unsigned char {
  worker,    ///< 512 KiB, for simulated threads and handlers (four times as much under a sanitizer)
  scenario,  ///< 8 MiB, for a whole scenario, as a program's first thread has
};

/// A stack that runs one job after the other. Fibers are kept by the operating-system thread that made them and used
/// again, because ten thousand simulations a second need some each. Threads: bound to the one that made it.
class fiber {
 public:
  /// An idle fiber, from this thread's store or new. Throws std::bad_alloc when there is no memory for a stack.
  static fiber* acquire(stack_size size);
  /// Back into the store. The fiber must be idle.
  static void release(fiber* idle) noexcept;
  /// Gives up a fiber in the middle of its job: it is never resumed and nothing on its stack is destroyed. What the
  /// stack refers to stays alive, and a leak checker is told so.
  static void abandon(fiber* stuck) noexcept;

  fiber(const fiber&) = delete;
  fiber& operator=(const fiber&) = delete;
  ~fiber();

  /// Gives an idle fiber a job; it begins with the next `resume`. The job must not throw.
  void assign(void (*job)(void*), void* argument) noexcept;
  /// Runs the fiber until it suspends or its job has ended. Exceptions in flight and being handled stay with their
  /// stack.
  void resume() noexcept;
  /// On the fiber: back to who resumed it.
  void suspend() noexcept;
  bool idle() const noexcept { return job_ == nullptr; }

 private:
  struct parts;
  explicit fiber(stack_size size);
  [[noreturn]] void run_jobs() noexcept;

  std::unique_ptr<parts> parts_;
  void (*job_)(void*) = nullptr;
  void* argument_ = nullptr;
};

}  // namespace penstock::testing::detail
