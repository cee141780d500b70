// Worker threads that run lanes and posted work.
// Floor 2, room exec.
#pragma once

#include <penstock/base/failure.hpp>
#include <penstock/exec/pool_snapshot.hpp>
#include <penstock/exec/scheduler.hpp>

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

/// What an idle worker does before it sleeps. Whichever it is, a pool has one worker that looks at most; and what is
/// ready never waits while a worker sleeps. `bench/run --only E,J` prints what each costs on a machine.
enum class wait_strategy {
  /// Sleeps at once, or about a microsecond after a lane has worked. Idle costs nothing; each event that finds all asleep
  /// costs its publisher a system call (some microseconds), and its handler starts a wake-up later (some tens of
  /// microseconds between cores).
  park,
  /// Looks for `spin_time`, then sleeps. An event that comes meanwhile costs its publisher no system call, and its
  /// handler starts within a microsecond. Costs up to `spin_time` of a core for each event, also where it catches none.
  spin_then_park,
  /// As `spin_then_park` while that has been paying off, that is while most looks caught something; as `park`
  /// otherwise: when events come rarely, when nothing comes, when threads share a core, and on a machine with one core.
  adaptive,
};

/// How a pool is built.
class PENSTOCK_API worker_pool_options {
 public:
  worker_pool_options();
  worker_pool_options(worker_pool_options&&) noexcept;
  worker_pool_options& operator=(worker_pool_options&&) noexcept;
  ~worker_pool_options();

  /// How many threads; at least 1. Default: the machine's cores, at least 2.
  worker_pool_options& threads(unsigned count) &;
  worker_pool_options&& threads(unsigned count) &&;
  /// How many events a lane may handle before it yields its worker; at least 1. Default 64.
  worker_pool_options& budget(unsigned events) &;
  worker_pool_options&& budget(unsigned events) &&;
  /// What an idle worker does. Default: adaptive.
  worker_pool_options& wait(wait_strategy strategy) &;
  worker_pool_options&& wait(wait_strategy strategy) &&;
  /// The same, with how long it looks at most: clamped to 1 ms. Default: 20 µs for `spin_then_park`, 100 µs for
  /// `adaptive`, which looks for less where a wake-up takes less than some ten microseconds. Of no meaning for `park`.
  worker_pool_options& wait(wait_strategy strategy, std::chrono::nanoseconds spin_time) &;
  worker_pool_options&& wait(wait_strategy strategy, std::chrono::nanoseconds spin_time) &&;
  /// Whether posted work may wait (a blocking pool). Such a pool serves no subscription. Default: no.
  worker_pool_options& may_wait(bool yes) &;
  worker_pool_options&& may_wait(bool yes) &&;
  /// Called first thing on each started thread with its index, for affinity or naming. What it throws fails the start.
  worker_pool_options& on_thread_start(unique_function<void(unsigned)> hook) &;
  worker_pool_options&& on_thread_start(unique_function<void(unsigned)> hook) &&;
  /// Called when posted work throws, or when a worker was lost to thread cancellation and has been replaced. Default: a
  /// line on standard error, ten in a second; how many more there were comes with the next one, and at the latest when
  /// the pool stops.
  worker_pool_options& on_failure(unique_function<void(const failure&)> hook) &;
  worker_pool_options&& on_failure(unique_function<void(const failure&)> hook) &&;

  struct fields;
  const fields& get() const noexcept { return *fields_; }
  fields& get() noexcept { return *fields_; }
  bool moved_from() const noexcept { return fields_ == nullptr; }

 private:
  fields& made();
  std::unique_ptr<fields> fields_;
};

/// A pool of own threads. Its workers block all signals; their names are the pool's name and a number.
class PENSTOCK_API worker_pool : public scheduler {
 public:
  /// Starts the threads. Throws std::system_error when one cannot start, after the others have been joined;
  /// `errc::invalid_argument` for zero threads, a zero budget, or an empty name.
  static std::shared_ptr<worker_pool> start(std::string_view name, worker_pool_options options);
  static std::shared_ptr<worker_pool> start(std::string_view name);

  /// Takes no more work, lets running calls end, drops what is queued, and joins the threads until `deadline`.
  /// Returns how many threads were still inside a call and have been left to themselves (they keep only the pool's core
  /// alive). Threads: any; on one of its own workers it joins the others and does not wait for itself.
  virtual unsigned stop(steady_time deadline) noexcept = 0;

  /// Runnables waiting for a worker, and workers asleep: a look from outside, already old when it returns.
  virtual std::size_t ready_approx() const noexcept = 0;
  virtual unsigned parked_approx() const noexcept = 0;
  virtual unsigned threads() const noexcept = 0;
  /// All of it. Throws std::bad_alloc.
  virtual pool_snapshot snapshot() const = 0;
};

}  // namespace penstock
