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
  std::vector<series> runs;  ///< one for each figure; all with the same number of runs in each state
  series one_way_ns;
  std::map<core_state, histogram> distributions;
  std::vector<shape> fitted;
  std::string detail;
  std::size_t tried = 0;
  bool wrong = false;
};

class workload_runner {
 public:
  workload_runner(const workload& what, const std::vector<system_entry>& systems, const measure_options& options,
                  measured& result)
      : what_(what),
        figures_(what.figures.empty() ? std::vector<figure>{{"", what.unit, what.direction}} : what.figures),
        options_(options),
        result_(result) {
    for (const auto& system : systems)
      if (what.applies(system)) {
        candidates_.emplace_back();
        candidates_.back().system = system;
        candidates_.back().runs.resize(figures_.size());
      }
  }

  void run() {
    for (auto& one : candidates_)
      if (!prepare(one)) return;
    for (std::size_t round = 0; round < options_.most_rounds * what_.times && !enough(); ++round)
      for (auto& one : candidates_) {
        if (one.wrong) continue;
        if (!(what_.depends_on == dependence::none ? plain_run(one) : bracketed_run(one))) return;
      }
  }

  void report() {
    const auto all = sound();
    const auto state = common_state(all);
    for (std::size_t index = 0; index < figures_.size(); ++index)
      for (const auto& one : candidates_) result_.rows.push_back(row_of(one, index, state));
  }

 private:
  std::size_t needed() const { return options_.runs * what_.times; }
  row row_of(const candidate& one, std::size_t index, std::optional<core_state> state) const {
    row made;
    made.workload = figures_[index].name.empty() ? what_.id : what_.id + "." + figures_[index].name;
    made.system = one.system;
    made.unit = figures_[index].unit;
    made.direction = figures_[index].direction;
    made.tried = one.tried;
    made.detail = one.detail;
    for (const shape& run : one.fitted) made.events += run.events * run.producers;
    if (one.wrong) {
      made.state = "wrong";
    } else if (!state || one.runs[index].values(*state).size() < needed()) {
      made.state = "not counted";
    } else {
      made.figure = summarize(one.runs[index].values(*state));
      made.state = what_.depends_on == dependence::none ? "any" : to_string(*state);
      if (const auto& around = one.one_way_ns.values(*state); !around.empty())
        made.one_way_ns = summarize(around).median;
      if (const auto found = one.distributions.find(*state); index == 0 && found != one.distributions.end())
        made.distribution = found->second;
    }
    return made;
  }

  std::vector<const series*> sound() const {
    std::vector<const series*> all;
    for (const auto& one : candidates_)
      if (!one.wrong) all.push_back(&one.runs.front());
    return all;
  }

  bool enough() const {
    const auto all = sound();
    const auto state = common_state(all);
    return all.empty() || (state && least_counted(all, *state) >= needed());
  }

  /// False when the process cannot go on.
  bool prepare(candidate& one) {
    if (what_.warm_up) return accept(one, what_.warm_up(one.system));
    one.fitted = what_.to_fit;
    for (shape& run : one.fitted)
      if (!one.wrong && !accept(one, fit(one.system, run, what_.fitted_time))) return false;
    return true;
  }

  measurement run_once(const candidate& one) const {
    return what_.run_fitted ? what_.run_fitted(one.system, one.fitted) : what_.run(one.system);
  }

  bool plain_run(candidate& one) {
    const measurement got = run_once(one);
    if (!accept(one, got)) return false;
    if (!one.wrong) add(one, got, core_state::one_core, core_state::one_core);
    return true;
  }

  bool bracketed_run(candidate& one) {
    const probe_result before = probe_cores();
    const measurement got = run_once(one);
    const probe_result after = probe_cores();
    if (before.state != core_state::one_core) {
      result_.one_way_ns.push_back(before.one_way_ns);
      result_.one_way_ns.push_back(after.one_way_ns);
    }
    if (!accept(one, got)) return false;
    if (one.wrong) return true;
    add(one, got, before.state, after.state);
    if (before.state != core_state::one_core)
      one.one_way_ns.add((before.one_way_ns + after.one_way_ns) / 2, before.state, after.state);
    return true;
  }

  void add(candidate& one, const measurement& got, core_state before, core_state after) {
    one.detail = got.detail;
    if (what_.figures.empty())
      one.runs.front().add(got.value, before, after);
    else
      for (std::size_t index = 0; index < figures_.size(); ++index)
        one.runs[index].add(got.values.at(index), before, after);
    if (before == after && !got.distribution.empty()) one.distributions[before].add(got.distribution);
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
  const std::vector<figure> figures_;
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
