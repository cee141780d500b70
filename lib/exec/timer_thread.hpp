// Timers on a thread of their own, started by the first one.
// Floor 2, room exec.
#pragma once

#include "base/fork_mark.hpp"
#include "base/mutex.hpp"
#include "sync/atomic.hpp"

#include <penstock/exec/scheduler.hpp>

#include <cstdint>
#include <thread>
#include <vector>

namespace penstock::exec {

/// A binary heap of armed nodes under a mutex, and the thread "penstock-timer". `fire` runs without the mutex.
class timer_thread final : public timer_service {
 public:
  explicit timer_thread(const clock& time) noexcept : time_(time) {}
  ~timer_thread() override;

  errc arm(timer_node& node) noexcept override;
  bool disarm(timer_node& node) noexcept override;
  /// Joins the thread, unless called on it; then fires what is left.
  void stop() noexcept override;

 private:
  void run();
  void leave_thread_behind() noexcept PENSTOCK_WITHOUT_LOCK;
  void place_locked(std::size_t index, timer_node* node) noexcept PENSTOCK_REQUIRES(m_);
  void rise_locked(std::size_t index) noexcept PENSTOCK_REQUIRES(m_);
  void sink_locked(std::size_t index) noexcept PENSTOCK_REQUIRES(m_);
  void remove_locked(timer_node& node) noexcept PENSTOCK_REQUIRES(m_);

  const clock& time_;
  const fork_mark fork_;
  mutex m_;  // protects what follows; taken with no other lock held
  std::vector<timer_node*> heap_ PENSTOCK_GUARDED_BY(m_);
  bool stopping_ PENSTOCK_GUARDED_BY(m_) = false;
  std::thread thread_ PENSTOCK_GUARDED_BY(m_);
  bool* gone_ = nullptr;  // the thread's own: set when it is to touch nothing here any more
  sync::atomic<std::uint32_t> changes_{0};  // moves when the thread has to look again
};

}  // namespace penstock::exec
