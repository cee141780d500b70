// The ready list of a pool: fair, allocation-free, and it never leaves work behind a busy worker while another sleeps.
// Floor 2, room exec.
#pragma once

#include "base/mutex.hpp"
#include "exec/stack_signal.hpp"
#include "exec/watched.hpp"
#include "sync/atomic.hpp"

#include <penstock/exec/pool_snapshot.hpp>
#include <penstock/exec/scheduler.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

#include <sys/types.h>

namespace penstock::exec {

/// First in, first out. Holds no threads: workers call `next`, so that the simulation can run them as well.
///
/// Invariant, under the mutex: if anything is ready, then either a worker is looking (it will take something, and then
/// wake another if more is left), or no worker sleeps.
class ready_list {
 public:
  /// One per worker.
  struct sleeper {
    sync::atomic<std::uint32_t> awake{0};
    sleeper* next = nullptr;
    // For the watchdog, guarded by the list's mutex.
    std::uint64_t turn = 0;  ///< 0: it runs nothing
    const runnable* runs = nullptr;
    sleeper* next_enlisted = nullptr;
    unsigned index = 0;
    pid_t thread = 0;
  };
  enum class what : std::uint8_t { lane, posted, stopped };
  struct ready {
    what kind;
    runnable* lane = nullptr;
  };

  explicit ready_list(std::chrono::nanoseconds spin, const clock& time) noexcept : spin_(spin), time_(time) {}

  void push(runnable& lane) noexcept;
  /// For the lane that has just run: its worker looks next, so nobody is woken for it.
  void push_again(runnable& lane) noexcept;
  /// One more posted item can be popped. False after `stop`: nobody will.
  bool push_posted() noexcept;
  /// Waits for the next thing to run. `stopped` once `stop` was called, even if something is left.
  ready next(sleeper& self);
  /// Wakes all workers; `next` gives `stopped` from now on.
  void stop() noexcept;
  /// After `stop` and the end of the workers: what was left.
  runnable* take_left() noexcept;

  // For the watchdog: those who enlist are seen; who has enlisted leaves before its thread ends.
  void enlist(sleeper& self, unsigned index) noexcept;
  void leave(sleeper& self) noexcept;
  void watch(std::shared_ptr<detail::worker_bell> bell) noexcept;
  /// Fills in what is ready and who is working. Throws std::bad_alloc.
  void look(detail::pool_look& seen);
  bool rest() noexcept;
  void ring_next() noexcept;
  /// Asks the thread of that turn where it stands. False: the turn is over.
  bool ask(const detail::working_look& worker, stack_question& question) noexcept;
  bool in_turn(const detail::working_look& worker) noexcept;

  /// A hint: nothing is ready, and it does not end.
  bool nothing_waits() const noexcept { return attention_.load(std::memory_order_relaxed) == 0; }
  std::size_t size() noexcept;
  /// What is ready, what is queued, who is parked.
  void count(pool_snapshot& seen) noexcept;
  unsigned sleeping() noexcept;
  bool stopping() noexcept;

 private:
  void append_locked(runnable& lane) noexcept PENSTOCK_REQUIRES(m_);
  sleeper* claim_sleeper_locked() noexcept PENSTOCK_REQUIRES(m_);
  static void wake(sleeper* chosen) noexcept;
  void ring() noexcept;
  sleeper* find_locked(const detail::working_look& worker) noexcept PENSTOCK_REQUIRES(m_);
  bool anything_locked() const noexcept PENSTOCK_REQUIRES(m_) { return first_ != nullptr || posted_ > 0; }

  const std::chrono::nanoseconds spin_;
  const clock& time_;
  mutex m_;  // protects what follows; taken with no other lock held
  runnable* first_ PENSTOCK_GUARDED_BY(m_) = nullptr;
  runnable* last_ PENSTOCK_GUARDED_BY(m_) = nullptr;
  std::size_t lanes_ PENSTOCK_GUARDED_BY(m_) = 0;
  std::size_t posted_ PENSTOCK_GUARDED_BY(m_) = 0;
  sleeper* sleepers_ PENSTOCK_GUARDED_BY(m_) = nullptr;  // last in, first out: the warmest wakes
  unsigned sleeping_ PENSTOCK_GUARDED_BY(m_) = 0;
  unsigned looking_ PENSTOCK_GUARDED_BY(m_) = 0;  // woken or spinning, and has not taken anything yet
  bool posted_turn_ PENSTOCK_GUARDED_BY(m_) = false;
  bool stopping_ PENSTOCK_GUARDED_BY(m_) = false;
  bool rings_ PENSTOCK_GUARDED_BY(m_) = false;  // found at rest: whoever takes something next rings the bell
  std::uint64_t turns_ PENSTOCK_GUARDED_BY(m_) = 0;
  sleeper* enlisted_ PENSTOCK_GUARDED_BY(m_) = nullptr;
  std::shared_ptr<detail::worker_bell> bell_ PENSTOCK_GUARDED_BY(m_);
  sync::atomic<std::uint32_t> attention_{0};  // a copy of "anything or stopping", for spinning workers
};

}  // namespace penstock::exec
