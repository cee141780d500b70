// The table of workloads and their fixed counts.
// Floor 9, bench.
#include "workload.hpp"

#include "allocation_counter.hpp"
#include "features.hpp"
#include "growth.hpp"
#include "tasks.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

namespace bench {

namespace {

constexpr std::size_t capacity = 1024;

bool is_plain(const system_entry& system) { return !system.feature && system.stream != nullptr; }

/// The fixed count of a system that can do fewer in time, or a part of that.
shape divided(shape run, const system_entry& system, std::uint64_t part) {
  run.events /= (run.subscribers > 1 ? system.divided.to_several : system.divided.to_one) * part;
  ++run.events;
  return run;
}

}  // namespace

shape shaped(unsigned producers, unsigned subscribers, std::uint64_t events) {
  shape run;
  run.producers = producers;
  run.subscribers = subscribers;
  run.workers = subscribers > 1 ? 2 : 1;
  run.events = events;
  run.capacity = capacity;
  return run;
}

measurement failed_run(const std::string& problem, bool stuck) {
  measurement failed;
  failed.problem = problem;
  failed.stuck = stuck;
  return failed;
}

namespace {

/// Two digits and noughts, upwards.
std::uint64_t rounded(double events) {
  std::uint64_t unit = 1;
  while (events / static_cast<double>(unit) > 99) unit *= 10;
  return (static_cast<std::uint64_t>(events / static_cast<double>(unit)) + 1) * unit;
}

}  // namespace

measurement fit(const system_entry& system, shape& run, std::chrono::duration<double> time) {
  constexpr unsigned most_tries = 8;
  for (unsigned tried = 0; tried < most_tries; ++tried) {
    const stream_outcome outcome = system.stream(run);
    if (!outcome.problem.empty()) return failed_run(outcome.problem, outcome.stuck);
    const double part = outcome.seconds / time.count();
    // A short run is mostly threads that start and caches that are cold, or was disturbed: only one that took its time
    // is believed.
    const bool enough = part >= 0.8;
    if (!enough || part > 1.25) run.events = rounded(static_cast<double>(run.events) * std::min(1 / part, 10.0));
    if (enough) break;
  }
  return {};
}

measurement throughput(const system_entry& system, const shape& run) {
  const stream_outcome outcome = system.stream(run);
  if (!outcome.problem.empty()) return failed_run(outcome.problem, outcome.stuck);
  measurement done;
  done.value = static_cast<double>(run.events) * run.producers * run.subscribers / outcome.seconds / 1e6;
  return done;
}

workload stream_workload(const char* id, const char* what, const char* unit, const shape& run) {
  workload made;
  made.id = id;
  made.group = id;
  made.what = what;
  made.unit = unit;
  made.applies = [producers = run.producers](const system_entry& system) {
    return is_plain(system) && producers <= system.up_to_producers;
  };
  made.run = [run](const system_entry& system) { return throughput(system, divided(run, system, 1)); };
  made.warm_up = [run](const system_entry& system) { return throughput(system, divided(run, system, 20)); };
  return made;
}

namespace {

/// A stream whose counts are fitted to each system.
workload fitted_stream(const char* id, const char* what, const char* unit, const shape& first,
                       std::chrono::duration<double> time) {
  workload made = stream_workload(id, what, unit, first);
  made.run = {};
  made.warm_up = {};
  made.to_fit = {first};
  made.fitted_time = time;
  made.run_fitted = [](const system_entry& system, const std::vector<shape>& shapes) {
    return throughput(system, shapes.front());
  };
  return made;
}

/// Both shapes in one run, so that they are compared under the same conditions.
measurement fan_out_cost(const system_entry& system, const shape& narrow, const shape& wide) {
  const stream_outcome one = system.stream(narrow);
  if (!one.problem.empty()) return failed_run("with 1 subscription: " + one.problem, one.stuck);
  const stream_outcome eight = system.stream(wide);
  if (!eight.problem.empty()) return failed_run("with 8 subscriptions: " + eight.problem, eight.stuck);
  measurement done;
  done.value = (eight.publisher_seconds / static_cast<double>(wide.events)) /
               (one.publisher_seconds / static_cast<double>(narrow.events));
  return done;
}

workload allocation_workload(const char* id, const char* what, payload kind, unsigned subscribers,
                             std::uint64_t events) {
  workload made;
  made.id = id;
  made.group = std::string(1, 'I');
  made.what = what;
  made.unit = std::string("allocations/publish");
  made.direction = better::lower;
  made.depends_on = dependence::none;
  made.applies = [](const system_entry& system) { return system.allocations != nullptr; };
  made.run = [kind, run = shaped(1, subscribers, events)](const system_entry& system) {
    const allocation_outcome outcome = system.allocations(run, kind);
    if (!outcome.problem.empty()) return failed_run(outcome.problem, outcome.stuck);
    measurement done;
    done.value = outcome.per_publish;
    return done;
  };
  return made;
}

workload idle_workload(const char* id, const char* what, double idle_outcome::*figure, unsigned subscriptions) {
  workload made;
  made.id = id;
  made.group = std::string(1, 'I');
  made.what = what;
  made.unit = std::string("bytes/subscription");
  made.direction = better::lower;
  made.depends_on = dependence::none;
  made.applies = [](const system_entry& system) { return system.idle != nullptr; };
  made.run = [figure, subscriptions](const system_entry& system) {
    const idle_outcome outcome = system.idle(subscriptions, capacity);
    if (!outcome.problem.empty()) return failed_run(outcome.problem, false);
    measurement done;
    done.value = outcome.*figure;
    if (figure == &idle_outcome::heap_bytes) done.detail = outcome.blocks;
    return done;
  };
  return made;
}

}  // namespace

std::vector<workload> workloads(effort how_much) {
  const std::uint64_t part = how_much == effort::full ? 1 : 20;
  // Some systems are sixty times faster than others: no count would be right for both.
  const std::chrono::duration<double> time(0.35 / static_cast<double>(part));
  std::vector<workload> all;
  all.push_back(fitted_stream("A", "1 producer -> 1 subscriber", "M events/s", shaped(1, 1, 40'000), time));
  all.push_back(
      fitted_stream("B", "1 producer -> 8 subscribers on 2 workers", "M deliveries/s", shaped(1, 8, 8'000), time));
  all.push_back(fitted_stream("C", "4 producers -> 1 subscriber", "M events/s", shaped(4, 1, 10'000), time));
  all.push_back(
      fitted_stream("D", "4 producers -> 8 subscribers on 2 workers", "M deliveries/s", shaped(4, 8, 2'000), time));

  workload fan_out;
  fan_out.id = "fanout";
  fan_out.group = "fanout";
  fan_out.what = "the publisher's cost per event with 8 subscriptions / with 1";
  fan_out.unit = "ratio";
  fan_out.direction = better::lower;
  // A bare queue has no publish whose cost could grow.
  fan_out.applies = [](const system_entry& system) {
    return is_plain(system) && system.kind != system_kind::reference;
  };
  fan_out.to_fit = {shaped(1, 1, 40'000), shaped(1, 8, 8'000)};
  fan_out.fitted_time = time / 2;
  fan_out.run_fitted = [](const system_entry& system, const std::vector<shape>& shapes) {
    return fan_out_cost(system, shapes.front(), shapes.back());
  };
  all.push_back(std::move(fan_out));

  add_latency(all, how_much);
  add_back_pressure(all, how_much);
  add_text(all, how_much);
  add_task_workloads(all, how_much);
  add_feature_workloads(all, how_much);
  add_growth_workloads(all, how_much);

  // Without the stand-ins for malloc there is nothing to count.
  if (allocation_counter::available()) {
    const std::uint64_t events = 200'000 / part;
    const unsigned idle = how_much == effort::full ? 10'000 : 1'000;
    all.push_back(allocation_workload("I.event.1", "64-byte event, 1 subscription", payload::small, 1, events));
    all.push_back(allocation_workload("I.event.8", "64-byte event, 8 subscriptions", payload::small, 8, events));
    all.push_back(allocation_workload("I.text.1", "std::string of 256 bytes, moved in, 1 subscription", payload::text,
                                      1, events / 4));
    all.push_back(allocation_workload("I.text.8", "std::string of 256 bytes, moved in, 8 subscriptions", payload::text,
                                      8, events / 4));
    all.push_back(idle_workload("I.idle", "heap of a subscription that got nothing yet (capacity 1024)",
                                &idle_outcome::heap_bytes, idle));
    all.push_back(
        idle_workload("I.idle.resident", "the same, growth of resident memory", &idle_outcome::resident_bytes, idle));
  }
  add_idle(all, how_much);
  return all;
}

}  // namespace bench
