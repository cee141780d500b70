// Goals, tables, JSON.
// Floor 9, bench.
#include "report.hpp"

#include "features.hpp"
#include "growth.hpp"
#include "neighbours.hpp"
#include "tasks.hpp"

#include <penstock/base/version.hpp>

#include <sys/utsname.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <ostream>
#include <sstream>
#include <thread>

namespace bench {

namespace {

using json = nlohmann::ordered_json;

/// What a row of goal 1 compares with: the fastest of some kinds, by at least `target`.
struct rival {
  const char* suffix;
  const char* what;
  double target;
  bool strictly;  ///< more than the target, not as much
  std::vector<system_kind> kinds;
};
const std::vector<rival>& rivals() {
  static const std::vector<rival> all{
      {"", "peer that is bounded and parks", 2, false, {system_kind::bounded_parking}},
      {".unbounded", "unbounded or synchronous peer", 1, true, {system_kind::unbounded, system_kind::synchronous}},
      {".reference", "raw ring", 0.6, false, {system_kind::reference}},
  };
  return all;
}
/// penstock's rows that goal 1 is judged by: an event per call, and a span per call.
struct way {
  const char* suffix;
  const char* system;
};
constexpr way ways[] = {{"", "penstock"}, {".many", "penstock spans of 16"}};
constexpr const char* compared_workloads[] = {"A", "B", "C", "D"};

/// The fastest row of those kinds. Nothing when one has no figure: the best may be the one that is missing.
const row* best_of(const std::vector<row>& rows, const std::string& workload, const std::vector<system_kind>& kinds) {
  const row* best = nullptr;
  for (const auto& one : rows) {
    if (one.workload != workload || std::find(kinds.begin(), kinds.end(), one.system.kind) == kinds.end()) continue;
    if (!one.figure) return nullptr;
    if (best == nullptr || one.figure->median > best->figure->median) best = &one;
  }
  return best;
}

bool is_awaited(const missing_peer& peer) { return peer.awaited; }

goal ahead_of(const std::vector<row>& rows, const std::vector<missing_peer>& missing, const std::string& workload,
              const way& how, const rival& other) {
  goal made;
  made.id = "1" + workload + how.suffix + other.suffix;
  made.target = other.target;
  made.what = workload + ": " + how.system + " (" + default_mode + ") / fastest " + other.what;
  const char* const limit = other.strictly ? ", above" : ", at least";
  const row* subject = find_row(rows, workload, how.system, default_mode);
  const row* best = best_of(rows, workload, other.kinds);
  if (std::any_of(missing.begin(), missing.end(), is_awaited)) {
    made.what += std::string(" (a peer is missing)") + limit;
    return made;
  }
  if (subject == nullptr || !subject->figure || best == nullptr || subject->state != best->state) {
    made.what += limit;
    return made;
  }
  made.what += " (" + best->system.name + ", " + best->system.mode + "; " + best->state + ")" + limit;
  made.measured = subject->figure->median / best->figure->median;
  made.met = other.strictly ? *made.measured > made.target : *made.measured >= made.target;
  return made;
}

/// The worst of several rows against an upper limit.
goal at_most(const std::vector<row>& rows, std::string id, std::string what, double target,
             const std::vector<std::string>& workloads) {
  goal made;
  made.id = std::move(id);
  made.what = std::move(what);
  made.target = target;
  std::optional<double> worst;
  for (const auto& workload : workloads) {
    const row* one = find_row(rows, workload, "penstock", default_mode);
    if (one == nullptr || !one->figure) return made;
    worst = std::max(worst.value_or(one->figure->median), one->figure->median);
  }
  made.measured = worst;
  made.met = *worst <= target;
  return made;
}

std::string first_line_of(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.rfind(key, 0) == 0) {
      const auto colon = line.find(':');
      const auto begin = colon == std::string::npos ? std::string::npos : line.find_first_not_of(' ', colon + 1);
      return begin == std::string::npos ? line : line.substr(begin);
    }
  return "unknown";
}

std::string number(double value) {
  if (value == 0) return "0";
  std::ostringstream out;
  const double size = std::abs(value);
  out << std::fixed << std::setprecision(size < 0.1 ? 5 : size < 10 ? 2 : size < 1000 ? 1 : 0) << value;
  return out.str();
}

/// Columns padded to the widest cell; the first two to the left, the others to the right.
void print_columns(std::ostream& out, const std::vector<std::vector<std::string>>& lines) {
  std::vector<std::size_t> widths;
  for (const auto& line : lines) {
    widths.resize(std::max(widths.size(), line.size()));
    for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  for (const auto& line : lines) {
    for (std::size_t i = 0; i < line.size(); ++i)
      out << "  " << (i < 2 ? std::left : std::right) << std::setw(static_cast<int>(widths[i])) << line[i];
    out << std::right << '\n';
  }
}

/// "2.31" when penstock is 2.31 times better than the row, whichever direction is better.
std::string times_better(const row* subject, const row& one) {
  if (subject == nullptr || !subject->figure || !one.figure || subject->state != one.state) return "-";
  const double mine = subject->figure->median;
  const double theirs = one.figure->median;
  const double over = one.direction == better::higher ? theirs : mine;
  const double under = one.direction == better::higher ? mine : theirs;
  return over == 0 || under == 0 ? "-" : number(under / over);
}

/// A workload with several figures: a line for each system, a column for each figure.
void print_figures(std::ostream& out, const workload& what, const std::vector<row>& rows) {
  std::vector<std::string> head{"system", "mode"};
  for (const auto& one : what.figures) head.push_back(one.name + " [" + one.unit + "]");
  head.insert(head.end(), {"runs", "state", "kind"});
  std::vector<std::vector<std::string>> lines{std::move(head)};
  std::vector<double> one_way_ns;
  for (const auto& first : rows) {
    if (first.workload != what.id + "." + what.figures.front().name) continue;
    std::vector<std::string> line{first.system.name, first.system.mode};
    for (const auto& one : what.figures) {
      const row* found = find_row(rows, what.id + "." + one.name, first.system.name, first.system.mode);
      if (found == nullptr || !found->figure)
        line.push_back("-");
      else if (one.told == across_runs::maximum)
        line.push_back(number(found->figure->max));
      else
        line.push_back(number(found->figure->median) + " (" + number(found->figure->spread_percent()) + " %)");
    }
    line.insert(line.end(), {first.figure ? std::to_string(first.figure->count) : "of " + std::to_string(first.tried),
                             first.state, to_string(first.system.kind)});
    if (first.one_way_ns) one_way_ns.push_back(*first.one_way_ns);
    lines.push_back(std::move(line));
  }
  if (lines.size() == 1) return;
  out << '\n' << what.id << ": " << what.what << " [medians, their spread in brackets; of max the largest]\n";
  print_columns(out, lines);
  if (!one_way_ns.empty())
    out << "  beside it, to and fro with a cache line: " << number(2 * summarize(one_way_ns).median) << " ns\n";
}

/// The fastest of each kind beside penstock, in the workloads of goal 1.
void print_best_of_each_kind(std::ostream& out, const std::vector<workload>& what, const std::vector<row>& rows) {
  std::vector<std::vector<std::string>> lines{
      {"", "kind", "fastest", "mode", "median", std::string(default_mode) + " x", "spans x"}};
  for (const auto& workload : what) {
    if (std::find(std::begin(compared_workloads), std::end(compared_workloads), workload.id) ==
        std::end(compared_workloads))
      continue;
    const row* subjects[] = {find_row(rows, workload.id, ways[0].system, default_mode),
                             find_row(rows, workload.id, ways[1].system, default_mode)};
    for (const auto kind :
         {system_kind::bounded_parking, system_kind::unbounded, system_kind::synchronous, system_kind::reference}) {
      const row* best = best_of(rows, workload.id, {kind});
      if (best == nullptr)
        lines.push_back({workload.id, to_string(kind), "-", "-", "-", "-", "-"});
      else
        lines.push_back({workload.id, to_string(kind), best->system.name, best->system.mode,
                         number(best->figure->median), times_better(subjects[0], *best),
                         times_better(subjects[1], *best)});
    }
  }
  if (lines.size() == 1) return;
  out << "\nThe fastest of each kind, and how many times better penstock is, an event and a span of 16 per call\n";
  print_columns(out, lines);
}

}  // namespace

const row* find_row(const std::vector<row>& rows, const std::string& workload, const std::string& system,
                    const std::string& mode) {
  for (const auto& one : rows)
    if (one.workload == workload && one.system.name == system && one.system.mode == mode) return &one;
  return nullptr;
}

void print_missing(std::ostream& out, const std::vector<missing_peer>& left_out) {
  if (left_out.empty()) return;
  out << "\nnot on this machine or left out, and in no figure\n";
  for (const auto& one : left_out) {
    out << "  " << one.name << ": " << one.why;
    if (!one.package.empty()) out << " (Debian package " << one.package << ")";
    out << '\n';
  }
}

std::vector<goal> judge(const std::vector<row>& rows, const std::vector<missing_peer>& missing) {
  std::vector<goal> goals;
  for (const auto& how : ways)
    for (const auto& other : rivals())
      for (const char* workload : compared_workloads) goals.push_back(ahead_of(rows, missing, workload, how, other));
  goals.push_back(at_most(rows, "2",
                          std::string("the publisher's cost of 8 subscriptions / of 1 (") + default_mode + "), at most",
                          3, {"fanout"}));
  const bool all_here = std::none_of(missing.begin(), missing.end(), is_awaited);
  for (auto& one : latency_goals(rows)) {
    // Those that compare with the best peer: it may be the one that is missing.
    const bool compares = one.id == "3d" || one.id == "3e" || one.id == "3h";
    if (compares && !all_here) one.measured = {}, one.met = {};
    goals.push_back(std::move(one));
  }
  for (auto& one : back_pressure_goals(rows)) goals.push_back(std::move(one));
  goals.push_back(
      at_most(rows, "5a", "allocations per publish of a 64-byte event, to 1 and to 8", 0, {"I.event.1", "I.event.8"}));
  goals.push_back(at_most(rows, "5b", "allocations per publish of a 256-byte std::string, to 1 and to 8, at most", 1,
                          {"I.text.1", "I.text.8"}));
  goals.push_back(
      at_most(rows, "5c", "bytes of an idle subscription whose ring was never used, at most", 1024, {"I.idle"}));
  goals.push_back(idle_goal(rows));
  judge_tasks(goals, rows);
  judge_features(goals, rows);
  judge_growth(goals, rows);
  return goals;
}

bool release_build() noexcept {
#if defined(NDEBUG) && defined(__OPTIMIZE__)
  return true;
#else
  return false;
#endif
}

std::string describe_build() { return BENCH_BUILD; }

json describe_machine(const measured& result, effort how_much) {
  json machine;
  machine["model"] = first_line_of("/proc/cpuinfo", "model name");
  machine["cores"] = std::thread::hardware_concurrency();
  utsname system{};
  if (uname(&system) == 0) machine["kernel"] = std::string(system.sysname) + " " + system.release;
#if defined(__clang__)
  machine["compiler"] = std::string("clang ") + __clang_version__;
#else
  machine["compiler"] = std::string("g++ ") + __VERSION__;
#endif
  machine["build"] = describe_build();
  machine["library"] = std::string("penstock ") + penstock::version();
  machine["counts"] = how_much == effort::full ? "full" : "quick";
  if (result.others_percent >= 0) machine["other_processes_percent"] = result.others_percent;
  if (result.stolen_percent >= 0) machine["stolen_by_host_percent"] = result.stolen_percent;
  if (!result.one_way_ns.empty()) {
    const auto probes = summarize(result.one_way_ns);
    machine["cache_line_one_way_ns"] = {{"median", probes.median}, {"min", probes.min}, {"max", probes.max}};
    machine["near_up_to_ns"] = near_limit_ns;
  }
  return machine;
}

json to_json(const json& machine, const measured& result, const std::vector<goal>& goals) {
  json document;
  document["machine"] = machine;
  document["runs"] = json::array();
  for (const auto& one : result.rows) {
    json made;
    made["workload"] = one.workload;
    made["system"] = one.system.name;
    made["mode"] = one.system.mode;
    made["unit"] = one.unit;
    made["median"] = one.figure ? json(one.figure->median) : json();
    made["min"] = one.figure ? json(one.figure->min) : json();
    made["max"] = one.figure ? json(one.figure->max) : json();
    made["counted"] = one.figure ? one.figure->count : 0;
    made["state"] = one.state;
    if (one.events != 0) made["events"] = one.events;
    if (!one.distribution.empty()) {
      made["one_way_ns"] = one.one_way_ns ? json(*one.one_way_ns) : json();
      made["histogram"] = json::array();
      for (const auto& [ns, count] : one.distribution.buckets()) made["histogram"].push_back({ns, count});
    }
    document["runs"].push_back(std::move(made));
  }
  document["goals"] = json::array();
  for (const auto& one : goals) {
    json made;
    made["id"] = one.id;
    made["what"] = one.what;
    made["target"] = one.target;
    made["measured"] = one.measured ? json(*one.measured) : json();
    made["met"] = one.met ? json(*one.met) : json();
    document["goals"].push_back(std::move(made));
  }
  document["missing"] = json::array();
  for (const auto& one : result.left_out)
    document["missing"].push_back(
        {{"name", one.name}, {"package", one.package.empty() ? json() : json(one.package)}, {"why", one.why}});
  return document;
}

void print_tables(std::ostream& out, const std::vector<workload>& what, const measured& result,
                  const std::vector<goal>& goals) {
  for (const auto& workload : what) {
    if (!workload.figures.empty()) {
      print_figures(out, workload, result.rows);
      continue;
    }
    std::vector<std::vector<std::string>> lines{
        {"system", "mode", "median", "min", "max", "spread", "runs", "state", "park x", "spin x", "kind"}};
    const bool fitted = !workload.to_fit.empty();
    if (fitted) lines[0].insert(lines[0].end() - 4, "M events each");
    const row* park = workload.difference ? nullptr : find_row(result.rows, workload.id, "penstock", "park");
    const row* spin = workload.difference ? nullptr : find_row(result.rows, workload.id, "penstock", "spin_then_park");
    for (const auto& one : result.rows) {
      if (one.workload != workload.id) continue;
      std::vector<std::string> line{one.system.name, one.system.mode};
      if (one.figure) {
        const auto& figure = *one.figure;
        line.insert(line.end(),
                    {number(figure.median), number(figure.min), number(figure.max),
                     workload.difference ? number(figure.max - figure.min) : number(figure.spread_percent()) + " %",
                     std::to_string(figure.count)});
      } else {
        line.insert(line.end(), {"-", "-", "-", "-", "of " + std::to_string(one.tried)});
      }
      if (fitted) line.push_back(number(static_cast<double>(one.events) / 1e6));
      line.insert(line.end(),
                  {one.state, times_better(park, one), times_better(spin, one), to_string(one.system.kind)});
      lines.push_back(std::move(line));
    }
    if (lines.size() == 1) continue;
    out << '\n'
        << workload.id << ": " << workload.what << " [" << workload.unit << ", "
        << (workload.direction == better::higher ? "more" : "less") << " is better]\n";
    print_columns(out, lines);
    for (const auto& one : result.rows)
      if (one.workload == workload.id && !one.detail.empty())
        out << "  " << one.system.name << " (" << one.system.mode << "): " << one.detail << '\n';
  }
  out << "\n\"park x\", \"spin x\": how many times better penstock is than the row, publishing one event per call, "
         "with\n"
         "the pool parking or spinning first; compared in the same state only.\n";
  print_best_of_each_kind(out, what, result.rows);
  print_missing(out, result.left_out);
  out << "\nGoals (judged with the pool's default, " << default_mode << ")\n";
  std::vector<std::vector<std::string>> lines{{"id", "goal", "target", "measured", ""}};
  for (const auto& one : goals)
    lines.push_back({one.id, one.what, number(one.target), one.measured ? number(*one.measured) : "-",
                     one.met ? (*one.met ? "met" : "NOT met") : "not measured"});
  print_columns(out, lines);
  if (result.others_percent > disturbing_percent || result.stolen_percent > disturbing_percent)
    out << "\nDISTURBED: other processes had " << number(std::max(0.0, result.others_percent))
        << " % of the machine and its host " << number(std::max(0.0, result.stolen_percent))
        << " %. Measure again when it is quiet; figures that stand somewhere need that.\n";
  for (const auto& problem : result.problems) out << "\nWRONG RUN, no figure: " << problem << '\n';
}

std::string check_shape(const json& document) {
  const auto number_or_null = [](const json& value) { return value.is_number() || value.is_null(); };
  const auto keys = [](const json& object) {
    std::vector<std::string> names;
    for (const auto& item : object.items()) names.push_back(item.key());
    return names;
  };
  using names = std::vector<std::string>;
  if (!document.is_object() || keys(document) != names{"machine", "runs", "goals", "missing"})
    return "the document must have machine, runs, goals, missing, in this order";
  if (!document["machine"].is_object() || document["machine"].empty())
    return "machine must be an object that says something";
  if (!document["runs"].is_array() || document["runs"].empty()) return "runs must be an array that is not empty";
  for (const auto& one : document["runs"]) {
    names expected{"workload", "system", "mode", "unit", "median", "min", "max", "counted", "state"};
    if (one.is_object() && one.contains("events")) {
      expected.emplace_back("events");
      if (!one["events"].is_number_unsigned() || one["events"] == 0)
        return "events must be a count that is not 0: " + one.dump();
    }
    if (one.is_object() && one.contains("histogram")) {
      expected.insert(expected.end(), {"one_way_ns", "histogram"});
      if (!one["histogram"].is_array() || one["histogram"].empty())
        return "a histogram must be an array that is not empty: " + one.dump();
      if (!one.contains("one_way_ns") || !number_or_null(one["one_way_ns"]))
        return "with a histogram, one_way_ns must be a number or null: " + one.dump();
      for (const auto& bucket : one["histogram"])
        if (!bucket.is_array() || bucket.size() != 2 || !bucket[0].is_number_integer() ||
            !bucket[1].is_number_unsigned())
          return "a bucket must be [ns, count]: " + one.dump();
    }
    if (!one.is_object() || keys(one) != expected) return "a run has other keys: " + one.dump();
    for (const char* key : {"workload", "system", "mode", "unit", "state"})
      if (!one[key].is_string() || one[key].get<std::string>().empty())
        return std::string(key) + " must be a text: " + one.dump();
    for (const char* key : {"median", "min", "max"})
      if (!number_or_null(one[key])) return std::string(key) + " must be a number or null: " + one.dump();
    if (!one["counted"].is_number_unsigned()) return "counted must be a count: " + one.dump();
    if (one["median"].is_null() != (one["counted"] == 0))
      return "a run without a figure must count 0 runs: " + one.dump();
    if (!one["median"].is_null() && (one["min"] > one["median"] || one["median"] > one["max"]))
      return "min, median, max are not in order: " + one.dump();
  }
  if (!document["goals"].is_array()) return "goals must be an array";
  names ids;
  for (const auto& one : document["goals"]) {
    if (!one.is_object() || keys(one) != names{"id", "what", "target", "measured", "met"})
      return "a goal has other keys: " + one.dump();
    if (!one["id"].is_string() || !one["what"].is_string() || !one["target"].is_number())
      return "a goal needs id, what and target: " + one.dump();
    if (!number_or_null(one["measured"]) || !(one["met"].is_boolean() || one["met"].is_null()) ||
        one["measured"].is_null() != one["met"].is_null())
      return "measured and met are a number and a truth, or both null: " + one.dump();
    ids.push_back(one["id"]);
  }
  names agreed;
  for (const char* how : {"", ".many"})
    for (const char* other : {"", ".unbounded", ".reference"})
      for (const char* workload : {"1A", "1B", "1C", "1D"}) agreed.push_back(std::string(workload) + how + other);
  for (const char* id : {"2",  "3a", "3b", "3c", "3d", "3e", "3f", "3g", "3h", "4a", "4b", "5a",
                         "5b", "5c", "5d", "6a", "6b", "6c", "7a", "7b", "7c", "8a", "8b"})
    agreed.push_back(id);
  if (ids != agreed) return "the goals are others than agreed";
  if (!document["missing"].is_array()) return "missing must be an array";
  for (const auto& one : document["missing"])
    if (!one.is_object() || keys(one) != names{"name", "package", "why"} || !one["name"].is_string() ||
        !(one["package"].is_string() || one["package"].is_null()) || !one["why"].is_string())
      return "a missing peer has name, package and why: " + one.dump();
  return {};
}

}  // namespace bench
