// What a shutdown does next: a pure state machine.
// Floor 7, room runtime.
#pragma once

#include <penstock/base/clock.hpp>

#include <cstdint>

namespace penstock {

/// The order of the end.
enum class shutdown_phase : std::uint8_t {
  open,            ///< nobody has asked
  stopping_tasks,  ///< the tasks that stop first have been asked; everybody may publish
  draining,        ///< only what deliveries cause is taken; until nothing is queued, running or pending
  closing,         ///< drained: every subscription handles what was admitted last, and ends
  cancelling,      ///< not drained: queues are discarded, calls are asked to stop
  stopping_kept,   ///< the tasks that handlers depended on have been asked
  done,            ///< the pools have to be stopped and the account made
};
const char* to_string(shutdown_phase phase) noexcept;

enum class shutdown_event : std::uint8_t {
  begin,            ///< somebody asked
  condition_holds,  ///< what the phase waits for
  time_passed,      ///< the phase's deadline
  force,            ///< somebody asked for the end at once
};

/// What has to be done on entering a phase, in this order.
struct shutdown_actions {
  bool ask_first_tasks = false;  ///< no task is taken any more; those that stop first are asked to
  bool close_intake = false;     ///< and begin to drain, until `drain_until`
  bool close_bus = false;        ///< nothing is taken any more
  bool end_drained = false;      ///< each subscription ends when its queue is empty
  bool cancel_calls = false;     ///< each subscription is stopped and its calls are asked to
  bool abandon_calls = false;    ///< what still runs is left to itself, by name
  bool ask_kept_tasks = false;
  bool finish = false;
  bool operator==(const shutdown_actions&) const = default;
};

/// One budget for all phases: the tasks that stop first may use three tenths of it, the drain ends at nine tenths, the calls
/// that are cancelled have the rest; with kept tasks it is eight and nine tenths, and the rest is theirs. What a phase leaves
/// goes to those after it.
class shutdown_machine {
 public:
  shutdown_actions on(shutdown_event event, steady_time now) noexcept;
  /// `begin` with its budget; a second one changes nothing.
  shutdown_actions begin(steady_time now, steady_time deadline, bool keeps_tasks = false) noexcept;

  shutdown_phase phase() const noexcept { return phase_; }
  bool begun() const noexcept { return phase_ != shutdown_phase::open; }
  bool forced() const noexcept { return forced_; }
  /// Everything came to rest and ended by itself.
  bool drained() const noexcept { return drained_; }
  steady_time began() const noexcept { return began_; }
  /// Of all.
  steady_time deadline() const noexcept { return deadline_; }
  /// Of the phase it is in.
  steady_time phase_deadline() const noexcept;
  steady_time drain_until() const noexcept { return share(keeps_tasks_ ? 8 : 9); }

 private:
  steady_time share(int tenths) const noexcept;
  shutdown_actions enter(shutdown_phase next) noexcept;

  shutdown_phase phase_ = shutdown_phase::open;
  bool forced_ = false;
  bool keeps_tasks_ = false;
  bool drained_ = false;
  steady_time began_{};
  steady_time deadline_ = no_deadline;
};

}  // namespace penstock
