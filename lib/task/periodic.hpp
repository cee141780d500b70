// A periodic task: what it waits for, and what it does about ticks that it missed.
// Floor 4, room task.
#pragma once

#include <penstock/task/task_registry.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <stop_token>

namespace penstock::detail {

struct periodic {
  std::chrono::nanoseconds period{};
  missed_ticks missed = missed_ticks::skip;
  unique_function<task<void>()> makes;             // one of these two
  unique_function<void(std::stop_token)> calls;
  scheduler_ptr where;  // for `calls`
  std::stop_source stop;
  task_entry* entry = nullptr;  // owns this
};

/// Which instant comes after the one at `due`, whose tick ended at `now`, and how many were left out.
struct next_tick {
  steady_time due{};
  std::uint64_t missed = 0;
};
next_tick after_tick(steady_time due, steady_time now, std::chrono::nanoseconds period, missed_ticks missed) noexcept;

task<void> tick_for_ever(std::shared_ptr<periodic> plan);

}  // namespace penstock::detail
