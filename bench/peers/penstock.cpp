// The subject: penstock as a user has it, linked as a shared object, with each wait strategy of its pool.
// Floor 9, bench.
#include "../event.hpp"
#include "../run_system.hpp"
#include "penstock_parts.hpp"

#include <penstock/penstock.hpp>

#include <malloc.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <fstream>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace bench {
namespace {

using namespace std::chrono_literals;

template <class Sink, penstock::wait_strategy Wait>
class penstock_bus {
 public:
  using E = typename Sink::event_type;

  penstock_bus(const shape& run, std::span<Sink> sinks)
      : runtime_(penstock::runtime_options().pool("default",
                                                  penstock::worker_pool_options().threads(run.workers).wait(Wait))),
        events_(runtime_.bus().template publisher<E>()) {
    for (std::size_t i = 0; i < sinks.size(); ++i)
      subscriptions_.push_back(runtime_.bus().template subscribe<E>(
          "subscriber " + std::to_string(i), penstock::subscribe_options().capacity(run.capacity),
          [sink = &sinks[i]](const E& event) { sink->take(event); }));
  }

  // The sinks notice an event that was refused.
  void publish(unsigned, E&& event) { events_.publish(std::move(event)); }
  void publish_many(unsigned, std::span<const E> events) { events_.publish_many(events); }

  std::string finish() {
    const auto report = runtime_.shutdown(10s, "the run is over");
    return report.clean() ? std::string() : to_string(report);
  }

 private:
  penstock::runtime runtime_;
  penstock::publisher<E> events_;
  std::vector<penstock::subscription> subscriptions_;
};

template <class Sink>
using parking = penstock_bus<Sink, penstock::wait_strategy::park>;
template <class Sink>
using spinning = penstock_bus<Sink, penstock::wait_strategy::spin_then_park>;

double resident_bytes() {
  std::ifstream file("/proc/self/statm");
  long total = 0;
  long resident = 0;
  file >> total >> resident;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

/// Subscriptions of one topic that never got an event.
idle_outcome idle_subscriptions(unsigned count, std::size_t capacity) {
  idle_outcome outcome;
  penstock::runtime runtime;
  std::vector<penstock::subscription> subscriptions;
  subscriptions.reserve(count);
  std::vector<std::string> names;
  for (unsigned i = 0; i < count; ++i) names.push_back("idle " + std::to_string(i));
  std::uint64_t calls = 0;
  malloc_trim(0);  // pages an earlier run left behind would hide the growth
  const double resident = resident_bytes();
  const allocation_count before = allocation_counter::start();
  for (const auto& name : names)
    subscriptions.push_back(runtime.bus().subscribe<small_event>(name, penstock::subscribe_options().capacity(capacity),
                                                                 [&calls](const small_event&) { ++calls; }));
  const allocation_count after = allocation_counter::stop();
  outcome.heap_bytes = static_cast<double>(after.live_bytes - before.live_bytes) / count;
  outcome.resident_bytes = (resident_bytes() - resident) / count;
  const auto report = runtime.shutdown(60s, "the run is over");
  if (!report.clean()) outcome.problem = to_string(report);
  if (report.subscriptions.size() != count)
    outcome.problem = "the shutdown report names " + std::to_string(report.subscriptions.size()) +
                      " subscriptions instead of " + std::to_string(count);
  if (calls != 0) outcome.problem = "an idle subscription was called";
  return outcome;
}

const bool park = register_system({
    .name = "penstock",
    .mode = "park",
    .kind = system_kind::subject,
    .note = "publish, one event per call; the pool's default: an idle worker sleeps at once",
    .stream = run_stream<parking, 1>,
    .allocations = run_allocations<parking>,
    .idle = idle_subscriptions,
    .functions = penstock_functions,
    .coroutines = penstock_coroutines,
    .growth = penstock_growth,
    .changes = penstock_changes,
});
const bool spin = register_system({
    .name = "penstock",
    .mode = "spin_then_park",
    .kind = system_kind::subject,
    .note = "publish, one event per call; an idle worker looks again for 20 us before it sleeps",
    .stream = run_stream<spinning, 1>,
});
const bool park_spans = register_system({
    .name = "penstock spans of 16",
    .mode = "park",
    .kind = system_kind::subject,
    .note = "publish_many with 16 events per call",
    .span = 16,
    .stream = run_stream<parking, 16>,
});
const bool spin_spans = register_system({
    .name = "penstock spans of 16",
    .mode = "spin_then_park",
    .kind = system_kind::subject,
    .note = "publish_many with 16 events per call, the pool spins before it sleeps",
    .span = 16,
    .stream = run_stream<spinning, 16>,
});

}  // namespace
}  // namespace bench
