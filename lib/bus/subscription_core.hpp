// A subscription as the core has it: channel, lanes, handler, and the gate under which its code runs.
// Floor 5, room bus.
#pragma once

#include "base/ref_count.hpp"
#include "bus/access.hpp"
#include "sync/channel.hpp"

#include <penstock/base/call_site.hpp>
#include <penstock/base/failure.hpp>
#include <penstock/bus/event_bus.hpp>
#include <penstock/bus/ledger.hpp>
#include <penstock/exec/scheduler.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>

namespace penstock::detail {

class bus_core;
class topic;
class subscription_core;

/// A serial execution context of one subscription. At any time it is in exactly one place: asleep (its token is in the
/// channel's idle word, or it is in the core's list of sleepers), in a ready list, running, or resting on its outputs.
class lane final : public runnable {
 public:
  void run(unsigned budget) override;
  void dropped() noexcept override;

  /// For a publish in one of this lane's calls: a further output will be parked. False: `max_parked` are.
  bool begin_output() noexcept;
  /// That output was decided at once, or is decided now; the last one wakes a resting lane.
  void output_decided() noexcept;
  bool has_outputs() const noexcept { return outputs_.load() > 0; }

  subscription_core* core = nullptr;
  lane* next_sleeping = nullptr;  // guarded by the core's sleepers_m_

  // Written by the lane alone, read by ledgers.
  std::atomic<std::uint64_t> handled{0};
  std::atomic<std::uint64_t> failed{0};
  std::atomic<std::uint64_t> running{0};  ///< the sequence number of the call in progress, or 0

 private:
  enum class turn_end : std::uint8_t { asleep, yielded, resting, stopped };
  turn_end drain(unsigned budget);
  void finish(turn_end end) noexcept;
  void handler_threw(std::uint64_t sequence) noexcept;

  /// Outputs in line, plus one while a call that parked one is running: so that only a resting lane is woken.
  sync::atomic<std::uint32_t> outputs_{0};
  bool counted_itself_ = false;  // the lane's own
};

/// Destroys the closure on a worker, for those who may not do it on their own stack.
class reaper final : public runnable {
 public:
  void run(unsigned budget) override;
  void dropped() noexcept override;
  subscription_core* core = nullptr;
  sync::atomic<std::uint32_t> queued{0};  ///< 1: in a ready list
};

/// Life: open → (draining →) stopped → gate closed → reaped → memory freed with the last reference.
/// References: the user's handle, the bus's list until reaped, each topic snapshot it is in, each queued or running lane,
/// each waiter in its line.
class subscription_core final : public ref_counted<subscription_core> {
 public:
  struct recipe {
    ref_ptr<bus_core> bus;
    ref_ptr<detail::topic> topic;
    std::string name;
    const char* file = "";
    unsigned line = 0;
    scheduler_ptr pool;
    std::uint64_t id = 0;
  };
  /// Takes the handler and the hook over. Throws std::bad_alloc; then it has taken nothing.
  subscription_core(recipe&& made, const sync::channel::config& channel, unsigned concurrency, std::size_t max_parked,
                    handler_object& handler, drop_hook& hook);
  ~subscription_core();

  /// Schedules a consumer whose wake-up has been claimed.
  void wake() noexcept;

  void stop() noexcept;
  void begin_drain() noexcept;
  /// Wakes threads that wait here, with `closed`; handlers' outputs stay in line.
  void release_callers() noexcept;
  void request_stop() noexcept { stop_source_.request_stop(); }
  /// Asks for the closure to be destroyed elsewhere, if nobody is inside any more.
  void reap_later() noexcept;
  /// Destroys the closure here, if nobody is inside any more. True: it is gone now (by whomever).
  bool try_reap() noexcept;
  bool ended() const noexcept { return ended_.load() != 0; }
  /// False: the deadline passed.
  bool wait_ended(steady_time deadline);

  /// Tells the user's hook of one dropped event. The caller is inside the gate since before the drop was counted, so that
  /// no drop is counted and not told.
  void tell_drop(const void* payload, drop_reason reason) noexcept;
  /// The gate: whoever is inside keeps the closure alive. False: it has closed.
  bool enter() noexcept;
  void leave_gate() noexcept;
  bool has_drop_hook() const noexcept { return drop_hook_.invoke != nullptr; }

  penstock::ledger ledger() noexcept;
  /// Waits until nothing is queued, running or pending here. False: the deadline passed.
  bool wait_quiescent(steady_time deadline);
  void notify_idle() noexcept;
  /// The oldest call in progress, or 0.
  std::uint64_t running_sequence() const noexcept;

  sync::channel channel;
  const std::string name;
  const char* const file;  ///< where subscribe was called; the bus keeps the text
  const unsigned line;
  const std::uint64_t id;
  const std::size_t max_parked;
  const scheduler_ptr pool;
  bus_core& bus() const noexcept { return *bus_; }
  detail::topic& topic() const noexcept { return *topic_; }
  const std::string& event() const noexcept;
  bool removed = false;  ///< guarded by the topic's mutex: not to be in a further snapshot
  std::atomic<bool> abandoned{false};

 private:
  friend class lane;
  friend class reaper;
  static constexpr std::uint64_t gate_closed = std::uint64_t{1} << 63;
  static constexpr std::uint64_t gate_reaped = std::uint64_t{1} << 62;
  static constexpr std::uint64_t gate_count = gate_reaped - 1;

  /// True: the gate is closed and this was the last one inside: somebody has to reap.
  bool leave() noexcept;
  void close_gate() noexcept { gate_.fetch_or(gate_closed); }
  void close_gate_if_drained() noexcept;
  void schedule(lane& woken) noexcept;
  bool go_to_sleep(lane& self) noexcept;
  void wake_another() noexcept;
  lane* pop_sleeper() noexcept;

  const ref_ptr<bus_core> bus_;
  const ref_ptr<detail::topic> topic_;
  const unsigned concurrency_;
  const std::unique_ptr<lane[]> lanes_;
  reaper reaper_;
  handler_object handler_;  // constant until reaped
  drop_hook drop_hook_;     // constant until reaped
  std::stop_source stop_source_;

  /// Bits: 63 closed (nobody enters), 62 reaped, the rest: how many lanes, hooks and closers are inside.
  sync::atomic<std::uint64_t> gate_{0};
  /// Lanes between their entry and the end of their turn. A drained channel closes its gate when it is 0: a call that runs
  /// may still park outputs. Whoever drains sets the phase, then looks here; a lane lowers this, then looks at the phase.
  sync::atomic<std::uint32_t> working_{0};
  sync::atomic<std::uint32_t> ended_{0};        // 1: reaped
  sync::atomic<std::uint32_t> end_changes_{0};  // moves when closers have to look again
  sync::atomic<std::uint32_t> idle_watchers_{0};
  sync::atomic<std::uint32_t> idle_changes_{0};

  mutex sleepers_m_;  // protects sleepers_; taken with no other lock held
  lane* sleepers_ PENSTOCK_GUARDED_BY(sleepers_m_) = nullptr;
};

}  // namespace penstock::detail
