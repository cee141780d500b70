// What a watchdog sees of a pool and of what runs, and how it is woken.
// Floor 2, room exec.
#pragma once

#include <penstock/base/export.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace penstock {
class runnable;
}

namespace penstock::detail {

/// Rung once by a pool that begins to work after it was found at rest, on the worker, before it runs anything.
class PENSTOCK_API worker_bell {
 public:
  virtual ~worker_bell();
  virtual void ring() noexcept = 0;
};

/// One worker inside a turn.
struct working_look {
  unsigned index = 0;              ///< its thread is `<pool>-<index + 1>`
  std::uint64_t turn = 0;          ///< no other turn of its pool has this number
  const runnable* runs = nullptr;  ///< null: posted work. To be compared, never followed
};

struct pool_look {
  std::string name;
  unsigned threads = 0;
  std::size_t ready = 0;  ///< what waits for a worker
  std::vector<working_look> working;
};

/// A pool as its watchdog sees it. Costs the workers two stores a turn, under the mutex of the ready list that they hold
/// anyway. Threads: thread-safe.
class PENSTOCK_API watched_pool {
 public:
  virtual ~watched_pool();
  /// Null: nobody watches any more.
  virtual void watch(std::shared_ptr<worker_bell> bell) noexcept = 0;
  /// Throws std::bad_alloc.
  virtual pool_look look() = 0;
  /// True: it is at rest, and rings when it is no more. False: somebody works, or something waits for a worker.
  virtual bool rest() noexcept = 0;
  /// It rings when something next begins, though it may not be at rest.
  virtual void ring_next() noexcept = 0;
  /// Where a worker stands, innermost frame first; empty: its turn is over, it did not answer, or its pool was not told to
  /// answer. Waits: 100 ms at most. Throws std::bad_alloc.
  virtual std::vector<std::string> stack_of(const working_look& worker) = 0;
};

/// One call or task in progress.
struct watched_call {
  /// When it goes on for too long.
  enum class span : unsigned char {
    whole,     ///< from its beginning on
    one_turn,  ///< while a worker has it in hand without a pause; it may wait for ever
    none,      ///< never: it is given for its name
  };
  span counts = span::whole;
  bool task = false;
  bool suspended = false;         ///< it holds no thread, unless a worker turns out to run it
  bool stop_requested = false;    ///< it has been asked to stop
  std::uint64_t owner = 0;        ///< the subscription's number, or the task's
  std::uint64_t sequence = 0;     ///< which of the owner's calls
  const runnable* runs = nullptr; ///< what a worker would have in hand that is inside it
  std::chrono::nanoseconds at_least{};  ///< how long, as far as its source knows
  std::string name;
  std::string event;
  std::string pool;
  std::string file;
  unsigned line = 0;
};

/// `from` cannot go on before something happens at `to`.
struct watched_wait {
  std::uint64_t from = 0;
  std::uint64_t to = 0;
  const runnable* task = nullptr;  ///< who waits is the task that this runs; `from` and its names are found by that
  bool close = false;          ///< it waits for the end of `to`, not for a seat
  std::uint64_t progress = 0;  ///< the same as before: nothing has moved
  std::string from_name;
  std::string to_name;
  std::string file;  ///< where `from` was subscribed
  unsigned line = 0;
};

}  // namespace penstock::detail
