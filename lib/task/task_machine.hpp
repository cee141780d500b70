// What a background task does next: a pure state machine.
// Floor 4, room task.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/task/task_options.hpp>

#include <cstdint>
#include <optional>
#include <vector>

namespace penstock::detail {

enum class task_phase : std::uint8_t { starting, running, pausing, ended };
enum class task_fate : std::uint8_t { none, completed, failed, cancelled, dropped };
enum class task_event : std::uint8_t {
  begun,           ///< a worker has come to it
  completed,       ///< the body returned
  failed,          ///< the body threw
  cancelled,       ///< the body ended by a request to stop, or never began because of one
  dropped,         ///< its pool has ended
  stop_requested,
  pause_over,
};

/// What has to be done, in this order.
struct task_actions {
  bool report = false;    ///< tell on_failure
  bool disarm = false;    ///< the pause
  bool ask = false;       ///< tell the body to stop
  bool start = false;     ///< the body, again
  bool pause = false;     ///< for `pause_for`
  bool escalate = false;  ///< tell on_escalate
  bool end = false;       ///< it is over: `fate` says how
  std::chrono::nanoseconds pause_for{};
};

/// One task's life. Whoever calls it holds the task's lock.
///
///   starting --begun--> running --completed, cancelled, failed for good, dropped--> ended
///   running --failed, may be started again--> pausing --pause_over--> starting
///   pausing --stop_requested, dropped--> ended
///   starting --completed, cancelled, failed, dropped: as running (the end may be seen before the beginning)
/// A stop is asked for once, and never undone; after it nothing is started again.
class task_machine {
 public:
  /// Throws std::bad_alloc.
  explicit task_machine(const std::optional<restart_policy>& policy);
  task_actions on(task_event event, steady_time now, std::uint64_t random) noexcept;

  task_phase phase() const noexcept { return phase_; }
  task_fate fate() const noexcept { return fate_; }
  bool stop_requested() const noexcept { return stop_requested_; }
  bool ever_begun() const noexcept { return runs_ > 0; }
  std::uint64_t runs() const noexcept { return runs_; }
  std::uint64_t failures() const noexcept { return failures_; }

 private:
  void end(task_fate how, task_actions& actions) noexcept;
  void body_failed(steady_time now, std::uint64_t random, task_actions& actions) noexcept;

  const std::optional<restart_policy> policy_;
  /// The instants of the last failures, as many as the policy allows restarts: a ring.
  std::vector<steady_time> last_failures_;
  std::uint64_t failures_ = 0;
  std::uint64_t runs_ = 0;
  task_phase phase_ = task_phase::starting;
  task_fate fate_ = task_fate::none;
  bool stop_requested_ = false;
};

}  // namespace penstock::detail
