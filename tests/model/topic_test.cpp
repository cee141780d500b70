// Membership of a topic while events are published: each publish meets exactly the members of its instant.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "tracked.hpp"

#include "bus/bus_core.hpp"
#include "bus/topic.hpp"

#include <penstock/bus/event_bus.hpp>
#include <penstock/testing/simulation.hpp>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

using penstock::close_status;
using penstock::publish_result;
using penstock::subscribe_options;
using penstock::testing::explore;
using penstock::testing::simulation;
using penstock_test::require_balanced;

namespace {

struct numbered {
  std::uint32_t number = 0;
};

constexpr int not_yet = 1'000'000;

/// One subscription with the moments of its life, on a clock that counts moments.
struct member {
  penstock::subscription handle;
  std::vector<std::uint32_t> handled;
  int asked = not_yet;       // subscribe was called
  int joined = not_yet;      // and had returned
  int leaving = not_yet;     // close was called
  int left = not_yet;        // and had returned
};

struct published {
  std::uint32_t number = 0;
  int began = 0;
  int returned = 0;
};

}  // namespace

TEST_CASE("a publish is offered to exactly the members of its instant, whoever subscribes or leaves meanwhile") {
  explore(10'000, [](simulation& sim) {
    auto pool = sim.environment()->make_pool("lanes", penstock::worker_pool_options().threads(2));
    std::optional<penstock::event_bus> bus;
    auto* core = new penstock::detail::bus_core(sim.environment(), pool, {});
    bus.emplace(core);
    {
      // A topic renews its snapshot long before its counter runs over: here after two publishes, sometimes.
      const auto out = bus->publisher<numbered>();
      auto topic = core->open_topic(penstock::detail::describe_event<numbered>());
      if (sim.random(2) == 0) topic->renew_after(2);
      core->drop_topic(*topic);
      const auto users = pool.use_count();  // each subscription core holds the pool

      std::deque<member> members(3);
      std::vector<published> all;
      std::uint64_t matched = 0;
      int moments = 0;
      std::uint32_t next = 0;
      const auto join = [&](member& joins) {
        joins.asked = ++moments;
        joins.handle = bus->subscribe<numbered>("member", [&sim, &joins, &moments](const numbered& event) {
          sim.require(joins.left == not_yet, "a member handled an event after it had left");
          joins.handled.push_back(event.number);
        });
        joins.joined = ++moments;
      };
      const auto leave = [&](member& leaves) {
        leaves.leaving = ++moments;
        sim.require(leaves.handle.close(penstock::close_mode::drain) == close_status::closed, "a close did not close");
        leaves.left = ++moments;
      };
      join(members[0]);
      for (int publisher = 0; publisher < 2; ++publisher) {
        sim.thread("publisher", [&] {
          for (int i = 0; i < 3; ++i) {
            published mine{next++, ++moments, 0};
            const publish_result result = out.publish(numbered{mine.number});
            mine.returned = ++moments;
            sim.require(result.accepted() == result.matched(), "a member with room refused an event");
            matched += result.matched();
            all.push_back(mine);
          }
        });
      }
      sim.thread("leaves", [&] { leave(members[0]); });
      sim.thread("comes", [&] { join(members[1]); });
      sim.thread("comes and leaves", [&] {
        join(members[2]);
        leave(members[2]);
      });
      sim.run_until_idle();
      sim.require_all_done();

      std::uint64_t offered = 0;
      for (member& each : members) {
        const penstock::ledger counted = each.handle.ledger();
        require_balanced(sim, counted);
        offered += counted.offered;
        sim.require(counted.handled == counted.offered && counted.handled == each.handled.size(), "an event was lost");
        for (const published& event : all) {
          const auto times = std::count(each.handled.begin(), each.handled.end(), event.number);
          sim.require(times <= 1, "a member handled an event twice");
          if (event.began > each.joined && event.returned < each.leaving)
            sim.require(times == 1, "a publish within a membership did not reach the member");
          if (event.returned < each.asked || event.began > each.left)
            sim.require(times == 0, "a publish outside of a membership reached the member");
        }
      }
      sim.require(matched == offered, "what the publishes matched is not what the members were offered");

      leave(members[1]);
      const publish_result nobody = out.publish(numbered{99});
      sim.require(nobody.matched() == 0, "a topic without members matched somebody");
      members.clear();
      sim.run_until_idle();
      sim.require(pool.use_count() == users, "a snapshot or a subscription was not freed");
    }
    bus.reset();
  });
}

TEST_CASE("a publisher that meets a closing member keeps it alive until it is through") {
  explore(10'000, [](simulation& sim) {
    auto pool = sim.environment()->make_pool("lanes", penstock::worker_pool_options().threads(2));
    penstock::event_bus bus(new penstock::detail::bus_core(sim.environment(), pool, {}));
    const auto out = bus.publisher<numbered>();
    const auto users = pool.use_count();
    std::uint64_t matched = 0;
    std::uint64_t offered = 0;
    std::uint64_t accepted = 0;
    std::uint64_t fates = 0;
    for (int publisher = 0; publisher < 2; ++publisher) {
      sim.thread("publisher", [&] {
        for (std::uint32_t i = 0; i < 2; ++i) {
          const publish_result result = out.publish(numbered{i});
          matched += result.matched();
          accepted += result.accepted();
        }
      });
    }
    for (int i = 0; i < 2; ++i) {
      // The handle dies with its thread, while publishes may still hold a snapshot with this member in it.
      sim.thread("short member", [&] {
        auto handle = bus.subscribe<numbered>("member", subscribe_options().capacity(1), [&](const numbered&) {});
        sim.require(handle.close() == close_status::closed, "a close did not close");
        const penstock::ledger counted = handle.ledger();
        require_balanced(sim, counted);
        sim.require(counted.quiescent(), "something is left of a closed subscription");
        offered += counted.offered;
        fates += counted.handled + counted.discarded;
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(matched == offered, "what the publishes matched is not what the members were offered");
    sim.require(accepted == fates, "an accepted event has no fate");
    sim.require(pool.use_count() == users, "a snapshot or a subscription was not freed");
  });
}
