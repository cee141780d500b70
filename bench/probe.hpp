// How far apart two cores are right now: a cache line bounced between them.
// Floor 9, bench.
#pragma once

#include <string>

namespace bench {

/// A virtual machine's cores move under it; the one-way time of a cache line tells where they are.
enum class core_state { near, far, one_core };
const char* to_string(core_state state) noexcept;

inline constexpr double near_limit_ns = 100;

struct probe_result {
  core_state state = core_state::one_core;
  double one_way_ns = 0;
};

/// Bounces a line between the first two cores this process may use, for some milliseconds; the lower quartile of many
/// short batches, so that batches in which a thread lost its core do not count.
probe_result probe_cores();

core_state state_of(double one_way_ns) noexcept;

}  // namespace bench
