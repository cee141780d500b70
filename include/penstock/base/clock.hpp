// The clock seam: the only way the library asks what time it is.
// Floor 0, room base.
#pragma once

#include <penstock/base/export.hpp>

#include <chrono>

namespace penstock {

/// An instant of the steady clock. All durations and deadlines use it; setting the wall clock moves none of them.
using steady_time = std::chrono::time_point<std::chrono::steady_clock, std::chrono::nanoseconds>;

/// A deadline that never comes.
inline constexpr steady_time no_deadline = steady_time::max();

/// A source of time. Threads: thread-safe.
class PENSTOCK_API clock {
 public:
  virtual ~clock();
  virtual steady_time now() const noexcept = 0;
  /// The same to within a tick of the system (4 ms on Debian), for less.
  virtual steady_time coarse_now() const noexcept { return now(); }
};

/// The machine's own steady clock: the one place that reads it.
PENSTOCK_API const clock& real_clock() noexcept;

/// `now + wait` without overflow: a negative wait is `now`, one beyond the clock's range is `no_deadline`.
PENSTOCK_API steady_time deadline_after(steady_time now, std::chrono::nanoseconds wait) noexcept;

/// Converts any duration to nanoseconds, clamping instead of overflowing; NaN counts as zero.
template <class Rep, class Period>
constexpr std::chrono::nanoseconds clamp_duration(std::chrono::duration<Rep, Period> wait) noexcept {
  using wide = std::chrono::duration<long double, std::nano>;
  const long double count = std::chrono::duration_cast<wide>(wait).count();
  constexpr auto highest = std::chrono::nanoseconds::max();
  constexpr auto lowest = std::chrono::nanoseconds::min();
  if (count != count) return std::chrono::nanoseconds::zero();
  if (count >= static_cast<long double>(highest.count())) return highest;
  if (count <= static_cast<long double>(lowest.count())) return lowest;
  return std::chrono::nanoseconds(static_cast<std::chrono::nanoseconds::rep>(count));
}

}  // namespace penstock
