// A whole runtime as seen from outside at one moment, as a value and as JSON.
// Floor 7, room runtime.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/bus/snapshot.hpp>
#include <penstock/exec/pool_snapshot.hpp>
#include <penstock/task/task_report.hpp>

#include <string>
#include <vector>

namespace penstock {

/// Pools, tasks and bus, one after the other: each part is true of an instant of the look, the whole of none.
struct runtime_snapshot {
  /// "open", then the phases of its end: "stopping tasks", "draining", "closing", "cancelling", "stopping kept tasks", "done".
  /// "forked" in a child process, which has no more than that.
  std::string phase;
  std::vector<pool_snapshot> pools;  ///< by name
  std::vector<task_info> tasks;      ///< those that have not ended, in the order they were spawned
  bus_snapshot bus;                  ///< with its wait-for edges
};

/// One object, its keys always there and always in this order. Times are milliseconds, with fractions.
///
///     {"phase": "open",
///      "pools": [{"name", "workers", "busy", "parked", "ready", "queued", "may_wait"}],
///      "tasks": [{"id", "name", "owner", "pool", "file", "line",
///                 "state": "starting" | "running" | "pausing" | "completed" | "failed" | "cancelled" | "closed",
///                 "stop_order": "stop_first" | "keep_until_drained", "age_ms", "running_ms", "runs", "restarts", "failures",
///                 "last_failure", "ticks", "missed", "stop_requested", "stop_by", "stop_reason"}],
///      "bus": {as of `to_json(bus_snapshot)`}}
///
/// Names that are no UTF-8 and memory: as for `to_json(bus_snapshot)`.
PENSTOCK_API std::string to_json(const runtime_snapshot& seen, json_form form = json_form::indented);

}  // namespace penstock
