// A stranger's test: the same in the simulation, to show that the testing library can be found and linked.
// Floor 9, room tests. Built by tests/consumer/run against an installed penstock.
#include <penstock/penstock.hpp>
#include <penstock/testing/simulation.hpp>

#include <cstdint>
#include <cstdio>

struct parcel_sent {
  int id;
};

int main() {
  std::uint64_t seen = 0;
  const auto explored = penstock::testing::explore(10, [&seen](penstock::testing::simulation& sim) {
    int here = 0;
    auto& bus = sim.runtime().bus();
    auto counter = bus.subscribe<parcel_sent>("counter", [&here](const parcel_sent&) { ++here; });
    bus.publisher<parcel_sent>().publish(parcel_sent{1});
    sim.run_until_idle();
    sim.require(here == 1);
    ++seen;
  });
  std::printf("%llu parcels seen in %llu schedules\n", static_cast<unsigned long long>(seen),
              static_cast<unsigned long long>(explored.schedules));
  return explored.schedules >= 10 && seen == explored.schedules ? 0 : 1;
}
