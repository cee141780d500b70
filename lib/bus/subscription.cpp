// A subscription: its lanes, its gate, its end.
// Floor 5, room bus.
#include <penstock/bus/subscription.hpp>

#include "base/forced_unwind.hpp"
#include "bus/bus_core.hpp"
#include "bus/subscription_core.hpp"
#include "bus/topic.hpp"
#include "exec/context.hpp"
#include "sync/parker.hpp"

#include <cstring>
#include <utility>

namespace penstock::detail {

// --- lane ------------------------------------------------------------------------------------------------------------

PENSTOCK_CATCHES_FORCED_UNWIND
void lane::run(unsigned budget) {
  // The reference that came with being scheduled; it is given back last.
  const auto keep = ref_ptr<subscription_core>::adopt(core);
  exec::context working{exec::context_kind::worker};
  exec::context_scope outside(&working);
  if (!core->enter()) {
    core->try_reap();
    return;
  }
  core->working_.fetch_add(1);
  turn_end end = turn_end::stopped;
  try {
    exec::context handling{exec::context_kind::lane, this};
    exec::context_scope inside(&handling);
    end = drain(budget);
  } catch (const forced_unwind&) {
    // The worker dies under us; the lane goes on on another one.
    running.store(0, std::memory_order_relaxed);
    end = turn_end::yielded;
    if (std::exchange(counted_itself_, false) && outputs_.fetch_sub(1) != 1) end = turn_end::resting;
    finish(end);
    throw;
  }
  finish(end);
}

void lane::finish(turn_end end) noexcept {
  // When asleep or resting, somebody else may already run this lane: only the core may be touched.
  subscription_core& owner = *core;
  scheduler& pool = *owner.pool;
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

void lane::dropped() noexcept {
  const auto keep = ref_ptr<subscription_core>::adopt(core);
  core->stop();
  core->try_reap();
}

PENSTOCK_CATCHES_FORCED_UNWIND
lane::turn_end lane::drain(unsigned budget) {
  subscription_core& owner = *core;
  alignas(largest_in_place_align) std::byte slot[largest_in_place];
  call info = call_access::make(owner.name, owner.stop_source_);
  const bool blocks = owner.channel.blocks();
  const bool several = owner.concurrency_ > 1;
  for (;;) {
    if (budget == 0) return turn_end::yielded;
    std::uint64_t sequence = 0;
    const sync::take_status status = owner.channel.take(slot, sequence);
    if (status != sync::take_status::taken) {
      if (status == sync::take_status::stopped) return turn_end::stopped;
      if (owner.channel.wants_service()) {
        owner.channel.serve(true);
        if (owner.channel.ready()) continue;
      }
      if (owner.go_to_sleep(*this)) return turn_end::asleep;
      continue;
    }
    --budget;
    running.store(sequence, std::memory_order_relaxed);
    if (several) owner.wake_another();
    void* payload = slot;
    if (blocks) std::memcpy(&payload, slot, sizeof payload);
    bool good = true;
    {
      struct block_guard {
        void* block;
        ~block_guard() {
          if (block != nullptr) release_block(block);
        }
      } event_in_hand{blocks ? payload : nullptr};
      call_access::set_sequence(info, sequence);
      try {
        owner.handler_.invoke(owner.handler_.target, payload, info);
      } catch (const forced_unwind&) {
        failed.store(failed.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
        throw;
      } catch (...) {
        good = false;
        handler_threw(sequence);
      }
    }
    std::atomic<std::uint64_t>& fate = good ? handled : failed;
    fate.store(fate.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    running.store(0, std::memory_order_relaxed);
    if (counted_itself_) {
      if (owner.channel.wants_service()) owner.channel.serve(true);  // it may rest long: nobody is left untold
      counted_itself_ = false;
      if (outputs_.fetch_sub(1) != 1) return turn_end::resting;
    }
  }
}

void lane::handler_threw(std::uint64_t sequence) noexcept {
  subscription_core& owner = *core;
  failure record;
  record.exception = describe_current_exception();
  record.sequence = sequence;
  record.line = owner.line;
  try {
    record.subscription = owner.name;
    record.event = owner.event();
    record.file = owner.file;
  } catch (...) {  // no memory for the names: told all the same
  }
  exec::context hook{exec::context_kind::hook};
  exec::context_scope scope(&hook);
  owner.bus_->report(record);
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

// --- reaper ----------------------------------------------------------------------------------------------------------

void reaper::run(unsigned) {
  const auto keep = ref_ptr<subscription_core>::adopt(core);
  exec::context working{exec::context_kind::worker};
  exec::context_scope scope(&working);
  queued.store(0);  // before the attempt: whoever leaves the gate last after it queues this again
  core->try_reap();
}

void reaper::dropped() noexcept { run(0); }

// --- core ------------------------------------------------------------------------------------------------------------

subscription_core::subscription_core(recipe&& made, const sync::channel::config& config, unsigned concurrency,
                                     std::size_t parked, handler_object& handler, drop_hook& hook)
    : channel(config),
      name(std::move(made.name)),
      file(made.file),
      line(made.line),
      id(made.id),
      max_parked(parked),
      pool(std::move(made.pool)),
      bus_(std::move(made.bus)),
      topic_(std::move(made.topic)),
      concurrency_(concurrency),
      lanes_(std::make_unique<lane[]>(concurrency)),
      handler_(std::exchange(handler, {})),
      drop_hook_(std::exchange(hook, {})) {
  reaper_.core = this;
  for (unsigned i = concurrency; i-- > 0;) {
    lanes_[i].core = this;
    lanes_[i].next_sleeping = sleepers_;
    sleepers_ = &lanes_[i];
  }
}

subscription_core::~subscription_core() = default;

const std::string& subscription_core::event() const noexcept { return topic_->identity.name; }

bool subscription_core::enter() noexcept {
  if ((gate_.fetch_add(1) & gate_closed) == 0) return true;
  if (leave()) reap_later();
  return false;
}

bool subscription_core::leave() noexcept {
  const std::uint64_t before = gate_.fetch_sub(1);
  return (before & gate_closed) != 0 && (before & gate_reaped) == 0 && (before & gate_count) == 1;
}

bool subscription_core::try_reap() noexcept {
  std::uint64_t gate = gate_.load();
  for (;;) {
    if ((gate & gate_reaped) != 0) return ended();
    if ((gate & gate_closed) == 0 || (gate & gate_count) != 0) return false;
    if (gate_.compare_exchange_strong(gate, gate | gate_reaped)) break;
  }
  // From here on no lane and no hook runs, and none will. User destructors: no lock is held.
  if (handler_.target != nullptr) handler_.destroy(handler_.target);
  if (drop_hook_.target != nullptr) drop_hook_.destroy(drop_hook_.target);
  bus_->forget(*this);
  ended_.store(1);
  end_changes_.fetch_add(1);
  sync::unpark_all(&end_changes_);
  notify_idle();
  return true;
}

void subscription_core::reap_later() noexcept {
  // A closer that waits may do it before a worker comes to it: the workers may all be in other calls.
  end_changes_.fetch_add(1);
  sync::unpark_all(&end_changes_);
  if (reaper_.queued.exchange(1) != 0) return;
  retain();
  pool->schedule(reaper_);
}

void subscription_core::schedule(lane& woken) noexcept {
  retain();
  pool->schedule(woken);
}

lane* subscription_core::pop_sleeper() noexcept {
  lock_guard lock(sleepers_m_);
  lane* chosen = sleepers_;
  if (chosen != nullptr) sleepers_ = chosen->next_sleeping;
  return chosen;
}

void subscription_core::wake() noexcept {
  if (concurrency_ == 1)
    schedule(lanes_[0]);
  else if (lane* chosen = pop_sleeper())
    schedule(*chosen);
}

// With several lanes the idle word says "somebody sleeps and may be woken"; who, says the list of sleepers. After taking an event a
// lane passes the duty on: it wakes a further one if there is more, else leaves the word set for producers.
void subscription_core::wake_another() noexcept {
  {
    lock_guard lock(sleepers_m_);
    if (sleepers_ == nullptr) return;
  }
  if (!channel.try_sleep()) wake();
}

bool subscription_core::go_to_sleep(lane& self) noexcept {
  if (concurrency_ == 1) return channel.try_sleep();
  {
    lock_guard lock(sleepers_m_);
    self.next_sleeping = sleepers_;
    sleepers_ = &self;
  }
  if (channel.try_sleep()) return true;
  lane* chosen = pop_sleeper();
  if (chosen == &self) return false;
  if (chosen != nullptr) schedule(*chosen);
  return true;
}

void subscription_core::notify_idle() noexcept {
  if (idle_watchers_.load() == 0) return;
  idle_changes_.fetch_add(1);
  sync::unpark_all(&idle_changes_);
}

bool subscription_core::wait_quiescent(steady_time deadline) {
  struct watcher {
    sync::atomic<std::uint32_t>& count;
    explicit watcher(sync::atomic<std::uint32_t>& counted) noexcept : count(counted) { count.fetch_add(1); }
    ~watcher() { count.fetch_sub(1); }
  } watching(idle_watchers_);
  for (;;) {
    const std::uint32_t seen = idle_changes_.load();
    if (ledger().quiescent()) return true;
    if (!sync::park(idle_changes_, seen, deadline)) return ledger().quiescent();
  }
}

bool subscription_core::wait_ended(steady_time deadline) {
  for (;;) {
    const std::uint32_t seen = end_changes_.load();
    if (try_reap()) return true;
    if (!sync::park(end_changes_, seen, deadline)) return try_reap();
  }
}

std::uint64_t subscription_core::running_sequence() const noexcept {
  std::uint64_t oldest = 0;
  for (unsigned i = 0; i < concurrency_; ++i) {
    const std::uint64_t sequence = lanes_[i].running.load(std::memory_order_relaxed);
    if (sequence != 0 && (oldest == 0 || sequence < oldest)) oldest = sequence;
  }
  return oldest;
}

penstock::ledger subscription_core::ledger() noexcept {
  penstock::ledger result;
  // Fates first, then begun, then taken: under traffic there are never more fates than offers.
  for (unsigned i = 0; i < concurrency_; ++i) {
    result.handled += lanes_[i].handled.load(std::memory_order_acquire);
    result.failed += lanes_[i].failed.load(std::memory_order_acquire);
  }
  const sync::channel_counts counts = channel.counts();
  const auto rejected = [&](errc why) { return counts.rejected[static_cast<std::size_t>(why)]; };
  result.rejected.full = rejected(errc::full);
  result.rejected.timed_out = rejected(errc::timed_out);
  result.rejected.cancelled = rejected(errc::cancelled);
  result.rejected.closed = rejected(errc::closed);
  result.rejected.would_block = rejected(errc::would_block);
  result.rejected.cycle = rejected(errc::backpressure_cycle);
  result.rejected.no_memory = rejected(errc::not_enough_memory);
  result.accepted = counts.tail;
  result.dropped = counts.dropped;
  result.pending = counts.pending;
  result.evicted = counts.evicted;
  result.discarded = counts.discarded;
  result.queued = counts.tail - counts.begun - counts.discarded;
  result.running = counts.begun - counts.evicted - result.handled - result.failed;
  result.offered = result.accepted + result.dropped + result.rejected.total() + result.pending;
  return result;
}

void subscription_core::tell_drop(const void* payload, drop_reason reason) noexcept {
  if (drop_hook_.invoke == nullptr) return;
  exec::context* current = exec::current_context();
  if (current != nullptr && current->kind == exec::context_kind::hook) return;  // a drop caused by a hook is only counted
  exec::context hook{exec::context_kind::hook};
  exec::context_scope scope(&hook);
  drop_hook_.invoke(drop_hook_.target, payload, reason);
}

void subscription_core::leave_gate() noexcept {
  if (leave()) reap_later();  // not here: the closure must not die on a publisher's stack
}

void subscription_core::stop() noexcept {
  topic_->remove(*this);
  const bool inside = enter();  // the hook is told of rejected outputs under the gate
  sync::waiter_list released;
  if (channel.stop(released)) {
    released.settle_all();
    close_gate();  // by the one who stopped it, when the hook has been told of everything
  }
  if (inside) leave();  // the caller reaps, here or elsewhere
  notify_idle();
}

void subscription_core::begin_drain() noexcept {
  topic_->remove(*this);
  const bool inside = enter();
  sync::waiter_list released;
  channel.begin_drain(released);
  released.settle_all();
  close_gate_if_drained();
  if (inside) leave();  // the caller reaps, here or elsewhere
}

void subscription_core::release_callers() noexcept {
  sync::waiter_list released;
  channel.release_callers(released);
  released.settle_all();
}

void subscription_core::close_gate_if_drained() noexcept {
  // In this order: whoever took the last event was at work before it was gone.
  if (!channel.drained() || working_.load() != 0) return;
  for (unsigned i = 0; i < concurrency_; ++i)
    if (lanes_[i].has_outputs()) return;
  close_gate();
}

namespace {

bool may_wait_here() noexcept { return exec::current_context() == nullptr; }

close_status close_core(subscription_core& core, steady_time deadline, close_mode mode) noexcept {
  if (core.ended() || core.bus().forked()) return close_status::closed;
  if (core.abandoned.load()) return close_status::timed_out;
  if (mode == close_mode::cancel) core.request_stop();
  if (mode == close_mode::drain)
    core.begin_drain();
  else
    core.stop();
  if (core.try_reap()) return close_status::closed;
  if (!may_wait_here()) return core.ended() ? close_status::closed : close_status::closing;
  if (core.wait_ended(deadline)) return close_status::closed;
  core.abandoned.store(true);
  core.stop();
  return core.try_reap() ? close_status::closed : close_status::timed_out;
}

}  // namespace
}  // namespace penstock::detail

namespace penstock {

subscription::subscription(subscription&& other) noexcept : core_(std::exchange(other.core_, nullptr)) {}

subscription& subscription::operator=(subscription&& other) noexcept {
  if (this != &other) {
    subscription ended(std::move(*this));
    core_ = std::exchange(other.core_, nullptr);
  }
  return *this;
}

subscription::~subscription() {
  if (core_ == nullptr) return;
  if (!core_->bus().forked()) {
    if (exec::current_context() != nullptr)
      stop();
    else
      (void)close();
  }
  core_->release();
}

void subscription::stop() noexcept {
  if (core_ == nullptr || core_->ended() || core_->bus().forked()) return;
  core_->stop();
  core_->reap_later();
}

close_status subscription::close(close_mode mode) noexcept { return close_until(no_deadline, mode); }

close_status subscription::close_until(steady_time deadline, close_mode mode) noexcept {
  if (core_ == nullptr) return close_status::closed;
  return detail::close_core(*core_, deadline, mode);
}

close_status subscription::close_within(std::chrono::nanoseconds wait, close_mode mode) noexcept {
  if (core_ == nullptr) return close_status::closed;
  return close_until(deadline_after(core_->bus().time().now(), wait), mode);
}

void subscription::release() noexcept {
  if (core_ != nullptr) std::exchange(core_, nullptr)->release();
}

ledger subscription::ledger() const {
  return core_ != nullptr && !core_->bus().forked() ? core_->ledger() : penstock::ledger{};
}
std::string subscription::name() const { return core_ != nullptr ? core_->name : std::string(); }
std::size_t subscription::capacity() const noexcept { return core_ != nullptr ? core_->channel.capacity() : 0; }

}  // namespace penstock
