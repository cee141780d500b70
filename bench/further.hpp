// The runs beyond the plain stream, all of them for one system: `.further = further_runs_of<some_system>()`.
// Floor 9, bench.
#pragma once

#include "resources.hpp"
#include "roles.hpp"
#include "run_back_pressure.hpp"
#include "run_latency.hpp"
#include "run_system.hpp"

#include <chrono>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace bench {

/// Subscriptions that nobody publishes to. The system gets some time to come to rest before the clock runs.
template <template <class> class System>
rest_outcome run_rest(const shape& run, std::chrono::milliseconds how_long) {
  using sink = checked_sink<small_event>;
  rest_outcome outcome;
  std::vector<sink> sinks(run.subscribers);
  const threads_named as("consumer");
  System<sink> system(run, std::span(sinks));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto begin = steady::now();
  const double before = process_cpu_seconds();
  std::this_thread::sleep_for(how_long);
  const double used = process_cpu_seconds() - before;
  outcome.cpu = used / std::chrono::duration<double>(steady::now() - begin).count();
  outcome.problem = system.finish();
  for (const sink& one : sinks)
    if (const auto wrong = one.verdict(); !wrong.empty()) outcome.problem = "an idle subscription was called: " + wrong;
  return outcome;
}

template <template <class> class System>
constexpr further_runs further_runs_of() {
  return {
      .paced = run_paced<System>,
      .ping_pong = run_ping_pong_between<System>,
      .back_pressure = run_back_pressure<System>,
      .texts = run_stream<System, 1, text_event>,
      .rest = run_rest<System>,
  };
}

}  // namespace bench
