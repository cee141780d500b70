// Workload J, and the idle part of E: what subscriptions cost while nothing happens; and the goal for it.
// Floor 9, bench.
#include "report.hpp"
#include "workload.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace bench {

namespace {

using std::chrono::milliseconds;

workload rest_workload(const char* id, const char* group, const char* what, milliseconds how_long) {
  workload made;
  made.id = id;
  made.group = group;
  made.what = what;
  made.unit = "CPU %";
  made.direction = better::lower;
  made.depends_on = dependence::none;
  made.applies = [](const system_entry& system) { return system.further.rest != nullptr; };
  made.run = [how_long](const system_entry& system) {
    const rest_outcome outcome = system.further.rest(shaped(1, 100, 0), how_long);
    if (!outcome.problem.empty()) return failed_run(outcome.problem, false);
    measurement done;
    done.value = outcome.cpu * 100;
    return done;
  };
  return made;
}

}  // namespace

void add_idle(std::vector<workload>& all, effort how_much) {
  const bool full = how_much == effort::full;
  all.push_back(rest_workload("E.idle", "E",
                              full ? "100 idle subscriptions for 1 s" : "100 idle subscriptions for 0.1 s",
                              milliseconds(full ? 1000 : 100)));
  workload made = rest_workload("J", "J", full ? "100 idle subscriptions for 10 s" : "100 idle subscriptions for 1 s",
                                milliseconds(full ? 10'000 : 1000));
  made.applies = [](const system_entry& system) {
    return system.further.rest != nullptr && system.kind == system_kind::subject;
  };
  all.push_back(std::move(made));
}

goal idle_goal(const std::vector<row>& rows) {
  goal made;
  made.id = "5d";
  made.what = "CPU % of 100 idle subscriptions, whichever way the pool waits, at most";
  made.target = 0.1;
  double worst = 0;
  bool any = false;
  for (const auto& one : rows) {
    if (one.workload != "J" || one.system.kind != system_kind::subject) continue;
    if (!one.figure) return made;
    any = true;
    worst = std::max(worst, one.figure->median);
  }
  if (!any) return made;
  made.measured = worst;
  made.met = worst <= made.target;
  return made;
}

}  // namespace bench
