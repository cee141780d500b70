// What stands behind watchdog_options.
// Floor 7, room runtime.
#pragma once

#include <penstock/runtime/watchdog.hpp>

#include <chrono>

#include <signal.h>

namespace penstock {

struct watchdog_options::fields {
  std::chrono::nanoseconds stuck_after = std::chrono::seconds(5);
  std::chrono::nanoseconds every = std::chrono::seconds(1);
  bool stacks = false;
  int signal = SIGURG;
  bool enabled = true;
  unique_function<void(const watchdog_report&)> on_report;
};

}  // namespace penstock
