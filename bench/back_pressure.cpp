// Workload F: a handler that is slower than its producer; and goal 4.
// Floor 9, bench.
#include "report.hpp"
#include "workload.hpp"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bench {

namespace {

measurement under_pressure(const system_entry& system, std::uint64_t events) {
  const back_pressure_outcome outcome = system.further.back_pressure(shaped(1, 1, events));
  if (!outcome.problem.empty()) return failed_run(outcome.problem, outcome.stuck);
  measurement done;
  done.values = {outcome.part, outcome.resident_growth / 1024};
  return done;
}

goal on_row(const row* one, const char* id, const char* what, double target, better direction) {
  goal made;
  made.id = id;
  made.what = what;
  made.target = target;
  if (one == nullptr || !one->figure) return made;
  made.measured = one->figure->median;
  made.met = direction == better::higher ? *made.measured >= target : *made.measured <= target;
  return made;
}

}  // namespace

void add_back_pressure(std::vector<workload>& all, effort how_much) {
  const std::uint64_t events = how_much == effort::full ? 400'000 : 20'000;
  workload made;
  made.id = std::string(1, 'F');
  made.group = made.id;
  made.what = "1 -> 1, unpaced, a handler that works 1 us: throughput / the handler's own speed; resident memory";
  made.unit = "ratio";
  made.figures = {{"part", "ratio", better::higher}, {"growth", "KiB"}};
  made.applies = [](const system_entry& system) { return system.further.back_pressure != nullptr; };
  made.run = [events](const system_entry& system) { return under_pressure(system, events); };
  made.warm_up = [events](const system_entry& system) { return under_pressure(system, events / 20 + 1); };
  all.push_back(std::move(made));
}

std::vector<goal> back_pressure_goals(const std::vector<row>& rows) {
  return {on_row(find_row(rows, "F.part", "penstock", default_mode), "4a",
                 "F: throughput behind a handler of 1 us / the handler's own speed, at least", 0.95, better::higher),
          // 25,000 KiB of events pass through in between; a few pages touched late are no growth.
          on_row(find_row(rows, "F.growth", "penstock", default_mode), "4b",
                 "F: KiB of resident memory added from early to late in the run, at most", 64, better::lower)};
}

}  // namespace bench
