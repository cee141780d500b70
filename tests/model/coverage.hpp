// How often a case met what it is about, asked when it ran all its seeds; and whether anybody was left waiting.
// Floor 9, room tests.
#pragma once

#include "../support/catch.hpp"
#include "../support/seeds.hpp"

#include <penstock/testing/simulation.hpp>

#include <chrono>
#include <cstdint>

namespace penstock_test {

/// How often a case met what it is about: counted in each seed, looked at when all its seeds have run.
class coverage {
 public:
  explicit coverage(const char* what, std::uint64_t least = 1) : what_(what), least_(least) {}
  void count(std::uint64_t times = 1) { seen_ += times; }
  void check() const {
    if (!all_seeds_ran()) return;
    INFO(what_ << ": " << seen_ << " times");
    CHECK(seen_ >= least_);
  }

 private:
  const char* const what_;
  const std::uint64_t least_;
  std::uint64_t seen_ = 0;
};

/// Nobody had to look by himself, which comes after 4 ms at the earliest. Time may have passed: who waits for a
/// producer that is just writing naps for 50 us.
inline bool nobody_looked(const penstock::testing::simulation& sim) {
  return sim.elapsed() < std::chrono::milliseconds(2);
}

/// Until all have returned; nobody may have had to look.
inline void run_to_the_end(penstock::testing::simulation& sim) {
  sim.run_until_idle();
  sim.require_all_done();
  sim.require(nobody_looked(sim), "somebody had to look by himself: nobody had told him");
}

}  // namespace penstock_test
