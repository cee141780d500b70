// The JSON of a whole runtime, made here because the JSON library has one door.
// Floor 5, room bus.
#pragma once

#include <penstock/bus/snapshot.hpp>
#include <penstock/exec/pool_snapshot.hpp>
#include <penstock/task/task_report.hpp>

#include <string>
#include <vector>

namespace penstock::detail {

struct parts_of_runtime {
  const std::string& phase;
  const std::vector<pool_snapshot>& pools;
  const std::vector<task_info>& tasks;
  const bus_snapshot& bus;
};

std::string to_json(const parts_of_runtime& seen, json_form form);

}  // namespace penstock::detail
