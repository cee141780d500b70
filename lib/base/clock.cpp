// The one place that reads the machine's steady clock.
// Floor 0, room base.
#include <penstock/base/clock.hpp>

#include <time.h>

namespace penstock {

clock::~clock() = default;

namespace {

class steady final : public clock {
 public:
  steady_time now() const noexcept override {
    return std::chrono::time_point_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now());
  }
  steady_time coarse_now() const noexcept override {
#if defined(CLOCK_MONOTONIC_COARSE)
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);  // cannot fail: there is such a clock, and the place is good
    return steady_time(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec));
#else
    return this->now();
#endif
  }
};

/// Never destroyed: when the program ends from inside a handler, other threads go on reading it behind its static objects.
union immortal {
  constexpr immortal() noexcept : time() {}
  ~immortal() {}
  steady time;
};
constinit const immortal the_steady_clock;

}  // namespace

const clock& real_clock() noexcept { return the_steady_clock.time; }

steady_time deadline_after(steady_time now, std::chrono::nanoseconds wait) noexcept {
  if (wait <= std::chrono::nanoseconds::zero()) return now;
  if (wait >= no_deadline - now) return no_deadline;
  return now + wait;
}

}  // namespace penstock
