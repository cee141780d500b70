// A subscription as the core has it: channel, lanes or readers, handler, and the gate under which its code runs.
// Floor 5, room bus.
#pragma once

#include "base/mutex.hpp"
#include "base/ref_count.hpp"
#include "bus/access.hpp"
#include "bus/handler_lane.hpp"
#include "bus/stream_core.hpp"
#include "exec/watched.hpp"
#include "sync/channel.hpp"

#include <penstock/bus/event_bus.hpp>
#include <penstock/bus/ledger.hpp>
#include <penstock/exec/scheduler.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

namespace penstock::detail {

class bus_core;
class topic;

/// What a subscription has besides a plain handler. Made only when there is any of it.
struct call_extras {
  drop_hook on_drop;
  undelivered_hook on_undelivered;
  event_filter filter;
  bool retries = false;
  retry_policy retry;
  failure_policy failure = failure_policy::keep_going();

  /// The breaker: closed → (so many failures in a row) tripped → (a lane claims the probe) probing → closed or tripped.
  enum class breaker_state : std::uint32_t { closed, tripped, probing };
  sync::atomic<std::uint32_t> breaker{static_cast<std::uint32_t>(breaker_state::closed)};
  sync::atomic<std::uint32_t> failures_in_a_row{0};
  std::atomic<std::uint64_t> filtered{0};

  bool breaks() const noexcept { return failure.what() == failure_policy::action::pause; }
  bool needed() const noexcept {
    return on_drop || on_undelivered || filter || retries || failure.what() != failure_policy::action::keep_going;
  }
};

/// Life: open → (draining →) stopped → gate closed → reaped → memory freed with the last reference.
/// References: the user's handle, the bus's list until reaped, each topic snapshot it is in, each queued or running lane,
/// each open call, each waiter in its line, each delivery.
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
    unsigned concurrency = 1;  ///< 0: a stream
    std::size_t max_parked = 64;
    std::size_t max_in_flight = 0;
    unsigned max_attempts = 0;
    burial dead_letters = nullptr;  ///< of a stream of them
  };
  /// Takes the handler over. Throws std::bad_alloc; then it has not.
  subscription_core(recipe&& made, const sync::channel::config& channel, handler_object& handler,
                    std::unique_ptr<call_extras> extras);
  ~subscription_core();

  /// Sees to a consumer whose wake-up has been claimed.
  void wake() noexcept;

  void stop() noexcept { finish_stop(begin_stop()); }
  /// `stop` in two steps. First no call starts any more, and who waits is told; then what is queued is discarded, by
  /// the one who began: its hooks may take their time.
  enum class stopping : std::uint8_t {
    none,     ///< it was stopped before
    outside,  ///< of the gate, which a drain has closed
    inside,
  };
  stopping begin_stop() noexcept;
  void finish_stop(stopping begun) noexcept;
  void begin_drain() noexcept;
  /// Wakes threads and tasks that wait here, with `closed`; handlers' outputs stay in line.
  void release_callers() noexcept;
  void request_stop(std::shared_ptr<const cause> why) noexcept;
  const stop_request& stop_asked() const noexcept { return stop_; }
  /// Asks for the closure to be destroyed elsewhere, if nobody is inside any more.
  void reap_later() noexcept;
  /// Destroys the closure here, if nobody is inside any more. True: it is gone now (by whomever).
  bool try_reap() noexcept;
  bool ended() const noexcept { return ended_.load() != 0; }
  /// False: the deadline passed.
  bool wait_ended(steady_time deadline, const std::atomic<bool>* give_up = nullptr);
  void wake_waiters() noexcept;
  /// A closer that holds no thread. `watch` is false when it has ended already; `unwatch` is false when it has been told, or
  /// is being told.
  bool watch_end(close_operation& closer) noexcept;
  bool unwatch_end(close_operation& closer) noexcept;

  /// Tells the user's hook of one dropped event. The caller is inside the gate since before the drop was counted, so that
  /// no drop is counted and not told.
  void tell_drop(const void* payload, drop_reason reason) noexcept;
  /// The gate: whoever is inside keeps the closure alive. False: it has closed.
  bool enter() noexcept;
  void leave_gate() noexcept;
  bool has_drop_hook() const noexcept { return extras_ != nullptr && extras_->on_drop; }
  /// Tells the user's hook of one event that is discarded, exactly once. The caller is inside the gate.
  void tell_undelivered(const void* payload, std::uint64_t sequence, unsigned attempt, steady_time published) noexcept;

  penstock::ledger ledger() noexcept;
  /// Nothing is queued, running or pending, or it is paused and the bus is draining.
  bool at_rest() noexcept;
  /// Whether the events of the first `seats` seats have ended, or it is at rest. With several calls at once it may say so an
  /// instant early, while a lane has an event in hand and has not noted which.
  bool ended_through(std::uint64_t seats) noexcept;
  /// Waits until it is at rest. False: the deadline passed.
  bool wait_quiescent(steady_time deadline);
  void notify_idle() noexcept;
  /// The oldest call in progress, or 0.
  std::uint64_t running_sequence() const noexcept;
  subscription_state state() const noexcept;
  subscription_snapshot snapshot();
  void watch(std::vector<watched_call>& calls) const;
  /// The same as before: no event has begun or ended since.
  std::uint64_t progress() noexcept;
  /// Delays and pauses look whether they still may go on.
  void look_at_lanes() noexcept;
  void resume() noexcept;
  bool paused() const noexcept;

  lane* first_lane() const noexcept { return concurrency_ > 0 ? &lanes_[0] : nullptr; }
  lane* lane_after(const lane& each) const noexcept {
    return &each == &lanes_[concurrency_ - 1] ? nullptr : const_cast<lane*>(&each) + 1;
  }
  stream_core* stream() const noexcept { return stream_.get(); }
  /// Whether its events are dead letters; then this makes one, inside the gate.
  bool makes_dead_letters() const noexcept { return handler_.dead_letters != nullptr; }
  void* make_dead_letter(void* event_block, dead_letter_text&& text) const noexcept {
    return handler_.dead_letters(event_block, static_cast<dead_letter_text&&>(text));
  }
  /// A stream in a drain may have become empty.
  void close_gate_if_drained() noexcept;

  // Before the channel, which begins a cache line of its own: here they fill the one before it.
  const std::string name;
  const char* const file;  ///< where subscribe was called; the bus keeps the text
  const unsigned line;
  const std::uint32_t max_parked;
  sync::channel channel;
  const std::uint64_t id;
  const scheduler_ptr pool;
  bus_core& bus() const noexcept { return *bus_; }
  detail::topic& topic() const noexcept { return *topic_; }
  const std::string& event() const noexcept;
  bool removed = false;  ///< guarded by the topic's mutex: not to be in a further snapshot
  std::atomic<bool> abandoned{false};

  /// The wait graph's, guarded by its mutex.
  struct {
    std::uint32_t seen = 0;
    bool alive = false;
    subscription_core* next = nullptr;
  } walk;

 private:
  friend class lane;
  friend class reaper;
  static constexpr std::uint64_t gate_closed = std::uint64_t{1} << 63;
  static constexpr std::uint64_t gate_reaped = std::uint64_t{1} << 62;
  static constexpr std::uint64_t gate_count = gate_reaped - 1;

  /// True: the gate is closed and this was the last one inside: somebody has to reap.
  bool leave() noexcept;
  void close_gate() noexcept { gate_.fetch_or(gate_closed); }
  void schedule(lane& woken) noexcept;
  bool go_to_sleep(lane& self) noexcept;
  void wake_another() noexcept;
  lane* pop_sleeper() noexcept;

  // the breaker
  using breaker_state = call_extras::breaker_state;
  void call_succeeded() noexcept;
  void call_failed(const failure* record) noexcept;
  bool claim_probe() noexcept;
  bool begins_calls() const noexcept;

  const ref_ptr<bus_core> bus_;
  const ref_ptr<detail::topic> topic_;
  const unsigned concurrency_;
  const std::unique_ptr<lane[]> lanes_;
  const std::unique_ptr<call_extras> extras_;  // its hooks are constant until reaped
  std::unique_ptr<stream_core> stream_;
  reaper reaper_;
  handler_object handler_;  // constant until reaped
  stop_request stop_;

  /// Bits: 63 closed (nobody enters), 62 reaped, the rest: how many lanes, hooks and closers are inside.
  sync::atomic<std::uint64_t> gate_{0};
  /// Lanes between their entry and the end of their turn, open calls included. A drained channel closes its gate when it is
  /// 0: a call that runs may still have outputs. Whoever drains sets the phase, then looks here; a lane lowers this, then
  /// looks at the phase.
  sync::atomic<std::uint32_t> working_{0};
  sync::atomic<std::uint32_t> ended_{0};        // 1: reaped
  sync::atomic<std::uint32_t> end_changes_{0};  // moves when closers have to look again
  sync::atomic<std::uint32_t> idle_watchers_{0};
  sync::atomic<std::uint32_t> idle_changes_{0};
  std::atomic<std::uint64_t> last_lost_{0};  // of a stamped channel: known lost when an event began

  mutex sides_m_;  // protects what follows; taken with no other lock held
  lane* sleepers_ PENSTOCK_GUARDED_BY(sides_m_) = nullptr;
  close_operation* end_watchers_ PENSTOCK_GUARDED_BY(sides_m_) = nullptr;
};

}  // namespace penstock::detail
