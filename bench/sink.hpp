// The subscriber of a measured run: adds to a checksum and notices whatever is lost, doubled, torn or out of order.
// Floor 9, bench.
#pragma once

#include "event.hpp"

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>

namespace bench {

using steady = std::chrono::steady_clock;

/// Counts down what a run still waits for and keeps the instant it was done.
class finish_line {
 public:
  explicit finish_line(std::uint64_t arrivals) : missing_(arrivals) {}

  void arrived() {
    const auto now = steady::now();
    std::lock_guard lock(mutex_);
    if (missing_ != 0 && --missing_ == 0) {
      done_at_ = now;
      all_here_.notify_all();
    }
  }
  /// False when somebody is still missing after `limit`.
  bool wait(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    return all_here_.wait_for(lock, limit, [&] { return missing_ == 0; });
  }
  steady::time_point done_at() {
    std::lock_guard lock(mutex_);
    return done_at_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  std::uint64_t missing_;
  steady::time_point done_at_{};
};

/// One subscriber. Threads: calls for one producer's events must not overlap; those of different producers may (a
/// synchronous peer calls on the producer's own thread), so each producer has its own cell.
template <class E>
class checked_sink {
 public:
  using event_type = E;

  /// Reports to `line` once per producer, when that producer's `expected` events have come.
  void expect(unsigned producers, std::uint64_t expected, finish_line& line) {
    producers_ = producers;
    expected_ = expected;
    line_ = &line;
  }

  void take(const E& event) {
    cell& mine = cells_[event.producer % most_producers];
    mine.wrong += event.sequence != mine.seen;
    mine.sum += event.digest();
    if (++mine.seen == expected_) line_->arrived();
  }

  /// How many of this producer's events have come.
  std::uint64_t seen(unsigned producer) const noexcept { return cells_[producer % most_producers].seen; }

  /// Empty when everything came once, whole and in order; else what is wrong.
  std::string verdict() const {
    for (unsigned producer = 0; producer < most_producers; ++producer) {
      const cell& mine = cells_[producer];
      const std::uint64_t due = producer < producers_ ? expected_ : 0;
      const std::string who = "producer " + std::to_string(producer) + ": ";
      if (mine.seen != due) return who + std::to_string(mine.seen) + " events instead of " + std::to_string(due);
      if (mine.wrong != 0) return who + std::to_string(mine.wrong) + " events out of order";
      std::uint64_t sum = 0;
      for (std::uint64_t sequence = 0; sequence < due; ++sequence) sum += E::digest_of(producer, sequence);
      if (sum != mine.sum) return who + "the checksum is wrong";
    }
    return {};
  }

 private:
  struct alignas(64) cell {
    std::uint64_t seen = 0;
    std::uint64_t sum = 0;
    std::uint64_t wrong = 0;
  };
  std::array<cell, most_producers> cells_{};
  unsigned producers_ = 0;
  std::uint64_t expected_ = 0;
  finish_line* line_ = nullptr;
};

}  // namespace bench
