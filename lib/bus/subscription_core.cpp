// A subscription: its gate, its sleepers, its breaker, its end.
// Floor 5, room bus.
#include "bus/subscription_core.hpp"

#include "bus/bus_core.hpp"
#include "bus/topic.hpp"
#include "exec/context.hpp"
#include "sync/parker.hpp"

#include <chrono>
#include <cstring>
#include <new>
#include <utility>

namespace penstock::detail {

// --- a request to stop -------------------------------------------------------------------------------------------------

stop_request::~stop_request() { delete source_.load(); }

std::stop_source* stop_request::source() const noexcept {
  if (std::stop_source* made = source_.load()) return made;
  std::stop_source* mine = nullptr;
  try {
    mine = new std::stop_source();
  } catch (...) {
    return nullptr;
  }
  std::stop_source* other = nullptr;
  if (source_.compare_exchange_strong(other, mine)) return mine;
  delete mine;
  return other;
}

std::stop_token stop_request::token() const {
  std::stop_source* made = source();
  if (made == nullptr) throw std::bad_alloc();
  // Asked before there was anything to ask: whoever asked may not have seen this source.
  if (asked()) made->request_stop();
  return made->get_token();
}

const std::shared_ptr<const cause>* stop_request::why() const noexcept { return asked() ? &why_ : nullptr; }

void stop_request::ask(std::shared_ptr<const cause> why) noexcept {
  unsigned none = 0;
  if (!phase_.compare_exchange_strong(none, asking_phase)) return;
  why_ = std::move(why);
  phase_.store(asked_phase);
  if (std::stop_source* made = source_.load()) made->request_stop();
}

namespace {

/// With the one who is told of discarded events, if anybody asks.
sync::channel::config listening(sync::channel::config made, subscription_core& core,
                                const call_extras* extras) noexcept {
  if (extras == nullptr || !extras->on_undelivered) return made;
  made.listener.owner = &core;
  made.listener.discarded = [](void* owner, const std::byte* payload, std::uint64_t sequence,
                               const sync::seat_stamp& stamp) noexcept {
    auto& told = *static_cast<subscription_core*>(owner);
    alignas(largest_in_place_align) std::byte aligned[largest_in_place];
    std::memcpy(aligned, payload, told.channel.payload_bytes());
    const void* event = aligned;
    if (told.channel.blocks()) std::memcpy(&event, aligned, sizeof event);
    told.tell_undelivered(event, sequence, 1, steady_time(std::chrono::nanoseconds(stamp.published)));
  };
  return made;
}

}  // namespace

// --- the core ----------------------------------------------------------------------------------------------------------

subscription_core::subscription_core(recipe&& made, const sync::channel::config& config, handler_object& handler,
                                     std::unique_ptr<call_extras> extras)
    : name(std::move(made.name)),
      file(made.file),
      line(made.line),
      max_parked(static_cast<std::uint32_t>(made.max_parked)),
      channel(listening(config, *this, extras.get())),
      id(made.id),
      pool(std::move(made.pool)),
      bus_(std::move(made.bus)),
      topic_(std::move(made.topic)),
      concurrency_(made.concurrency),
      lanes_(made.concurrency > 0 ? std::make_unique<lane[]>(made.concurrency) : nullptr),
      extras_(std::move(extras)) {
  reaper_.core = this;
  for (unsigned i = concurrency_; i-- > 0;) {
    lanes_[i].core = this;
    lanes_[i].next_sleeping = sleepers_;
    sleepers_ = &lanes_[i];
  }
  if (concurrency_ == 0) stream_ = std::make_unique<stream_core>(*this, made.max_in_flight, made.max_attempts);
  if (handler.is == handler_object::kind::coroutine || (extras_ && (extras_->retries || extras_->breaks())))
    for (unsigned i = 0; i < concurrency_; ++i) lanes_[i].prepare_long_calls();
  handler_ = std::exchange(handler, {});
  if (concurrency_ == 0) handler_.dead_letters = made.dead_letters;
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
  if (extras_) {
    extras_->on_drop.destroy();
    extras_->on_undelivered.destroy();
    extras_->filter.destroy();
  }
  bus_->forget(*this);
  close_operation* watchers = nullptr;
  {
    lock_guard lock(sides_m_);
    ended_.store(1);
    watchers = std::exchange(end_watchers_, nullptr);
  }
  end_changes_.fetch_add(1);
  sync::unpark_all(&end_changes_);
  while (watchers != nullptr) {
    close_operation* following = close_access::next(*watchers);
    close_access::has_ended(*watchers);  // it may be gone when this returns
    watchers = following;
  }
  notify_idle();
  return true;
}

bool subscription_core::watch_end(close_operation& closer) noexcept {
  lock_guard lock(sides_m_);
  if (ended()) return false;
  close_access::next(closer) = end_watchers_;
  end_watchers_ = &closer;
  return true;
}

bool subscription_core::unwatch_end(close_operation& closer) noexcept {
  lock_guard lock(sides_m_);
  for (close_operation** link = &end_watchers_; *link != nullptr; link = &close_access::next(**link)) {
    if (*link != &closer) continue;
    *link = close_access::next(closer);
    return true;
  }
  return false;
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
  lock_guard lock(sides_m_);
  lane* chosen = sleepers_;
  if (chosen != nullptr) sleepers_ = chosen->next_sleeping;
  return chosen;
}

void subscription_core::wake() noexcept {
  if (concurrency_ == 1)
    schedule(lanes_[0]);
  else if (stream_)
    stream_->dispatch();
  else if (lane* chosen = pop_sleeper())
    schedule(*chosen);
}

// With several lanes the idle bit says "somebody sleeps and may be woken"; who, says the list of sleepers. After taking an event a
// lane passes the duty on: it wakes a further one if there is more, else leaves the word set for producers.
void subscription_core::wake_another() noexcept {
  {
    lock_guard lock(sides_m_);
    if (sleepers_ == nullptr) return;
  }
  if (!channel.try_sleep()) wake();
}

bool subscription_core::go_to_sleep(lane& self) noexcept {
  if (concurrency_ == 1) return channel.try_sleep();
  {
    lock_guard lock(sides_m_);
    self.next_sleeping = sleepers_;
    sleepers_ = &self;
  }
  if (channel.try_sleep()) return true;
  lane* chosen = pop_sleeper();
  if (chosen == &self) return false;
  if (chosen != nullptr) schedule(*chosen);
  return true;
}

// --- rest and end ------------------------------------------------------------------------------------------------------

void subscription_core::notify_idle() noexcept {
  bus_->look_whether_idle();
  bus_->drain_moved();
  if (idle_watchers_.load() == 0) return;
  idle_changes_.fetch_add(1);
  sync::unpark_all(&idle_changes_);
}

bool subscription_core::at_rest() noexcept {
  const penstock::ledger counted = ledger();
  if (counted.quiescent()) return true;
  return paused() && bus_->draining() && counted.running == 0 && counted.pending == 0;
}

bool subscription_core::ended_through(std::uint64_t seats) noexcept {
  const penstock::ledger counted = ledger();
  if (counted.handled + counted.filtered + counted.failed + counted.evicted + counted.discarded >= seats) {
    const std::uint64_t oldest = running_sequence();
    if (oldest == 0 || oldest > seats) return true;
  }
  return at_rest();
}

bool subscription_core::wait_quiescent(steady_time deadline) {
  struct watcher {
    sync::atomic<std::uint32_t>& count;
    explicit watcher(sync::atomic<std::uint32_t>& counted) noexcept : count(counted) { count.fetch_add(1); }
    ~watcher() { count.fetch_sub(1); }
  } watching(idle_watchers_);
  for (;;) {
    const std::uint32_t seen = idle_changes_.load();
    if (at_rest()) return true;
    if (!sync::park(idle_changes_, seen, deadline)) return at_rest();
  }
}

void subscription_core::wake_waiters() noexcept {
  for (sync::atomic<std::uint32_t>* each : {&idle_changes_, &end_changes_}) {
    each->fetch_add(1);
    sync::unpark_all(each);
  }
}

bool subscription_core::wait_ended(steady_time deadline, const std::atomic<bool>* give_up) {
  for (;;) {
    const std::uint32_t seen = end_changes_.load();
    if (try_reap()) return true;
    if (give_up != nullptr && give_up->load()) return false;
    if (!sync::park(end_changes_, seen, deadline)) return try_reap();
  }
}

void subscription_core::tell_drop(const void* payload, drop_reason reason) noexcept {
  if (!has_drop_hook()) return;
  exec::context* current = exec::current_context();
  if (current != nullptr && current->kind == exec::context_kind::hook) return;  // a drop caused by a hook is only counted
  exec::context hook{exec::context_kind::hook};
  exec::context_scope scope(&hook);
  extras_->on_drop(payload, reason);
}

// Also inside another hook, unlike a drop: nothing that is discarded goes untold.
void subscription_core::tell_undelivered(const void* payload, std::uint64_t sequence, unsigned attempt,
                                         steady_time published) noexcept {
  if (!extras_ || !extras_->on_undelivered) return;
  const auto reason = bus_->draining() ? undelivered_reason::shutdown : undelivered_reason::closed;
  const undelivered told = undelivered_access::make(name, reason, sequence, attempt, published);
  exec::context hook{exec::context_kind::hook};
  exec::context_scope scope(&hook);
  try {
    extras_->on_undelivered(payload, told);
  } catch (...) {
    bus_->hook_threw("on_undelivered", *this, sequence);
  }
}

void subscription_core::leave_gate() noexcept {
  if (leave()) reap_later();  // not here: the closure must not die on a publisher's stack
}

subscription_core::stopping subscription_core::begin_stop() noexcept {
  topic_->remove(*this);
  const bool inside = enter();  // the hooks are told of what is rejected and discarded under the gate
  sync::waiter_list released;
  if (channel.stop(released)) {
    released.settle_all();
    return inside ? stopping::inside : stopping::outside;
  }
  if (inside) leave();  // the caller reaps, here or elsewhere
  return stopping::none;
}

void subscription_core::finish_stop(stopping begun) noexcept {
  if (begun != stopping::none) {
    channel.discard_queued(bus_->forked());
    if (stream_) stream_->discard_returned();
    close_gate();  // by the one who stopped it, when the hooks have been told of everything
    look_at_lanes();
    if (begun == stopping::inside) leave();  // the caller reaps, here or elsewhere
  }
  notify_idle();
}

void subscription_core::begin_drain() noexcept {
  if (paused()) return stop();  // a paused subscription is not resumed, so what it has is never handled
  topic_->remove(*this);
  const bool inside = enter();
  sync::waiter_list released;
  channel.begin_drain(released);
  released.settle_all();
  close_gate_if_drained();
  if (stream_) stream_->dispatch();
  if (inside) leave();  // the caller reaps, here or elsewhere
}

void subscription_core::release_callers() noexcept {
  topic_->leave_log(*this);
  sync::waiter_list released;
  channel.release_callers(released);
  released.settle_all();
}

void subscription_core::request_stop(std::shared_ptr<const cause> why) noexcept {
  stop_.ask(std::move(why));
  look_at_lanes();
}

void subscription_core::look_at_lanes() noexcept {
  for (unsigned i = 0; i < concurrency_; ++i) lanes_[i].look();
}

void subscription_core::close_gate_if_drained() noexcept {
  // In this order: whoever took the last event was at work before it was gone.
  if (!channel.drained() || working_.load() != 0) return;
  for (unsigned i = 0; i < concurrency_; ++i)
    if (lanes_[i].has_outputs()) return;
  close_gate();
}

// --- the breaker -------------------------------------------------------------------------------------------------------

bool subscription_core::paused() const noexcept {
  return extras_ != nullptr && extras_->breaks() && !channel.stopped() &&
         extras_->breaker.load() != static_cast<std::uint32_t>(breaker_state::closed);
}

bool subscription_core::begins_calls() const noexcept { return !paused() || channel.draining(); }

bool subscription_core::claim_probe() noexcept {
  auto tripped = static_cast<std::uint32_t>(breaker_state::tripped);
  return !bus_->draining() &&
         extras_->breaker.compare_exchange_strong(tripped, static_cast<std::uint32_t>(breaker_state::probing));
}

void subscription_core::call_succeeded() noexcept {
  if (extras_->failures_in_a_row.load() != 0) extras_->failures_in_a_row.store(0);
  if (!extras_->breaks() || extras_->breaker.load() == static_cast<std::uint32_t>(breaker_state::closed)) return;
  extras_->breaker.store(static_cast<std::uint32_t>(breaker_state::closed));
  look_at_lanes();
}

void subscription_core::call_failed(const failure* record) noexcept {
  if (!extras_ || extras_->failure.what() == failure_policy::action::keep_going) return;
  const std::uint32_t in_a_row = extras_->failures_in_a_row.fetch_add(1) + 1;
  const bool probe_failed = extras_->breaker.load() == static_cast<std::uint32_t>(breaker_state::probing);
  if (in_a_row < extras_->failure.after() && !probe_failed) return;
  switch (extras_->failure.what()) {
    case failure_policy::action::keep_going: return;
    case failure_policy::action::pause:
      extras_->breaker.store(static_cast<std::uint32_t>(breaker_state::tripped));
      if (channel.draining() || bus_->draining()) stop();
      return;
    case failure_policy::action::unsubscribe: return stop();
    case failure_policy::action::escalate: return bus_->escalate(*this, record);
  }
}

void subscription_core::resume() noexcept {
  if (!paused()) return;
  extras_->failures_in_a_row.store(0);
  extras_->breaker.store(static_cast<std::uint32_t>(breaker_state::closed));
  look_at_lanes();
}

// --- seen from outside -------------------------------------------------------------------------------------------------

std::uint64_t subscription_core::running_sequence() const noexcept {
  std::uint64_t oldest = 0;
  for (unsigned i = 0; i < concurrency_; ++i) {
    const std::uint64_t sequence = lanes_[i].running.load(std::memory_order_relaxed);
    if (sequence != 0 && (oldest == 0 || sequence < oldest)) oldest = sequence;
  }
  return oldest;
}

subscription_state subscription_core::state() const noexcept {
  if (ended()) return subscription_state::ended;
  if (channel.stopped()) return subscription_state::stopped;
  if (channel.draining()) return subscription_state::draining;
  return paused() ? subscription_state::paused : subscription_state::open;
}

penstock::ledger subscription_core::ledger() noexcept {
  penstock::ledger result;
  // Fates first, then begun, then taken: under traffic there are never more fates than offers.
  stream_counts read;
  if (stream_) read = stream_->counts();
  result.handled = read.handled;
  result.failed = read.failed;
  for (unsigned i = 0; i < concurrency_; ++i) {
    result.handled += lanes_[i].handled.load(std::memory_order_acquire);
    result.failed += lanes_[i].failed.load(std::memory_order_acquire);
  }
  if (extras_) result.filtered = extras_->filtered.load(std::memory_order_acquire);
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
  result.discarded = counts.discarded + read.discarded;
  result.queued = counts.tail - counts.begun - counts.discarded + read.returned;
  result.running = counts.begun - counts.evicted - result.handled - result.failed - result.filtered - read.returned -
                   read.discarded;
  result.offered = result.accepted + result.dropped + result.rejected.total() + result.pending;
  return result;
}

}  // namespace penstock::detail
