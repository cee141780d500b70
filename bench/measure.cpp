// The rounds of a workload: each system once per round, so that a change of the machine hits all alike.
// Floor 9, bench.
#include "measure.hpp"

#include "neighbours.hpp"

#include <map>
#include <utility>

namespace bench {

namespace {

std::string full_name(const system_entry& system) { return system.name + " (" + system.mode + ")"; }

struct candidate {
  system_entry system;
  series runs;
  std::size_t tried = 0;
  bool wrong = false;
};

class workload_runner {
 public:
  workload_runner(const workload& what, const std::vector<system_entry>& systems, const measure_options& options,
                  measured& result)
      : what_(what), options_(options), result_(result) {
    for (const auto& system : systems)
      if (what.applies(system)) candidates_.push_back({.system = system, .runs = {}});
  }

  void run() {
    for (auto& one : candidates_)
      if (what_.warm_up && !accept(one, what_.warm_up(one.system))) return;
    for (std::size_t round = 0; round < options_.most_rounds * what_.times && !enough(); ++round)
      for (auto& one : candidates_) {
        if (one.wrong) continue;
        if (!(what_.depends_on == dependence::none ? plain_run(one) : bracketed_run(one))) return;
      }
  }

  void report() {
    const auto all = sound();
    const auto state = common_state(all);
    for (const auto& one : candidates_) {
      row made;
      made.workload = what_.id;
      made.system = one.system;
      made.unit = what_.unit;
      made.direction = what_.direction;
      made.tried = one.tried;
      if (one.wrong) {
        made.state = "wrong";
      } else if (!state || one.runs.values(*state).size() < needed()) {
        made.state = "not counted";
      } else {
        made.figure = summarize(one.runs.values(*state));
        made.state = what_.depends_on == dependence::none ? "any" : to_string(*state);
      }
      result_.rows.push_back(std::move(made));
    }
  }

 private:
  std::size_t needed() const { return options_.runs * what_.times; }

  std::vector<const series*> sound() const {
    std::vector<const series*> all;
    for (const auto& one : candidates_)
      if (!one.wrong) all.push_back(&one.runs);
    return all;
  }

  bool enough() const {
    const auto all = sound();
    const auto state = common_state(all);
    return all.empty() || (state && least_counted(all, *state) >= needed());
  }

  bool plain_run(candidate& one) {
    const measurement got = what_.run(one.system);
    if (!accept(one, got)) return false;
    if (!one.wrong) one.runs.add(got.value, core_state::one_core, core_state::one_core);
    return true;
  }

  bool bracketed_run(candidate& one) {
    const probe_result before = probe_cores();
    const measurement got = what_.run(one.system);
    const probe_result after = probe_cores();
    if (before.state != core_state::one_core) {
      result_.one_way_ns.push_back(before.one_way_ns);
      result_.one_way_ns.push_back(after.one_way_ns);
    }
    if (!accept(one, got)) return false;
    if (!one.wrong) one.runs.add(got.value, before.state, after.state);
    return true;
  }

  /// False when the process cannot go on.
  bool accept(candidate& one, const measurement& got) {
    ++one.tried;
    if (got.problem.empty()) return true;
    one.wrong = true;
    result_.problems.push_back(what_.id + ", " + full_name(one.system) + ": " + got.problem);
    result_.stuck = result_.stuck || got.stuck;
    return !got.stuck;
  }

  const workload& what_;
  const measure_options& options_;
  measured& result_;
  std::vector<candidate> candidates_;
};

}  // namespace

measured measure(const std::vector<workload>& what, const std::vector<system_entry>& systems,
                 const measure_options& options, const std::function<void(const std::string&)>& said) {
  measured result;
  const neighbours around;
  for (const auto& one : what) {
    said(one.id + ": " + one.what);
    workload_runner runner(one, systems, options, result);
    runner.run();
    runner.report();
    if (result.stuck) break;
  }
  result.others_percent = around.others_percent();
  result.stolen_percent = around.stolen_percent();
  return result;
}

}  // namespace bench
