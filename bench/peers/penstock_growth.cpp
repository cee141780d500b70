// penstock in workload L: thousands of subscriptions or topics, and subscriptions that come and go under load.
// Floor 9, bench.
#include "../event.hpp"
#include "../growth.hpp"
#include "../series.hpp"
#include "penstock_parts.hpp"

#include <penstock/penstock.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace bench {
namespace {

using namespace std::chrono_literals;

/// A bus with topics and their subscriptions. Left to the process as it is when a run is stuck.
struct bus_of_many {
  explicit bus_of_many(const growth_run& run)
      : runtime(penstock::runtime_options().pool("default", penstock::worker_pool_options().threads(run.workers))),
        sinks(std::size_t{run.topics} * run.subscriptions) {
    topics.reserve(run.topics);
    subscriptions.reserve(sinks.size());
    for (unsigned t = 0; t < run.topics; ++t) {
      topics.push_back(runtime.bus().topic<small_event>("topic-" + std::to_string(t)));
      publishers.push_back(topics.back().publisher());
      for (unsigned s = 0; s < run.subscriptions; ++s)
        subscriptions.push_back(topics.back().subscribe(
            "subscriber " + std::to_string(s), penstock::subscribe_options().capacity(capacity(run, t)),
            [sink = &sinks[subscriptions.size()]](const small_event& event) { sink->take(event); }));
    }
  }
  /// Of the topics that get their first events only: 10,000 whole rings would be 700 MB.
  static std::size_t capacity(const growth_run& run, std::size_t topic) {
    return topic == 0 ? run.capacity : std::min<std::size_t>(run.capacity, 64);
  }
  std::string finish() {
    const auto report = runtime.shutdown(60s, "the run is over");
    return report.clean() ? std::string() : to_string(report);
  }

  penstock::runtime runtime;
  std::vector<small_sink> sinks;
  std::vector<penstock::topic<small_event>> topics;
  std::vector<penstock::publisher<small_event>> publishers;
  std::vector<penstock::subscription> subscriptions;
};

growth_outcome late(growth_outcome outcome, const growth_run& run) {
  outcome.problem = "not everything was delivered within " + std::to_string(run.give_up.count()) + " ms";
  outcome.stuck = true;
  return outcome;
}

}  // namespace

growth_outcome penstock_growth(const growth_run& run) {
  growth_outcome outcome;
  // The first events make the rings; that is not what is measured.
  const auto first = [&](std::size_t topic) { return bus_of_many::capacity(run, topic); };
  auto rings_made = std::make_unique<finish_line>(std::uint64_t{run.topics} * run.subscriptions);
  auto all_came = std::make_unique<finish_line>(run.subscriptions);
  auto bus = std::make_unique<bus_of_many>(run);
  for (std::size_t i = 0; i < bus->sinks.size(); ++i) bus->sinks[i].expect(first(i / run.subscriptions), *rings_made);
  for (std::size_t topic = 0; topic < run.topics; ++topic)
    for (std::uint64_t sequence = 0; sequence < first(topic); ++sequence)
      bus->publishers[topic].publish(small_event::make(0, sequence, 0));
  if (!rings_made->wait(run.give_up)) {
    (void)rings_made.release(), (void)all_came.release(), (void)bus.release();
    return late(outcome, run);
  }
  // No sink runs now: each has taken what there was, and the next publish makes this visible to it.
  for (std::size_t i = 0; i < run.subscriptions; ++i) bus->sinks[i].expect(first(0) + run.events, *all_came);
  auto& publisher = bus->publishers.front();
  const auto begin = steady::now();
  for (std::uint64_t sequence = first(0); sequence < first(0) + run.events; ++sequence)
    publisher.publish(small_event::make(0, sequence, 0));
  if (!all_came->wait(run.give_up)) {
    (void)rings_made.release(), (void)all_came.release(), (void)bus.release();
    return late(outcome, run);
  }
  outcome.seconds = std::chrono::duration<double>(all_came->done_at() - begin).count();
  outcome.problem = bus->finish();
  for (std::size_t i = 0; i < bus->sinks.size(); ++i)
    if (const auto wrong =
            bus->sinks[i].verdict(first(i / run.subscriptions) + (i < run.subscriptions ? run.events : 0));
        !wrong.empty())
      outcome.problem = "subscription " + std::to_string(i) + ": " + wrong;
  return outcome;
}

growth_outcome penstock_changes(const growth_run& run) {
  growth_outcome outcome;
  auto never = std::make_unique<finish_line>(1);
  auto bus = std::make_unique<bus_of_many>(run);
  for (auto& sink : bus->sinks) sink.expect(0, *never);
  auto& topic = bus->topics.front();
  std::atomic<std::uint64_t> published{0};
  std::atomic<bool> over{false};
  std::thread load([&] {
    std::uint64_t sequence = 0;
    for (; !over; published = ++sequence) bus->publishers.front().publish(small_event::make(0, sequence, 0));
  });
  while (published < run.capacity) std::this_thread::yield();

  std::vector<double> joining;
  std::vector<double> leaving;
  std::string wrong;
  for (unsigned i = 0; i < run.changes; ++i) {
    std::uint64_t next = 0;  // 0: none yet
    bool in_order = true;
    const auto begin = steady::now();
    auto guest = topic.subscribe("guest", penstock::subscribe_options().capacity(run.capacity),
                                 [&next, &in_order](const small_event& event) {
                                   in_order = in_order && (next == 0 || event.sequence == next);
                                   next = event.sequence + 1;
                                 });
    const auto joined = steady::now();
    // It is in the midst of the traffic when it leaves.
    for (const auto seen = published.load(); published < seen + 2;) std::this_thread::yield();
    const auto leave = steady::now();
    const auto status = guest.close();
    const auto left = steady::now();
    joining.push_back(std::chrono::duration<double, std::micro>(joined - begin).count());
    leaving.push_back(std::chrono::duration<double, std::micro>(left - leave).count());
    if (status != penstock::close_status::closed) wrong = std::string("a close answered ") + to_string(status);
    if (!in_order) wrong = "a subscription that came and went got its events out of order";
  }
  over = true;
  load.join();
  outcome.problem = bus->finish();
  for (std::size_t i = 0; i < bus->sinks.size(); ++i)
    if (const auto verdict = bus->sinks[i].verdict(published); !verdict.empty())
      wrong = "subscription " + std::to_string(i) + ": " + verdict;
  if (!wrong.empty()) outcome.problem = wrong;
  outcome.subscribe_us = summarize(std::move(joining)).median;
  outcome.unsubscribe_us = summarize(std::move(leaving)).median;
  return outcome;
}

}  // namespace bench
