// Where a runtime's records go: through spdlog, or to the user's sink.
// Floor 7, room runtime.
#pragma once

#include "base/hook_problem.hpp"
#include "base/mutex.hpp"
#include "runtime/log_limiter.hpp"

#include <penstock/base/clock.hpp>
#include <penstock/base/failure.hpp>
#include <penstock/base/unique_function.hpp>
#include <penstock/runtime/log.hpp>
#include <penstock/runtime/shutdown_report.hpp>
#include <penstock/runtime/watchdog.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

namespace penstock {

/// Nothing of it throws but the constructor, and no lock is held while a sink is called. Threads: thread-safe.
class log {
 public:
  using user_sink = unique_function<void(const log_record&)>;
  /// Without a sink: spdlog, to standard error.
  log(user_sink sink, log_level least, const clock& time);
  ~log();
  log(const log&) = delete;
  log& operator=(const log&) = delete;

  void write(const log_record& record) noexcept;
  /// A failed call, run of a task, or posted work; many of one source are told in part, and counted.
  void failed(const failure& record) noexcept;
  void work_failed(const failure& record) noexcept;
  void hook_threw(const detail::hook_problem& problem) noexcept;
  /// Told whatever was left out before.
  void escalated(const failure& record) noexcept;
  /// A report that is not clean: a record for each thing that was left, of each kind ten, and one for how many more there are.
  void not_clean(const shutdown_report& report) noexcept;
  void stuck(const watchdog_report& report) noexcept;
  /// What was counted and has not been told yet.
  void tell_left_out() noexcept { tell_due(no_deadline); }
  /// Records that reached nobody.
  std::uint64_t lost() const noexcept { return lost_.load(); }

 private:
  bool says(log_source kind, std::string_view name) noexcept;
  void tell_due(steady_time now) noexcept;
  void tell(const log_limiter::left_out& rest) noexcept;
  void lose(const char* why) noexcept;

  struct spdlog_sink;
  user_sink sink_;
  const log_level least_;
  const clock& time_;
  std::unique_ptr<spdlog_sink> spdlog_;
  std::atomic<std::uint64_t> lost_{0};
  mutex m_;  // protects limiter_; taken with no other lock held
  log_limiter limiter_ PENSTOCK_GUARDED_BY(m_);
};

}  // namespace penstock
