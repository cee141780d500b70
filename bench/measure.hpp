// Runs the workloads: interleaved, bracketed by probes, until enough runs count.
// Floor 9, bench.
#pragma once

#include "series.hpp"
#include "system.hpp"
#include "workload.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace bench {

/// One line of the result: a figure of a system in a workload.
struct row {
  std::string workload;  ///< with several figures, `workload.figure`
  system_entry system;
  std::string unit;
  better direction = better::higher;
  std::optional<statistics> figure;  ///< empty: see `state`
  std::string state;                 ///< "near", "far", "one core", "any", "not counted" or "wrong"
  std::size_t tried = 0;
  std::uint64_t events = 0;          ///< that one run published, where the count was fitted to the system; else 0
  std::optional<double> one_way_ns;  ///< of a cache line, median of the probes around the counted runs
  histogram distribution;            ///< of all counted runs, at the first of a workload's figures
  std::string detail;                ///< of the last run
};

struct measured {
  std::vector<row> rows;
  std::vector<missing_peer> left_out;  ///< in no figure, or not in all
  std::vector<std::string> problems;   ///< wrong runs; the program fails when there is one
  bool stuck = false;                  ///< threads of a system are still inside: only reporting is left to do
  std::vector<double> one_way_ns;      ///< of every probe
  double others_percent = -1;          ///< of the machine's processor time, taken by other processes; -1: unknown
  double stolen_percent = -1;          ///< taken by the host
};

struct measure_options {
  std::size_t runs = 5;          ///< counted runs each system needs
  std::size_t most_rounds = 20;  ///< after that a system without enough of them is "not counted"
};

/// `said` is told of progress, a line at a time.
measured measure(const std::vector<workload>& what, const std::vector<system_entry>& systems,
                 const measure_options& options, const std::function<void(const std::string&)>& said);

}  // namespace bench
