// One run of one system: producers, the clock, the self-check; and the same with allocations counted.
// Floor 9, bench.
#pragma once

#include "allocation_counter.hpp"
#include "roles.hpp"
#include "sink.hpp"
#include "system.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <latch>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace bench {

// A system is a class template over the sink:
//
//   template <class Sink> class some_system {
//    public:
//     using E = typename Sink::event_type;
//     some_system(const shape& run, std::span<Sink> sinks);  // starts its consumers; sinks[i] is subscriber i
//     ~some_system();                                        // joins them
//     void publish(unsigned producer, E&& event);            // waits when a bounded subscriber is full
//     void publish_many(unsigned producer, std::span<const E> events);  // only with span > 1
//     void produce(unsigned producer, std::uint64_t events, std::int64_t now_ns);  // if there is one it is called once
//                            // and publishes each E::make(producer, sequence, now_ns) in a way of the system's own
//     std::string finish();  // after the last delivery: ends orderly; a text when something was not in order
//   };

inline constexpr unsigned most_per_span = 1024;

/// A producer's part, in a function of its own so that each system gets the same code around its publish.
template <class System, class E>
void produce(System& system, unsigned producer, std::uint64_t events, unsigned span, std::int64_t now_ns) {
  if constexpr (requires { system.produce(producer, events, now_ns); }) {
    system.produce(producer, events, now_ns);
  } else if (span == 1) {
    for (std::uint64_t sequence = 0; sequence < events; ++sequence)
      system.publish(producer, E::make(producer, sequence, now_ns));
  } else if constexpr (requires(std::span<const E> batch) { system.publish_many(producer, batch); }) {
    std::array<E, most_per_span> batch;
    for (std::uint64_t sequence = 0; sequence < events;) {
      std::size_t filled = 0;
      while (filled < span && sequence < events) batch[filled++] = E::make(producer, sequence++, now_ns);
      system.publish_many(producer, std::span<const E>(batch.data(), filled));
    }
  }
}

/// Everything the threads of one run touch. When a run is stuck it is left to the process as it is, threads and all:
/// nothing may be destroyed under a thread that is still inside; the caller reports and ends the process.
template <template <class> class System, class E, class Sink = checked_sink<E>>
struct run_state {
  using sink = Sink;
  struct interval {
    steady::time_point begin, end;
  };

  explicit run_state(const shape& run)
      : line(std::uint64_t{run.producers} * run.subscribers),
        produced(run.producers),
        ready(run.producers + 1),
        intervals(run.producers),
        sinks(run.subscribers) {}

  void start_system(const shape& run) {
    const threads_named as("consumer");
    system = std::make_unique<System<sink>>(run, std::span(sinks));
  }

  /// The first subscriber's complaint, or nothing.
  std::string verdict() const {
    for (std::size_t i = 0; i < sinks.size(); ++i)
      if (const auto verdict = sinks[i].verdict(); !verdict.empty())
        return "subscriber " + std::to_string(i) + ", " + verdict;
    return {};
  }

  finish_line line;
  finish_line produced;
  std::latch ready;
  std::vector<interval> intervals;
  std::vector<sink> sinks;
  std::unique_ptr<System<sink>> system;
  std::vector<std::thread> producers;
};

/// Lets `produce(producer)` run on a thread for each producer, and `await()` on this one, which returns false when not
/// everything came; then ends the system and hears the sinks. `outcome` gets what was wrong. A stuck run takes `state`
/// along.
template <class State, class Produce, class Await, class Outcome>
void drive(std::unique_ptr<State>& state, const shape& run, Produce produce, Await await, Outcome& outcome) {
  auto& now = *state;
  for (auto& sink : now.sinks) sink.expect(run.producers, run.events, now.line);
  now.start_system(run);
  {
    const threads_named as("producer");
    for (unsigned producer = 0; producer < run.producers; ++producer)
      now.producers.emplace_back([&now, producer, produce] {
        now.ready.arrive_and_wait();
        auto& mine = now.intervals[producer];
        mine.begin = steady::now();
        produce(producer);
        mine.end = steady::now();
        now.produced.arrived();
      });
  }

  if (!await()) {
    outcome.problem = "not everything was delivered within " + std::to_string(run.give_up.count()) + " ms";
    if (!now.produced.wait(std::chrono::milliseconds(0))) {
      outcome.problem += "; a producer is still inside publish";
      outcome.stuck = true;
      (void)state.release();
      return;
    }
  }
  for (auto& producer : now.producers) producer.join();
  std::string untidy = now.system->finish();
  now.system.reset();
  const std::string wrong = now.verdict();
  if (outcome.problem.empty())
    outcome.problem = wrong.empty() ? std::move(untidy) : wrong;
  else if (!wrong.empty())
    outcome.problem += ": " + wrong;
}

template <template <class> class System, unsigned Span, class E = small_event>
stream_outcome run_stream(const shape& run) {
  stream_outcome outcome;
  auto state = std::make_unique<run_state<System, E>>(run);
  auto& now = *state;
  const auto producing = [&now, events = run.events](unsigned producer) {
    const std::int64_t begin_ns = now.intervals[producer].begin.time_since_epoch().count();
    produce<System<checked_sink<E>>, E>(*now.system, producer, events, Span, begin_ns);
  };
  const auto awaiting = [&] {
    const allocation_count before = run.count_allocations ? allocation_counter::start() : allocation_count();
    now.ready.arrive_and_wait();
    const bool complete = now.line.wait(run.give_up);
    if (run.count_allocations)
      outcome.allocations = static_cast<double>(allocation_counter::stop().calls - before.calls);
    return complete;
  };
  drive(state, run, producing, awaiting, outcome);
  if (!outcome.problem.empty()) return outcome;
  auto begin = now.intervals[0].begin;
  for (const auto& mine : now.intervals) {
    begin = std::min(begin, mine.begin);
    outcome.publisher_seconds += std::chrono::duration<double>(mine.end - mine.begin).count() / run.producers;
  }
  outcome.seconds = std::chrono::duration<double>(now.line.done_at() - begin).count();
  return outcome;
}

/// Publishes bursts that fit into a channel and lets each be handled before the next, so that no publish waits; the
/// events are built, and their own strings allocated, while nothing is counted.
template <template <class> class System, class E>
allocation_outcome run_bursts(const shape& run) {
  constexpr std::uint64_t burst = 512;
  constexpr std::uint64_t warm_up_bursts = 8;
  allocation_outcome outcome;
  const std::uint64_t bursts = warm_up_bursts + (run.events + burst - 1) / burst;
  std::vector<std::unique_ptr<finish_line>> lines;
  for (std::uint64_t round = 0; round < bursts; ++round)
    lines.push_back(std::make_unique<finish_line>(run.subscribers));
  auto state = std::make_unique<run_state<System, E>>(run);
  auto& now = *state;
  now.system = std::make_unique<System<checked_sink<E>>>(run, std::span(now.sinks));
  std::vector<E> events;
  events.reserve(burst);
  std::uint64_t counted = 0;
  for (std::uint64_t round = 0; round < bursts; ++round) {
    events.clear();
    for (std::uint64_t i = 0; i < burst; ++i) events.push_back(E::make(0, round * burst + i, 0));
    // No sink runs now: each has taken all of the last burst, and the next publish makes this visible to it.
    for (auto& sink : now.sinks) sink.expect(1, (round + 1) * burst, *lines[round]);
    const allocation_count before = allocation_counter::start();
    for (E& event : events) now.system->publish(0, std::move(event));
    const bool complete = lines[round]->wait(run.give_up);
    const allocation_count after = allocation_counter::stop();
    if (!complete) {
      outcome.problem = "a burst was not delivered within " + std::to_string(run.give_up.count()) + " ms";
      outcome.stuck = true;
      for (auto& line : lines) (void)line.release();
      (void)state.release();
      return outcome;
    }
    if (round >= warm_up_bursts) counted += after.calls - before.calls;
  }
  outcome.problem = now.system->finish();
  now.system.reset();
  if (const auto wrong = now.verdict(); !wrong.empty()) outcome.problem = wrong;
  outcome.per_publish = static_cast<double>(counted) / static_cast<double>((bursts - warm_up_bursts) * burst);
  return outcome;
}

template <template <class> class System>
allocation_outcome run_allocations(const shape& run, payload what) {
  if (what == payload::small) return run_bursts<System, small_event>(run);
  return run_bursts<System, text_event>(run);
}

}  // namespace bench
