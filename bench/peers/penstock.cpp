// The subject: penstock as a user has it, linked as a shared object, with each wait strategy of its pool.
// Floor 9, bench.
#include "../event.hpp"
#include "../further.hpp"
#include "../resources.hpp"
#include "penstock_parts.hpp"

#include <penstock/penstock.hpp>

#include <malloc.h>

#include <chrono>
#include <cstddef>
#include <iomanip>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace bench {
namespace {

using namespace std::chrono_literals;

/// How the pool's workers wait; a mode of the bench for each. 0: the strategy's own time.
template <penstock::wait_strategy Strategy, unsigned SpinMicroseconds = 0>
struct waiting {
  static penstock::worker_pool_options pool(unsigned workers) {
    auto options = penstock::worker_pool_options().threads(workers);
    if constexpr (SpinMicroseconds == 0)
      options.wait(Strategy);
    else
      options.wait(Strategy, std::chrono::microseconds(SpinMicroseconds));
    return options;
  }
};
using adapt = waiting<penstock::wait_strategy::adaptive>;
using park = waiting<penstock::wait_strategy::park>;
using spin = waiting<penstock::wait_strategy::spin_then_park>;
/// Longer than workload E's events are apart: a worker still looks when the next one comes.
using spin_longer = waiting<penstock::wait_strategy::spin_then_park, 100>;

template <class Sink, class Waiting>
class penstock_bus {
 public:
  using E = typename Sink::event_type;

  penstock_bus(const shape& run, std::span<Sink> sinks)
      : runtime_(penstock::runtime_options().pool("default", Waiting::pool(run.workers))),
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
using adaptive = penstock_bus<Sink, adapt>;
template <class Sink>
using parking = penstock_bus<Sink, park>;
template <class Sink>
using spinning = penstock_bus<Sink, spin>;
template <class Sink>
using spinning_longer = penstock_bus<Sink, spin_longer>;

/// Requests and replies are two topics of one bus, their subscriptions on one pool.
struct reply_event : small_event {};

template <class Waiting>
struct on_one_pool {
  template <class Sink>
  class pair {
   public:
    using E = typename Sink::event_type;

    pair(const shape& run, Sink& answering, Sink& asking)
        : runtime_(penstock::runtime_options().pool("default", Waiting::pool(run.workers))),
          requests_(runtime_.bus().template publisher<E>()),
          replies_(runtime_.bus().template publisher<reply_event>()) {
      subscriptions_.push_back(
          runtime_.bus().template subscribe<E>("answering", penstock::subscribe_options().capacity(run.capacity),
                                               [sink = &answering](const E& event) { sink->take(event); }));
      subscriptions_.push_back(runtime_.bus().template subscribe<reply_event>(
          "asking", penstock::subscribe_options().capacity(run.capacity),
          [sink = &asking](const reply_event& event) { sink->take(event); }));
    }
    void request(E&& event) { requests_.publish(std::move(event)); }
    void reply(E&& event) { replies_.publish(reply_event{event}); }
    std::string finish() {
      const auto report = runtime_.shutdown(10s, "the run is over");
      return report.clean() ? std::string() : to_string(report);
    }

   private:
    penstock::runtime runtime_;
    penstock::publisher<E> requests_;
    penstock::publisher<reply_event> replies_;
    std::vector<penstock::subscription> subscriptions_;
  };
};

/// What each subscription takes, by the size of the blocks, the largest first.
std::string told_blocks(const live_blocks& before, const live_blocks& after, unsigned count, double bytes) {
  std::ostringstream text;
  text << std::setprecision(4);
  for (std::size_t place = before.size() - 2; place > 0; --place) {
    const double each = static_cast<double>(after[place] - before[place]) / count;
    if (each == 0) continue;
    text << each << " of " << place * block_step << ", ";
    bytes -= each * static_cast<double>(place * block_step);
  }
  text << "and " << bytes << " bytes in larger ones, which all share";
  return "blocks of bytes, a subscription: " + text.str();
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
  const live_blocks blocks_before = allocation_counter::blocks();
  const allocation_count before = allocation_counter::start();
  for (const auto& name : names)
    subscriptions.push_back(runtime.bus().subscribe<small_event>(name, penstock::subscribe_options().capacity(capacity),
                                                                 [&calls](const small_event&) { ++calls; }));
  const allocation_count after = allocation_counter::stop();
  outcome.heap_bytes = static_cast<double>(after.live_bytes - before.live_bytes) / count;
  outcome.blocks = told_blocks(blocks_before, allocation_counter::blocks(), count, outcome.heap_bytes);
  outcome.resident_bytes = (resident_bytes() - resident) / count;
  const auto report = runtime.shutdown(60s, "the run is over");
  if (!report.clean()) outcome.problem = to_string(report);
  if (report.subscriptions.size() != count)
    outcome.problem = "the shutdown report names " + std::to_string(report.subscriptions.size()) +
                      " subscriptions instead of " + std::to_string(count);
  if (calls != 0) outcome.problem = "an idle subscription was called";
  return outcome;
}

const bool adapts = register_system({
    .name = "penstock",
    .mode = "adaptive",
    .kind = system_kind::subject,
    .note =
        "publish, one event per call; the pool's default: an idle worker looks again while that has been paying off",
    .stream = run_stream<adaptive, 1>,
    .allocations = run_allocations<adaptive>,
    .idle = idle_subscriptions,
    .functions = penstock_functions,
    .coroutines = penstock_coroutines,
    .growth = penstock_growth,
    .changes = penstock_changes,
    .further = further_runs_of<adaptive>(),
    .ping_pong_inside = run_ping_pong<on_one_pool<adapt>::pair>,
});
const bool parks = register_system({
    .name = "penstock",
    .mode = "park",
    .kind = system_kind::subject,
    .note = "publish, one event per call; an idle worker sleeps at once",
    .stream = run_stream<parking, 1>,
    .further = further_runs_of<parking>(),
    .ping_pong_inside = run_ping_pong<on_one_pool<park>::pair>,
});
const bool spins = register_system({
    .name = "penstock",
    .mode = "spin_then_park",
    .kind = system_kind::subject,
    .note = "publish, one event per call; an idle worker looks again for 20 us before it sleeps",
    .stream = run_stream<spinning, 1>,
    .further = further_runs_of<spinning>(),
    .ping_pong_inside = run_ping_pong<on_one_pool<spin>::pair>,
});
const bool spins_longer = register_system({
    .name = "penstock",
    .mode = "spin_then_park 100 us",
    .kind = system_kind::subject,
    .note = "the same for 100 us: longer than the events of E.paced are apart; measured where single events are",
    .further = further_runs_of<spinning_longer>(),
    .ping_pong_inside = run_ping_pong<on_one_pool<spin_longer>::pair>,
});
const bool adaptive_spans = register_system({
    .name = "penstock spans of 16",
    .mode = "adaptive",
    .kind = system_kind::subject,
    .note = "publish_many with 16 events per call, with the pool's default",
    .span = 16,
    .stream = run_stream<adaptive, 16>,
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
