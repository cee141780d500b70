// The README's test in the simulation, run as it is printed there.
// Floor 9, room tests.
#include "support/catch.hpp"

#include <penstock/penstock.hpp>

#include <cstdint>

// [simulation]
#include <penstock/testing/simulation.hpp>

struct order_placed { std::uint64_t id; std::uint32_t cents; };

void a_small_channel_holds_the_shop_back_and_loses_nothing(penstock::testing::simulation& sim) {
    auto& bus = sim.runtime().bus();
    int mails = 0;
    auto mail = bus.subscribe<order_placed>("mail", penstock::subscribe_options{}.capacity(2),
        [&](const order_placed&) { ++mails; });
    sim.thread("shop", [&] {
        for (std::uint64_t id = 1; id <= 10; ++id) bus.publish(order_placed{id, 1999});
    });
    sim.run_until_idle();
    sim.require(mails == 10, "a mail was lost");
}
// [/simulation]

TEST_CASE("the README's simulation passes from 10,000 seeds") {
  REQUIRE(penstock::testing::explore(10'000, a_small_channel_holds_the_shop_back_and_loses_nothing).schedules > 0);
}
