// Background tasks as seen from outside: one task, all of them, and what the end of a registry left.
// Floor 4, room task.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/exec/cancelled.hpp>
#include <penstock/task/task_options.hpp>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace penstock {

/// Where a task is in its life.
enum class task_status : unsigned char {
  running,    ///< not ended: it waits for a worker, runs, or pauses before it is started again
  completed,  ///< returned
  failed,     ///< threw; `on_failure` was told
  cancelled,  ///< was asked to stop, and ended by that, or before it began
  closed,     ///< its pool ended under it
};
PENSTOCK_API const char* to_string(task_status status) noexcept;

/// One task.
struct task_info {
  std::uint64_t id = 0;  ///< unique in its registry
  std::string name;
  std::string owner;  ///< the group it belongs to; empty: none
  std::string pool;
  std::string file;  ///< where it was spawned
  unsigned line = 0;
  task_status status = task_status::running;
  bool started = false;  ///< its body has begun at least once
  bool pausing = false;  ///< between a failure and the next start
  bool suspended = false;  ///< a coroutine that has begun, and that no thread is inside
  stop_order order = stop_order::stop_first;
  std::chrono::nanoseconds age{};      ///< since it was spawned
  std::chrono::nanoseconds running{};  ///< since its body last began; zero unless it is in it
  std::uint64_t runs = 0;
  std::uint64_t failures = 0;
  std::string last_failure;  ///< type and text
  std::uint64_t ticks = 0;   ///< of a periodic task: bodies begun
  std::uint64_t missed = 0;  ///< of a periodic task: ticks left out
  bool stop_requested = false;
  cancel_kind stop_kind = cancel_kind::requested;
  std::string stop_by;  ///< who asked
  std::string stop_reason;
};

/// The account of a registry: `spawned = completed + failed + cancelled + closed + running`, always.
struct task_counts {
  std::uint64_t spawned = 0;
  std::uint64_t completed = 0;
  std::uint64_t failed = 0;
  std::uint64_t cancelled = 0;
  std::uint64_t closed = 0;
  std::uint64_t running = 0;
  std::uint64_t refused = 0;  ///< asked for after the end had begun; not among the spawned
  bool balanced() const noexcept { return spawned == completed + failed + cancelled + closed + running; }
};

/// What became of each task that ran when the closing began.
class PENSTOCK_API task_report {
 public:
  task_report();
  /// None is left running.
  bool clean() const noexcept;
  /// How many are left running.
  std::size_t left() const noexcept;
  /// How many ended because their pool did.
  std::size_t cut_off() const noexcept;

  std::vector<task_info> tasks;  ///< in the order they were spawned
  task_counts counts;
  std::chrono::nanoseconds elapsed{};
};

/// One line for each task, those that are left first.
PENSTOCK_API std::string to_string(const task_report& report);
/// One line.
PENSTOCK_API std::string to_string(const task_info& task);
PENSTOCK_API std::string to_string(const task_counts& counts);

}  // namespace penstock
