// A lane of a subscription: takes events, runs the handler, and holds a call that outlives its turn.
// Floor 5, room bus.
#pragma once

#include "base/forced_unwind.hpp"
#include "bus/access.hpp"
#include "bus/wait_graph.hpp"
#include "exec/lane_queue.hpp"
#include "sync/atomic.hpp"
#include "sync/channel.hpp"

#include <penstock/base/failure.hpp>
#include <penstock/bus/call.hpp>
#include <penstock/exec/lane.hpp>
#include <penstock/exec/task.hpp>

#include <atomic>
#include <cstdint>
#include <memory>

namespace penstock::detail {

class subscription_core;

class lane;

/// The root of a handler's coroutine; used again for each call.
class handler_root final : public task_root {
 public:
  explicit handler_root(lane& owner) noexcept;
  /// For the next call. `why`: a request to stop that is in force already, or null.
  void prepare(const std::shared_ptr<const cause>* why) noexcept;
  void abandoned() noexcept override { ended = given_up = true; }
  bool ended = false;
  bool given_up = false;  ///< its frames are to be destroyed where they wait

 private:
  void finished() noexcept override { ended = true; }
};

/// What a call needs that may outlive its turn. A lane has one when its handler is a coroutine, is retried, or may be paused.
struct long_call {
  explicit long_call(lane& owner) noexcept;

  struct item : lane_item {
    lane* owner = nullptr;
  };
  struct timer_slot {
    timer_node node;
    lane* owner = nullptr;
  };

  alignas(largest_in_place_align) std::byte slot[largest_in_place];
  call info;
  handler_root root;
  task<void> work;
  item look;                                  ///< put on the lane when something has changed that an open call looks at
  sync::atomic<std::uint32_t> look_put{0};
  item timer_came;
  timer_slot timer;
  bool timer_fired = false;
  lane_item* left = nullptr;                  ///< taken from the queue, not yet run
  close_operation* closes = nullptr;          ///< begun in this lane's calls and not decided; guarded by the wait graph
  std::atomic<std::int64_t> open_since{0};    ///< when the call was opened, nanoseconds; 0: it is not
};

/// A serial execution context of one subscription. At any time it is in exactly one place: asleep (its token is in the
/// channel's idle bit, or it is in the core's list of sleepers), in a ready list, running, resting on its outputs, or at
/// rest in its queue with a call open (a coroutine that waits, a delay before a further attempt, a pause).
class lane final : public runnable, public lane_base {
 public:
  void run(unsigned budget) override;
  void dropped() noexcept override;

  void post(lane_item& item) noexcept override;
  scheduler& pool() const noexcept override;
  void keep() noexcept override;
  void let_go() noexcept override;

  /// Once, after the core is complete. Throws std::bad_alloc.
  void prepare_long_calls() { long_ = std::make_unique<long_call>(*this); }
  /// Something has changed that an open call or a pause has to look at. Any thread.
  void look() noexcept;

  /// For a publish in one of this lane's calls: a further output will stand in line. False: `max_parked` do.
  bool begin_output() noexcept;
  /// That output was decided at once, or is decided now; the last one wakes a resting lane.
  void output_decided() noexcept;
  bool has_outputs() const noexcept { return outputs_.load() > 0; }
  bool rests_paused() const noexcept { return open_.load(std::memory_order_relaxed) == open_call::paused; }
  /// For `running_call`: what it is doing, of which attempt, since when.
  void describe(running_call& seen, steady_time now) const noexcept;

  subscription_core* core = nullptr;
  lane* next_sleeping = nullptr;    // guarded by the core's sides_m_
  output_edge* edges = nullptr;     // guarded by the wait graph
  close_operation* closes() const noexcept { return long_ ? long_->closes : nullptr; }
  close_operation** closes_link() noexcept { return long_ ? &long_->closes : nullptr; }

  // Written by the lane alone, read by ledgers.
  std::atomic<std::uint64_t> handled{0};
  std::atomic<std::uint64_t> failed{0};
  std::atomic<std::uint64_t> running{0};  ///< the sequence number of the call in progress, or 0

 private:
  friend struct long_call;
  enum class turn_end : std::uint8_t { goes_on, asleep, yielded, yielded_open, resting, suspended, stopped };
  enum class open_call : std::uint8_t { none, suspended, delayed, paused };
  enum class fate : std::uint8_t { handled, filtered, failed, open };

  turn_end drain(unsigned budget);
  /// What a subscription has: nothing but a function and one lane; the same, and stamps; anything.
  enum class loop : std::uint8_t { plain, stamped, general };
  template <loop Loop>
  PENSTOCK_CATCHES_FORCED_UNWIND turn_end drain_as(unsigned budget);
  turn_end go_on(unsigned& budget);
  bool linger() const noexcept;
  static constexpr unsigned long_stretch = 16;
  void fall_back() const noexcept;
  void finish(turn_end end) noexcept;

  fate attempt(const void* payload, call& info);
  void say_stamp(call& info, const sync::seat_stamp& stamp, std::uint64_t sequence, bool several) noexcept;
  void handle_plainly(const std::byte* slot, std::uint64_t sequence, bool blocks, call& info, task<void>& unused);
  PENSTOCK_CATCHES_FORCED_UNWIND fate attempt_plainly(const void* payload, call& info, task<void>& unused);
  fate coroutine_over();
  fate after_failure(call& info, const void* payload) noexcept;
  fate fail_for_good(call& info, const void* payload, const char* reason) noexcept;
  const char* why_not_again(steady_time due) const noexcept;
  void attempt_threw(const call& info) noexcept;
  void count(fate end) noexcept;
  void end_call(fate end) noexcept;
  void arm(std::chrono::nanoseconds wait) noexcept;
  bool disarm() noexcept;
  void set_open(open_call state) noexcept;
  const void* payload_of(const std::byte* slot) const noexcept;
  void lost_in_unwinding() noexcept;
  void hold_work() noexcept;
  void goes_on_working() noexcept;

  /// Outputs in line, plus one while a call that has one is open: so that only a resting lane is woken.
  sync::atomic<std::uint32_t> outputs_{0};
  bool counted_itself_ = false;  // the lane's own
  bool holds_work_ = false;      // on its pool, while it rests; the lane's own
  bool probes_ = false;          // it tries one event for a breaker that has tripped; the lane's own
  std::atomic<open_call> open_{open_call::none};
  exec::lane_queue queue_;
  std::unique_ptr<long_call> long_;
  std::unique_ptr<failure> last_failure_;  // of the call in progress, for its dead letter
};

/// Destroys the closure on a worker, for those who may not do it on their own stack.
class reaper final : public runnable {
 public:
  void run(unsigned budget) override;
  void dropped() noexcept override;
  subscription_core* core = nullptr;
  sync::atomic<std::uint32_t> queued{0};  ///< 1: in a ready list
};

}  // namespace penstock::detail
