// Where log lines go. The one door to spdlog is the source of this file.
// Floor 7, room runtime.
#pragma once

#include <memory>
#include <string>

namespace penstock {

/// Writes lines to standard error. One per runtime; nothing is registered globally. Threads: thread-safe.
class log {
 public:
  log();
  ~log();
  log(const log&) = delete;
  log& operator=(const log&) = delete;
  /// Control bytes are escaped. Never throws.
  void error(const std::string& line) noexcept;
  void warning(const std::string& line) noexcept;

 private:
  struct sink;
  std::unique_ptr<sink> sink_;
};

}  // namespace penstock
