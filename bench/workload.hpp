// The workloads: what is run for one figure, with which unit.
// Floor 9, bench.
#pragma once

#include "histogram.hpp"
#include "system.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace bench {

enum class better { higher, lower };
/// Whether a figure depends on how far apart the cores are. Counts of allocations do not.
enum class dependence { core_state, none };
enum class effort { full, quick };
/// What a table says of the counted runs; the JSON has both.
enum class across_runs { median, maximum };

/// One of the figures of a workload whose runs have several.
struct figure {
  std::string name;  ///< the row is called `workload.name`
  std::string unit;
  better direction = better::lower;
  across_runs told = across_runs::median;
};

/// One measured value, or why there is none.
struct measurement {
  std::string problem;
  bool stuck = false;
  double value = 0;
  std::vector<double> values;  ///< one for each of the workload's `figures`, if it has any
  histogram distribution;      ///< of what one run measured many times; may be empty
  std::string detail;          ///< told below the table, of the last run; may be empty
};

struct workload {
  std::string id;     ///< as in the table of README.md
  std::string group;  ///< what `--only` names
  std::string what;
  std::string unit;
  better direction = better::higher;
  std::vector<figure> figures;  ///< empty: one, of this id, unit and direction
  dependence depends_on = dependence::core_state;
  std::function<bool(const system_entry&)> applies;
  std::function<measurement(const system_entry&)> run;
  std::function<measurement(const system_entry&)> warm_up;  ///< a short run before the counted ones; may be empty
  /// Instead of these two: what a run consists of, with as many events as each system is given before its counted runs.
  std::vector<shape> to_fit;
  std::chrono::duration<double> fitted_time{0};  ///< that the system then works on each shape, about
  std::function<measurement(const system_entry&, const std::vector<shape>&)> run_fitted;
  std::size_t times = 1;    ///< counted runs it needs, in multiples of what was asked for
  bool difference = false;  ///< the figure is one: no ratio of two rows means anything, and its spread is not relative
};

measurement failed_run(const std::string& problem, bool stuck);
/// Seats for `capacity` events of each subscriber, two workers or one.
shape shaped(unsigned producers, unsigned subscribers, std::uint64_t events);
measurement throughput(const system_entry& system, const shape& run);
workload stream_workload(const char* id, const char* what, const char* unit, const shape& run);
/// Gives `run` so many events that the system works on it for about `time`, by runs that grow until one has taken so
/// long. The first has the events that `run` comes with. Tells only what went wrong.
measurement fit(const system_entry& system, shape& run, std::chrono::duration<double> time);

std::vector<workload> workloads(effort how_much);

// The workloads that have files of their own.
void add_latency(std::vector<workload>& all, effort how_much);
void add_back_pressure(std::vector<workload>& all, effort how_much);
void add_text(std::vector<workload>& all, effort how_much);
void add_idle(std::vector<workload>& all, effort how_much);

}  // namespace bench
