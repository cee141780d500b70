// The scheduler seam: the one interface through which everything is executed.
// Floor 2, room exec.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/errc.hpp>
#include <penstock/base/export.hpp>
#include <penstock/base/unique_function.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace penstock {

/// Something that can wait in a ready list: a lane. Intrusive, so that scheduling allocates nothing.
class PENSTOCK_API runnable {
 public:
  runnable() noexcept = default;
  runnable(const runnable&) = delete;
  runnable& operator=(const runnable&) = delete;

  /// Runs on a worker. `budget` is how many events it may handle before it has to yield; it asks to be scheduled again
  /// itself. May be left by `abi::__forced_unwind` only.
  virtual void run(unsigned budget) = 0;
  /// Called instead of `run` when the scheduler ends with this still in its list.
  virtual void dropped() noexcept = 0;

  runnable* next_ready = nullptr;    ///< owned by the scheduler while this is in its list
  std::uint64_t scheduler_mark = 0;  ///< owned by the scheduler: a simulation numbers what it has seen

 protected:
  ~runnable() = default;
};

/// A timer that allocates nothing when it is armed: the node lies in whoever waits.
class timer_node {
 public:
  steady_time due{};
  /// On the timer thread, or early, on whoever stops the timers; must be short, must not wait.
  void (*fire)(timer_node&) noexcept = nullptr;
  std::size_t heap_index = not_armed;
  static constexpr std::size_t not_armed = static_cast<std::size_t>(-1);
  bool background = false;  ///< a simulation does not go on for its sake alone
};

/// Arms and disarms timers. Threads: thread-safe.
class PENSTOCK_API timer_service {
 public:
  virtual ~timer_service();
  /// Errors: not_enough_memory, also of threads; closed; forked. Then nothing is armed.
  virtual errc arm(timer_node& node) noexcept = 0;
  /// True: it was armed and will not fire. False: it has fired, is firing now, or was not armed.
  virtual bool disarm(timer_node& node) noexcept = 0;
  /// Arms nothing any more; what is armed fires now, before its time. Default: does nothing.
  virtual void stop() noexcept;
};

/// Something that lives as long as an environment and may have threads of its own: what a header-only part keeps.
class PENSTOCK_API environment_part {
 public:
  virtual ~environment_part();
  /// The runtime ends: join threads, start nothing more.
  virtual void stop() noexcept;
  /// In a simulation, after each step: what is wrong, with the cure; null: nothing.
  virtual const char* complaint() noexcept;
};

/// The parts of one environment. Threads: thread-safe.
class PENSTOCK_API environment_parts {
 public:
  explicit environment_parts(bool simulated);
  ~environment_parts();
  bool simulated() const noexcept;
  /// The part of that name; the first caller makes it. Throws what `make` throws, and std::system_error: `closed` after
  /// the end, `forked` in a child process.
  std::shared_ptr<environment_part> find(const char* name, std::shared_ptr<environment_part> (*make)(environment_parts&));
  void stop() noexcept;
  const char* complaint() noexcept;

 private:
  struct state;
  const std::unique_ptr<state> state_;
};

namespace detail {
class watched_pool;
}  // namespace detail

/// Where lanes run. Three kinds exist: `worker_pool` (threads), a service's own executor (`on_executor`), and
/// `testing::simulation` (one thread, a seed, a virtual clock). Threads: thread-safe.
class PENSTOCK_API scheduler {
 public:
  virtual ~scheduler();

  /// Puts a runnable at the end of the ready list. The caller guarantees that it is in no list now.
  /// Cost: no allocation. Waits: never.
  virtual void schedule(runnable& item) noexcept = 0;

  /// The same, called by the item itself as the last thing in `run`: its worker is about to look for work anyway, so no
  /// other one need be woken.
  virtual void schedule_again(runnable& item) noexcept { schedule(item); }

  /// Runs `work` once, on some worker. Order: none promised. Cost: on a pool of threads what `unique_function` says.
  /// Errors: closed, not_enough_memory; then `work` has been destroyed unrun.
  /// A publish from `work` that would have to wait is refused with `would_block`, unless the pool may wait.
  [[nodiscard]] virtual errc post(unique_function<void()> work) = 0;

  virtual const clock& time() const noexcept = 0;
  virtual timer_service& timers() noexcept = 0;
  virtual const std::string& name() const noexcept = 0;
  /// What its environment keeps; null: it has none.
  virtual std::shared_ptr<environment_parts> parts() const noexcept { return nullptr; }
  /// Whether what runs here may wait for others: a pool for blocking work, which serves no subscription.
  virtual bool may_wait() const noexcept { return false; }
  /// Something that runs here is about to wait, with more to do when it is scheduled again; and it has been, or never
  /// will be. Counted. For an executor of Asio's that is outstanding work.
  virtual void hold_work() noexcept {}
  virtual void release_work() noexcept {}
  /// What a lane does that worked and has nothing left, before it rests.
  enum class when_empty : unsigned char {
    rest,        ///< nothing: it rests at once
    look_again,  ///< nothing else waits for its worker: it may look again for about a microsecond
    yield,       ///< something else does: it is scheduled again once, and looks when its turn comes
  };
  virtual when_empty after_work() const noexcept { return when_empty::rest; }
  /// Why it drops what is scheduled: it has ended, or this is a child process (`forked`).
  virtual errc why_dropped() const noexcept { return errc::closed; }
  /// For the runtime's watchdog; null: nobody can see its workers.
  virtual detail::watched_pool* watched() noexcept { return nullptr; }
};

/// Timers on a thread of their own, in real time, for executors that penstock does not own. Throws std::bad_alloc.
PENSTOCK_API std::shared_ptr<timer_service> real_timers();

using scheduler_ptr = std::shared_ptr<scheduler>;

}  // namespace penstock
