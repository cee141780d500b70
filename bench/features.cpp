// Workload K and goal 7: throughput with one feature on, and its cost in ns by pairs of runs.
// Floor 9, bench.
#include "features.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace bench {

namespace {

struct k_shape {
  const char* letter;
  const char* what;
  unsigned producers;
  unsigned subscribers;
  std::uint64_t events;
};
constexpr k_shape shapes[] = {
    {"A", "1 producer -> 1 subscriber", 1, 1, 2'000'000},
    {"B", "1 producer -> 8 subscribers on 2 workers", 1, 8, 300'000},
    {"C", "4 producers -> 1 subscriber", 4, 1, 500'000},
    {"D", "4 producers -> 8 subscribers on 2 workers", 4, 8, 75'000},
};

bool is_plain_penstock(const system_entry& system) {
  return system.name == "penstock" && system.mode == default_mode && system.stream != nullptr;
}
bool is_penstock(const system_entry& system) { return system.feature || is_plain_penstock(system); }

std::optional<system_entry> plain_penstock() {
  for (auto& system : registered_systems())
    if (is_plain_penstock(system)) return system;
  return std::nullopt;
}

/// One with, one without, the order turned round each time: what changes slowly hits both.
measurement cost_by_pair(const system_entry& system, const shape& run, bool plain_first) {
  const auto plain = plain_penstock();
  if (!plain) return failed_run("there is no plain penstock to compare with", false);
  double ns[2] = {};
  for (const bool with_feature : {!plain_first, plain_first}) {
    const auto outcome = (with_feature ? system : *plain).stream(run);
    if (!outcome.problem.empty())
      return failed_run((with_feature ? "" : "without the feature: ") + outcome.problem, outcome.stuck);
    ns[with_feature] = outcome.seconds * 1e9 / (static_cast<double>(run.events) * run.producers * run.subscribers);
  }
  measurement done;
  done.value = ns[1] - ns[0];
  return done;
}

/// How far plain penstock differs from itself, by the same pairs: nothing smaller can be seen.
std::optional<double> resolution(const std::vector<row>& rows, const std::string& workload) {
  const row* again = find_row(rows, workload, "penstock", default_mode);
  if (again == nullptr || !again->figure) return std::nullopt;
  return std::abs(again->figure->median);
}

/// The dearest of the shapes. Not measured where less than the target cannot be seen.
goal worst_cost(const std::vector<row>& rows, const char* id, const std::string& what, const char* system,
                double target) {
  goal made;
  made.id = id;
  made.what = what;
  made.target = target;
  std::optional<double> worst;
  for (const auto& one : shapes) {
    const std::string workload = std::string("K.") + one.letter + ".cost";
    const row* cost = find_row(rows, workload, system, default_mode);
    const auto seen = resolution(rows, workload);
    if (cost == nullptr || !cost->figure || !seen) return made;
    if (*seen > target) {
      made.what += " (at ";
      made.what += one.letter;
      made.what += " penstock differs from itself by more)";
      return made;
    }
    worst = std::max(worst.value_or(cost->figure->median), cost->figure->median);
  }
  made.measured = worst;
  made.met = *made.measured <= target;
  return made;
}

}  // namespace

void add_feature_workloads(std::vector<workload>& all, effort how_much) {
  const std::uint64_t part = how_much == effort::full ? 1 : 20;
  for (const auto& one : shapes) {
    const std::string id = std::string("K.") + one.letter;
    const std::string what = std::string(one.what) + ", one feature on";
    workload speed = stream_workload(id.c_str(), what.c_str(), one.subscribers == 1 ? "M events/s" : "M deliveries/s",
                                     shaped(one.producers, one.subscribers, one.events / part));
    speed.group = std::string(1, 'K');
    speed.applies = is_penstock;
    all.push_back(std::move(speed));
  }
  for (const auto& one : shapes) {
    workload cost;
    cost.id = std::string("K.") + one.letter + ".cost";
    cost.group = std::string(1, 'K');
    cost.what = std::string("the feature's cost, ") + one.what + ", as differences of pairs of runs";
    cost.unit = one.subscribers == 1 ? "ns/event" : "ns/delivery";
    cost.direction = better::lower;
    cost.applies = is_penstock;
    cost.times = 12;
    cost.difference = true;
    // Half as long as the runs of K: what two runs have in common, they have the more of, the closer they are.
    const shape run = shaped(one.producers, one.subscribers, one.events / 2 / part);
    cost.run = [run, turn = std::make_shared<bool>(false)](const system_entry& system) {
      // The first system of a round turns the order for all of them.
      if (is_plain_penstock(system)) *turn = !*turn;
      return cost_by_pair(system, run, *turn);
    };
    all.push_back(std::move(cost));
  }
}

void judge_features(std::vector<goal>& goals, const std::vector<row>& rows) {
  goal off;
  off.id = "7a";
  off.target = 1;
  off.what = "K.A.cost: ns per event of features that are on for another topic, and off here, at most";
  const row* elsewhere = find_row(rows, "K.A.cost", "penstock, features elsewhere", default_mode);
  if (const auto seen = resolution(rows, "K.A.cost"); elsewhere != nullptr && elsewhere->figure && seen) {
    if (*seen <= off.target) {
      off.measured = elsewhere->figure->median;
      off.met = *off.measured <= off.target;
    } else {
      off.what += " (penstock differs from itself by more)";
    }
  }
  goals.push_back(std::move(off));
  goals.push_back(worst_cost(rows, "7b", "K: ns of metadata per event (A, C) and delivery (B, D), the worst, at most",
                             "penstock + metadata", 10));
  goals.push_back(worst_cost(rows, "7c", "K: ns of a reader of all ledgers, likewise, the worst, at most",
                             "penstock + metrics", 5));
}

}  // namespace bench
