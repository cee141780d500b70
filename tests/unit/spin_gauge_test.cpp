// When an idle worker looks for work before it sleeps, and for how long: the decisions from inside, without a clock.
// Floor 9, room tests.
#include "../support/catch.hpp"

#include "exec/spin_gauge.hpp"
#include "exec/worker_pool_options.hpp"

#include <chrono>

using namespace std::chrono_literals;
using penstock::wait_strategy;
using penstock::exec::spin_gauge;

namespace {

/// Sleeps of which each would have been spared by a look, until one looks. How many it took.
int sleeps_until_it_looks(spin_gauge& gauge, std::chrono::nanoseconds gap = 10us) {
  int sleeps = 0;
  for (; gauge.bound() == 0ns && sleeps < 100'000; ++sleeps) gauge.slept(gap, 12us);
  return sleeps;
}

}  // namespace

TEST_CASE("a pool adapts unless it is told otherwise, and looks for 100 us at most", "[O4]") {
  penstock::worker_pool_options options;
  CHECK(options.get().strategy == wait_strategy::adaptive);
  CHECK(options.get().spin_time == 100us);
  options.wait(wait_strategy::spin_then_park);
  CHECK(options.get().spin_time == 20us);
  options.wait(wait_strategy::adaptive, 50us);
  CHECK(options.get().spin_time == 50us);
  options.wait(wait_strategy::spin_then_park, 1h);
  CHECK(options.get().spin_time == 1ms);
  options.wait(wait_strategy::adaptive);
  CHECK(options.get().spin_time == 100us);
}

TEST_CASE("a fixed look is the same whatever happens", "[O4]") {
  for (const auto always : {0ns, 20'000ns}) {
    spin_gauge gauge(always);
    CHECK_FALSE(gauge.adapts());
    for (int i = 0; i < 100; ++i) {
      gauge.slept(1us, 12us);
      gauge.missed();
      CHECK(gauge.bound() == always);
      gauge.lost();
      gauge.caught();
      CHECK(gauge.bound() == always);
    }
  }
}

TEST_CASE("events that come rarely never cost a look", "[O4]") {
  auto gauge = spin_gauge::adaptive(100us);
  for (int i = 0; i < 10'000; ++i) {
    CHECK(gauge.bound() == 0ns);
    gauge.slept(5ms, 25us);
  }
  // Not even when they come in pairs or threes.
  for (int i = 0; i < 10'000; ++i) {
    CHECK(gauge.bound() == 0ns);
    gauge.slept(i % 4 == 0 ? 5ms : 5us, 25us);
  }
}

TEST_CASE("four sleeps in a row that a look would have spared lead to looking", "[O4]") {
  auto gauge = spin_gauge::adaptive(100us);
  CHECK(sleeps_until_it_looks(gauge, 90us) == 4);
  CHECK(gauge.bound() > 0ns);
  for (int i = 0; i < 1000; ++i) gauge.caught();
  CHECK(gauge.bound() > 0ns);
}

TEST_CASE("looks go on while three of four of them catch something, and end when fewer do", "[O4]") {
  auto gauge = spin_gauge::adaptive(100us);
  sleeps_until_it_looks(gauge);
  for (int i = 0; i < 1000; ++i) {
    i % 4 == 3 ? gauge.missed() : gauge.caught();
    REQUIRE(gauge.bound() > 0ns);
  }
  int looks = 0;
  for (; gauge.bound() > 0ns; ++looks) looks % 2 == 1 ? gauge.missed() : gauge.caught();
  CHECK(looks <= 12);
  CHECK(gauge.bound() == 0ns);
}

TEST_CASE("looks that do not pay are tried ever more rarely, until some do again", "[O4]") {
  auto gauge = spin_gauge::adaptive(100us);
  for (const int row : {4, 16, 64, 256, 1024, 4096, 4096}) {
    CHECK(sleeps_until_it_looks(gauge) == row);
    int misses = 0;
    for (; gauge.bound() > 0ns; ++misses) gauge.missed();
    CHECK(misses == 2);
  }
  sleeps_until_it_looks(gauge);
  for (int i = 0; i < 256 * 10; ++i) gauge.caught();
  while (gauge.bound() > 0ns) gauge.missed();
  CHECK(sleeps_until_it_looks(gauge) == 16);
}

TEST_CASE("a look that lost its processor is the last one for a while", "[O4]") {
  auto gauge = spin_gauge::adaptive(100us);
  sleeps_until_it_looks(gauge);
  for (int i = 0; i < 10; ++i) gauge.caught();
  gauge.lost();
  CHECK(gauge.bound() == 0ns);
  CHECK(sleeps_until_it_looks(gauge) == 16);
}

TEST_CASE("a look lasts for eight wake-ups at most, for 20 us at least, and never for longer than the pool allows",
          "[O4]") {
  auto quick = spin_gauge::adaptive(100us);
  for (int i = 0; i < 100; ++i) quick.slept(5us, 5us);
  CHECK(quick.bound() > 35us);
  CHECK(quick.bound() <= 41us);
  auto quicker = spin_gauge::adaptive(100us);
  for (int i = 0; i < 100; ++i) quicker.slept(5us, 1us);
  CHECK(quicker.bound() == 20us);
  auto slow = spin_gauge::adaptive(100us);
  for (int i = 0; i < 100; ++i) slow.slept(5us, 30us);
  CHECK(slow.bound() == 100us);
  auto narrow = spin_gauge::adaptive(10us);
  for (int i = 0; i < 100; ++i) narrow.slept(5us, 30us);
  CHECK(narrow.bound() == 10us);
  auto none = spin_gauge::adaptive(0us);
  for (int i = 0; i < 100; ++i) none.slept(5us, 30us);
  CHECK(none.bound() == 0us);
}
