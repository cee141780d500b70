// What a shutdown left behind.
// Floor 7, room runtime.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/bus/ledger.hpp>
#include <penstock/task/task_report.hpp>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace penstock {

/// One subscription at the end of a shutdown.
struct subscription_report {
  std::string name;
  std::string event;
  penstock::ledger ledger;
};

/// A call that had not ended when the pools had stopped: a thread is inside it, or it waits for what never came.
struct stuck_call {
  std::string subscription;
  std::string event;
  std::uint64_t sequence = 0;
  std::chrono::nanoseconds at_least{};  ///< how long it has been running, at least
  std::string file;                     ///< where its subscription was made
  unsigned line = 0;
};

/// The account of one shutdown. Every ledger in it balances.
class PENSTOCK_API shutdown_report {
 public:
  shutdown_report();

  /// Everything offered was handled, filtered, failed or refused by its policy: nothing was discarded, nothing is
  /// stuck, no task is left or was cut off by the end of its pool, and no loop had to be cut.
  bool clean() const noexcept;
  /// Events that had a seat and were never begun, in all subscriptions.
  std::uint64_t undelivered() const noexcept;

  std::string reason;
  std::chrono::nanoseconds elapsed{};
  bool drained = false;  ///< everything came to rest before the deadline
  std::vector<subscription_report> subscriptions;
  bool forced = false;   ///< `force_shutdown` cut it short
  std::vector<stuck_call> stuck;
  /// Those that had not ended when it began, as they were when the pools had stopped. `running`: a thread is inside it;
  /// or it is `suspended`, and has been abandoned where it waits, on a pool that is not the runtime's. `closed`: it was
  /// cut off by the end of its pool.
  task_report tasks;
  /// Subscriptions that fed each other, the last one the first, for 64 generations of events since the drain began: what handlers
  /// published after that was refused with `closed`. Empty: none did. When the ring goes through a stream's reader, which
  /// nobody sees, they are all those that were still being fed.
  std::vector<std::string> loop;
  unsigned abandoned_workers = 0;  ///< threads left inside a stuck call
};

/// Several lines for people: one per subscription, then what is stuck.
PENSTOCK_API std::string to_string(const shutdown_report& report);

}  // namespace penstock
