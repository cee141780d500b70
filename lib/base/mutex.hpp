// The mutex of the library: annotated, and a preemption point in the model build.
// Floor 0, room base.
#pragma once

#include "base/thread_annotations.hpp"

#include <penstock/base/agent.hpp>

#include <mutex>

namespace penstock {

/// Held for a few instructions only, never while user code runs. In a library built with PENSTOCK_MODEL a simulated
/// thread that finds it held waits through its agent.
class PENSTOCK_CAPABILITY("mutex") mutex {
 public:
  mutex() noexcept = default;
  mutex(const mutex&) = delete;
  mutex& operator=(const mutex&) = delete;

  void is_held() const noexcept PENSTOCK_IS_HELD() {}

#if defined(PENSTOCK_MODEL)
  void lock() PENSTOCK_ACQUIRE() {
    if (agent* simulated = this_thread_slot().simulated_by) {
      simulated->preempt();
      while (held_) simulated->wait(this, no_deadline);
      held_ = true;
    } else {
      real_.lock();
    }
  }
  void unlock() PENSTOCK_RELEASE() {
    if (agent* simulated = this_thread_slot().simulated_by) {
      held_ = false;
      simulated->wake_one(this);
    } else {
      real_.unlock();
    }
  }

 private:
  bool held_ = false;
  std::mutex real_;
#else
  void lock() PENSTOCK_ACQUIRE() { real_.lock(); }
  void unlock() PENSTOCK_RELEASE() { real_.unlock(); }

 private:
  std::mutex real_;
#endif
};

/// Holds a mutex for a scope; may be unlocked early.
class PENSTOCK_SCOPED_CAPABILITY lock_guard {
 public:
  explicit lock_guard(mutex& held) PENSTOCK_ACQUIRE(held) : held_(held) { held_.lock(); }
  ~lock_guard() PENSTOCK_RELEASE() {
    if (locked_) held_.unlock();
  }
  lock_guard(const lock_guard&) = delete;
  lock_guard& operator=(const lock_guard&) = delete;
  void unlock() PENSTOCK_RELEASE() {
    locked_ = false;
    held_.unlock();
  }
  void lock() PENSTOCK_ACQUIRE() {
    held_.lock();
    locked_ = true;
  }

 private:
  mutex& held_;
  bool locked_ = true;
};

}  // namespace penstock
