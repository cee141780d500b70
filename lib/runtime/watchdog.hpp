// The watchdog's shell: when it looks, at what, and whom it tells.
// Floor 7, room runtime.
#pragma once

#include "base/mutex.hpp"
#include "bus/bus_core.hpp"
#include "exec/watched.hpp"
#include "runtime/log.hpp"
#include "runtime/watchdog_machine.hpp"
#include "runtime/watchdog_options.hpp"

#include <penstock/exec/environment.hpp>
#include <penstock/exec/scheduler.hpp>

#include <memory>
#include <set>
#include <vector>

namespace penstock {

/// A source of what runs, besides the bus.
struct watched_source {
  /// Appends what may turn out to be stuck, and whose name is asked for by what runs it. On the watchdog's thread, with no lock held.
  unique_function<void(const std::set<const runnable*>&, std::vector<detail::watched_call>&)> look;
  /// Whether something of it runs where no pool rings. Under the watchdog's mutex: takes none.
  unique_function<bool()> elsewhere;
};

/// A timer of the environment's has it look, on a pool of its own with one worker: neither a pool whose workers are stuck
/// nor the timer thread can hold it up, and in a simulation it is one simulated worker more, in virtual time.
///
/// Always in one place: *resting* (every pool was found at rest and rings when it is no more; armed only if something that
/// holds no worker goes on), *armed* (for the next look), *queued*, or *looking*.
class watchdog final : public runnable, public detail::worker_bell, public std::enable_shared_from_this<watchdog> {
 public:
  /// Throws what making a pool throws.
  watchdog(watchdog_options&& options, execution_environment& environment, std::shared_ptr<log> lines);
  ~watchdog();
  /// Before `start`.
  void add_source(watched_source source) { sources_.push_back(std::move(source)); }
  /// Once. `core` and the pools are let go by `stop`.
  void start(detail::bus_core& core, std::vector<scheduler_ptr> pools);
  /// Looks no more, and tells nothing that has not begun to be told. Never waits.
  void stop() noexcept;

  void ring() noexcept override;
  void run(unsigned budget) override;
  void dropped() noexcept override;

 private:
  struct timer_slot {
    timer_node node;
    watchdog* owner = nullptr;
  };
  static void time_has_come(timer_node& fired) noexcept;
  void look();
  void tell(watchdog_finding& found, const std::vector<scheduler_ptr>& pools);
  void plan() noexcept;
  void arm_locked(steady_time due) noexcept PENSTOCK_REQUIRES(m_);

  const clock& time_;
  const std::chrono::nanoseconds every_;
  const std::shared_ptr<log> lines_;
  const scheduler_ptr own_pool_;
  std::vector<watched_source> sources_;
  // The looker's own.
  unique_function<void(const watchdog_report&)> on_report_;
  watchdog_machine machine_;

  timer_slot timer_;  // its node is armed and disarmed under m_

  mutex m_;  // protects what follows; the mutexes of the timers and of ready lists may be taken while it is held
  bool stopped_ PENSTOCK_GUARDED_BY(m_) = false;
  bool resting_ PENSTOCK_GUARDED_BY(m_) = false;
  bool armed_ PENSTOCK_GUARDED_BY(m_) = false;
  ref_ptr<detail::bus_core> core_ PENSTOCK_GUARDED_BY(m_);
  std::vector<scheduler_ptr> pools_ PENSTOCK_GUARDED_BY(m_);
  std::shared_ptr<watchdog> queued_ PENSTOCK_GUARDED_BY(m_);  // itself, while its pool has it
};

}  // namespace penstock
