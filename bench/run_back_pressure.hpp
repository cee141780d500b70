// A handler that is slower than its producer: what the system leaves of the handler's own speed, and of the memory.
// Floor 9, bench.
#pragma once

#include "resources.hpp"
#include "run_system.hpp"

#include <malloc.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace bench {

/// Works a microsecond by the clock for each event: a counted loop would be slower while the core next to it is busy.
class working_sink {
 public:
  using event_type = small_event;

  void expect(unsigned producers, std::uint64_t expected, finish_line& line) {
    checked_.expect(producers, expected, line);
  }
  /// Tells `line` when so many of producer 0 have come.
  void tell_at(std::uint64_t seen, finish_line& line) {
    told_at_ = seen;
    early_ = &line;
  }
  void take(const small_event& event) {
    const auto until = steady::now() + std::chrono::microseconds(1);
    while (steady::now() < until) {
    }
    checked_.take(event);
    if (early_ != nullptr && checked_.seen(0) == told_at_) early_->arrived();
  }
  std::string verdict() const { return checked_.verdict(); }

 private:
  checked_sink<small_event> checked_;
  std::uint64_t told_at_ = 0;
  finish_line* early_ = nullptr;
};

/// Seconds of one call of the handler when nothing is in between: the median of short batches, so that one in which the
/// thread lost its core does not count.
inline double handler_seconds() {
  constexpr std::size_t batches = 21;
  constexpr std::uint64_t calls = 500;
  finish_line line(1);
  auto sink = std::make_unique<working_sink>();
  sink->expect(1, batches * calls, line);
  std::array<double, batches> seconds{};
  std::uint64_t sequence = 0;
  for (double& batch : seconds) {
    const auto begin = steady::now();
    for (std::uint64_t call = 0; call < calls; ++call) sink->take(small_event::make(0, sequence++, 0));
    batch = std::chrono::duration<double>(steady::now() - begin).count() / static_cast<double>(calls);
  }
  std::nth_element(seconds.begin(), seconds.begin() + batches / 2, seconds.end());
  return seconds[batches / 2];
}

/// Memory is looked at first when twice the seats have been handled, so that the rings have been touched, and from then
/// on each 20 ms and at the end.
template <template <class> class System>
back_pressure_outcome run_back_pressure(const shape& run) {
  using run_type = run_state<System, small_event, working_sink>;
  struct working_state : run_type {
    using run_type::run_type;
    finish_line early{1};
  };
  back_pressure_outcome outcome;
  const double before = handler_seconds();
  malloc_trim(0);  // memory an earlier run left behind would hide the growth
  auto state = std::make_unique<working_state>(run);
  auto& now = *state;
  now.sinks[0].tell_at(std::min<std::uint64_t>(2 * run.capacity, run.events), now.early);
  const auto producing = [&now, events = run.events](unsigned producer) {
    produce<System<working_sink>, small_event>(*now.system, producer, events, 1, 0);
  };
  const auto awaiting = [&] {
    const auto until = steady::now() + run.give_up;
    now.ready.arrive_and_wait();
    if (!now.early.wait(run.give_up)) return false;
    const double early = resident_bytes();
    bool complete = false;
    do {
      complete = now.line.wait(std::chrono::milliseconds(20));
      outcome.resident_growth = std::max(outcome.resident_growth, resident_bytes() - early);
    } while (!complete && steady::now() < until);
    return complete;
  };
  drive(state, run, producing, awaiting, outcome);
  if (!outcome.problem.empty()) return outcome;
  const double own = (before + handler_seconds()) / 2 * static_cast<double>(run.events);
  outcome.part = own / std::chrono::duration<double>(now.line.done_at() - now.intervals[0].begin).count();
  return outcome;
}

}  // namespace bench
