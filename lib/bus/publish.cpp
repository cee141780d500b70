// One publish: the span is offered to each member; who must wait stands in line; the caller learns what came of it.
// Floor 5, room bus.
#include "bus/bus_core.hpp"
#include "bus/publish_lines.hpp"
#include "bus/result_builder.hpp"
#include "bus/subscription_core.hpp"
#include "bus/topic.hpp"
#include "exec/context.hpp"
#include "sync/parker.hpp"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <stop_token>

namespace penstock::detail {
namespace {

// --- a thread that waits -----------------------------------------------------------------------------------------------

class thread_wait;

struct thread_node : sync::waiter {
  thread_wait* call = nullptr;
  ref_ptr<subscription_core> core;  // a waiting publish holds the channels it waits for, not the topic's snapshot
  std::size_t offered_before = 0;   // events of the span decided before it got in line
  bool taken_out = false;           // settled by the waiting thread itself
};

/// One publish of one thread, waiting at any number of channels at once, and in the topic's log. Lives on that thread's stack.
///
/// word_: low bits: lines it still stands in; bit 30: poked (look at your token); bit 31: asleep. Whoever takes it to no
/// open lines wakes the thread by the word's address and touches nothing after, for the stack may be gone.
class thread_wait {
 public:
  explicit thread_wait(std::size_t most) noexcept : most_(most) {}
  thread_wait(const thread_wait&) = delete;
  thread_wait& operator=(const thread_wait&) = delete;
  ~thread_wait() {
    // Only when waiting itself was unwound (a simulation that ends): no line may keep a node of this stack.
    if ((word_.load() & open_lines) != 0) give_up(errc::cancelled);
  }

  /// A node to stand in line with; null when there is no memory. Beyond four lines one allocation serves all.
  thread_node* next_node() noexcept {
    if (count_ < near) return &near_[count_];
    if (far_ == nullptr) far_.reset(new (std::nothrow) thread_node[most_ - near]);
    return far_ != nullptr ? &far_[count_ - near] : nullptr;
  }
  void keep(thread_node& node, subscription_core& core, std::size_t before) noexcept {
    node.core = ref_ptr<subscription_core>::share(&core);
    node.offered_before = before;
    ++count_;
  }
  void prepare(thread_node& node) noexcept {
    node.call = this;
    node.settle = [](sync::waiter& settled) noexcept { static_cast<thread_node&>(settled).call->one_less(); };
    word_.fetch_add(1);
  }
  void unprepare() noexcept { word_.fetch_sub(1); }

  /// A place to wait in the log, where so many read; null when there is no memory. Then, with the log's mutex held, `enter_log`.
  log_wait* place_in_log(topic& waited, std::uint32_t readers) noexcept {
    if (readers > near) far_readers_.reset(new (std::nothrow) thread_node[readers]);
    if (readers > near && far_readers_ == nullptr) return nullptr;
    waited_ = &waited;
    log_.call = this;
    log_.settle = [](log_wait& settled) noexcept { static_cast<log_place&>(settled).call->one_less(); };
    log_.line_up = [](log_wait& waits, subscription_core& left, std::size_t index) noexcept -> sync::waiter& {
      return static_cast<log_place&>(waits).call->line_up(left, index);
    };
    return &log_;
  }
  void enter_log() noexcept { word_.fetch_add(1); }
  /// The subscriptions that left the log while this waited for seats there; each has the events from `offered_before` on.
  std::size_t left() const noexcept { return left_.load(); }
  thread_node& left_node(std::size_t index) noexcept {
    return far_readers_ != nullptr ? far_readers_[index] : near_readers_[index];
  }

  bool any() const noexcept { return count_ > 0 || waited_ != nullptr; }
  std::size_t count() const noexcept { return count_; }
  thread_node& node(std::size_t index) noexcept { return index < near ? near_[index] : far_[index - near]; }

  void wait(const clock& time, steady_time deadline, const std::stop_token* stop) {
    struct poke {
      thread_wait& call;
      void operator()() const noexcept {
        call.word_.fetch_or(poked);
        sync::unpark_all(&call.word_);
      }
    };
    if (stop != nullptr) {
      std::stop_callback<poke> callback(*stop, poke{*this});
      wait_until_decided(time, deadline, stop);
    } else {
      wait_until_decided(time, deadline, nullptr);
    }
  }

 private:
  struct log_place : log_wait {
    thread_wait* call = nullptr;
  };
  static constexpr std::size_t near = 4;
  static constexpr std::uint32_t asleep = std::uint32_t{1} << 31;
  static constexpr std::uint32_t poked = std::uint32_t{1} << 30;
  static constexpr std::uint32_t open_lines = poked - 1;
  /// A lane may put off telling who has been admitted (one wake-up for many); after this time the thread looks by itself,
  /// once, and is told at once from then on.
  static constexpr std::chrono::milliseconds first_look{4};

  // The log's mutex is held, and this waits in the log: its thread does not go on meanwhile.
  sync::waiter& line_up(subscription_core& left, std::size_t index) noexcept {
    thread_node& node = left_node(left_.load());
    node.core = ref_ptr<subscription_core>::share(&left);
    node.offered_before = index;
    node.tell_at_once = log_.at_once;
    prepare(node);
    left_.fetch_add(1);
    return node;
  }

  void one_less() noexcept {
    const void* address = &word_;
    const std::uint32_t before = word_.fetch_sub(1);
    if ((before & open_lines) == 1 && (before & asleep) != 0) sync::unpark_all(address);
  }

  void wait_until_decided(const clock& time, steady_time deadline, const std::stop_token* stop) {
    const steady_time look = deadline_after(time.now(), first_look);
    bool looked = false;
    bool given_up = false;
    for (;;) {
      std::uint32_t word = word_.load();
      if ((word & open_lines) == 0) return;
      if (!given_up) {
        const bool cancelled = stop != nullptr && stop->stop_requested();
        if (cancelled || (deadline != no_deadline && time.now() >= deadline)) {
          give_up(cancelled ? errc::cancelled : errc::timed_out);
          given_up = true;  // lines left now are being settled by a lane this moment
          continue;
        }
        if (!looked && time.now() >= look) {
          looked = true;
          for (std::size_t i = 0; i < count_; ++i) {
            thread_node& each = node(i);
            if (!each.taken_out && each.core->channel.ask_to_be_told(each)) take_out(each);
          }
          if (waited_ != nullptr && waited_->look_at(log_)) word_.fetch_sub(1);
          // Who leaves the log from here on tells at once by itself.
          for (std::size_t i = 0; i < left(); ++i) {
            thread_node& each = left_node(i);
            if (!each.taken_out && each.core->channel.ask_to_be_told(each)) take_out(each);
          }
          continue;
        }
      }
      if ((word & asleep) == 0) {
        if (!word_.compare_exchange_strong(word, word | asleep)) continue;
        word |= asleep;
      }
      steady_time next = given_up ? no_deadline : deadline;
      if (!given_up && !looked && look < next) next = look;
      sync::park(word_, word, next);
    }
  }

  void give_up(errc why) noexcept {
    for (std::size_t i = 0; i < count_; ++i) withdraw(node(i), why);
    if (waited_ == nullptr) return;
    if (waited_->take_out(log_)) word_.fetch_sub(1);
    for (std::size_t i = 0; i < left(); ++i) withdraw(left_node(i), why);
  }
  void withdraw(thread_node& each, errc why) noexcept {
    if (each.taken_out) return;
    if (each.core->channel.withdraw(each, why) != sync::channel::withdrawal::settled_elsewhere) take_out(each);
  }
  void take_out(thread_node& taken) noexcept {
    taken.taken_out = true;
    word_.fetch_sub(1);
  }

  const std::size_t most_;
  std::size_t count_ = 0;
  sync::atomic<std::uint32_t> word_{0};
  thread_node near_[near];
  std::unique_ptr<thread_node[]> far_;

  topic* waited_ = nullptr;  // whose log it waits in
  log_place log_;
  sync::atomic<std::size_t> left_{0};
  thread_node near_readers_[near];
  std::unique_ptr<thread_node[]> far_readers_;
};

// --- a handler's output that is parked ---------------------------------------------------------------------------------

/// Stands in the target's line after the handler's publish has returned. Owned by the line and, while armed, by its timer.
class parked_output : public sync::waiter {
 public:
  /// Null: no memory.
  static parked_output* make(lane& producer, subscription_core& target, const std::byte* events,
                             std::size_t count) noexcept {
    const std::size_t bytes = count * target.channel.payload_bytes();
    void* memory = std::malloc(sizeof(parked_output) + bytes);
    if (memory == nullptr) return nullptr;
    auto* made = ::new (memory) parked_output(producer, target, count);
    std::memcpy(made->storage(), events, bytes);
    if (target.channel.blocks())
      for (std::size_t i = 0; i < count; ++i) retain_block(const_cast<void*>(payload_at(target.channel, made->storage(), i)));
    return made;
  }
  std::byte* storage() noexcept { return reinterpret_cast<std::byte*>(this + 1); }
  output_edge edge;

  /// Before it gets in line, so that the timer cannot come too late.
  errc arm(steady_time deadline) noexcept {
    if (deadline == no_deadline) return errc::none;
    timer_.node.due = deadline;
    timer_.node.fire = [](timer_node& fired) noexcept {
      reinterpret_cast<timer_slot&>(fired).owner->deadline_passed();
    };
    owners_.store(2);
    armed_ = true;
    const errc failed = producer_core_->pool->timers().arm(timer_.node);
    if (failed != errc::none) {
      armed_ = false;
      owners_.store(1);
    }
    return failed;
  }

  /// It did not need the line after all, or may not stand in it. Forgets without telling anybody.
  void discard() noexcept {
    disarm();
    drop_owner();
  }

 private:
  struct timer_slot {
    timer_node node;
    parked_output* owner = nullptr;
  };

  parked_output(lane& producer, subscription_core& target, std::size_t count) noexcept
      : producer_(producer),
        producer_core_(ref_ptr<subscription_core>::share(producer.core)),
        target_(ref_ptr<subscription_core>::share(&target)),
        count_(count) {
    timer_.owner = this;
    parked = true;
    tell_at_once = true;
    settle = [](waiter& settled) noexcept { static_cast<parked_output&>(settled).decided(); };
    edge.producer = &producer;
    edge.target = target_.get();
    edge.place = this;
  }
  ~parked_output() = default;

  // Who rejects it is inside the target's gate: the stopper, or the timer below.
  void decided() noexcept {
    if (why != errc::none) {
      const drop_reason reason = why == errc::timed_out ? drop_reason::timed_out : drop_reason::closed;
      for (std::size_t i = count_ - remaining; i < count_; ++i)
        target_->tell_drop(payload_at(target_->channel, storage(), i), reason);
    }
    if (edge.producer != nullptr) {
      wait_graph& waits = target_->bus().waits;
      lock_guard lock(waits.m);
      waits.unlink(edge);
    }
    producer_.output_decided();
    disarm();
    drop_owner();
  }

  void deadline_passed() noexcept {
    const ref_ptr<subscription_core> target = target_;
    const bool inside = target->enter();  // closed: whoever closed it has settled all
    if (target->channel.withdraw(*this, errc::timed_out) == sync::channel::withdrawal::withdrawn) {
      armed_ = false;
      decided();
    }
    drop_owner();
    if (inside) target->leave_gate();
  }

  void disarm() noexcept {
    if (armed_ && producer_core_->pool->timers().disarm(timer_.node)) drop_owner();
  }

  void drop_owner() noexcept {
    if (owners_.fetch_sub(1) != 1) return;
    if (target_->channel.blocks())
      for (std::size_t i = 0; i < count_; ++i)
        release_block(const_cast<void*>(payload_at(target_->channel, storage(), i)));
    this->~parked_output();
    std::free(this);
  }

  lane& producer_;
  const ref_ptr<subscription_core> producer_core_;
  const ref_ptr<subscription_core> target_;
  const std::size_t count_;
  bool armed_ = false;  // not changed while it stands in a line, but by the timer that has just fired
  timer_slot timer_;
  sync::atomic<std::uint32_t> owners_{1};
};
static_assert(alignof(parked_output) <= alignof(std::max_align_t));

}  // namespace

// --- one publish -------------------------------------------------------------------------------------------------------

class publishing {
 public:
  publishing(const publish_request& request, std::size_t members, std::int64_t published) noexcept
      : request_(request),
        events_(static_cast<const std::byte*>(request.events)),
        members_(members),
        published_(published),
        result_(request.count) {}

  void offer(subscription_core& member) noexcept {
    if (!member.has_drop_hook()) {
      offer_to(member);
    } else if (member.enter()) {  // else it has ended: not matched
      offer_to(member);
      member.leave_gate();
    }
  }

  /// Events that other members had seats for.
  void accepted(std::uint64_t events) noexcept { result_.accepted(events); }

  publish_result finish(const clock& time) {
    if (lines_ && lines_->any()) {
      lines_->wait(time, request_.deadline, request_.stop);
      for (std::size_t i = 0; i < lines_->count(); ++i) tell(lines_->node(i));
      for (std::size_t i = 0; i < lines_->left(); ++i) {
        in_log_ -= request_.count - lines_->left_node(i).offered_before;
        tell(lines_->left_node(i));
      }
    }
    result_.accepted(in_log_);
    return result_.take();
  }

  std::int64_t published() const noexcept { return published_; }
  /// The readers of the log have all its events, or wait for seats there.
  void in_log(std::uint32_t readers) noexcept { in_log_ = readers * request_.count; }
  /// Null: it may not wait there.
  log_wait* place_in_log(topic& waited, std::uint32_t readers) noexcept {
    // Whoever has a context is looked for in lines when nothing goes on any more.
    if (request_.wait != wait_mode::may_wait || request_.operation != nullptr || exec::current_context() != nullptr ||
        !exec::may_wait_here())
      return nullptr;
    lines_.emplace(members_);
    log_wait* place = lines_->place_in_log(waited, readers);
    if (place == nullptr) return lines_.reset(), nullptr;
    place->events = events_;
    return place;
  }
  void waits_in_log() noexcept { lines_->enter_log(); }

 private:
  void tell(const thread_node& each) noexcept {
    result_.accepted(each.admitted);
    if (each.why == errc::none) return;
    result_.rejected(*each.core, each.why, each.remaining);
    result_.refused_from(each.offered_before + each.admitted);
    result_.error(each.why);
  }

  void offer_to(subscription_core& member) noexcept {
    sync::offer_outcome outcome;
    const bool decided = member.channel.offer_quickly(events_, request_.count, outcome, published_);
    if (outcome.wake) {
      member.wake();
      outcome.wake = false;
    }
    if (decided && outcome.accepted == request_.count) {
      result_.accepted(request_.count);
      return;
    }
    if (!decided) offer_rest(member, outcome);
    tally(member, outcome);
  }

  static std::size_t decided_of(const sync::offer_outcome& outcome) noexcept {
    return outcome.accepted + outcome.dropped + outcome.rejected + outcome.unmatched;
  }

  /// Where the rest of an offer waits if there is no seat; one of these, or nowhere.
  struct place_to_wait {
    thread_node* thread = nullptr;
    parked_output* output = nullptr;
    operation_line* operation = nullptr;
    lane* producer = nullptr;  ///< whose output it is
    errc refusal = errc::full;
    sync::waiter* waiter() const noexcept {
      if (thread != nullptr) return thread;
      if (output != nullptr) return output;
      return operation;
    }
    output_edge* edge() const noexcept {
      if (output != nullptr) return &output->edge;
      return operation != nullptr && producer != nullptr ? &operation->edge : nullptr;
    }
  };

  place_to_wait find_place(subscription_core& member, std::size_t decided) noexcept {
    place_to_wait place;
    if (request_.wait != wait_mode::may_wait || !member.channel.waits_when_full()) return place;
    exec::context* context = exec::current_context();
    if (context != nullptr && context->kind == exec::context_kind::lane) {
      place.producer = static_cast<lane*>(context->lane);
      place.refusal = errc::would_block;
      if (!place.producer->begin_output()) {
        place.producer = nullptr;
        return place;
      }
      place.refusal = errc::not_enough_memory;
    }
    if (request_.operation != nullptr) {
      place.refusal = errc::not_enough_memory;
      place.operation = async_lines::next(*request_.operation, members_);
      if (place.operation != nullptr) async_lines::prepare(*request_.operation, *place.operation, place.producer, member);
    } else if (place.producer != nullptr) {
      const std::byte* rest = events_ + decided * member.channel.payload_bytes();
      place.output = parked_output::make(*place.producer, member, rest, request_.count - decided);
      if (place.output != nullptr && place.output->arm(request_.deadline) != errc::none)
        std::exchange(place.output, nullptr)->discard();
    } else if (exec::may_wait_here()) {
      if (!lines_) lines_.emplace(members_);
      place.refusal = errc::not_enough_memory;
      place.thread = lines_->next_node();
      if (place.thread != nullptr) lines_->prepare(*place.thread);
    } else {
      place.refusal = errc::would_block;
    }
    if (sync::waiter* waits = place.waiter(); waits != nullptr && context != nullptr)
      waits->origin = {context->in_hand, context->stream};
    if (place.waiter() == nullptr && place.producer != nullptr) std::exchange(place.producer, nullptr)->output_decided();
    return place;
  }

  // The slow way: full, others in line, evicting, closing, or the first event of all.
  void offer_rest(subscription_core& member, sync::offer_outcome& outcome) noexcept {
    alignas(largest_in_place_align) std::byte evicted[largest_in_place];
    const place_to_wait place = find_place(member, decided_of(outcome));
    const std::byte* events = place.output != nullptr ? place.output->storage() : nullptr;
    output_edge* edge = place.edge();
    if (edge != nullptr && &member.bus() != &place.producer->core->bus()) {
      edge->producer = nullptr;  // another bus's graph: not looked through
      edge = nullptr;
    }
    std::string chain;
    do {
      const std::size_t done = decided_of(outcome);
      outcome.evicted = false;
      const std::byte* rest = events != nullptr ? events : events_ + done * member.channel.payload_bytes();
      const auto offer = [&](sync::waiter* waits, errc refusal) {
        member.channel.offer_slowly(rest, request_.count - done,
                                    waits != nullptr ? sync::offer_patience::line : sync::offer_patience::never, refusal,
                                    waits, evicted, outcome, published_);
      };
      if (edge != nullptr) {
        // Whether the lane may wait there, and its place in line: one step.
        wait_graph& waits = member.bus().waits;
        lock_guard lock(waits.m);
        if (waits.alive_with(*place.producer, member)) {
          offer(place.waiter(), place.refusal);
          if (outcome.queued_in_line) waits.link(*edge);
        } else {
          offer(nullptr, errc::backpressure_cycle);
          if (outcome.why == errc::backpressure_cycle) chain = waits.chain(*place.producer, member);
        }
      } else {
        offer(place.waiter(), place.refusal);
      }
      if (outcome.in_log) {
        member.topic().leave_log(member);
        continue;
      }
      if (outcome.wake) {
        member.wake();
        outcome.wake = false;
      }
      if (outcome.evicted) {
        const void* payload = payload_at(member.channel, evicted, 0);
        member.tell_drop(payload, drop_reason::oldest);
        if (member.channel.blocks()) release_block(const_cast<void*>(payload));
      }
    } while (outcome.again);
    if (outcome.queued_in_line) {
      if (place.thread != nullptr)
        lines_->keep(*place.thread, member, decided_of(outcome));
      else if (place.operation == nullptr)
        result_.parked(request_.count - decided_of(outcome));
    } else if (place.waiter() != nullptr) {
      if (place.thread != nullptr) lines_->unprepare();
      if (place.output != nullptr) place.output->discard();
      if (place.operation != nullptr) async_lines::unprepare(*request_.operation, *place.operation);
      if (place.producer != nullptr) place.producer->output_decided();
    }
    // A refusal that is not the policy's is the call's error.
    if (outcome.rejected > 0 && outcome.why != errc::full) result_.error(outcome.why);
    if (outcome.why == errc::backpressure_cycle) tell_cycle(member, outcome, chain);
  }

  void tell_cycle(subscription_core& member, const sync::offer_outcome& outcome, const std::string& chain) noexcept {
    for (std::size_t i = request_.count - outcome.rejected; i < request_.count; ++i)
      member.tell_drop(payload_at(member.channel, events_, i), drop_reason::cycle);
    const exec::context* context = exec::current_context();
    const lane& producing = *static_cast<const lane*>(context->lane);
    const subscription_core& producer = *producing.core;
    failure record;
    record.sequence = producing.running.load(std::memory_order_relaxed);
    record.line = producer.line;
    try {
      record.subscription = producer.name;
      record.event = producer.event();
      record.file = producer.file;
      record.exception.type_name = "back-pressure cycle";
      record.exception.what = chain + ": the output was refused; give one of them room (capacity), another policy, or an "
                                      "answer that does not go back";
    } catch (...) {
    }
    exec::context hook{exec::context_kind::hook};
    exec::context_scope scope(&hook);
    member.bus().report(record);
  }

  void tally(subscription_core& member, const sync::offer_outcome& outcome) noexcept {
    result_.accepted(outcome.accepted);
    if (outcome.rejected > 0) {
      result_.rejected(member, outcome.why, outcome.rejected);
      result_.refused_from(outcome.accepted);
    }
    if (outcome.dropped > 0) {
      result_.dropped(member, outcome.dropped);
      result_.refused_from(outcome.accepted);
      if (member.has_drop_hook())
        for (std::size_t i = request_.count - outcome.dropped; i < request_.count; ++i)
          member.tell_drop(payload_at(member.channel, events_, i), drop_reason::newest);
    }
  }

  const publish_request& request_;
  const std::byte* const events_;
  const std::size_t members_;
  const std::int64_t published_;
  result_builder result_;
  std::uint64_t in_log_ = 0;  // events that readers of the log have, or wait for
  std::optional<thread_wait> lines_;  // only built by a publish that may have to wait
};

std::int64_t topic::publish_time(metadata kept) const noexcept {
  switch (kept) {
    case metadata::off: return 0;
    case metadata::coarse: return bus_->time().coarse_now().time_since_epoch().count();
    case metadata::precise: break;
  }
  return bus_->time().now().time_since_epoch().count();
}

publish_result topic::publish(const publish_request& request) {
  const auto cargo = request.dead_letter ? bus_core::cargo::dead_letters : bus_core::cargo::events;
  if (const errc refused = bus_->admission(cargo); refused != errc::none) return publish_result(refused);
  if (bus_->traces_feeding()) bus_->note_feeding(*this);
  if (log_.shape() != sync::shared_log::form::unused) {
    std::uint32_t readers = 0;
    const std::int64_t published = published_now();
    switch (log_.offer(static_cast<const std::byte*>(request.events), request.count, published, readers)) {
      case sync::shared_log::offered::unwritten: return publish_beside_log(request, published);
      case sync::shared_log::offered::written: break;
      case sync::shared_log::offered::written_and_wakes: wake_readers(); break;
    }
    return result_builder::all_accepted(request.count, readers * request.count);
  }
  snapshot& seen = enter();
  if (seen.count == 0) {
    leave(seen);
    return publish_unmatched(request.count);
  }
  const std::int64_t published = published_now();
  const auto* const events = static_cast<const std::byte*>(request.events);
  for (std::size_t i = 0; i < seen.count; ++i) {
    subscription_core& member = *seen.members()[i];
    switch (member.channel.seat(events, request.count, published)) {
      case sync::channel::seating::refused: return publish_from(i, seen, request, published);
      case sync::channel::seating::seated: break;
      case sync::channel::seating::seated_and_wakes: member.wake(); break;
    }
  }
  const std::size_t offers = request.count * seen.count;
  leave(seen);
  return result_builder::all_accepted(request.count, offers);
}

// From the first member on that has no seat for all of it; before that nothing is decided that a hook might have to be told
// of. A function of its own: it has room for waiting on its stack, which the way of most publishes is spared.
publish_result topic::publish_from(std::size_t first, snapshot& seen, const publish_request& request,
                                   std::int64_t published) {
  // With the first event, as the rings: later publishes allocate nothing, and neither do the lanes.
  if (shares() && !log_.provided()) {
    lock_guard lock(log_.m);
    static_cast<void>(provide_log());
  }
  publishing call(request, seen.count, published);
  call.accepted(first * request.count);
  for (std::size_t i = first; i < seen.count; ++i) call.offer(*seen.members()[i]);
  leave(seen);
  return call.finish(bus_->time());
}

namespace {

/// Some of the members of a snapshot, by their places in it.
class member_set {
 public:
  explicit member_set(std::size_t members) noexcept {
    if (members > near * 64) far_.reset(new (std::nothrow) std::uint64_t[(members + 63) / 64]());
    complete = members <= near * 64 || far_ != nullptr;
  }
  bool complete = false;  ///< else there is no memory
  void add(std::size_t index) noexcept { words()[index / 64] |= std::uint64_t{1} << (index % 64); }
  bool has(std::size_t index) noexcept { return (words()[index / 64] >> (index % 64) & 1) != 0; }

 private:
  static constexpr std::size_t near = 16;
  std::uint64_t* words() noexcept { return far_ != nullptr ? far_.get() : near_; }
  std::uint64_t near_[near] = {};
  std::unique_ptr<std::uint64_t[]> far_;
};

}  // namespace

void topic::wake_readers() noexcept {
  snapshot& seen = enter();
  for (std::size_t i = 0; i < seen.count; ++i)
    if (seen.members()[i]->channel.claim_log_sleeper()) seen.members()[i]->wake();
  leave(seen);
}

// Not all members read the log, or one has no seat.
publish_result topic::publish_beside_log(const publish_request& request, std::int64_t published) {
  for (;;) {
    const std::uint64_t word = log_.look();
    snapshot& seen = enter();
    if (log_.shape() == sync::shared_log::form::unused) return publish_from(0, seen, request, published);
    member_set others(seen.count);
    for (std::size_t i = 0; others.complete && i < seen.count; ++i)
      if (!seen.members()[i]->channel.in_log()) others.add(i);
    sync::shared_log::claimed got;
    const auto claimed = others.complete ? log_.claim(word, request.count, got) : sync::shared_log::claiming::refused;
    if (claimed == sync::shared_log::claiming::taken || claimed == sync::shared_log::claiming::taken_and_wakes) {
      publishing call(request, seen.count, published);
      write_in_log(call, seen, request, got, claimed == sync::shared_log::claiming::taken_and_wakes);
      for (std::size_t i = 0; i < seen.count; ++i)
        if (others.has(i)) call.offer(*seen.members()[i]);
      leave(seen);
      return call.finish(bus_->time());
    }
    leave(seen);
    if (!others.complete) return publish_result(errc::not_enough_memory);
    if (claimed == sync::shared_log::claiming::refused) return publish_locked(request, published);
  }
}

void topic::write_in_log(publishing& call, snapshot& seen, const publish_request& request,
                         const sync::shared_log::claimed& got, bool wakes) noexcept {
  call.in_log(got.readers);
  log_.write(got, static_cast<const std::byte*>(request.events), request.count, call.published());
  for (std::size_t i = 0; wakes && i < seen.count; ++i)
    if (seen.members()[i]->channel.claim_log_sleeper()) seen.members()[i]->wake();
}

// Some reader has no seat for the whole span, it may be. Under the log's mutex, so nobody moves.
publish_result topic::publish_locked(const publish_request& request, std::int64_t published) {
  lock_guard lock(log_.m);
  snapshot& seen = enter_locked();
  member_set others(seen.count);
  member_set woken(seen.count);
  if (!others.complete || !woken.complete) {
    lock.unlock();
    leave(seen);
    return publish_result(errc::not_enough_memory);
  }
  publishing call(request, seen.count, published);
  log_.shut_now();
  const std::uint64_t end = log_.position_locked() + request.count;
  std::uint32_t left = 0;
  std::uint64_t limit = std::uint64_t{1} << 62;
  log_wait* waits = nullptr;
  bool asked = false;
  for (std::size_t i = 0; i < seen.count; ++i) {
    sync::channel& each = seen.members()[i]->channel;
    if (!each.in_log()) continue;
    const std::uint64_t own = each.log_limit();
    const bool may_stay = each.waits_when_full() && end <= each.log_cursor() + log_.size();
    if (end > own && may_stay && !std::exchange(asked, true)) waits = call.place_in_log(*this, log_.readers());
    if (end <= own || (may_stay && waits != nullptr)) {
      if (own < limit) limit = own;
      continue;
    }
    ++left;
    if (leave_log_locked(*seen.members()[i], false) == sync::channel::leaving::left_and_wakes) woken.add(i);
  }
  if (left > 0) note_readers(log_.readers() - left);
  if (log_.readers() > 0) log_.raise_limit(limit);
  log_waits told;
  sync::shared_log::claimed got;
  bool wakes = false;
  if (log_.readers() > 0) {
    wakes = log_.claim_locked(request.count, got);
    if (waits != nullptr) {
      waits->first = got.first;
      waits->end = end;
      waits->published = published;
      waits->waits = true;
      call.waits_in_log();
      waits_.push_back(*waits);
      await_first();
    }
  }
  log_.open();
  // Those who have left need not be waited for; and a reader that has moved on meanwhile may not have seen that it is awaited.
  serve_log_locked(told);
  for (std::size_t i = 0; i < seen.count; ++i)
    if (!seen.members()[i]->channel.in_log()) others.add(i);
  lock.unlock();
  if (got.readers > 0) write_in_log(call, seen, request, got, wakes);
  told.settle_all();
  for (std::size_t i = 0; i < seen.count; ++i) {
    if (!others.has(i)) continue;
    using leaving = sync::channel::leaving;
    if (left > 0) after_leaving(*seen.members()[i], woken.has(i) ? leaving::left_and_wakes : leaving::left);
    call.offer(*seen.members()[i]);
  }
  leave(seen);
  return call.finish(bus_->time());
}

publish_result topic::publish_unmatched(std::size_t count) noexcept {
  if (const errc refused = bus_->admission(); refused != errc::none) return publish_result(refused);
  bus_->report_unmatched(identity.name);
  result_builder result(count);
  return result.take();
}

}  // namespace penstock::detail
