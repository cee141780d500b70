// Where penstock and Boost.Asio meet below the bus: executors both ways, tasks as operations, operations inside tasks.
// Floor 2, room exec.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/errc.hpp>
#include <penstock/exec/lane.hpp>
#include <penstock/exec/operation.hpp>
#include <penstock/exec/run.hpp>
#include <penstock/exec/scheduler.hpp>
#include <penstock/exec/service_thread.hpp>
#include <penstock/exec/task.hpp>
#include <penstock/exec/timer.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/associated_allocator.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/detail/reactor.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/execution.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/prefer.hpp>
#include <boost/asio/system_executor.hpp>

#include <array>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <system_error>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>

namespace penstock {

/// penstock's codes as Asio's; `cancelled` is `operation_aborted`, as everywhere in Asio.
inline boost::system::error_code to_asio(errc code) noexcept {
  if (code == errc::none) return {};
  if (code == errc::cancelled) return boost::asio::error::operation_aborted;
  return boost::system::error_code(make_error_code(code));
}

namespace detail {

/// The runtime's own io_context, run by the thread `penstock-io`, which starts with the first executor that asks, and gone
/// when the runtime has ended: what is pending then is destroyed unrun, on the thread that ends it. In a simulation there is
/// no thread: a reactor or timer service in it is a mistake, told with the cure.
class io_part final : public environment_part {
 public:
  explicit io_part(bool simulated)
      : simulated_(simulated),
        context_(std::make_unique<boost::asio::io_context>(1)),
        work_(context_->get_executor()) {
    if (!simulated_) thread_ = service_thread("penstock-io", [running = context_.get()] { running->run(); });
  }
  ~io_part() override { stop(); }
  boost::asio::io_context& context() noexcept { return *context_; }

  void stop() noexcept override {
    if (!context_) return;
    work_.reset();
    context_->stop();
    if (!thread_.join()) static_cast<void>(context_.release());  // ended from within itself: it cannot go under its own feet
    context_.reset();
  }
  const char* complaint() noexcept override {
    if (!simulated_ || !context_ || !boost::asio::has_service<boost::asio::detail::reactor>(*context_)) return nullptr;
    return "an Asio timer or socket was made on a simulated pool's executor: it would run in real time, on a hidden thread; "
           "use penstock::sleep_for, and keep sockets outside the simulation";
  }

 private:
  const bool simulated_;
  std::unique_ptr<boost::asio::io_context> context_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  service_thread thread_;
};

inline std::shared_ptr<io_part> io_part_of(const std::shared_ptr<environment_parts>& parts) {
  if (!parts)
    throw std::system_error(make_error_code(errc::invalid_argument),
                            "no pool of a runtime, and so no io_context: give the token an executor");
  return std::static_pointer_cast<io_part>(parts->find("io", [](environment_parts& of) -> std::shared_ptr<environment_part> {
    return std::make_shared<io_part>(of.simulated());
  }));
}

/// What pool and lane executors have in common: no blocking, one context.
template <class Derived>
class executor_base {
 public:
  boost::asio::execution_context& query(boost::asio::execution::context_t) const noexcept {
    return *static_cast<const Derived*>(this)->context_;
  }
  static constexpr boost::asio::execution::blocking_t query(boost::asio::execution::blocking_t) noexcept {
    return boost::asio::execution::blocking_t::never;
  }
  Derived require(boost::asio::execution::blocking_t::never_t) const { return *static_cast<const Derived*>(this); }
};

}  // namespace detail

/// An Asio executor for one of a runtime's pools: what is posted runs on its workers, its context is the runtime's own
/// io_context. Throws std::system_error for a pool that belongs to no runtime. What is posted after the pool has ended is
/// destroyed unrun. As with every Asio context, sockets and timers made on it must be gone before the runtime is.
class pool_executor : public detail::executor_base<pool_executor> {
 public:
  explicit pool_executor(scheduler_ptr pool)
      : pool_(std::move(pool)), part_(detail::io_part_of(pool_ ? pool_->parts() : nullptr)), context_(&part_->context()) {}
  template <class F>
  void execute(F&& work) const {
    const errc refused = pool_->post(unique_function<void()>(std::forward<F>(work)));
    if (refused == errc::not_enough_memory) throw std::bad_alloc();
  }
  friend bool operator==(const pool_executor& a, const pool_executor& b) noexcept { return a.pool_ == b.pool_; }
  friend bool operator!=(const pool_executor& a, const pool_executor& b) noexcept { return !(a == b); }

 private:
  friend class detail::executor_base<pool_executor>;
  scheduler_ptr pool_;
  std::shared_ptr<detail::io_part> part_;
  boost::asio::execution_context* context_;
};

/// An Asio executor that is a lane: what is posted runs there, one after the other.
class lane_executor : public detail::executor_base<lane_executor> {
 public:
  lane_executor(lane_base& lane, boost::asio::execution_context& context) noexcept : lane_(&lane), context_(&context) {
    lane_->keep();
  }
  lane_executor(const lane_executor& other) noexcept : lane_(other.lane_), context_(other.context_) { lane_->keep(); }
  lane_executor& operator=(const lane_executor& other) noexcept {
    other.lane_->keep();
    std::exchange(lane_, other.lane_)->let_go();
    context_ = other.context_;
    return *this;
  }
  ~lane_executor() { lane_->let_go(); }

  template <class F>
  void execute(F&& work) const {
    struct item final : lane_item {
      explicit item(F&& given) : body(std::forward<F>(given)) {}
      std::decay_t<F> body;
    };
    auto* made = new item(std::forward<F>(work));
    made->run_item = [](lane_item& self, lane_item::turn how) {
      const std::unique_ptr<item> mine(static_cast<item*>(&self));
      if (how == lane_item::turn::run) std::move(mine->body)();
    };
    lane_->post(*made);
  }
  friend bool operator==(const lane_executor& a, const lane_executor& b) noexcept { return a.lane_ == b.lane_; }
  friend bool operator!=(const lane_executor& a, const lane_executor& b) noexcept { return !(a == b); }

 private:
  friend class detail::executor_base<lane_executor>;
  lane_base* lane_;
  boost::asio::execution_context* context_;
};

namespace detail {

/// The timers of executors that penstock does not own: one thread per Asio context.
class context_timers final : public boost::asio::execution_context::service {
 public:
  static inline boost::asio::execution_context::id id;
  explicit context_timers(boost::asio::execution_context& context)
      : boost::asio::execution_context::service(context), timers(real_timers()) {}
  const std::shared_ptr<timer_service> timers;

 private:
  /// The context goes: from here on no thread of ours posts to it. Who sleeps is woken into its queue, and dropped with that.
  void shutdown() noexcept override { timers->stop(); }
};

/// A service's own executor as a scheduler. A drain that the executor destroys unrun drops its lane.
class executor_scheduler final : public scheduler, public std::enable_shared_from_this<executor_scheduler> {
 public:
  explicit executor_scheduler(boost::asio::any_io_executor executor)
      : executor_(std::move(executor)),
        timers_(boost::asio::use_service<context_timers>(boost::asio::query(executor_, boost::asio::execution::context)).timers) {
    retry_.node.fire = [](timer_node& fired) noexcept { reinterpret_cast<retry_slot&>(fired).owner->try_again(); };
    retry_.owner = this;
  }
  ~executor_scheduler() override { timers_->disarm(retry_.node); }

  const boost::asio::any_io_executor& executor() const noexcept { return executor_; }
  void schedule(runnable& item) noexcept override {
    const auto keep = shared_from_this();  // what was posted may run, and end the last who holds this, before we return
    if (post_drain(item)) return;
    hold_work();
    keep_for_later(item);
  }
  errc post(unique_function<void()> work) override {
    try {
      boost::asio::post(executor_, std::move(work));
      return errc::none;
    } catch (const std::bad_alloc&) {
      return errc::not_enough_memory;
    }
  }
  const clock& time() const noexcept override { return real_clock(); }
  timer_service& timers() noexcept override { return *timers_; }
  const std::string& name() const noexcept override { return name_; }
  /// Without memory for the executor's copy the waiting is no work in Asio's eyes.
  void hold_work() noexcept override {
    const std::lock_guard lock(m_);
    if (waiting_++ > 0) return;
    try {
      work_.emplace(boost::asio::prefer(executor_, boost::asio::execution::outstanding_work.tracked));
    } catch (...) {
    }
  }
  void release_work() noexcept override {
    std::optional<boost::asio::any_io_executor> last;
    const std::lock_guard lock(m_);
    if (--waiting_ == 0) last.swap(work_);
  }

 private:
  static constexpr unsigned budget = 64;

  /// What lies in the executor's queue. Destroyed there unrun, it drops its lane; destroyed while it is being posted, for want
  /// of memory, it leaves it to be posted again.
  struct drain {
    runnable* item;
    std::shared_ptr<executor_scheduler> owner;
    drain(runnable& held, std::shared_ptr<executor_scheduler> by) noexcept : item(&held), owner(std::move(by)) {}
    drain(drain&& other) noexcept : item(std::exchange(other.item, nullptr)), owner(std::move(other.owner)) {}
    drain& operator=(drain&&) = delete;
    ~drain() {
      if (item != nullptr && !owner->posts_on_this_thread()) item->dropped();
    }
    void operator()() { std::exchange(item, nullptr)->run(budget); }
  };
  struct retry_slot {
    timer_node node;
    executor_scheduler* owner = nullptr;
  };

  bool post_drain(runnable& item) noexcept {
    const std::size_t place = begin_posting();
    if (place == posting_.size()) return false;  // as many threads post this moment: from the timer, then
    bool done = true;
    try {
      boost::asio::post(executor_, drain(item, shared_from_this()));
    } catch (...) {
      done = false;
    }
    const std::lock_guard lock(m_);
    posting_[place] = std::thread::id();
    return done;
  }
  std::size_t begin_posting() noexcept {
    const std::lock_guard lock(m_);
    std::size_t place = 0;
    while (place < posting_.size() && posting_[place] != std::thread::id()) ++place;
    if (place < posting_.size()) posting_[place] = std::this_thread::get_id();
    return place;
  }
  bool posts_on_this_thread() noexcept {
    const std::lock_guard lock(m_);
    for (const std::thread::id& each : posting_)
      if (each == std::this_thread::get_id()) return true;
    return false;
  }
  void keep_for_later(runnable& item) noexcept {
    {
      const std::lock_guard lock(m_);
      item.next_ready = left_;
      left_ = &item;
    }
    arm();
  }
  void arm() noexcept {
    const std::lock_guard lock(m_);
    if (armed_) return;
    retry_.node.due = deadline_after(real_clock().now(), std::chrono::milliseconds(1));
    armed_ = timers_->arm(retry_.node) == errc::none;
  }
  void try_again() noexcept {
    const auto keep = weak_from_this().lock();
    runnable* all = nullptr;
    {
      const std::lock_guard lock(m_);
      armed_ = false;
      all = std::exchange(left_, nullptr);
    }
    while (all != nullptr) {
      runnable* each = std::exchange(all, all->next_ready);
      if (post_drain(*each))
        release_work();
      else
        keep_for_later(*each);
    }
  }

  const boost::asio::any_io_executor executor_;
  const std::shared_ptr<timer_service> timers_;
  const std::string name_ = "executor";
  std::mutex m_;  // protects what follows
  std::array<std::thread::id, 16> posting_{};
  runnable* left_ = nullptr;
  std::size_t waiting_ = 0;  // lanes that rest, and what is kept for later
  std::optional<boost::asio::any_io_executor> work_;
  bool armed_ = false;
  retry_slot retry_;
};

/// The executor and context that a task's own lane has in Asio's eyes.
inline lane_executor executor_of(lane_base& lane) {
  if (auto* foreign = dynamic_cast<executor_scheduler*>(&lane.pool()))
    return lane_executor(lane, boost::asio::query(foreign->executor(), boost::asio::execution::context));
  return lane_executor(lane, io_part_of(lane.pool().parts())->context());
}

}  // namespace detail

/// A scheduler that runs what it is given on any Asio executor; lanes stay serial whatever the executor is. What waits
/// there is outstanding work: a call that is a suspended coroutine, in a delay, behind a parked output or a paused
/// breaker, and a task that has not ended. So `io_context::run` returns when every event that was taken has been
/// handled, and no task is left.
inline scheduler_ptr on_executor(boost::asio::any_io_executor executor) {
  return std::make_shared<detail::executor_scheduler>(std::move(executor));
}

namespace detail {

// --- an operation of penstock with a completion token ------------------------------------------------------------------

/// Begun by an initiation, completed by post on the handler's executor. Lives in memory of the handler's allocator until it
/// is invoked, or until the context destroys the completion unrun.
template <class Operation, class Handler, class Deliver>
class token_operation final : public Operation {
 public:
  /// A handler without an executor completes on the pool of the operation.
  static constexpr bool has_none = std::is_same_v<boost::asio::associated_executor_t<Handler>, boost::asio::system_executor>;
  using executor_type =
      std::conditional_t<has_none, boost::asio::any_io_executor, boost::asio::associated_executor_t<Handler>>;
  using allocator_type =
      typename std::allocator_traits<boost::asio::associated_allocator_t<Handler>>::template rebind_alloc<token_operation>;

  template <class... Args>
  static void begin(Handler&& handler, const scheduler_ptr& fallback, Args&&... args) {
    if constexpr (has_none)
      if (!fallback) refuse(std::forward<Args>(args)...);
    allocator_type allocator(boost::asio::get_associated_allocator(handler));
    token_operation* made = std::allocator_traits<allocator_type>::allocate(allocator, 1);
    try {
      ::new (static_cast<void*>(made)) token_operation(std::move(handler), fallback, std::forward<Args>(args)...);
    } catch (...) {
      std::allocator_traits<allocator_type>::deallocate(allocator, made, 1);
      throw;
    }
    made->start_now();
  }

 private:
  struct completion {
    token_operation* operation;
    explicit completion(token_operation& held) noexcept : operation(&held) {}
    completion(completion&& other) noexcept : operation(std::exchange(other.operation, nullptr)) {}
    completion& operator=(completion&&) = delete;
    ~completion() {
      if (operation != nullptr) operation->destroy();
    }
    void operator()() { std::exchange(operation, nullptr)->finish(); }
  };
  /// Posts again when there was no memory for it, from a worker.
  struct again final : runnable {
    void run(unsigned) override { owner->complete(); }
    void dropped() noexcept override { owner->destroy(); }
    token_operation* owner = nullptr;
  };

  template <class... Args>
  [[noreturn]] static void refuse(Args&&... args) {
    // An empty handle, or a look-up that was refused: decided at once, and there is nowhere to complete.
    Operation decided(std::forward<Args>(args)...);
    static_cast<void>(decided.start());
    const boost::system::error_code error = std::get<0>(Deliver::results(decided));
    throw std::system_error(error ? static_cast<std::error_code>(error) : make_error_code(errc::closed),
                            "the handler has no executor, and there is no pool to complete on; bind one");
  }
  template <class... Args>
  token_operation(Handler&& handler, const scheduler_ptr& fallback, Args&&... args)
      : Operation(std::forward<Args>(args)...),
        handler_(std::move(handler)),
        fallback_(fallback),
        work_(boost::asio::prefer(executor_for(handler_, fallback), boost::asio::execution::outstanding_work.tracked)) {
    again_.owner = this;
    this->decided = [](operation& self) noexcept { static_cast<token_operation&>(self).complete(); };
  }

  static executor_type executor_for(const Handler& handler, const scheduler_ptr& fallback) {
    if constexpr (has_none)
      return boost::asio::any_io_executor(pool_executor(fallback));
    else
      return boost::asio::get_associated_executor(handler);
  }

  void start_now() noexcept {
    auto slot = boost::asio::get_associated_cancellation_slot(handler_);
    if (slot.is_connected()) {
      try {
        slot.assign([this](boost::asio::cancellation_type_t kind) {
          using boost::asio::cancellation_type;
          if ((kind & cancellation_type::terminal) != cancellation_type::none)
            this->cancel(cancel_force::terminal);
          else if ((kind & cancellation_type::partial) != cancellation_type::none)
            this->cancel(cancel_force::partial);
          else if ((kind & cancellation_type::total) != cancellation_type::none)
            this->cancel(cancel_force::total);
        });
      } catch (...) {  // no memory for the slot: it cannot be cancelled
      }
    }
    if (this->start()) complete();
  }

  void complete() noexcept {
    completion done(*this);
    try {
      boost::asio::post(work_, std::move(done));
    } catch (...) {
      if (std::exchange(done.operation, nullptr) == nullptr) return;  // it went down with what it was moved into
      fallback_->schedule_again(again_);
    }
  }

  void finish() {
    boost::asio::get_associated_cancellation_slot(handler_).clear();
    Handler handler(std::move(handler_));
    auto results = Deliver::results(*this);
    destroy();
    std::apply(std::move(handler), std::move(results));
  }

  void destroy() noexcept {
    allocator_type allocator(boost::asio::get_associated_allocator(handler_));
    this->~token_operation();
    std::allocator_traits<allocator_type>::deallocate(allocator, this, 1);
  }

  Handler handler_;
  const scheduler_ptr fallback_;
  std::decay_t<decltype(boost::asio::prefer(std::declval<executor_type>(),
                                            boost::asio::execution::outstanding_work.tracked))>
      work_;
  again again_;
};

/// What an initiation calls. A function object without state: a lambda that captures would be destroyed twice by g++ 12.
template <class Operation, class Deliver>
struct token_initiation {
  template <class Handler, class... Args>
  void operator()(Handler&& handler, scheduler_ptr fallback, Args&&... args) const {
    token_operation<Operation, std::decay_t<Handler>, Deliver>::begin(std::decay_t<Handler>(std::forward<Handler>(handler)),
                                                                      fallback, std::forward<Args>(args)...);
  }
};

struct deliver_wait {
  template <class Operation>
  static std::tuple<boost::system::error_code> results(Operation& decided) {
    if (decided.failed() != errc::none) return {to_asio(decided.failed())};
    return {to_asio(decided.came() ? errc::none : errc::cancelled)};
  }
};
/// With a public destructor for Asio's allocators.
struct token_wait : timer_operation {
  using timer_operation::timer_operation;
};

// --- a task as an operation ----------------------------------------------------------------------------------------------

template <class T>
struct run_signature {
  using type = void(std::exception_ptr, T);
};
template <>
struct run_signature<void> {
  using type = void(std::exception_ptr);
};

struct run_initiation {
  template <class Handler, class T>
  void operator()(Handler&& handler, task<T> work) const {
    using plain = std::decay_t<Handler>;
    auto executor = boost::asio::get_associated_executor(handler);
    auto slot = boost::asio::get_associated_cancellation_slot(handler);
    struct done_with {
      plain handler;
      decltype(executor) where;
      boost::asio::executor_work_guard<decltype(executor)> work;
      void operator()(outcome<T>&& came) noexcept {
        auto slot_of = boost::asio::get_associated_cancellation_slot(handler);
        if (slot_of.is_connected()) slot_of.clear();
        boost::asio::post(where, finish{std::move(handler), std::move(came)});
        work.reset();
      }
      struct finish {
        plain handler;
        outcome<T> came;
        void operator()() {
          if constexpr (std::is_void_v<T>) {
            std::move(handler)(came.error());
          } else {
            const std::exception_ptr error = came.error();
            if (error)
              std::move(handler)(error, T());
            else
              std::move(handler)(std::exception_ptr(), std::move(came).get());
          }
        }
      };
    };
    const scheduler_ptr where = on_executor(boost::asio::any_io_executor(executor));
    done_with done{std::forward<Handler>(handler), executor, boost::asio::make_work_guard(executor)};
    auto* running = new started<T, done_with>(where, std::move(work), std::move(done));
    if (slot.is_connected()) slot.template emplace<run_canceller>(running);
    running->start();
    running->release();
  }

  struct run_canceller {
    explicit run_canceller(started_task* of) noexcept : running(of) { running->retain(); }
    run_canceller(const run_canceller&) = delete;
    ~run_canceller() { running->release(); }
    void operator()(boost::asio::cancellation_type_t kind) const noexcept {
      if (kind != boost::asio::cancellation_type::none) running->request_cancel(cancel_kind::requested, "Asio", "");
    }
    started_task* running;
  };
};

}  // namespace detail

template <class Token>
auto timer::async_wait(Token&& token) const {
  using initiation = detail::token_initiation<detail::token_wait, detail::deliver_wait>;
  return boost::asio::async_initiate<Token, void(boost::system::error_code)>(initiation(), token, pool(), state_);
}

/// Runs a task as an Asio operation: `void(std::exception_ptr, T)`, on a lane around the token's associated executor, and
/// completes by post there. Cancel: any kind asks the task to stop. T must be default-constructible, as with `co_spawn`.
template <class T, class Token>
auto async_run(task<T> work, Token&& token) {
  if (!work) detail::throw_empty_task();
  return boost::asio::async_initiate<Token, typename detail::run_signature<T>::type>(detail::run_initiation(), token,
                                                                                     std::move(work));
}

namespace detail {

// --- Asio's operations inside a task ---------------------------------------------------------------------------------

template <class... Args>
struct completion_of;

template <>
struct completion_of<> {
  void set() noexcept {}
  void take() const noexcept {}
  bool aborted() const noexcept { return false; }
};
template <class First, class... Rest>
struct completion_of<First, Rest...> {
  static constexpr bool is_code = std::is_same_v<First, boost::system::error_code> || std::is_same_v<First, std::error_code>;
  static constexpr bool is_exception = std::is_same_v<First, std::exception_ptr>;
  static constexpr bool fails = is_code || is_exception;
  using values = std::conditional_t<fails, std::tuple<Rest...>, std::tuple<First, Rest...>>;

  template <class... Given>
  void set(Given&&... given) {
    came_.emplace(std::forward<Given>(given)...);
  }
  decltype(auto) take() {
    if constexpr (is_code) {
      if (std::get<0>(*came_)) throw boost::system::system_error(std::get<0>(*came_));
    } else if constexpr (is_exception) {
      if (std::get<0>(*came_)) std::rethrow_exception(std::get<0>(*came_));
    }
    return values_of(std::make_index_sequence<std::tuple_size_v<values>>());
  }
  bool aborted() const {
    if constexpr (is_code) {
      return std::get<0>(*came_) == boost::asio::error::operation_aborted;
    } else if constexpr (is_exception) {
      if (!std::get<0>(*came_)) return false;
      try {
        std::rethrow_exception(std::get<0>(*came_));
      } catch (const boost::system::system_error& thrown) {
        return thrown.code() == boost::asio::error::operation_aborted;
      } catch (...) {
        return false;
      }
    } else {
      return false;
    }
  }

 private:
  template <std::size_t... I>
  auto values_of(std::index_sequence<I...>) {
    constexpr std::size_t skipped = fails ? 1 : 0;
    if constexpr (sizeof...(I) == 0)
      return;
    else if constexpr (sizeof...(I) == 1)
      return std::tuple_element_t<0, values>(std::move(std::get<skipped>(*came_)));
    else
      return values(std::move(std::get<I + skipped>(*came_))...);
  }
  std::optional<std::tuple<First, Rest...>> came_;
};

/// Waits for one Asio operation. The handler runs on the task's lane; a request to stop is emitted there as `terminal`.
template <class Begin, class... Args>
class asio_awaiter final : public task_waiter {
 public:
  explicit asio_awaiter(Begin&& begin) : begin_(std::move(begin)) {}
  bool await_ready() const noexcept { return false; }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> frame) {
    refused_ = !suspend(frame.promise().root(), frame);
    if (refused_) return false;
    try {
      std::move(begin_)(executor_of(root().home()), signal_.slot(), receiver{this});
    } catch (...) {
      unsuspend();
      failed_ = std::current_exception();
      return false;
    }
    return true;
  }
  decltype(auto) await_resume() {
    if (refused_) root().throw_cancelled();
    if (failed_) std::rethrow_exception(failed_);
    if (root().is_cancelled() && came_.aborted()) root().throw_cancelled();
    return came_.take();
  }
  void cancel() noexcept override {
    try {
      signal_.emit(boost::asio::cancellation_type::terminal);
    } catch (...) {  // an operation that cannot be asked goes on
    }
  }

  struct receiver {
    asio_awaiter* waiting;
    template <class... Given>
    void operator()(Given&&... given) const {
      waiting->came_.set(std::forward<Given>(given)...);
      waiting->wake();
    }
  };

 private:
  Begin begin_;
  boost::asio::cancellation_signal signal_;
  completion_of<Args...> came_;
  std::exception_ptr failed_;
  bool refused_ = false;
};

template <class Operation>
struct begin_deferred {
  Operation operation;
  explicit begin_deferred(Operation&& given) : operation(std::move(given)) {}
  template <class Receiver>
  void operator()(const lane_executor& lane, boost::asio::cancellation_slot slot, Receiver receiver) && {
    std::move(operation)(boost::asio::bind_executor(lane, boost::asio::bind_cancellation_slot(slot, receiver)));
  }
};

template <class T, class Executor>
struct begin_awaitable {
  boost::asio::awaitable<T, Executor> work;
  explicit begin_awaitable(boost::asio::awaitable<T, Executor>&& given) : work(std::move(given)) {}
  template <class Receiver>
  void operator()(const lane_executor& lane, boost::asio::cancellation_slot slot, Receiver receiver) && {
    boost::asio::co_spawn(lane, std::move(work),
                          boost::asio::bind_executor(lane, boost::asio::bind_cancellation_slot(slot, receiver)));
  }
};

template <class Signature>
struct arguments_of;
template <class Result, class... Args>
struct arguments_of<Result(Args...)> {
  template <class Begin>
  using awaiter = asio_awaiter<Begin, std::decay_t<Args>...>;
};

template <class Signature, class Initiation, class... InitArgs>
struct await_adaptor<boost::asio::deferred_async_operation<Signature, Initiation, InitArgs...>> {
  using operation = boost::asio::deferred_async_operation<Signature, Initiation, InitArgs...>;
  static auto adapt(operation&& given) {
    using begin = begin_deferred<operation>;
    return typename arguments_of<Signature>::template awaiter<begin>(begin(std::move(given)));
  }
};

template <class T, class Executor>
struct await_adaptor<boost::asio::awaitable<T, Executor>> {
  static auto adapt(boost::asio::awaitable<T, Executor>&& given) {
    using begin = begin_awaitable<T, Executor>;
    if constexpr (std::is_void_v<T>)
      return asio_awaiter<begin, std::exception_ptr>(begin(std::move(given)));
    else
      return asio_awaiter<begin, std::exception_ptr, T>(begin(std::move(given)));
  }
};

}  // namespace detail
}  // namespace penstock
