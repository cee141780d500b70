// The ready list of a pool: fair, allocation-free, and it never leaves work behind a busy worker while another sleeps.
// Floor 2, room exec.
#pragma once

#include "base/mutex.hpp"
#include "exec/spin_gauge.hpp"
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
/// A worker that finds nothing either sleeps in a futex, or becomes the *lookout*: it looks for a bounded time, which
/// its `spin_gauge` decides, and sleeps then. A pool has one lookout at most, whoever else is idle sleeps. Who has work
/// hands it to the lookout by one exchange, without the mutex and without a system call.
///
/// `lookout_` is one word:
/// - `spent`: there is no lookout, or it is over; so is each of the following once the lookout has it.
/// - `open`: it looks, and has been given nothing.
/// - `called`: it is to look into the list at once.
/// - `posted`: it has been given one posted item.
/// - else: it has been given that lane.
///
/// | from → to | by | under the mutex |
/// |---|---|---|
/// | not open → open | a worker that finds nothing, if there is no lookout and the gauge lets it look | yes |
/// | open → a lane, posted | `push`, `push_posted` | no |
/// | open → called | who has put something into the list; `stop` | yes |
/// | open → spent | the lookout, when it helps or its time is over | yes |
///
/// `attention_` is odd while lanes are in the list, even while none is, and one more at each change. Written under the
/// mutex.
///
/// `posted_` counts the posted items in the list, by `one`; its lowest bit is set by `stop`. Adding to it tells
/// whether it was 0 and whether the list has stopped; so posting takes the mutex only when there was nothing, and a
/// worker that has run a posted item takes the next one without it.
///
/// Invariants, under the mutex:
/// 1. If anything is in the list, then a worker is looking (it will take something, and then call another if more is
///    left), or no worker sleeps, or who posted the first item is on its way to the mutex, to call one. The lookout is
///    looking, and so is who was woken and has not taken anything yet: `looking_` counts them. Taking something keeps
///    this true, adding to what is there does as well.
/// 2. `looks_out_` is set while one worker is between becoming the lookout and taking the mutex again; only then the
///    word can be `open`. What then stands in it, the lookout takes; if nothing, the exchange that says so closes it.
///    So nothing is given to somebody who has gone.
/// 3. Lanes are first in, first out: who gives a lane directly has seen `attention_` even after all that was pushed
///    before it (a relaxed load does not miss what happened before it). So no older lane is in the list, and the
///    lookout takes what it was given first.
/// 4. After `stop` no word is `open`: the lookout puts what it was given back, in front.
///
/// Who wakes whom. `push`, and `push_posted` when nothing is posted, give, or call the lookout, or wake the worker
/// that slept last, unless somebody looks. A worker that has taken something does the same if more is left.
/// `push_within` is for a worker in the middle of a turn: it will probably take the lane itself in a moment, on the
/// core that has it in its cache, so the lookout is not called. It sees `attention_` stay the same odd number between
/// two glances, `patience` apart, and helps. With no lookout a sleeper is woken as ever.
///
/// Bounds: the time of a look, by the pool's clock, which is read every 16th time. It also shows when the lookout did
/// not have its processor for `lost_after`: then it stops looking, for others need the core.
class ready_list {
 public:
  /// One per worker.
  struct sleeper {
    sync::atomic<std::uint32_t> awake{0};
    sleeper* next = nullptr;
    /// When somebody had work for it; written before `awake`. No deadline: it is not measured.
    steady_time called_at = no_deadline;
    unsigned looks = 0;  ///< the worker's own
    // For the watchdog, guarded by the list's mutex.
    const runnable* runs = nullptr;
    sleeper* next_enlisted = nullptr;
    unsigned index = 0;
    pid_t thread = 0;
    /// 0: it runs nothing. Written by the worker, relaxed: from 0 and to 0 under the mutex, and from one posted item
    /// to the next without; who asks it for a stack gets the answer from this thread, and so sees what it wrote
    /// before.
    sync::atomic<std::uint64_t> turn{0};
  };
  enum class what : std::uint8_t { lane, posted, stopped };
  struct ready {
    what kind;
    runnable* lane = nullptr;
  };

  explicit ready_list(spin_gauge gauge, const clock& time) noexcept
      : time_(time),
        adapts_(gauge.adapts()),
        may_look_(adapts_ || gauge.bound() > std::chrono::nanoseconds::zero()),
        gauge_(gauge) {}

  /// False after `stop`: nobody will run it, it is handed out by `take_left`.
  bool push(runnable& lane) noexcept;
  /// The same, called by a worker of this list in the middle of a turn.
  bool push_within(runnable& lane) noexcept;
  /// For the lane that has just run: its worker looks next, so nobody is woken for it.
  void push_again(runnable& lane) noexcept;
  /// One more posted item can be popped. False after `stop`: nobody will.
  bool push_posted() noexcept;
  /// Waits for the next thing to run. `stopped` once `stop` was called, even if something is left.
  ready next(sleeper& self);
  /// After a posted item: takes one more, without the mutex. False: `next` is to decide, for a lane waits, nothing is
  /// posted, a bell is to be rung, or the list has stopped.
  bool next_posted(sleeper& self) noexcept;
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
  bool nothing_waits() const noexcept {
    return (attention_.load(std::memory_order_relaxed) & 1) == 0 && posted_.load(std::memory_order_relaxed) < one;
  }
  std::size_t size() noexcept;
  /// What is ready, what is queued, who is parked.
  void count(pool_snapshot& seen) noexcept;
  unsigned sleeping() noexcept;
  bool stopping() const noexcept { return (posted_.load() & closed) != 0; }

 private:
  using word = std::uintptr_t;
  static constexpr word spent = 0;
  static constexpr word open = 1;
  static constexpr word called = 2;
  static constexpr word posted = 3;
  static constexpr std::uint64_t closed = 1;  // a bit of posted_, which counts by `one`
  static constexpr std::uint64_t one = 2;
  static constexpr std::uint64_t turns_apart = 1 << 16;  // the numbers between are those of posted items taken in a row
  static_assert(alignof(runnable) > 3, "a lane's address is none of these");
  static constexpr std::chrono::nanoseconds patience = std::chrono::microseconds(2);
  static constexpr std::chrono::nanoseconds lost_after = std::chrono::microseconds(50);

  bool give(word what) noexcept;
  void append_locked(runnable& lane) noexcept PENSTOCK_REQUIRES(m_);
  bool take_locked(ready& found) noexcept PENSTOCK_REQUIRES(m_);
  bool take_posted() noexcept;
  void tell_locked() noexcept PENSTOCK_REQUIRES(m_);
  sleeper* call_locked() noexcept PENSTOCK_REQUIRES(m_);
  sleeper* claim_sleeper_locked() noexcept PENSTOCK_REQUIRES(m_);
  word close_locked() noexcept PENSTOCK_REQUIRES(m_);
  bool look_out(std::chrono::nanoseconds bound, bool to_the_end) noexcept;
  void wake_measured(sleeper* chosen) noexcept;
  static void wake(sleeper* chosen) noexcept;
  void ring() noexcept;
  sleeper* find_locked(const detail::working_look& worker) noexcept PENSTOCK_REQUIRES(m_);
  /// What the lookout has been given and does not have yet.
  word given_locked() const noexcept PENSTOCK_REQUIRES(m_) { return looks_out_ ? lookout_.load() : spent; }
  bool anything_locked() const noexcept PENSTOCK_REQUIRES(m_) { return first_ != nullptr || posted_.load() >= one; }

  const clock& time_;
  const bool adapts_;
  const bool may_look_;
  // On a line of its own, which only the lookout and who gives to it touch.
  alignas(64) sync::atomic<word> lookout_{spent};
  // Written under the mutex, read without.
  alignas(64) sync::atomic<std::uint32_t> attention_{0};
  sync::atomic<bool> rings_{false};  // whoever takes something next rings the bell
  alignas(64) sync::atomic<std::uint64_t> posted_{0};
  alignas(64) mutex m_;  // protects what follows; taken with no other lock held
  spin_gauge gauge_ PENSTOCK_GUARDED_BY(m_);
  runnable* first_ PENSTOCK_GUARDED_BY(m_) = nullptr;
  runnable* last_ PENSTOCK_GUARDED_BY(m_) = nullptr;
  std::size_t lanes_ PENSTOCK_GUARDED_BY(m_) = 0;
  sleeper* sleepers_ PENSTOCK_GUARDED_BY(m_) = nullptr;  // last in, first out: the warmest wakes
  unsigned sleeping_ PENSTOCK_GUARDED_BY(m_) = 0;
  unsigned looking_ PENSTOCK_GUARDED_BY(m_) = 0;  // woken or the lookout, and has not taken anything yet
  bool looks_out_ PENSTOCK_GUARDED_BY(m_) = false;
  bool posted_turn_ PENSTOCK_GUARDED_BY(m_) = false;
  bool stopping_ PENSTOCK_GUARDED_BY(m_) = false;
  std::uint64_t turns_ PENSTOCK_GUARDED_BY(m_) = 0;
  sleeper* enlisted_ PENSTOCK_GUARDED_BY(m_) = nullptr;
  std::shared_ptr<detail::worker_bell> bell_ PENSTOCK_GUARDED_BY(m_);
};

}  // namespace penstock::exec
