// What all handles of one bus share.
// Floor 5, room bus.
#pragma once

#include "base/fork_mark.hpp"
#include "base/hook_problem.hpp"
#include "base/mutex.hpp"
#include "base/ref_count.hpp"
#include "bus/drain.hpp"
#include "bus/subscription_core.hpp"
#include "bus/topic.hpp"
#include "exec/watched.hpp"

#include <penstock/base/failure.hpp>
#include <penstock/bus/event_bus.hpp>
#include <penstock/exec/environment.hpp>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace penstock::detail {

/// Told of failures and of publishes nobody matched.
struct bus_hooks {
  unique_function<void(const failure&)> on_failure;
  unique_function<void(const std::string&)> on_unmatched;
  /// The last resort, when a hook itself fails.
  unique_function<void(const hook_problem&)> hook_threw;
  /// A subscription's policy asked for the runtime to end.
  unique_function<void(const failure&)> on_escalate;
};

class bus_core final : public ref_counted<bus_core> {
 public:
  bus_core(std::shared_ptr<execution_environment> environment, scheduler_ptr default_pool, bus_hooks hooks);
  ~bus_core();

  /// none, or why no publish is taken: forked, closed; during a shutdown's drain only what handlers publish is, and when they
  /// have fed each other for too long only dead letters.
  enum class cargo : std::uint8_t { events, dead_letters };
  errc admission(cargo what = cargo::events) const noexcept {
    return phase_.load() == phase::open && !forked() ? errc::none : admission_of_phase(what);
  }
  bool forked() const noexcept { return fork_.forked(); }

  /// `options` may be null: the type's own topic. Throws std::system_error.
  ref_ptr<topic> open_topic(const event_type& type, const topic_options* options = nullptr);
  /// Where dead letters of an event go, if anybody has asked for it. Throws std::bad_alloc.
  ref_ptr<topic> dead_letters_of(const topic_identity& event);
  /// The bus's part of dropping a topic handle.
  void drop_topic(topic& dropped) noexcept;
  void keep_topic(topic& kept) noexcept;

  /// Takes over the handler, and what is in the options.
  subscription subscribe(const event_type& type, std::string_view name, subscribe_options&& options,
                         handler_object handler, call_site where);
  /// The same, with a counted topic.
  subscription subscribe(ref_ptr<topic> joined, std::string_view name, subscribe_options&& options,
                         handler_object handler, call_site where);
  stream_handle add_stream(ref_ptr<topic> joined, std::string_view name, stream_options&& options, burial dead_letters,
                           call_site where);
  void forget(subscription_core& ended) noexcept;
  std::vector<ref_ptr<subscription_core>> subscriptions();

  bool wait_idle(steady_time deadline);
  /// Of a shutdown whose intake is closed: until all are at rest. When events have caused events for `most_generations`, it
  /// closes for handlers too, and goes on. False: the deadline passed. Throws std::bad_alloc.
  bool wait_drained(steady_time deadline, const std::atomic<bool>& give_up);
  /// A lane's turn has ended, or something has come to rest.
  void drain_moved() noexcept {
    if (drain_watchers_.load() != 0) wake_drain();
  }
  /// For a publish that has been admitted.
  bool traces_feeding() const noexcept { return traces_feeding_.load(std::memory_order_relaxed); }
  void note_feeding(const topic& fed) noexcept;
  /// Who fed whom in the drain that had to be cut, by name; empty: none had.
  std::vector<std::string> loop();
  /// Whoever waits looks again, at `give_up` among others.
  void wake_waiters() noexcept;
  /// Whether everything is at rest at some instant of this call.
  bool idle_now() noexcept;
  void watch_idle(idle_operation& watcher) noexcept;
  bool unwatch_idle(idle_operation& watcher) noexcept;
  /// A subscription may have come to rest: who waits for that is told.
  void look_whether_idle() noexcept {
    if (idle_watchers_count_.load() != 0) tell_if_idle();
  }
  void report(const failure& record) noexcept;
  void escalate(subscription_core& failed, const failure* record) noexcept;
  /// In a catch block: a hook of that subscription's options threw.
  void hook_threw(const char* hook, const subscription_core& of, std::uint64_t sequence) noexcept;
  std::shared_ptr<const cause> make_cause(cancel_kind kind, std::string_view who, std::string_view reason) noexcept;
  bus_snapshot snapshot();
  /// For the watchdog: what is in progress, and who waits for whom.
  void watch(std::vector<watched_call>& calls, std::vector<watched_wait>& waiting);
  /// Whether a subscription runs where no pool rings for the watchdog.
  bool any_elsewhere() const noexcept { return elsewhere_.load() > 0; }
  void report_unmatched(const std::string& event) noexcept;

  /// Shutdown, step by step: only handlers may publish; then nobody.
  void close_intake() noexcept;
  /// From now on until `deadline` what waits for a retry is tried again only if that comes before it.
  void begin_drain(steady_time deadline) noexcept;
  void close() noexcept;
  bool closed() const noexcept { return phase_.load() == phase::closed; }
  bool draining() const noexcept { return phase_.load() != phase::open; }
  steady_time drain_deadline() const noexcept {
    return steady_time(std::chrono::nanoseconds(drain_deadline_.load(std::memory_order_relaxed)));
  }

  wait_graph waits;

  const std::shared_ptr<execution_environment> environment;
  const clock& time() const noexcept { return environment->time(); }
  timer_service& timers() const noexcept { return default_pool_->timers(); }
  const scheduler_ptr& default_pool() const noexcept { return default_pool_; }

 private:
  enum class phase : std::uint8_t { open, handlers_only, letters_only, closed };
  errc admission_of_phase(cargo what) const noexcept;

  const fork_mark fork_;
  const scheduler_ptr default_pool_;
  bus_hooks hooks_;
  std::atomic<phase> phase_{phase::open};
  std::atomic<std::int64_t> drain_deadline_{no_deadline.time_since_epoch().count()};
  std::atomic<std::uint32_t> idle_watchers_count_{0};
  std::atomic<std::uint32_t> elsewhere_{0};  // how many subscriptions there are that run where no pool rings
  std::atomic<std::uint32_t> drain_watchers_{0};
  sync::atomic<std::uint32_t> drain_changes_{0};  // moves when the drain's watcher has to look again
  std::atomic<bool> traces_feeding_{false};

  struct joining;
  bool runs_elsewhere(const subscription_core& core) const noexcept;
  void look_again(subscription_core& core, subscription_snapshot& seen);
  void check_joining(const std::string& shown, std::string_view name) const;
  ref_ptr<subscription_core> join(joining& made);
  void tell_if_idle() noexcept;
  void wake_drain() noexcept;
  void cut_loop(const drain_watch& drain);

  mutex feeding_m_;  // protects what follows; taken with no other lock held
  feeding_edges feeding_ PENSTOCK_GUARDED_BY(feeding_m_);
  std::vector<std::string> loop_ PENSTOCK_GUARDED_BY(feeding_m_);

  mutex idle_m_;  // protects idle_watchers_; taken with no other lock held
  idle_operation* idle_watchers_ PENSTOCK_GUARDED_BY(idle_m_) = nullptr;

  mutex m_;  // protects what follows; a topic's mutex may be taken while it is held, no other
  std::unordered_multimap<std::string, topic*> topics_ PENSTOCK_GUARDED_BY(m_);
  std::vector<subscription_core*> subscriptions_ PENSTOCK_GUARDED_BY(m_);
  /// What snapshots have seen of one subscription, so that the next one knows since when at least.
  struct earlier_looks {
    std::map<std::uint64_t, steady_time> running;                  // by seat number
    std::vector<std::pair<std::uint64_t, steady_time>> last_seat;  // how many seats had been taken, and when; both grow
  };
  static void look_at_running(earlier_looks& before, subscription_snapshot& seen, steady_time now);
  static void look_at_queue(earlier_looks& before, subscription_snapshot& seen, const sync::channel_counts& counts,
                            steady_time now);
  std::map<std::uint64_t, earlier_looks> looks_ PENSTOCK_GUARDED_BY(m_);  // by subscription
  std::set<std::string> files_ PENSTOCK_GUARDED_BY(m_);  // names of source files, of code that may be unloaded
  std::uint64_t next_id_ PENSTOCK_GUARDED_BY(m_) = 1;
};

}  // namespace penstock::detail
