// Reading: readers in line, deliveries in hands, events that come back.
// Floor 5, room bus.
#include <penstock/bus/stream.hpp>

#include "bus/bus_core.hpp"
#include "bus/dead_letters.hpp"
#include "bus/stream_core.hpp"
#include "bus/subscription_core.hpp"
#include "bus/topic.hpp"
#include "exec/context.hpp"
#include "sync/parker.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <utility>

namespace penstock {

stream_options::stream_options() = default;
stream_options::stream_options(stream_options&&) noexcept = default;
stream_options& stream_options::operator=(stream_options&&) noexcept = default;
stream_options::~stream_options() = default;

namespace detail {

struct stream_core::returned_event {
  returned_event* next;
  delivery_base event;
};

stream_core::~stream_core() {
  while (returned_event* each = returned_) {
    returned_ = each->next;
    each->event.core_ = nullptr;  // this core: it holds no count of itself there
    if (each->event.block_ != nullptr) release_block(each->event.block_);
    delete each;
  }
}

void stream_core::push_back_locked(receive_operation& reader) noexcept {
  reader.next_ = nullptr;
  reader.previous_ = last_;
  (last_ != nullptr ? last_->next_ : first_) = &reader;
  last_ = &reader;
}
void stream_core::push_front_locked(receive_operation& reader) noexcept {
  reader.previous_ = nullptr;
  reader.next_ = first_;
  (first_ != nullptr ? first_->previous_ : last_) = &reader;
  first_ = &reader;
}
void stream_core::remove_locked(receive_operation& reader) noexcept {
  (reader.previous_ != nullptr ? reader.previous_->next_ : first_) = reader.next_;
  (reader.next_ != nullptr ? reader.next_->previous_ : last_) = reader.previous_;
}

bool stream_core::at_end() noexcept { return owner_.channel.stopped() || owner_.channel.drained(); }

/// By the one dispatcher. True: `reader` has an event. The lock is given up meanwhile.
bool stream_core::take_into(receive_operation& reader, lock_guard& lock) noexcept {
  delivery_base& got = reader.got_;
  if (returned_event* back = returned_) {
    returned_ = back->next;
    --counts_.returned;
    lock.unlock();
    got = std::move(back->event);
    delete back;
    lock.lock();
    ++in_flight_;
    return true;
  }
  lock.unlock();
  sync::channel& channel = owner_.channel;
  sync::seat_stamp stamp;
  std::uint64_t sequence = 0;
  // From here until its fate is known the event is inside the gate: the stream has not ended before.
  const bool inside = owner_.enter();
  const bool taken = inside && channel.take(got.event_, sequence, &stamp) == sync::take_status::taken;
  if (taken) {
    if (channel.blocks()) std::memcpy(&got.block_, got.event_, sizeof got.block_);
    got.core_ = &owner_;
    owner_.retain();
    got.sequence_ = sequence;
    got.attempt_ = 1;
    got.fresh_ = true;
    if (channel.stamped()) {
      got.published_ = steady_time(std::chrono::nanoseconds(stamp.published));
      // Producers that write side by side look at the count in any order: a later event's may be the lower.
      const std::uint64_t lost = std::max(stamp.lost, last_lost_);
      got.dropped_before_ = lost - std::exchange(last_lost_, lost);
    }
  } else {
    if (channel.wants_service()) channel.serve(true);
    if (inside) owner_.leave_gate();
  }
  lock.lock();
  if (taken) ++in_flight_;
  return taken;
}

/// The reader is off the line; it may be gone when this returns.
void stream_core::complete_locked(receive_operation& reader, lock_guard& lock) noexcept {
  const bool tell = reader.waiting_;  // else its `start` is on the stack and looks
  reader.waiting_ = false;
  reader.settled_ = true;
  if (!tell) return;
  lock.unlock();
  reader.decided(reader);
  lock.lock();
}

void stream_core::dispatch_locked(lock_guard& lock) noexcept {
  if (dispatching_) {
    again_ = true;
    return;
  }
  dispatching_ = true;
  for (;;) {
    again_ = false;
    receive_operation* reader = first_;
    if (reader == nullptr) break;
    if (in_flight_ >= max_in_flight_ && !at_end()) break;
    remove_locked(*reader);
    served_ = reader;
    const bool got = in_flight_ < max_in_flight_ && take_into(*reader, lock);
    served_ = nullptr;
    if (got || reader->cancelled_ || (returned_ == nullptr && at_end())) {
      if (got) reader->cancelled_ = false;  // it has won
      complete_locked(*reader, lock);
      continue;
    }
    push_front_locked(*reader);
    if (again_ || returned_ != nullptr) continue;
    if (owner_.channel.unwritten()) {
      lock.unlock();
      owner_.channel.await_writer();
      lock.lock();
      continue;
    }
    if (owner_.channel.try_sleep()) {
      if (at_end()) continue;  // it ended before the idle bit said that somebody waits
      break;
    }
  }
  dispatching_ = false;
}

void stream_core::dispatch() noexcept {
  const auto keep = ref_ptr<subscription_core>::share(&owner_);
  {
    lock_guard lock(m_);
    dispatch_locked(lock);
  }
  if (owner_.channel.draining()) owner_.close_gate_if_drained();
  owner_.notify_idle();
}

bool stream_core::start(receive_operation& reader) noexcept {
  lock_guard lock(m_);
  push_back_locked(reader);
  dispatch_locked(lock);
  if (reader.settled_) return true;
  reader.waiting_ = true;
  return false;
}

void stream_core::cancel(receive_operation& reader) noexcept {
  lock_guard lock(m_);
  if (reader.settled_) return;
  reader.cancelled_ = true;
  if (served_ == &reader) return;  // whoever serves it looks
  remove_locked(reader);
  complete_locked(reader, lock);
}

void stream_core::try_now(receive_operation& reader) noexcept {
  {
    lock_guard lock(m_);
    reader.settled_ = true;
    if (dispatching_ || first_ != nullptr || in_flight_ >= max_in_flight_) return;
    dispatching_ = true;
    static_cast<void>(take_into(reader, lock));
    dispatching_ = false;
    if (first_ != nullptr) dispatch_locked(lock);
  }
  if (owner_.channel.draining()) owner_.close_gate_if_drained();
}

/// It was back in line, or would be, and will not be delivered again. Inside the gate.
void stream_core::discard(delivery_base& held) noexcept {
  owner_.tell_undelivered(held.payload(), held.sequence_, held.attempt_, held.published_);
  let_go(held);
}

/// The event is nobody's any more.
void stream_core::let_go(delivery_base& held) noexcept {
  if (void* block = std::exchange(held.block_, nullptr)) release_block(block);
  held.core_ = nullptr;
}

void stream_core::settle(delivery_base& held, settled how) noexcept {
  const auto keep = ref_ptr<subscription_core>::adopt(held.core_);
  let_go(held);
  {
    lock_guard lock(m_);
    ++(how == settled::handled ? counts_.handled : counts_.failed);
    --in_flight_;
    if (first_ != nullptr) dispatch_locked(lock);
  }
  owner_.leave_gate();
  owner_.notify_idle();
}

void stream_core::fail(delivery_base& held, std::string_view reason) noexcept {
  failure record;
  record.sequence = held.sequence_;
  record.attempt = held.attempt_;
  record.line = owner_.line;
  try {
    record.subscription = owner_.name;
    record.event = owner_.event();
    record.file = owner_.file;
    record.exception.type_name = "delivery failed";
    record.exception.what = reason;
  } catch (...) {  // no memory for the text: told all the same
  }
  {
    exec::context hook{exec::context_kind::hook};
    exec::context_scope scope(&hook);
    owner_.bus().report(record);
  }
  letter_of_failure letter;
  letter.reason = reason;
  letter.record = &record;
  letter.sequence = held.sequence_;
  letter.attempts = held.attempt_;
  letter.wait = wait_mode::never;  // a destructor may not wait
  bury(owner_, held.payload(), letter);
  settle(held, settled::failed);
}

errc stream_core::put_back(delivery_base& held, bool another_attempt) noexcept {
  if (another_attempt) {
    if (owner_.channel.stopped()) {  // after close it will not begin again
      const auto keep = ref_ptr<subscription_core>::adopt(held.core_);
      ++held.attempt_;
      discard(held);
      {
        lock_guard lock(m_);
        ++counts_.discarded;
        --in_flight_;
      }
      owner_.leave_gate();
      owner_.notify_idle();
      return errc::none;
    }
    if (held.attempt_ >= max_attempts_) return fail(held, "max_attempts"), errc::none;
    if (owner_.channel.draining() || owner_.bus().draining()) return fail(held, "shutdown"), errc::none;
  }
  auto* node = new (std::nothrow) returned_event{};
  if (node == nullptr) {
    if (another_attempt) return errc::not_enough_memory;
    fail(held, "no memory to put it back");
    return errc::none;
  }
  const auto keep = ref_ptr<subscription_core>::share(held.core_);
  node->event = std::move(held);
  node->event.fresh_ = true;
  if (another_attempt) ++node->event.attempt_;
  returned_event* discarded = nullptr;
  {
    lock_guard lock(m_);
    if (owner_.channel.stopped()) {  // meanwhile
      --in_flight_;
      ++counts_.discarded;
      discarded = node;
    } else if (another_attempt && (owner_.channel.draining() || owner_.bus().draining())) {
      lock.unlock();  // meanwhile; its readers may have been told the end
      --node->event.attempt_;
      held = std::move(node->event);
      delete node;
      fail(held, "shutdown");
      return errc::none;
    } else {
      --in_flight_;
      node->next = returned_;
      returned_ = node;
      ++counts_.returned;
      dispatch_locked(lock);
    }
  }
  if (discarded != nullptr) {
    const auto once = ref_ptr<subscription_core>::adopt(discarded->event.core_);
    discard(discarded->event);
    delete discarded;
    owner_.leave_gate();
  }
  owner_.notify_idle();
  return errc::none;
}

void stream_core::discard_returned() noexcept {
  returned_event* all = nullptr;
  {
    lock_guard lock(m_);
    all = std::exchange(returned_, nullptr);
    counts_.discarded += std::exchange(counts_.returned, 0);
  }
  while (all != nullptr) {
    returned_event* each = std::exchange(all, all->next);
    const auto once = ref_ptr<subscription_core>::adopt(each->event.core_);
    discard(each->event);
    delete each;
    owner_.leave_gate();
  }
  dispatch();
}

stream_counts stream_core::counts() noexcept {
  lock_guard lock(m_);
  return counts_;
}

std::size_t stream_core::waiting() noexcept {
  lock_guard lock(m_);
  std::size_t readers = 0;
  for (const receive_operation* each = first_; each != nullptr; each = each->next_) ++readers;
  return readers;
}

// --- one delivery ------------------------------------------------------------------------------------------------------

void delivery_base::take(delivery_base& other) noexcept {
  core_ = std::exchange(other.core_, nullptr);
  if (core_ == nullptr) return;
  block_ = std::exchange(other.block_, nullptr);
  std::memcpy(event_, other.event_, sizeof event_);
  sequence_ = other.sequence_;
  dropped_before_ = other.dropped_before_;
  published_ = other.published_;
  attempt_ = other.attempt_;
  fresh_ = other.fresh_;
  uncaught_ = other.uncaught_;
}

delivery_base& delivery_base::operator=(delivery_base&& other) noexcept {
  if (this == &other) return *this;
  if (core_ != nullptr) settle_by_death();
  take(other);
  return *this;
}

void delivery_base::handed_over() noexcept {
  fresh_ = false;
  uncaught_ = std::uncaught_exceptions();
}

// In a child there is nobody to tell, and the locks may be held for ever: the event is the parent's to account for.
bool delivery_base::ends_in_child() noexcept {
  if (!core_->bus().forked()) return false;
  if (void* block = std::exchange(block_, nullptr)) release_block(block);
  std::exchange(core_, nullptr)->release();
  return true;
}

void delivery_base::settle_by_death() noexcept {
  if (ends_in_child()) return;
  stream_core& from = *core_->stream();
  if (fresh_)
    static_cast<void>(from.put_back(*this, false));
  else if (std::uncaught_exceptions() > uncaught_)
    from.fail(*this, "an exception unwound past it");
  else
    from.settle(*this, stream_core::settled::handled);
}

void delivery_base::done() noexcept {
  if (core_ != nullptr && !ends_in_child()) core_->stream()->settle(*this, stream_core::settled::handled);
}
void delivery_base::fail(std::string_view reason) noexcept {
  if (core_ != nullptr && !ends_in_child()) core_->stream()->fail(*this, reason);
}
errc delivery_base::requeue() noexcept {
  if (core_ == nullptr) return errc::closed;
  return ends_in_child() ? errc::forked : core_->stream()->put_back(*this, true);
}

// --- one receive -------------------------------------------------------------------------------------------------------

receive_operation::receive_operation(subscription_core* core) noexcept : core_(core) {
  if (core_ != nullptr) core_->retain();
}

receive_operation::~receive_operation() {
  got_ = delivery_base();  // before the core may go
  if (core_ != nullptr) core_->release();
}

bool receive_operation::start() noexcept {
  if (core_ == nullptr || core_->bus().forked()) return true;
  return core_->stream()->start(*this);
}

void receive_operation::cancel(cancel_force) noexcept {
  if (core_ != nullptr && !core_->bus().forked()) core_->stream()->cancel(*this);
}

void receive_operation::try_now() noexcept {
  if (core_ != nullptr && !core_->bus().forked()) core_->stream()->try_now(*this);
}

void receive_operation::wait(steady_time deadline, const std::stop_token* stop) noexcept {
  if (!exec::may_wait_here()) return try_now();
  struct waiting_thread {
    sync::atomic<std::uint32_t> word{0};  // bit 0: decided, bit 1: asked to stop
  } thread;
  struct poke {
    waiting_thread& thread;
    void operator()() const noexcept {
      thread.word.fetch_or(2);
      sync::unpark_all(&thread.word);
    }
  };
  thread_ = &thread;
  decided = [](operation& self) noexcept {
    auto& word = static_cast<waiting_thread*>(static_cast<receive_operation&>(self).thread_)->word;
    const void* address = &word;
    word.fetch_or(1);  // the reader may be gone from here on
    sync::unpark_all(address);
  };
  if (start()) return;
  const auto look = [&](const std::stop_token* token) {
    bool given_up = false;
    for (;;) {
      const std::uint32_t seen = thread.word.load();
      if ((seen & 1) != 0) return;
      const bool over = (token != nullptr && token->stop_requested()) ||
                        (deadline != no_deadline && core_->bus().time().now() >= deadline);
      if (over && !given_up) {
        given_up = true;
        cancel(cancel_force::terminal);
        continue;
      }
      sync::park(thread.word, seen, given_up ? no_deadline : deadline);
    }
  };
  if (stop != nullptr) {
    std::stop_callback<poke> callback(*stop, poke{thread});
    look(stop);
  } else {
    look(nullptr);
  }
}

// --- the handle --------------------------------------------------------------------------------------------------------

stream_handle::~stream_handle() {
  if (core_ == nullptr) return;
  close(close_mode::stop_now);
  core_->release();
}

void stream_handle::close(close_mode mode) noexcept {
  if (core_ == nullptr || core_->ended() || core_->bus().forked()) return;
  if (mode == close_mode::drain)
    core_->begin_drain();
  else
    core_->stop();
  if (!core_->try_reap()) core_->reap_later();
}

ledger stream_handle::ledger() const {
  return core_ != nullptr && !core_->bus().forked() ? core_->ledger() : penstock::ledger{};
}
scheduler_ptr stream_handle::pool() const noexcept { return core_ != nullptr ? core_->pool : nullptr; }
std::string stream_handle::name() const { return core_ != nullptr ? core_->name : std::string(); }

steady_time stream_handle::deadline_after(std::chrono::nanoseconds wait) const noexcept {
  return core_ != nullptr ? penstock::deadline_after(core_->bus().time().now(), wait) : steady_time{};
}

void stream_handle::run_under(const delivery_base& held, void (*body)(void*), void* argument) {
  // A handler, a hook or a task stays what it is, and may not wait either way.
  const exec::context* current = exec::current_context();
  exec::context reading = current != nullptr ? *current : exec::context{exec::context_kind::reader};
  reading.under_delivery = true;
  reading.stream = held.core_ != nullptr ? held.core_->id : 0;
  exec::context_scope scope(&reading);
  body(argument);
}

}  // namespace detail
}  // namespace penstock
