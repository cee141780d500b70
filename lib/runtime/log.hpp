// Where a runtime's records go: through spdlog, or to the user's sink.
// Floor 7, room runtime.
#pragma once

#include "base/mutex.hpp"

#include <penstock/base/clock.hpp>
#include <penstock/base/failure.hpp>
#include <penstock/base/unique_function.hpp>
#include <penstock/runtime/log.hpp>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace penstock {

/// Lets so many lines of one source through in each second, and counts the rest. Pure: the time is an argument.
class log_limiter {
 public:
  static constexpr unsigned most_per_second = 10;
  static constexpr std::size_t most_sources = 1024;
  struct verdict {
    bool say = true;
    std::uint64_t left_out = 0;  ///< of that source, in its last second that had too many; told once
  };
  /// Throws std::bad_alloc. Beyond `most_sources` all further ones share one count.
  verdict ask(const std::string& source, steady_time now);

 private:
  struct count {
    steady_time second{};
    unsigned said = 0;
    std::uint64_t left_out = 0;
  };
  std::map<std::string, count, std::less<>> sources_;
};

/// Nothing of it throws, and no lock is held while a sink is called. Threads: thread-safe.
class log {
 public:
  using user_sink = unique_function<void(const log_record&)>;
  /// Without a sink: spdlog, to standard error.
  log(user_sink sink, log_level least, const clock& time);
  ~log();
  void write(const log_record& record) noexcept;
  void line(log_level level, const std::string& text) noexcept;
  /// A failed call or run; many of one subscription or task are told in part, and counted.
  void failed(const failure& record, log_level level, const char* text) noexcept;

 private:
  void sink_failed() noexcept;
  struct spdlog_sink;
  user_sink sink_;
  const log_level least_;
  const clock& time_;
  std::unique_ptr<spdlog_sink> spdlog_;
  std::atomic<bool> sink_failed_{false};
  mutex m_;  // protects limiter_; taken with no other lock held
  log_limiter limiter_ PENSTOCK_GUARDED_BY(m_);
};

}  // namespace penstock
