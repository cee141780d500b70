// What is told about the figures: the goals, a table for people, JSON for programs.
// Floor 9, bench.
#pragma once

#include "measure.hpp"

#include <nlohmann/json.hpp>

#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

namespace bench {

/// A goal of the project, answered from the rows.
struct goal {
  std::string id;
  std::string what;
  double target = 0;
  std::optional<double> measured;  ///< empty: not measurable in this run
  std::optional<bool> met;
};

/// Null when there is none.
const row* find_row(const std::vector<row>& rows, const std::string& workload, const std::string& system,
                    const std::string& mode);
/// Goals 1, 3d, 3e and 3h have no answer while a peer that could be here is missing: the best may be that one.
std::vector<goal> judge(const std::vector<row>& rows, const std::vector<missing_peer>& missing);

// The goals of workloads that have files of their own.
std::vector<goal> latency_goals(const std::vector<row>& rows);
std::vector<goal> back_pressure_goals(const std::vector<row>& rows);
goal idle_goal(const std::vector<row>& rows);

/// What the figures were made on.
nlohmann::ordered_json describe_machine(const measured& result, effort how_much);
std::string describe_build();
/// False for a build whose figures compare with nothing.
bool release_build() noexcept;

nlohmann::ordered_json to_json(const nlohmann::ordered_json& machine, const measured& result,
                               const std::vector<goal>& goals);
void print_tables(std::ostream& out, const std::vector<workload>& what, const measured& result,
                  const std::vector<goal>& goals);

void print_missing(std::ostream& out, const std::vector<missing_peer>& left_out);

/// Empty when `document` has the agreed shape, else what is wrong with it.
std::string check_shape(const nlohmann::ordered_json& document);

}  // namespace bench
