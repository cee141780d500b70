// A whole runtime as JSON.
// Floor 7, room runtime.
#include <penstock/runtime/runtime_snapshot.hpp>

#include "bus/snapshot_json.hpp"

namespace penstock {

std::string to_json(const runtime_snapshot& seen, json_form form) {
  return detail::to_json({seen.phase, seen.pools, seen.tasks, seen.bus}, form);
}

}  // namespace penstock
