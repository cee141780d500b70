// What all handles to one registry share: the list of tasks, the account, the end.
// Floor 4, room task.
#pragma once

#include "base/fork_mark.hpp"
#include "base/hook_problem.hpp"
#include "base/mutex.hpp"
#include "base/ref_count.hpp"
#include "sync/atomic.hpp"
#include "task/task_machine.hpp"

#include <penstock/base/failure.hpp>
#include <penstock/exec/environment.hpp>
#include <penstock/task/task_registry.hpp>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace penstock::detail {

struct registry_hooks {
  unique_function<void(const failure&)> on_failure;
  /// A task's restart policy asks for the runtime to end.
  unique_function<void(const failure&)> on_escalate;
  /// The last resort, when a hook itself fails.
  unique_function<void(const hook_problem&)> hook_threw;
};

/// Which tasks: of one owner or of all, of one order or of both.
struct task_scope {
  std::string_view owner;  ///< empty: all
  std::optional<stop_order> order;
};

class registry_core final : public ref_counted<registry_core> {
 public:
  registry_core(std::shared_ptr<execution_environment> environment, scheduler_ptr functions, scheduler_ptr coroutines,
                registry_hooks hooks);
  ~registry_core();

  const clock& time() const noexcept { return environment_->time(); }
  std::uint64_t random() noexcept { return environment_->random(); }
  bool forked() const noexcept { return fork_.forked(); }
  const scheduler_ptr& functions() const noexcept { return functions_; }
  const scheduler_ptr& coroutines() const noexcept { return coroutines_; }

  /// none: the task is in the list, and has an id; it holds a reference more. Else closed, forked or not_enough_memory.
  errc admit(task_entry& made) noexcept;
  /// It has ended so: the account moves. Its reference is the caller's to give back.
  void ended(task_entry& entry, task_fate how) noexcept;
  /// After that was told: who waits for the last one.
  void tell_if_empty() noexcept;

  /// Refuses what comes from now on. Idempotent.
  void refuse(std::string_view owner);
  using entries = std::vector<ref_ptr<task_entry>>;
  /// Those that have not ended, in the order they were spawned.
  entries live(const task_scope& scope) const;
  /// Asks each of them to stop.
  static void ask(const entries& tasks, const std::shared_ptr<const cause>& why) noexcept;
  /// The same for all there are now, without memory for a list.
  void ask_all(std::string_view owner, const std::shared_ptr<const cause>& why) noexcept;
  /// The task whose function is running here; null: none.
  static const task_entry* task_here() noexcept;
  /// Lives as long as a function's wait for another task's end, and is seen by those that begin to wait meanwhile. A
  /// wait with a deadline ends by itself and is in no cycle; neither is one between two registries, which is not seen.
  class wait_edge {
   public:
    wait_edge(const task_entry& whom, steady_time deadline) noexcept;
    ~wait_edge();
    wait_edge(const wait_edge&) = delete;
    wait_edge& operator=(const wait_edge&) = delete;
    /// The task that would be waited for waits for this one, itself or through others.
    bool closes_a_cycle() const noexcept { return closes_a_cycle_; }

   private:
    registry_core* core_ = nullptr;  // null: it is not listed
    const task_entry* const who_;
    const task_entry* const whom_;
    bool closes_a_cycle_ = false;
    wait_edge* next_ = nullptr;  // guarded by the core
  };
  /// Waits for their end. False: the deadline passed first, waiting is not allowed here, or one of them is what waits.
  static bool wait_ended(const entries& tasks, steady_time deadline);
  std::size_t live_count(stop_order order) const noexcept;
  /// Waits until none of that order is left. False: the deadline passed first, or `give_up` was set (and `wake_waiters` called).
  bool wait_none(stop_order order, steady_time deadline, const std::atomic<bool>& give_up) noexcept;
  void wake_waiters() noexcept;
  /// For a watchdog: those that may turn out to be stuck, and those that `asked_for` holds. Throws std::bad_alloc.
  void watch(const std::set<const runnable*>& asked_for, std::vector<watched_call>& calls) const;
  /// Whether a task runs where no pool rings for the watchdog.
  bool any_elsewhere() const noexcept { return elsewhere_.load() > 0; }
  task_report report(const entries& tasks, steady_time began) const;
  task_counts counts() const noexcept;
  std::shared_ptr<const cause> make_cause(cancel_kind kind, std::string_view who, std::string_view reason) noexcept;

  void report_failure(const failure& record) noexcept;
  void escalate(const failure& record) noexcept;

  /// False: nothing is left to wait for.
  bool watch(registry_close_operation& watcher, std::string_view owner) noexcept;
  bool unwatch(registry_close_operation& watcher) noexcept;
  timer_service& timers() const noexcept { return coroutines_->timers(); }

 private:
  bool runs_elsewhere(const task_entry& entry) const noexcept;
  bool any_live_locked(std::string_view owner) const noexcept PENSTOCK_REQUIRES(m_);

  const std::shared_ptr<execution_environment> environment_;
  const scheduler_ptr functions_;
  const scheduler_ptr coroutines_;
  const fork_mark fork_;
  registry_hooks hooks_;
  std::atomic<std::uint32_t> elsewhere_{0};  // how many tasks there are that run where no pool rings
  sync::atomic<std::uint32_t> changes_{0};  // moves when a task has ended, and for `wake_waiters`

  mutable mutex m_;  // protects what follows; taken with no other lock held
  std::map<std::uint64_t, task_entry*> tasks_ PENSTOCK_GUARDED_BY(m_);
  std::map<std::string, std::size_t, std::less<>> live_of_ PENSTOCK_GUARDED_BY(m_);  // by owner
  std::set<std::string, std::less<>> refused_ PENSTOCK_GUARDED_BY(m_);  // owners
  std::size_t live_of_order_[2] PENSTOCK_GUARDED_BY(m_) = {};
  bool refusing_all_ PENSTOCK_GUARDED_BY(m_) = false;
  task_counts counts_ PENSTOCK_GUARDED_BY(m_);
  std::uint64_t next_id_ PENSTOCK_GUARDED_BY(m_) = 1;
  registry_close_operation* watchers_ PENSTOCK_GUARDED_BY(m_) = nullptr;
  wait_edge* edges_ PENSTOCK_GUARDED_BY(m_) = nullptr;
};

}  // namespace penstock::detail
