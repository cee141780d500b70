// How the scenarios are run: with all seeds, in all orders of execution.
// Floor 9, room tests.
#pragma once

#include "../support/catch.hpp"
#include "../support/seeds.hpp"

#include <penstock/testing/simulation.hpp>

#include <cstdint>
#include <utility>

namespace penstock_test {

inline constexpr std::uint64_t seeds = 10'000;

template <class Scenario>
void in_all_schedules(Scenario scenario) {
  const auto done = penstock::testing::explore(seeds, std::move(scenario));
  CHECK(done.schedules > done.replays);
  CHECK(done.replays > 0);
}

/// Lets the others go first now and then, so that calls overlap.
inline void dawdle(penstock::testing::simulation& sim) {
  while (sim.random(2) == 0) sim.yield();
}

}  // namespace penstock_test
