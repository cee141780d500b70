// Ctrl-C and its relatives: the first asks for an orderly end, the second ends at once.
// Floor 9, room demo.
#pragma once

#include "descriptor.hpp"

#include <atomic>
#include <chrono>
#include <functional>
#include <stop_token>
#include <thread>

namespace digest {

/// Blocks SIGINT, SIGTERM and SIGHUP and ignores SIGPIPE. Call it first in main: threads inherit the mask.
void block_signals() noexcept;

/// How long the end after a second signal may take up its time with tidying.
inline constexpr std::chrono::milliseconds longest_tidying{100};

/// Calls `tidy`, then ends the process with `code`; after `longest_tidying` it ends however far `tidy` has come, for
/// instance into a file system that does not answer. Destroys nothing: other threads may be stuck. Call once.
[[noreturn]] void leave_at_once(int code, const std::function<void()>& tidy) noexcept;

/// Waits for the blocked signals on a thread of its own.
class signal_watch {
 public:
  /// `first` runs once on the watch's thread, after `stop` was requested, and must not wait: a second signal would not
  /// be seen. `second` runs on each later signal and should end the process. Throws std::system_error.
  signal_watch(std::stop_source stop, std::function<void()> first, std::function<void(int)> second);
  signal_watch(const signal_watch&) = delete;
  signal_watch& operator=(const signal_watch&) = delete;
  ~signal_watch();

  /// The first signal, or 0.
  int received() const noexcept { return received_.load(); }

 private:
  void watch();

  std::stop_source stop_;
  std::function<void()> first_;
  std::function<void(int)> second_;
  descriptor signals_;
  descriptor finished_;
  std::atomic<int> received_ = 0;
  std::thread thread_;  // last: it uses everything above
};

/// Becomes readable when `stop` is requested, for waits in poll().
class stop_descriptor {
 public:
  /// Throws std::system_error.
  explicit stop_descriptor(const std::stop_token& stop);
  int get() const noexcept { return event_.get(); }

 private:
  struct wake {
    int event;
    void operator()() const noexcept;
  };
  descriptor event_;
  std::stop_callback<wake> callback_;
};

}  // namespace digest
