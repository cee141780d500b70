// What all handles of one bus share.
// Floor 5, room bus.
#pragma once

#include "base/fork_mark.hpp"
#include "base/mutex.hpp"
#include "base/ref_count.hpp"
#include "bus/subscription_core.hpp"
#include "bus/topic.hpp"

#include <penstock/base/failure.hpp>
#include <penstock/bus/event_bus.hpp>
#include <penstock/exec/environment.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace penstock::detail {

/// Told of failures and of publishes nobody matched.
struct bus_hooks {
  unique_function<void(const failure&)> on_failure;
  unique_function<void(const std::string&)> on_unmatched;
  /// The last resort, when a hook itself fails.
  unique_function<void(const std::string& line)> log;
};

class bus_core final : public ref_counted<bus_core> {
 public:
  bus_core(std::shared_ptr<execution_environment> environment, scheduler_ptr default_pool, bus_hooks hooks);
  ~bus_core();

  /// none, or why no publish is taken: forked, closed; during a shutdown's drain only what handlers publish is.
  errc admission() const noexcept;
  bool forked() const noexcept { return fork_.forked(); }

  ref_ptr<topic> open_topic(const event_type& type);
  /// The bus's part of dropping a topic handle.
  void drop_topic(topic& dropped) noexcept;
  void keep_topic(topic& kept) noexcept;

  subscription subscribe(const event_type& type, std::string_view name, subscribe_options&& options,
                         handler_object handler, call_site where);
  void forget(subscription_core& ended) noexcept;
  std::vector<ref_ptr<subscription_core>> subscriptions();

  bool wait_idle(steady_time deadline);
  void report(const failure& record) noexcept;
  void report_unmatched(const std::string& event) noexcept;

  /// Shutdown, step by step: only handlers may publish; then nobody.
  void close_intake() noexcept;
  void close() noexcept;
  bool closed() const noexcept { return phase_.load() == phase::closed; }

  const std::shared_ptr<execution_environment> environment;
  const clock& time() const noexcept { return environment->time(); }

 private:
  enum class phase : std::uint8_t { open, handlers_only, closed };

  const fork_mark fork_;
  const scheduler_ptr default_pool_;
  bus_hooks hooks_;
  std::atomic<phase> phase_{phase::open};

  mutex m_;  // protects what follows; a topic's mutex may be taken while it is held, no other
  std::unordered_multimap<std::string, topic*> topics_ PENSTOCK_GUARDED_BY(m_);
  std::vector<subscription_core*> subscriptions_ PENSTOCK_GUARDED_BY(m_);
  std::set<std::string> files_ PENSTOCK_GUARDED_BY(m_);  // names of source files, of code that may be unloaded
  std::uint64_t next_id_ PENSTOCK_GUARDED_BY(m_) = 1;
};

}  // namespace penstock::detail
