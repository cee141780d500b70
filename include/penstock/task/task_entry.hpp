// One background task behind its handle: the erased core, and the thin part that depends on what it runs.
// Floor 4, room task.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/export.hpp>
#include <penstock/base/failure.hpp>
#include <penstock/base/unique_function.hpp>
#include <penstock/exec/run.hpp>
#include <penstock/exec/scheduler.hpp>
#include <penstock/exec/task.hpp>
#include <penstock/task/task_handle.hpp>
#include <penstock/task/task_options.hpp>

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace penstock::detail {

class registry_core;
struct watched_call;
enum class task_event : std::uint8_t;
struct task_actions;

enum class task_body : std::uint8_t { coroutine, function, stoppable_function };

/// What a task is made from; checked, with everything copied.
struct entry_recipe {
  registry_core* core = nullptr;
  std::string name;
  std::string owner;
  std::string file;
  unsigned line = 0;
  task_body body = task_body::coroutine;
  bool may_wait = false;  ///< its function may wait where it runs
  spawn_options options;
};

/// One task. Counted: by the registry until it has ended, by its handles, by each run and each timer.
class PENSTOCK_API task_entry : private runnable {
 public:
  task_entry(const task_entry&) = delete;
  task_entry& operator=(const task_entry&) = delete;
  void retain() noexcept;
  void release() noexcept;

  const std::string& name() const noexcept;
  const std::string& owner() const noexcept;
  const scheduler_ptr& pool() const noexcept;
  stop_order order() const noexcept;
  std::uint64_t id() const noexcept;
  task_status status() const noexcept;
  task_info info() const;
  std::exception_ptr error() const noexcept;
  bool stop_requested() const noexcept;
  bool request_stop(std::shared_ptr<const cause> why) noexcept;
  task_status wait_until(steady_time deadline);
  void on_done(unique_function<void(const task_handle&)> told);
  registry_core& core() const noexcept;

  /// For the registry: it has an id, and then begins. Waits: never.
  void admitted(std::uint64_t id) noexcept;
  void begin() noexcept;
  /// Of a periodic task: a tick begins, and counts; its function is called by a worker that has `call` in hand; it is over.
  void begin_tick() noexcept;
  void tick_calls(const runnable* call) noexcept;
  void end_tick() noexcept;
  void count_missed(std::uint64_t ticks) noexcept;
  /// For a tick that threw; inside a catch block.
  void tick_failed() noexcept;
  /// For a watchdog: appends it if it may turn out to be stuck, or if `asked_for` holds what runs it. Throws std::bad_alloc.
  void watch(const std::set<const runnable*>& asked_for, std::vector<watched_call>& calls) const;

 protected:
  /// Throws std::bad_alloc.
  explicit task_entry(entry_recipe&& made);
  virtual ~task_entry();

  /// One run is over. `error`: what it threw, or null. `dropped`: its pool has ended. It may be gone when this returns.
  void run_ended(std::exception_ptr error, bool dropped) noexcept;
  /// What a worker has in hand that is inside the body. To be compared, never followed.
  virtual const runnable* in_hand() const noexcept { return this; }

 private:
  friend class task_wait_operation;
  friend class registry_core;
  struct parts;

  void run(unsigned budget) final;
  void dropped() noexcept final;
  void schedule_run() noexcept;
  void step(task_event event, std::exception_ptr error, const failure* record) noexcept;
  void perform(const task_actions& to_do, const std::shared_ptr<const cause>& stop, const failure* record) noexcept;
  void pause_for(std::chrono::nanoseconds wait) noexcept;
  void over() noexcept;
  struct end_told;
  void tell(std::unique_ptr<end_told> told) noexcept;
  /// For the registry, which has just moved the account, under its lock.
  void mark_ended() noexcept;
  failure describe_failure() noexcept;
  /// On a worker: runs the body, or starts it. Throws what the user's code throws.
  virtual void launch() = 0;
  /// Tells the body to stop; called at most once a run, at any time from its launch on.
  virtual void ask(const std::shared_ptr<const cause>& why) noexcept = 0;
  /// Destroys the user's code. No lock is held.
  virtual void drop_code() noexcept = 0;
  /// It has begun and waits, and no thread is inside its code.
  virtual bool suspended() const noexcept { return false; }

  const std::unique_ptr<parts> parts_;
};

/// A function, run on a worker.
class PENSTOCK_API function_entry final : public task_entry {
 public:
  function_entry(entry_recipe&& made, unique_function<void(std::stop_token)> body);

 private:
  ~function_entry() override;
  void launch() override;
  void ask(const std::shared_ptr<const cause>& why) noexcept override;
  void drop_code() noexcept override;

  unique_function<void(std::stop_token)> body_;
  std::stop_source stop_;
};

/// What all coroutine entries share: the one run in progress.
class PENSTOCK_API coroutine_entry_base : public task_entry {
 protected:
  explicit coroutine_entry_base(entry_recipe&& made);
  ~coroutine_entry_base() override;
  /// Takes over the reference.
  void launched(started_task* run) noexcept;
  void over() noexcept;

 private:
  void ask(const std::shared_ptr<const cause>& why) noexcept override;
  const penstock::runnable* in_hand() const noexcept override;
  bool suspended() const noexcept override;
  struct running;
  const std::unique_ptr<running> running_;
};

template <class T>
class coroutine_entry final : public coroutine_entry_base {
 public:
  coroutine_entry(entry_recipe&& made, unique_function<task<T>()> factory)
      : coroutine_entry_base(std::move(made)), factory_(std::move(factory)) {}
  auto value() const noexcept
    requires(!std::is_void_v<T>)
  {
    return std::addressof(*value_);
  }

 private:
  struct nothing {};

  /// One run: a task on a lane of its own.
  class one_run final : public started_task {
   public:
    one_run(const scheduler_ptr& pool, task<T>&& work, coroutine_entry& entry)
        : started_task(pool), work_(std::move(work)), entry_(&entry) {
      entry.retain();
    }

   private:
    std::coroutine_handle<> outermost() noexcept override { return work_.begin_on(*this); }
    void deliver(task_end how) noexcept override {
      std::exception_ptr error;
      if (how != task_end::ran)
        error = why_unfinished(how, *this);
      else
        error = take();
      destroy_inner_frames();
      work_ = task<T>();
      coroutine_entry* entry = std::exchange(entry_, nullptr);
      entry->over();
      entry->run_ended(std::move(error), how == task_end::pool_ended);
      entry->release();
    }
    std::exception_ptr take() noexcept {
      auto& promise = work_.frame().promise();
      if (promise.error()) return promise.error();
      if constexpr (!std::is_void_v<T>) {
        try {
          entry_->value_.emplace(promise.take());
        } catch (...) {
          return std::current_exception();
        }
      }
      return nullptr;
    }
    task<T> work_;
    coroutine_entry* entry_;
  };

  void launch() override {
    task<T> work = factory_();
    if (!work) throw_empty_task();
    launched(new one_run(pool(), std::move(work), *this));
  }
  void drop_code() noexcept override { factory_ = {}; }

  unique_function<task<T>()> factory_;
  std::conditional_t<std::is_void_v<T>, nothing, std::optional<std::conditional_t<std::is_void_v<T>, int, T>>> value_;
};

/// A task that is there already, as a function that makes it.
template <class T>
unique_function<task<T>()> gives_once(task<T>&& work) {
  return [once = std::move(work)]() mutable { return std::move(once); };
}

/// Any function a task may be, as one that takes a stop token.
template <class F>
unique_function<void(std::stop_token)> with_stop_token(F&& body) {
  if constexpr (std::is_invocable_v<std::decay_t<F>&, std::stop_token>)
    return unique_function<void(std::stop_token)>(std::forward<F>(body));
  else
    return unique_function<void(std::stop_token)>(
        [plain = std::decay_t<F>(std::forward<F>(body))](const std::stop_token&) mutable { plain(); });
}

}  // namespace penstock::detail
