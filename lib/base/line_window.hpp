// How many lines of one source are told in a second. Pure: the time is an argument.
// Floor 0, room base.
#pragma once

#include <penstock/base/clock.hpp>

#include <chrono>
#include <cstdint>
#include <utility>

namespace penstock {

/// Lets so many lines through in each second and counts the rest. A second begins with its first line. Threads: per-object.
class line_window {
 public:
  static constexpr unsigned most_per_second = 10;
  static constexpr std::chrono::nanoseconds one_second = std::chrono::seconds(1);

  /// True: tell this line. What an earlier second left out stays due.
  bool ask(steady_time now) noexcept {
    if (said_ == 0 || over(now)) {
      began_ = now;
      said_ = 0;
    }
    const bool tell = said_ < most_per_second;
    ++(tell ? said_ : left_out_);
    return tell;
  }
  /// A second has begun, and has ended by now.
  bool over(steady_time now) const noexcept { return said_ > 0 && now - began_ >= one_second; }
  bool quiet() const noexcept { return said_ == 0; }
  steady_time ends() const noexcept { return deadline_after(began_, one_second); }
  std::uint64_t left_out() const noexcept { return left_out_; }
  /// How many were left out until now; forgets them.
  std::uint64_t take_left_out() noexcept { return std::exchange(left_out_, 0); }

 private:
  steady_time began_{};
  std::uint64_t said_ = 0;
  std::uint64_t left_out_ = 0;
};

}  // namespace penstock
