// A subscription without a handler: its owner reads.
// Floor 5, room bus.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/export.hpp>
#include <penstock/bus/event.hpp>
#include <penstock/bus/ledger.hpp>
#include <penstock/bus/subscribe_options.hpp>
#include <penstock/bus/subscription.hpp>
#include <penstock/exec/operation.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>

namespace penstock {

/// Options of one stream. Defaults: capacity 1024, `block`, any number of deliveries in flight and of attempts.
/// The setters check nothing; `stream` does, and names what is out of range.
class PENSTOCK_API stream_options {
 public:
  stream_options();
  stream_options(stream_options&&) noexcept;
  stream_options& operator=(stream_options&&) noexcept;
  ~stream_options();

  /// How many events may wait, exactly; at least 1.
  stream_options& capacity(std::size_t events) & { return base_.capacity(events), *this; }
  stream_options&& capacity(std::size_t events) && { return std::move(capacity(events)); }
  stream_options& overflow(penstock::overflow policy) & { return base_.overflow(policy), *this; }
  stream_options&& overflow(penstock::overflow policy) && { return std::move(overflow(policy)); }
  /// As `subscribe_options::on_drop`.
  template <event E, class F>
  stream_options& on_drop(F&& hook) & {
    return base_.on_drop<E>(std::forward<F>(hook)), *this;
  }
  template <event E, class F>
  stream_options&& on_drop(F&& hook) && {
    return std::move(on_drop<E>(std::forward<F>(hook)));
  }
  /// As `subscribe_options::on_undelivered`; a delivery in a reader's hands is that reader's to decide.
  template <event E, class F>
  stream_options& on_undelivered(F&& hook) & {
    return base_.on_undelivered<E>(std::forward<F>(hook)), *this;
  }
  template <event E, class F>
  stream_options&& on_undelivered(F&& hook) && {
    return std::move(on_undelivered<E>(std::forward<F>(hook)));
  }
  /// How many deliveries may be held at once; a further receive waits. At least 1.
  stream_options& max_in_flight(std::size_t deliveries) & { return max_in_flight_ = deliveries, *this; }
  stream_options&& max_in_flight(std::size_t deliveries) && { return std::move(max_in_flight(deliveries)); }
  /// How often one event may be delivered; a `requeue` of the last time fails it. At least 1.
  stream_options& max_attempts(unsigned count) & { return max_attempts_ = count, *this; }
  stream_options&& max_attempts(unsigned count) && { return std::move(max_attempts(count)); }

 private:
  friend class stream_options_access;
  subscribe_options base_;
  std::size_t max_in_flight_ = static_cast<std::size_t>(-1);
  unsigned max_attempts_ = static_cast<unsigned>(-1);
};

namespace detail {

/// One event in a reader's hands, its type erased.
class PENSTOCK_API delivery_base {
 public:
  delivery_base() noexcept = default;
  delivery_base(delivery_base&& other) noexcept { take(other); }
  delivery_base& operator=(delivery_base&& other) noexcept;
  ~delivery_base() {
    if (core_ != nullptr) settle_by_death();
  }

  const void* payload() const noexcept { return block_ != nullptr ? block_ : static_cast<const void*>(event_); }

  subscription_core* core_ = nullptr;  ///< null: empty
  void* block_ = nullptr;
  alignas(largest_in_place_align) std::byte event_[largest_in_place];
  std::uint64_t sequence_ = 0;
  std::uint64_t dropped_before_ = 0;
  steady_time published_{};
  unsigned attempt_ = 1;
  bool fresh_ = true;     ///< no code of the reader has it yet: its death puts it back
  int uncaught_ = 0;      ///< exceptions in flight when the reader got it

  void handed_over() noexcept;
  void done() noexcept;
  void fail(std::string_view reason) noexcept;
  errc requeue() noexcept;

 private:
  void take(delivery_base& other) noexcept;
  void settle_by_death() noexcept;
  bool ends_in_child() noexcept;
};

/// Receives one event. A thread waits in one too.
class PENSTOCK_API receive_operation : public operation {
 public:
  explicit receive_operation(subscription_core* core) noexcept;
  bool start() noexcept;
  void cancel(cancel_force force) noexcept;
  bool gave_up() const noexcept { return cancelled_; }
  /// What came; empty: closed or cancelled.
  delivery_base& got() noexcept { return got_; }
  /// Looks once, does not wait.
  void try_now() noexcept;
  /// Waits on this thread. Where waiting is not allowed it looks once.
  void wait(steady_time deadline, const std::stop_token* stop) noexcept;

 protected:
  ~receive_operation();

 private:
  friend class stream_core;
  subscription_core* const core_;
  delivery_base got_;
  void* thread_ = nullptr;
  // Guarded by the stream's mutex until it is settled.
  bool cancelled_ = false;
  bool waiting_ = false;  // `decided` is to be called
  bool settled_ = false;
  receive_operation* next_ = nullptr;
  receive_operation* previous_ = nullptr;
};

/// The compiled half of a stream's handle.
class PENSTOCK_API stream_handle {
 public:
  stream_handle() noexcept = default;
  explicit stream_handle(subscription_core* adopted) noexcept : core_(adopted) {}
  stream_handle(stream_handle&& other) noexcept : core_(std::exchange(other.core_, nullptr)) {}
  stream_handle& operator=(stream_handle&& other) noexcept {
    std::swap(core_, other.core_);
    return *this;
  }
  ~stream_handle();
  subscription_core* core() const noexcept { return core_; }
  void close(close_mode mode) noexcept;
  penstock::ledger ledger() const;
  std::string name() const;
  steady_time deadline_after(std::chrono::nanoseconds wait) const noexcept;
  scheduler_ptr pool() const noexcept;
  /// Runs `body` so that what it publishes is taken until a shutdown's drain ends.
  static void run_under(const delivery_base& held, void (*body)(void*), void* argument);

 private:
  subscription_core* core_ = nullptr;
};

}  // namespace detail

/// One event, and the duty to say what became of it: its death means handled (failed when an exception unwinds past it).
/// False when it is empty: the stream is closed, or nothing came in time. Counts as `running` while it lives; may outlive
/// stream and bus. Threads: per-object.
template <event E>
class [[nodiscard]] delivery {
 public:
  delivery() noexcept = default;
  explicit delivery(detail::delivery_base&& got) noexcept : held_(std::move(got)) { held_.handed_over(); }

  explicit operator bool() const noexcept { return held_.core_ != nullptr; }
  const E& operator*() const noexcept { return *get(); }
  const E* operator->() const noexcept { return get(); }
  const E* get() const noexcept {
    if constexpr (detail::in_place_event<E>)
      return std::launder(reinterpret_cast<const E*>(held_.event_));
    else
      return static_cast<const E*>(held_.block_);
  }
  std::uint64_t sequence() const noexcept { return held_.sequence_; }
  unsigned attempt() const noexcept { return held_.attempt_; }
  steady_time published() const noexcept { return held_.published_; }
  std::uint64_t dropped_before() const noexcept { return held_.dropped_before_; }

  /// Handled, now. The event is gone afterwards.
  void done() noexcept { held_.done(); }
  /// Failed: told to `on_failure`, and a dead letter is made. The event is gone afterwards.
  void fail(std::string_view reason) noexcept { held_.fail(reason); }
  /// Back to the head of the queue, with one attempt more; beyond `max_attempts` and during a drain it fails, after `close`
  /// it is discarded. Errors: `not_enough_memory`; then nothing has changed. `forked` in a child process. The event is gone
  /// otherwise.
  errc requeue() noexcept { return held_.requeue(); }

  /// Runs `body`, and what it publishes counts as caused by this delivery: a shutdown's drain still takes it.
  template <class F>
  void publish_under(F&& body) const {
    detail::stream_handle::run_under(
        held_, [](void* argument) { (*static_cast<std::remove_reference_t<F>*>(argument))(); },
        const_cast<void*>(static_cast<const void*>(std::addressof(body))));
  }

 private:
  detail::delivery_base held_;
};

namespace detail {

template <event E>
class receive_operation_of : public receive_operation {
 public:
  using receive_operation::receive_operation;
  delivery<E> result() noexcept { return delivery<E>(std::move(got())); }
};

}  // namespace detail

/// A subscription that is read. Several readers compete; no order is promised between them. Same channel, policies, order
/// and ledger as a subscription with a handler. May outlive bus and runtime; then it is closed.
/// Threads: the reading members are thread-safe; moving and destroying are not. The destructor is `close()`.
template <event E>
class [[nodiscard]] stream {
 public:
  stream() noexcept = default;
  explicit stream(detail::stream_handle made) noexcept : handle_(std::move(made)) {}

  /// Waits for the next event; empty: closed (or this thread may not wait and nothing was there).
  delivery<E> receive() const { return receive_until(no_deadline); }
  delivery<E> receive(const std::stop_token& stop) const { return wait(no_deadline, &stop); }
  delivery<E> receive_until(steady_time deadline) const { return wait(deadline, nullptr); }
  template <class Rep, class Period>
  delivery<E> receive_for(std::chrono::duration<Rep, Period> limit) const {
    return wait(handle_.deadline_after(clamp_duration(limit)), nullptr);
  }
  /// Never waits; empty while others wait before, and it may be while another thread takes an event at the same instant.
  delivery<E> try_receive() const {
    operation one(handle_.core());
    one.try_now();
    return one.result();
  }

  /// For `co_await` in a task: the next event; empty: closed. Cancel: consumes nothing, throws `cancelled`.
  [[nodiscard]] auto next() const noexcept {
    return detail::operation_awaiter<detail::receive_operation_of<E>>(handle_.core());
  }
  /// The same with an Asio completion token, `void(boost::system::error_code, penstock::delivery<E>)`; defined in
  /// `<penstock/bus/asio.hpp>`. A completion that is destroyed unrun puts its event back.
  template <class Token>
  auto async_receive(Token&& token) const;

  /// Waits: never. `stop_now` discards what is queued, `drain` lets it be read; readers that wait are told `closed`, and
  /// publishers too. Deliveries in readers' hands stay theirs, and until they are decided the stream counts as running.
  void close(close_mode mode = close_mode::stop_now) noexcept { handle_.close(mode); }

  penstock::ledger ledger() const { return handle_.ledger(); }
  std::string name() const { return handle_.name(); }
  explicit operator bool() const noexcept { return handle_.core() != nullptr; }

 private:
  struct operation final : detail::receive_operation_of<E> {
    using detail::receive_operation_of<E>::receive_operation_of;
  };
  delivery<E> wait(steady_time deadline, const std::stop_token* stop) const {
    operation one(handle_.core());
    one.wait(deadline, stop);
    return one.result();
  }
  detail::stream_handle handle_;
};

}  // namespace penstock
