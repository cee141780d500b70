// A line on the standard error stream when a scenario crashes: without it the seed would be lost with the process.
// Floor 8, room testing.
#pragma once

#include <cstdint>
#include <string>

namespace penstock::testing::detail {

/// While one exists on a thread, a fatal signal on that thread first writes the seed and the command that replays it,
/// then goes the way it would have gone. Threads: bound to the one that made it.
class crash_note {
 public:
  /// `command` is what follows `PENSTOCK_SEED=N`.
  explicit crash_note(std::string command);
  ~crash_note();
  crash_note(const crash_note&) = delete;
  crash_note& operator=(const crash_note&) = delete;

  void seed(std::uint64_t current) noexcept { seed_ = current; }

  /// Async-signal-safe.
  void write() const noexcept;

 private:
  std::string command_;
  volatile std::uint64_t seed_ = 0;
};

}  // namespace penstock::testing::detail
