// Workload E: how long an event is on its way when there is no hurry, what waiting for it costs; and goal 3.
// Floor 9, bench.
#include "report.hpp"
#include "workload.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace bench {

namespace {

using std::chrono::microseconds;

constexpr const char* paced_id = "E.paced";
constexpr const char* rare_id = "E.rare";
constexpr const char* inside_id = "E.pingpong.pool";

histogram distribution_of(const std::vector<std::int64_t>& ns) {
  histogram made;
  for (const std::int64_t one : ns) made.add(one);
  return made;
}

measurement paced(const system_entry& system, std::uint64_t events, microseconds interval) {
  const latency_outcome outcome = system.further.paced(shaped(1, 1, events), interval);
  if (!outcome.problem.empty()) return failed_run(outcome.problem, outcome.stuck);
  const percentiles of = percentiles_of(outcome.ns);
  measurement done;
  done.values = {of.p50 / 1000,
                 of.p99 / 1000,
                 of.p999 / 1000,
                 of.max / 1000,
                 outcome.cpu * 100,
                 outcome.pacing_cpu * 100,
                 outcome.publish_ns / 1000};
  done.distribution = distribution_of(outcome.ns);
  return done;
}

workload paced_workload(const char* id, const char* what, std::uint64_t events, microseconds interval) {
  workload made;
  made.id = id;
  made.group = std::string(1, 'E');
  made.what = what;
  made.unit = "us";
  made.figures = {
      {"p50", "us"},    {"p99", "us"},       {"p99.9", "us"},  {"max", "us", better::lower, across_runs::maximum},
      {"cpu", "CPU %"}, {"pacing", "CPU %"}, {"publish", "us"}};
  made.applies = [](const system_entry& system) { return system.further.paced != nullptr; };
  made.times = 3;  // whoever else has the processor for some milliseconds decides the tails of a run
  made.run = [events, interval](const system_entry& system) { return paced(system, events, interval); };
  made.warm_up = [events, interval](const system_entry& system) { return paced(system, events / 20 + 1, interval); };
  return made;
}

using ping_pong_run = latency_outcome (*)(const shape&);

/// One of the ping-pongs; `which` finds a system's run of it.
workload ping_pong_workload(const char* id, const char* what, const shape& run,
                            ping_pong_run (*which)(const system_entry&)) {
  workload made;
  made.id = id;
  made.group = std::string(1, 'E');
  made.what = what;
  made.unit = "us";
  made.figures = {{"p50", "us"},
                  {"p99", "us"},
                  {"p99.9", "us"},
                  {"max", "us", better::lower, across_runs::maximum},
                  {"cpu", "CPU %"}};
  made.applies = [which](const system_entry& system) { return which(system) != nullptr; };
  const auto play = [which](const system_entry& system, const shape& rounds) {
    latency_outcome outcome = which(system)(rounds);
    if (!outcome.problem.empty()) return failed_run(outcome.problem, outcome.stuck);
    for (auto& ns : outcome.ns) ns /= 2;  // a round trip is two hops
    const percentiles of = percentiles_of(outcome.ns);
    measurement done;
    done.values = {of.p50 / 1000, of.p99 / 1000, of.p999 / 1000, of.max / 1000, outcome.cpu * 100};
    done.distribution = distribution_of(outcome.ns);
    return done;
  };
  made.run = [play, run](const system_entry& system) { return play(system, run); };
  made.warm_up = [play, run](const system_entry& system) {
    shape shorter = run;
    shorter.events = run.events / 20 + 1;
    return play(system, shorter);
  };
  return made;
}

goal unanswered(const char* id, std::string what, double target) {
  goal made;
  made.id = id;
  made.what = std::move(what);
  made.target = target;
  return made;
}

/// `over` divided by `under`, if both have a figure in one state.
goal ratio(const char* id, std::string what, double target, const row* over, const row* under) {
  goal made = unanswered(id, std::move(what), target);
  if (over == nullptr || under == nullptr || !over->figure || !under->figure || over->state != under->state ||
      under->figure->median == 0)
    return made;
  made.what += " (" + under->system.name + ", " + under->system.mode + "; " + under->state + ")";
  made.measured = over->figure->median / under->figure->median;
  made.met = *made.measured <= target;
  return made;
}

/// The best of the peers that are bounded and park; none while one of them has no figure: it may be the best.
const row* best_parking_peer(const std::vector<row>& rows, const std::string& workload) {
  const row* best = nullptr;
  for (const auto& one : rows) {
    if (one.workload != workload || one.system.kind != system_kind::bounded_parking) continue;
    if (!one.figure) return nullptr;
    if (best == nullptr || one.figure->median < best->figure->median) best = &one;
  }
  return best;
}

std::string figure_of(const char* workload, const char* name) { return std::string(workload) + "." + name; }

goal caught_by_spinning(const std::vector<row>& rows) {
  goal made = unanswered("3c", "E: p50 of penstock, spinning long enough / a cache line's round trip, at most", 3);
  const row* spinning = find_row(rows, figure_of(paced_id, "p50"), "penstock", "spin_then_park 100 us");
  if (spinning == nullptr || !spinning->figure || !spinning->one_way_ns) return made;
  made.what += " (" + spinning->state + ")";
  made.measured = spinning->figure->median * 1000 / (2 * *spinning->one_way_ns);
  made.met = *made.measured <= made.target;
  return made;
}

/// A difference, because the best peer may take nothing at all. A tenth of a millisecond per second is what the
/// measuring itself takes.
goal idle_beside_peers(const std::vector<row>& rows) {
  goal made = unanswered("3e", "E: CPU % of adaptive while idle - of the parking peer that takes least, at most", 0.01);
  const row* mine = find_row(rows, "E.idle", "penstock", "adaptive");
  const row* best = best_parking_peer(rows, "E.idle");
  if (mine == nullptr || !mine->figure || best == nullptr) return made;
  made.what += " (" + best->system.name + ", " + best->system.mode + ")";
  made.measured = mine->figure->median - best->figure->median;
  made.met = *made.measured <= made.target;
  return made;
}

goal hop_inside_a_pool(const std::vector<row>& rows) {
  goal made =
      unanswered("3g", std::string("E: us per hop of a ping-pong inside one pool (") + default_mode + "), below", 1);
  const row* mine = find_row(rows, figure_of(inside_id, "p50"), "penstock", default_mode);
  if (mine == nullptr || !mine->figure) return made;
  made.measured = mine->figure->median;
  made.met = *made.measured < made.target;
  return made;
}

}  // namespace

void add_latency(std::vector<workload>& all, effort how_much) {
  const std::uint64_t part = how_much == effort::full ? 1 : 20;
  all.push_back(paced_workload(paced_id, "an event each 50 us, 1 -> 1: publish to handler start", 20'000 / part,
                               microseconds(50)));
  all.push_back(
      paced_workload(rare_id, "an event each 5 ms, 1 -> 1: publish to handler start", 400 / part, microseconds(5000)));
  shape one_worker = shaped(1, 1, 10'000 / part);
  shape two_workers = one_worker;
  two_workers.workers = 2;
  all.push_back(ping_pong_workload(
      "E.pingpong", "request and reply between two threads or pools, one message on the way: a hop", one_worker,
      [](const system_entry& system) -> ping_pong_run { return system.further.ping_pong; }));
  all.push_back(
      ping_pong_workload(inside_id, "the same between two subscriptions on one pool of 2 workers: a hop", two_workers,
                         [](const system_entry& system) -> ping_pong_run { return system.ping_pong_inside; }));
  all.push_back(
      ping_pong_workload("E.pingpong.worker", "the same on one pool of 1 worker: a hop", one_worker,
                         [](const system_entry& system) -> ping_pong_run { return system.ping_pong_inside; }));
}

std::vector<goal> latency_goals(const std::vector<row>& rows) {
  const auto row_of = [&](const char* workload, const char* name, const char* system, const char* mode) {
    return find_row(rows, figure_of(workload, name), system, mode);
  };
  const auto of_penstock = [&](const char* name, const char* mode) { return row_of(paced_id, name, "penstock", mode); };
  const auto of_the_futex = [&](const char* name) { return row_of(paced_id, name, "futex", "bare wake"); };
  const auto of_peers = [&](const char* name) { return best_parking_peer(rows, figure_of(paced_id, name)); };
  std::vector<goal> goals;
  goals.push_back(ratio("3a", "E: p50 of penstock (park) / of a bare futex wake, at most", 1.1,
                        of_penstock("p50", "park"), of_the_futex("p50")));
  goals.push_back(ratio("3b", "E: p99 of penstock (park) / of a bare futex wake, at most", 1.1,
                        of_penstock("p99", "park"), of_the_futex("p99")));
  goals.push_back(caught_by_spinning(rows));
  goals.push_back(ratio("3d", "E: p50 of penstock (adaptive) / of the best parking peer, at most", 1,
                        of_penstock("p50", "adaptive"), of_peers("p50")));
  goals.push_back(idle_beside_peers(rows));
  goals.push_back(ratio("3f", "E: CPU of penstock (adaptive) when events are rare / of park, at most", 1.1,
                        row_of(rare_id, "cpu", "penstock", "adaptive"), row_of(rare_id, "cpu", "penstock", "park")));
  goals.push_back(hop_inside_a_pool(rows));
  goals.push_back(ratio("3h",
                        std::string("E: p99.9 of penstock (") + default_mode + ") / of the best parking peer, at most",
                        1, of_penstock("p99.9", default_mode), of_peers("p99.9")));
  return goals;
}

}  // namespace bench
