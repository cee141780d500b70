// Whether an idle worker looks for work before it sleeps, and for how long.
// Floor 2, room exec.
#pragma once

#include <penstock/exec/worker_pool.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace penstock::exec {

/// Decides for all workers of a pool. Pure: it is told what happened and how long it took. Threads: per-object.
///
/// With `park` and `spin_then_park` the answer is always the same. With `adaptive` there are two states:
/// - *sleeping*: each idle worker sleeps at once. What it would have caught is known all the same: whoever wakes it
///   says when it had something. `need_` sleeps in a row that a look would have spared lead to *looking*; one that it
///   would not have spared begins the row anew. So events that come rarely never cost a look.
/// - *looking*: each idle worker looks for `limit()`. A look that caught something adds 1 to the score (up to `full`),
///   one that did not takes `price`; so at least three of four have to pay. Below zero: back to *sleeping*, and the
///   next row has to be four times as long, up to `longest_row`. Each `settled` catches in one go halve that.
///
/// A look is bounded by what it is to spare: `worth` times what a wake-up has been taking lately, and never more than
/// the pool's option.
///
/// Threads that share a core show as looks that caught nothing, for whoever would publish does not run meanwhile, or as
/// a look that lost its processor: that goes to *sleeping* at once. Then the rows grow, until a look is tried after
/// thousands of events only.
class spin_gauge {
 public:
  using nanoseconds = std::chrono::nanoseconds;

  /// Always the same; zero: sleeps at once.
  constexpr spin_gauge(nanoseconds always) noexcept : most_(always) {}
  static constexpr spin_gauge adaptive(nanoseconds most) noexcept {
    spin_gauge made(most);
    made.adapts_ = true;
    return made;
  }

  /// Whether it wants to be told how long sleeps took.
  constexpr bool adapts() const noexcept { return adapts_; }
  /// How long a worker that goes idle now looks; zero: it sleeps at once.
  constexpr nanoseconds bound() const noexcept {
    if (!adapts_) return most_;
    return looking_ ? limit() : nanoseconds::zero();
  }

  /// A look is over.
  constexpr void caught() noexcept {
    if (!looking_) return;
    score_ = std::min(score_ + 1, full);
    if (++catches_ % settled == 0) need_ = std::max(need_ / 2, shortest_row);
  }
  constexpr void missed() noexcept {
    if (!looking_) return;
    score_ -= price;
    if (score_ < 0) lost();
  }
  /// The looker did not have its processor meanwhile.
  constexpr void lost() noexcept {
    if (!looking_) return;
    looking_ = false;
    score_ = 0;
    need_ = std::min(need_ * 4, longest_row);
  }
  /// A sleep is over: somebody had work `gap` after it began, and the worker ran `wake_up` later.
  constexpr void slept(nanoseconds gap, nanoseconds wake_up) noexcept {
    if (!adapts_) return;
    wake_up_ += (std::clamp(wake_up, nanoseconds::zero(), most_wake_up) - wake_up_) / 8;
    if (looking_) return;  // the look before it has been counted
    if (gap > limit()) {
      score_ = 0;
    } else if (++score_ >= need_) {
      looking_ = true;
      score_ = advance;
      catches_ = 0;
    }
  }

  static constexpr int shortest_row = 4;
  static constexpr int longest_row = 4096;
  static constexpr int full = 8;
  static constexpr int price = 3;
  static constexpr int advance = 3;
  static constexpr int settled = 256;
  static constexpr int worth = 8;
  static constexpr nanoseconds least = std::chrono::microseconds(20);
  static constexpr nanoseconds most_wake_up = std::chrono::microseconds(100);

 private:
  constexpr nanoseconds limit() const noexcept { return std::min(std::max(wake_up_ * worth, least), most_); }

  nanoseconds most_;
  nanoseconds wake_up_ = std::chrono::microseconds(12);
  int score_ = 0;
  int need_ = shortest_row;
  int catches_ = 0;
  bool adapts_ = false;
  bool looking_ = false;
};

}  // namespace penstock::exec
