// A lane: one turn takes up to a budget of events; a call that waits keeps the lane, and no worker.
// Floor 5, room bus.
#include "bus/handler_lane.hpp"

#include "base/forced_unwind.hpp"
#include "bus/bus_core.hpp"
#include "bus/dead_letters.hpp"
#include "bus/subscription_core.hpp"
#include "bus/topic.hpp"
#include "exec/context.hpp"
#include "sync/processor.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace penstock::detail {

// --- a call that may outlive its turn ----------------------------------------------------------------------------------

handler_root::handler_root(lane& owner) noexcept : task_root(owner) {}

void handler_root::prepare(const std::shared_ptr<const cause>* why) noexcept {
  reset();
  ended = given_up = false;
  if (why != nullptr) cancel_now(*why);
}

long_call::long_call(lane& owner) noexcept
    : info(call_access::make(owner.core->name, owner.core->stop_asked())), root(owner) {
  look.owner = timer_came.owner = timer.owner = &owner;
  look.run_item = [](lane_item& self, lane_item::turn) {
    static_cast<item&>(self).owner->long_->look_put.store(0);  // before what it announces is looked at
  };
  timer_came.run_item = [](lane_item& self, lane_item::turn) {
    static_cast<item&>(self).owner->long_->timer_fired = true;
  };
  timer.node.fire = [](timer_node& fired) noexcept {
    lane& waiting = *reinterpret_cast<timer_slot&>(fired).owner;
    waiting.post(waiting.long_->timer_came);
  };
}

// --- the lane as others see it -----------------------------------------------------------------------------------------

void lane::post(lane_item& item) noexcept {
  if (!queue_.put(item)) return;
  // The lane may run, and the call that holds the core end, before this returns.
  const auto keep_core = ref_ptr<subscription_core>::share(core);
  core->schedule(*this);
}
scheduler& lane::pool() const noexcept { return *core->pool; }
void lane::keep() noexcept { core->retain(); }
void lane::let_go() noexcept { core->release(); }

void lane::look() noexcept {
  if (long_ && long_->look_put.exchange(1) == 0) post(long_->look);
}

bool lane::begin_output() noexcept {
  if (!counted_itself_) {
    counted_itself_ = true;
    outputs_.fetch_add(1);
  }
  if (outputs_.load() > core->max_parked) return false;
  outputs_.fetch_add(1);
  return true;
}

void lane::output_decided() noexcept {
  if (outputs_.fetch_sub(1) == 1) core->schedule(*this);
}

void lane::describe(running_call& seen, steady_time now) const noexcept {
  const open_call state = open_.load(std::memory_order_relaxed);
  seen.suspended = state == open_call::suspended;
  seen.retry_wait = state == open_call::delayed;
  if (!long_) return;
  const std::int64_t since = long_->open_since.load(std::memory_order_relaxed);
  if (since != 0) seen.at_least = now.time_since_epoch() - std::chrono::nanoseconds(since);
}

// --- one turn ----------------------------------------------------------------------------------------------------------

PENSTOCK_CATCHES_FORCED_UNWIND
void lane::run(unsigned budget) {
  // The reference that came with being scheduled; it is given back last.
  const auto keep = ref_ptr<subscription_core>::adopt(core);
  exec::context working{exec::context_kind::worker};
  exec::context_scope outside(&working);
  goes_on_working();
  // An open call has stayed inside the gate.
  if (open_.load(std::memory_order_relaxed) == open_call::none) {
    if (!core->enter()) {
      core->try_reap();
      return;
    }
    core->working_.fetch_add(1);
  }
  turn_end end = turn_end::stopped;
  try {
    exec::context handling{exec::context_kind::lane, this};
    exec::context_scope inside(&handling);
    end = drain(budget);
  } catch (const forced_unwind&) {
    // The worker dies under us; the lane goes on on another one.
    lost_in_unwinding();
    end = turn_end::yielded;
    if (std::exchange(counted_itself_, false)) {
      hold_work();
      if (outputs_.fetch_sub(1) != 1)
        end = turn_end::resting;
      else
        goes_on_working();
    }
    finish(end);
    throw;
  }
  finish(end);
}

// Before it rests: then somebody else may run it.
void lane::hold_work() noexcept {
  holds_work_ = true;
  core->pool->hold_work();
}
void lane::goes_on_working() noexcept {
  if (std::exchange(holds_work_, false)) core->pool->release_work();
}

void lane::lost_in_unwinding() noexcept {
  if (long_ && open_.load(std::memory_order_relaxed) != open_call::none) {
    long_->root.destroy_inner_frames();
    long_->work = task<void>();
  }
  if (running.load(std::memory_order_relaxed) != 0) {
    if (long_ && core->channel.blocks()) release_block(const_cast<void*>(payload_of(long_->slot)));
    failed.store(failed.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    running.store(0, std::memory_order_relaxed);
  }
  set_open(open_call::none);
}

void lane::finish(turn_end end) noexcept {
  // When asleep, resting or suspended, somebody else may already run this lane: only the core may be touched.
  subscription_core& owner = *core;
  scheduler& pool = *owner.pool;
  owner.bus().drain_moved();
  if (end == turn_end::suspended) return;
  if (end == turn_end::yielded_open) {
    owner.retain();
    pool.schedule_again(*this);
    return;
  }
  owner.working_.fetch_sub(1);
  if (end == turn_end::asleep || end == turn_end::resting || end == turn_end::stopped) owner.notify_idle();
  // Whoever lowers working_ to 0 looks, whatever its own turn ended with: the lane may have gone on elsewhere already.
  if (end != turn_end::yielded && owner.channel.draining()) owner.close_gate_if_drained();
  if (owner.leave()) owner.try_reap();
  if (end == turn_end::yielded) {
    owner.retain();
    pool.schedule_again(*this);
  }
}

const void* lane::payload_of(const std::byte* slot) const noexcept {
  if (!core->channel.blocks()) return slot;
  const void* block = nullptr;
  std::memcpy(&block, slot, sizeof block);
  return block;
}

namespace {

/// The count that an event in a block carries; given back also when its call is unwound.
class block_guard {
 public:
  explicit block_guard(void* block) noexcept : block_(block) {}
  ~block_guard() { release(); }
  block_guard(const block_guard&) = delete;
  block_guard& operator=(const block_guard&) = delete;
  void release() noexcept {
    if (block_ != nullptr) release_block(std::exchange(block_, nullptr));
  }

 private:
  void* block_;
};

/// By how much the word grows to `to`. Producers that write side by side look at the count of losses in any order, and so do
/// lanes that take events side by side: of two events the later one's may be the lower.
std::uint64_t raise(std::atomic<std::uint64_t>& word, std::uint64_t to, bool several) noexcept {
  std::uint64_t before = word.load(std::memory_order_relaxed);
  while (to > before) {
    if (!several) word.store(to, std::memory_order_relaxed);
    if (!several || word.compare_exchange_weak(before, to)) return to - before;
  }
  return 0;
}

}  // namespace

// Most subscriptions have nothing but a function and one lane: their loop knows.
lane::turn_end lane::drain(unsigned budget) {
  if (long_ || core->concurrency_ > 1 || core->extras_) return drain_as<loop::general>(budget);
  return core->channel.stamped() ? drain_as<loop::stamped>(budget) : drain_as<loop::plain>(budget);
}

template <lane::loop Loop>
PENSTOCK_CATCHES_FORCED_UNWIND
lane::turn_end lane::drain_as(unsigned budget) {
  constexpr bool plain = Loop != loop::general;
  constexpr bool may_be_stamped = Loop != loop::plain;
  subscription_core& owner = *core;
  // Some events are copied at once: of a log, since that costs a lock; of a ring, since their lines then come side by side. None
  // of them has begun before it begins.
  constexpr std::size_t most_ahead = 16;
  alignas(largest_in_place_align) std::byte near_slots[most_ahead][largest_in_place];
  sync::seat_stamp stamps[may_be_stamped ? most_ahead : 1];
  std::size_t ahead = 0;       // copies in hand
  std::size_t next_ahead = 0;  // the first of them
  unsigned stretch = 0;        // events since there was none
  bool in_log = owner.channel.in_log();  // looked at again when there is no copy in hand
  call near_info = call_access::make(owner.name, owner.stop_);
  const bool is_long = !plain && long_;
  std::byte* slot = is_long ? long_->slot : near_slots[0];
  call& info = is_long ? long_->info : near_info;
  const bool several = !plain && owner.concurrency_ > 1;
  const bool breaks = !plain && owner.extras_ && owner.extras_->breaks();
  const bool blocks = owner.channel.blocks();
  bool worked = false;  // in this turn
  task<void> unused;
  for (;;) {
    if (!plain && open_.load(std::memory_order_relaxed) != open_call::none) {
      if (const turn_end end = go_on(budget); end != turn_end::goes_on) return end;
    }
    if (counted_itself_) {
      if (owner.channel.wants_service()) owner.channel.serve(true);  // it may rest long: nobody is left untold
      counted_itself_ = false;
      hold_work();
      if (outputs_.fetch_sub(1) != 1) return turn_end::resting;
      goes_on_working();
    }
    if (budget == 0) return turn_end::yielded;
    if (breaks && !probes_ && !owner.begins_calls()) {
      set_open(open_call::paused);
      arm(owner.extras_->failure.probe_every());
      continue;
    }
    std::uint64_t sequence = 0;
    sync::seat_stamp stamp;
    sync::take_status status = sync::take_status::empty;
    if (ahead == 0 && stretch >= long_stretch) {
      stretch = 0;
      if (owner.channel.exclusive()) fall_back();  // else the head is not its own
    }
    if (ahead == 0 && (in_log || owner.channel.exclusive())) {
      if (!is_long) slot = near_slots[0];
      const std::size_t most = is_long ? 1 : most_ahead;
      sync::seat_stamp* const stamped = may_be_stamped ? stamps : nullptr;
      ahead = in_log ? owner.channel.look_ahead(slot, largest_in_place, most, stamped)
                     : owner.channel.read_ahead(slot, largest_in_place, most, stamped);
      next_ahead = 0;
      if (ahead == 0 && in_log && !owner.channel.in_log()) {  // somebody made it leave
        in_log = false;
        continue;
      }
    }
    if constexpr (plain) {
      if (ahead > 0) {
        // Nothing comes between two of them but what their own calls do.
        const std::size_t most = std::min<std::size_t>(ahead, budget);
        std::size_t done = 0;
        do {
          std::uint64_t number = 0;
          if (owner.channel.begin(number) != sync::take_status::taken) return turn_end::stopped;
          if (in_log && owner.channel.wants_log_service()) owner.topic_->serve_log();
          if constexpr (may_be_stamped)
            say_stamp(info, stamps[next_ahead + done], number, false);
          else
            call_access::begin(info, number);
          handle_plainly(near_slots[next_ahead + done], number, blocks, info, unused);
        } while (++done < most && !counted_itself_);
        next_ahead += done;
        ahead -= done;
        budget -= static_cast<unsigned>(done);
        stretch += static_cast<unsigned>(done);
        worked = true;
        continue;
      }
    }
    if (ahead > 0) {
      --ahead;
      if (may_be_stamped) stamp = stamps[next_ahead];
      if (!is_long) slot = near_slots[next_ahead++];
      status = owner.channel.begin(sequence);
      if (in_log && owner.channel.wants_log_service()) owner.topic_->serve_log();
    } else if (!in_log) {
      status = owner.channel.take(slot, sequence, may_be_stamped ? &stamp : nullptr);
    }
    if (status != sync::take_status::taken) {
      if (status == sync::take_status::stopped) return turn_end::stopped;
      if (owner.channel.wants_service()) {
        owner.channel.serve(true);
        if (owner.channel.ready()) continue;
      }
      if (!in_log && owner.channel.may_share() && owner.topic_->shares()) {
        in_log = owner.topic_->enter_log(owner);
        if (in_log) continue;
      }
      if (std::exchange(worked, false)) {
        const scheduler::when_empty next = owner.pool->after_work();
        if (next == scheduler::when_empty::yield) return turn_end::yielded;
        stretch = 0;
        if (next == scheduler::when_empty::look_again && linger()) continue;
      }
      if (!owner.channel.await_writer() && owner.go_to_sleep(*this)) return turn_end::asleep;
      continue;
    }
    worked = true;
    ++stretch;
    --budget;
    running.store(sequence, std::memory_order_relaxed);
    if (several) owner.wake_another();
    if (may_be_stamped && owner.channel.stamped())
      say_stamp(info, stamp, sequence, several);
    else
      call_access::begin(info, sequence);
    const void* const payload = blocks ? payload_of(slot) : slot;
    if (!is_long) {
      block_guard event_in_hand{blocks ? const_cast<void*>(payload) : nullptr};
      fate end = plain ? attempt_plainly(payload, info, unused) : attempt(payload, info);
      if (end == fate::failed) end = fail_for_good(info, payload, "failed");
      event_in_hand.release();
      count(end);
      continue;
    }
    fate end = attempt(payload, info);
    if (end == fate::failed) end = after_failure(info, payload);
    if (end == fate::open) {
      if (open_.load(std::memory_order_relaxed) == open_call::none) set_open(open_call::suspended);
    } else {
      end_call(end);
    }
  }
}

// A lane that rests is woken by the next publish, which costs its publisher a system call if the worker sleeps too: as much
// as hundreds of events. So it looks again, twice within about a microsecond. Not more often: each look takes the cell's
// line away from the publisher that is about to write it, and what comes meanwhile is handled as one batch.
bool lane::linger() const noexcept {
  constexpr int looks = 2;
  constexpr int pauses = 24;  // 25 to 45 ns each
  for (int look = 0; look < looks; ++look) {
    for (int i = 0; i < pauses; ++i) sync::relax();
    if (core->channel.ready()) return true;
    if (core->pool->after_work() != scheduler::when_empty::look_again) return false;
  }
  return false;
}

// A lane that is as fast as those who publish reads each event while its line is still with the producer, which then waits for it.
// So after a stretch without a gap it lets some come, for about 2 us at most, and reads at a distance.
void lane::fall_back() const noexcept {
  constexpr int looks = 3;
  constexpr int pauses = 24;
  constexpr std::size_t distance = 64;
  const std::size_t enough = std::min(distance, core->channel.capacity() / 2);
  for (int look = 0; look < looks && enough > long_stretch; ++look) {
    if (core->pool->after_work() != scheduler::when_empty::look_again || core->channel.written_ahead(enough)) return;
    for (int i = 0; i < pauses; ++i) sync::relax();
  }
}

// Runs what was put on the lane while a call is open, until it has ended or waits.
lane::turn_end lane::go_on(unsigned& budget) {
  subscription_core& owner = *core;
  long_call& c = *long_;
  for (;;) {
    while (budget > 0) {
      if (c.left == nullptr) c.left = queue_.take();
      if (c.left == nullptr) break;
      if (std::exchange(c.left->after_turn, false)) return turn_end::yielded_open;
      --budget;
      lane_item* item = std::exchange(c.left, c.left->next_item);
      item->run_item(*item, lane_item::turn::run);
    }
    const void* const payload = payload_of(c.slot);
    switch (open_.load(std::memory_order_relaxed)) {
      case open_call::none: break;
      case open_call::suspended: {
        if (!c.root.ended) {
          if (owner.stop_.asked()) c.root.cancel_now(*owner.stop_.why());
          break;
        }
        set_open(open_call::none);
        fate end = coroutine_over();
        if (end == fate::failed) end = after_failure(c.info, payload);
        if (end != fate::open) end_call(end);
        break;
      }
      case open_call::delayed: {
        const char* over = why_not_again(c.timer.node.due);
        if (over != nullptr && disarm()) c.timer_fired = true;
        if (!c.timer_fired) break;
        c.timer_fired = false;
        set_open(open_call::none);
        fate end = fate::failed;
        if (over != nullptr) {
          end = fail_for_good(c.info, payload, over);
        } else {
          call_access::next_attempt(c.info);
          end = attempt(payload, c.info);
          if (end == fate::failed) end = after_failure(c.info, payload);
        }
        if (end != fate::open)
          end_call(end);
        else if (open_.load(std::memory_order_relaxed) == open_call::none)
          set_open(open_call::suspended);
        break;
      }
      case open_call::paused: {
        const bool over = owner.begins_calls();
        if (over && disarm()) c.timer_fired = true;
        if (!c.timer_fired) break;
        c.timer_fired = false;
        probes_ = !over && owner.claim_probe();
        if (over || probes_)
          set_open(open_call::none);
        else
          arm(owner.extras_->failure.probe_every());
        break;
      }
    }
    if (open_.load(std::memory_order_relaxed) == open_call::none) return turn_end::goes_on;
    if (c.left != nullptr) {
      if (budget == 0) return turn_end::yielded_open;
      continue;
    }
    if (owner.channel.wants_service()) owner.channel.serve(true);
    hold_work();
    if (queue_.rest()) return turn_end::suspended;
    goes_on_working();
    if (budget == 0) return turn_end::yielded_open;
  }
}

// --- one attempt -------------------------------------------------------------------------------------------------------

// What was lost since the event before.
inline void lane::say_stamp(call& info, const sync::seat_stamp& stamp, std::uint64_t sequence, bool several) noexcept {
  call_access::begin(info, sequence, raise(core->last_lost_, stamp.lost, several), stamp.published);
}

// The call of an event that has begun, where nothing but a function is called.
inline void lane::handle_plainly(const std::byte* slot, std::uint64_t sequence, bool blocks, call& info, task<void>& unused) {
  running.store(sequence, std::memory_order_relaxed);
  const void* const payload = blocks ? payload_of(slot) : slot;
  block_guard event_in_hand{blocks ? const_cast<void*>(payload) : nullptr};
  if (const fate end = attempt_plainly(payload, info, unused); end != fate::handled) {
    static_cast<void>(fail_for_good(info, payload, "failed"));
    event_in_hand.release();
    return count(end);
  }
  event_in_hand.release();
  handled.store(handled.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  running.store(0, std::memory_order_relaxed);
}

PENSTOCK_CATCHES_FORCED_UNWIND
inline lane::fate lane::attempt_plainly(const void* payload, call& info, task<void>& unused) {
  try {
    core->handler_.run(core->handler_.target, payload, info, unused);
    return fate::handled;
  } catch (const forced_unwind&) {
    failed.store(failed.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    running.store(0, std::memory_order_relaxed);
    throw;
  } catch (...) {
    attempt_threw(info);
    return fate::failed;
  }
}

PENSTOCK_CATCHES_FORCED_UNWIND
lane::fate lane::attempt(const void* payload, call& info) {
  subscription_core& owner = *core;
  try {
    if (owner.extras_ && owner.extras_->filter && !owner.extras_->filter(payload)) return fate::filtered;
    task<void> started;
    if (owner.handler_.is == handler_object::kind::coroutine) {
      long_call& c = *long_;
      c.root.prepare(owner.stop_.why());
      owner.handler_.run(owner.handler_.target, payload, info, c.work);
      if (!c.work) throw_empty_task();
      c.root.begin_turn();
      c.root.next(c.work.begin_on(c.root));
      c.root.pump();
      if (!c.root.ended) return fate::open;
    } else {
      owner.handler_.run(owner.handler_.target, payload, info, started);
      return fate::handled;
    }
  } catch (const forced_unwind&) {
    if (!long_) {  // else `lost_in_unwinding` counts it
      failed.store(failed.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
      running.store(0, std::memory_order_relaxed);
    }
    throw;
  } catch (...) {
    attempt_threw(info);
    return fate::failed;
  }
  return coroutine_over();
}

lane::fate lane::coroutine_over() {
  long_call& c = *long_;
  if (c.root.given_up) {
    c.root.destroy_inner_frames();
    c.work = task<void>();
    return fate::failed;
  }
  const std::exception_ptr error = c.work.frame().promise().error();
  c.work = task<void>();
  if (!error) return fate::handled;
  try {
    std::rethrow_exception(error);
  } catch (...) {
    attempt_threw(c.info);
  }
  return fate::failed;
}

void lane::attempt_threw(const call& info) noexcept {
  subscription_core& owner = *core;
  failure record;
  record.exception = describe_current_exception();
  record.sequence = info.sequence();
  record.attempt = info.attempt();
  record.line = owner.line;
  try {
    record.subscription = owner.name;
    record.event = owner.event();
    record.file = owner.file;
  } catch (...) {  // no memory for the names: told all the same
  }
  {
    exec::context hook{exec::context_kind::hook};
    exec::context_scope scope(&hook);
    owner.bus_->report(record);
  }
  try {
    last_failure_ = std::make_unique<failure>(std::move(record));
  } catch (...) {  // no memory: the dead letter has no text
  }
}

const char* lane::why_not_again(steady_time due) const noexcept {
  if (core->channel.stopped()) return "closed";
  if (due > core->bus_->drain_deadline()) return "shutdown";
  return nullptr;
}

// Another attempt after a delay, or the end.
lane::fate lane::after_failure(call& info, const void* payload) noexcept {
  subscription_core& owner = *core;
  const call_extras* extras = owner.extras_.get();
  if (extras == nullptr || !extras->retries || info.attempt() >= extras->retry.attempts() || owner.stop_.asked())
    return fail_for_good(info, payload, "failed");
  const auto wait = extras->retry.delay(info.attempt(), owner.bus_->environment->random());
  if (const char* over = why_not_again(deadline_after(owner.pool->time().now(), wait)))
    return fail_for_good(info, payload, over);
  set_open(open_call::delayed);
  arm(wait);
  return fate::open;
}

lane::fate lane::fail_for_good(call& info, const void* payload, const char* reason) noexcept {
  const std::unique_ptr<failure> last = std::move(last_failure_);
  letter_of_failure letter;
  letter.reason = reason;
  letter.record = last.get();
  letter.sequence = info.sequence();
  letter.attempts = info.attempt();
  bury(*core, payload, letter);
  core->call_failed(last.get());
  return fate::failed;
}

void lane::count(fate end) noexcept {
  if (end == fate::filtered) {
    core->extras_->filtered.fetch_add(1, std::memory_order_release);
  } else {
    probes_ = false;
    if (end == fate::handled && core->extras_) core->call_succeeded();
    std::atomic<std::uint64_t>& counter = end == fate::handled ? handled : failed;
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }
  running.store(0, std::memory_order_relaxed);
}

void lane::end_call(fate end) noexcept {
  last_failure_.reset();
  if (core->channel.blocks()) release_block(const_cast<void*>(payload_of(long_->slot)));
  count(end);
}

void lane::set_open(open_call state) noexcept {
  const open_call before = open_.load(std::memory_order_relaxed);
  if (before == state) return;
  open_.store(state, std::memory_order_relaxed);
  const auto since = state == open_call::none ? 0 : core->pool->time().now().time_since_epoch().count();
  if (long_) long_->open_since.store(since, std::memory_order_relaxed);
  if (before == open_call::none)
    core->retain();
  else if (state == open_call::none)
    core->release();  // never the last: the turn has one of its own
}

void lane::arm(std::chrono::nanoseconds wait) noexcept {
  long_call& c = *long_;
  c.timer_fired = false;
  c.timer.node.due = deadline_after(core->pool->time().now(), wait);
  // Without a timer it does not wait: tried again at once.
  if (core->pool->timers().arm(c.timer.node) != errc::none) c.timer_fired = true;
}

bool lane::disarm() noexcept { return !long_->timer_fired && core->pool->timers().disarm(long_->timer.node); }

// The pool has ended with this lane in its list.
void lane::dropped() noexcept {
  const auto keep = ref_ptr<subscription_core>::adopt(core);
  goes_on_working();
  core->stop();
  if (open_.load(std::memory_order_relaxed) == open_call::none) {
    core->try_reap();
    return;
  }
  exec::context working{exec::context_kind::worker};
  exec::context_scope outside(&working);
  long_call& c = *long_;
  do {
    if (c.left == nullptr) c.left = queue_.take();
    while (c.left != nullptr) {
      lane_item* item = std::exchange(c.left, c.left->next_item);
      item->run_item(*item, lane_item::turn::dropped);
    }
    if (open_.load(std::memory_order_relaxed) != open_call::suspended && (c.timer_fired || disarm())) c.root.ended = true;
    if (c.root.ended) break;
  } while (!queue_.rest());
  if (!c.root.ended) return;  // whoever wakes it brings it here again
  const bool paused = open_.load(std::memory_order_relaxed) == open_call::paused;
  c.root.destroy_inner_frames();
  c.work = task<void>();
  set_open(open_call::none);
  if (!paused) end_call(fate::failed);
  core->working_.fetch_sub(1);
  core->notify_idle();
  if (core->leave()) core->try_reap();
}

// --- reaper ----------------------------------------------------------------------------------------------------------

void reaper::run(unsigned) {
  const auto keep = ref_ptr<subscription_core>::adopt(core);
  exec::context working{exec::context_kind::worker};
  exec::context_scope scope(&working);
  queued.store(0);  // before the attempt: whoever leaves the gate last after it queues this again
  core->try_reap();
}

void reaper::dropped() noexcept { run(0); }

}  // namespace penstock::detail
