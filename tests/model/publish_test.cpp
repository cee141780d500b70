// Publishing threads against lanes and deadlines, through the bus, under preemption at every atomic operation and lock.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "coverage.hpp"
#include "journal.hpp"
#include "tracked.hpp"

#include <penstock/testing/simulation.hpp>

#include <map>
#include <set>
#include <stop_token>
#include <vector>

using namespace std::chrono_literals;
using penstock::errc;
using penstock::publish_result;
using penstock::subscribe_options;
using penstock::testing::explore;
using penstock::testing::simulation;
using penstock_test::event_id;
using penstock_test::inside_call;
using penstock_test::journal;
using penstock_test::litter;
using penstock_test::require_balanced;
using penstock_test::tracked;

namespace {

struct numbered {
  std::uint32_t producer = 0;
  std::uint32_t index = 0;
};

}  // namespace

TEST_CASE("publishers that wait at two full subscriptions are handled in order by both, and every payload is released") {
  explore(10'000, [](simulation& sim) {
    litter events;
    penstock::runtime& rt = sim.runtime();
    std::vector<event_id> handled[2];
    int calls[2] = {};
    journal published;
    {
      std::vector<penstock::subscription> readers;
      for (std::size_t i = 0; i < 2; ++i) {
        readers.push_back(rt.bus().subscribe<tracked>("reader", subscribe_options().capacity(1 + sim.random(2)),
                                                      [&sim, &handled = handled[i], &calls = calls[i]](const tracked& event) {
                                                        inside_call here(calls);
                                                        sim.require(calls == 1, "two calls of one lane overlap");
                                                        handled.emplace_back(event.producer, event.index);
                                                        if (sim.random(2) == 0) sim.yield();
                                                      }));
      }
      const auto out = rt.bus().publisher<tracked>();
      for (std::uint32_t producer = 0; producer < 3; ++producer) {
        sim.thread("publisher", [&, producer] {
          for (std::uint32_t index = 0; index < 2; ++index) {
            const publish_result result =
                published.note(producer, index, [&] { return out.emplace(events, producer, index); });
            sim.require(result.matched() == 2 && result.accepted() == 2, "a waiting publish was not accepted by all");
            sim.require(result.error() == errc::none && result.prefix() == 1, "an accepted publish reports an error");
          }
        });
      }
      sim.run_until_idle();
      sim.require(penstock_test::nobody_looked(sim),
                  "a publisher had to look by itself: the lane rested and had not told it");
      sim.require_all_done();
      for (std::size_t i = 0; i < 2; ++i) {
        published.require_in_order(sim, handled[i]);
        sim.require(handled[i].size() == published.size(), "an event was lost");
        require_balanced(sim, readers[i].ledger());
        sim.require(readers[i].ledger().handled == 6 && readers[i].ledger().quiescent(), "the ledger is off");
      }
    }
    sim.require(events.live == 0, "a payload was not released");
  });
}

TEST_CASE("a publish whose deadline or cancellation meets a freed seat is accepted or refused, and leaks no seat") {
  int accepted = 0;
  int refused = 0;
  explore(10'000, [&](simulation& sim) {
    const std::size_t capacity = 1 + sim.random(2);
    const bool by_token = sim.random(2) == 0;
    const errc reason = by_token ? errc::cancelled : errc::timed_out;
    auto held = sim.gate("the first call");
    std::set<event_id> handled;
    auto reader = sim.runtime().bus().subscribe<numbered>(
        "reader", subscribe_options().capacity(capacity), [&sim, &handled, held](const numbered& event) {
          sim.require(handled.emplace(event.producer, event.index).second, "an event was handled twice");
          held.wait();
        });
    const auto out = sim.runtime().bus().publisher<numbered>();
    sim.require(out.try_publish({9, 0}).accepted() == 1, "the first event was not taken");
    sim.run_until_idle();
    for (std::uint32_t i = 0; i < capacity; ++i)
      sim.require(out.try_publish({9, i + 1}).accepted() == 1, "a free seat was not given");
    std::size_t taken = 0;
    std::stop_source stop;
    for (std::uint32_t producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        const bool mine = producer == 0;  // only one of the two gives up; it stands before or behind the other
        publish_result result;
        if (!mine)
          result = out.publish(numbered{producer, 0});
        else if (by_token)
          result = out.publish(numbered{producer, 0}, stop.get_token());
        else
          result = out.publish_for(3ms, numbered{producer, 0});
        sim.require(result.matched() == 1 && result.accepted() + result.rejected() == 1, "a publish has no fate, or two");
        sim.require(result.accepted() == 1 ? result.error() == errc::none : mine && result.error() == reason,
                    "the error is not what came of the publish");
        sim.require(result.accepted() == 1 || sim.elapsed() >= 3ms, "gave up too early");
        sim.require(sim.elapsed() <= 3ms, "was told too late");
        taken += result.accepted();
        if (mine) ++(result.accepted() == 1 ? accepted : refused);
      });
    }
    sim.thread("opener", [&] {
      sim.sleep_for(3ms);
      held.open();
    });
    if (by_token) {
      sim.thread("canceller", [&] {
        sim.sleep_for(3ms);
        stop.request_stop();
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(handled.size() == 1 + capacity + taken, "handled and accepted differ");
    held.close();
    sim.require(out.try_publish({8, 0}).accepted() == 1, "an idle subscription refused an event");
    sim.run_until_idle();
    for (std::uint32_t i = 0; i < capacity; ++i)
      sim.require(out.try_publish({8, i + 1}).accepted() == 1, "a seat was leaked");
    sim.require(out.try_publish({8, 99}).rejected() == 1, "one event more than the capacity was taken");
    held.open();
    sim.run_until_idle();
    require_balanced(sim, reader.ledger());
    sim.require(reader.ledger().quiescent(), "something is left queued at rest");
    sim.require(reader.close() == penstock::close_status::closed, "a close at rest did not close");
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(accepted > 0);
  CHECK(refused > 0);
}

TEST_CASE("an event of a drop_oldest subscription is handled, or shown to on_drop once, and its payload is released") {
  explore(10'000, [](simulation& sim) {
    litter events;
    std::map<event_id, int> fates;
    std::size_t dropped = 0;
    auto reader = sim.runtime().bus().subscribe<tracked>(
        "reader",
        subscribe_options()
            .capacity(1 + sim.random(2))
            .overflow(penstock::overflow::drop_oldest)
            .on_drop<tracked>([&](const tracked& event, penstock::drop_reason reason) noexcept {
              if (reason == penstock::drop_reason::oldest) ++dropped;
              ++fates[{event.producer, event.index}];
            }),
        [&](const tracked& event) {
          ++fates[{event.producer, event.index}];
          if (sim.random(2) == 0) sim.yield();
        });
    const auto out = sim.runtime().bus().publisher<tracked>();
    for (std::uint32_t producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (std::uint32_t index = 0; index < 3; ++index) {
          const publish_result result = out.emplace(events, producer, index);
          sim.require(result.accepted() == 1, "drop_oldest refused the newest event");
        }
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(fates.size() == 6, "an event has no fate");
    for (const auto& [event, count] : fates) sim.require(count == 1, "an event has two fates");
    const penstock::ledger counted = reader.ledger();
    require_balanced(sim, counted);
    sim.require(counted.evicted == dropped && counted.handled == 6 - dropped && counted.quiescent(), "the ledger is off");
    sim.require(reader.close() == penstock::close_status::closed, "a close at rest did not close");
    sim.require(events.live == 0, "a payload was not released");
  });
}

TEST_CASE("a drop_newest subscription counts each drop, in the result, in the ledger and by on_drop") {
  explore(10'000, [](simulation& sim) {
    litter events;
    std::uint64_t handled = 0;
    std::uint64_t told = 0;
    std::uint64_t dropped = 0;
    std::uint64_t taken = 0;
    auto reader = sim.runtime().bus().subscribe<tracked>(
        "reader",
        subscribe_options()
            .capacity(1 + sim.random(2))
            .overflow(penstock::overflow::drop_newest)
            .on_drop<tracked>([&](const tracked&, penstock::drop_reason) noexcept { ++told; }),
        [&](const tracked&) {
          ++handled;
          if (sim.random(2) == 0) sim.yield();
        });
    const auto out = sim.runtime().bus().publisher<tracked>();
    for (std::uint32_t producer = 0; producer < 3; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (std::uint32_t index = 0; index < 2; ++index) {
          const publish_result result = out.emplace(events, producer, index);
          sim.require(result.accepted() + result.dropped() == 1, "a publish has no fate, or two");
          dropped += result.dropped();
          taken += result.accepted();
        }
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    const penstock::ledger counted = reader.ledger();
    require_balanced(sim, counted);
    sim.require(counted.offered == 6, "an offer was not counted");
    sim.require(counted.dropped == dropped && told == dropped, "a drop was not counted, or not told once");
    sim.require(counted.handled == taken && handled == taken, "an accepted event was not handled");
    sim.require(reader.close() == penstock::close_status::closed, "a close at rest did not close");
    sim.require(events.live == 0, "a payload was not released");
  });
}

TEST_CASE("a shutdown against publishers releases every one of them, handles what was taken, and balances") {
  explore(10'000, [](simulation& sim) {
    litter events;
    penstock::runtime rt(penstock::runtime_options().environment(sim.environment()));
    std::uint64_t handled = 0;
    bool over = false;
    auto reader = rt.bus().subscribe<tracked>("reader", subscribe_options().capacity(1), [&](const tracked&) {
      sim.require(!over, "a handler ran after shutdown had returned");
      ++handled;
      if (sim.random(2) == 0) sim.yield();
    });
    const auto out = rt.bus().publisher<tracked>();
    std::uint64_t taken = 0;
    std::uint64_t offered = 0;
    for (std::uint32_t producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (std::uint32_t index = 0; index < 2; ++index) {
          const bool was_over = over;
          const publish_result result = out.emplace(events, producer, index);
          sim.require(!was_over || result.error() == errc::closed, "a publish after shutdown was not refused as closed");
          sim.require(result.accepted() + result.rejected() == result.matched(), "a publish has an unnamed fate");
          sim.require(result.accepted() == 1 || result.error() == errc::closed || result.matched() == 0,
                      "a publish was refused, but not because of the shutdown");
          taken += result.accepted();
          offered += result.matched();
        }
      });
    }
    sim.thread("stopper", [&] {
      const penstock::shutdown_report report = rt.shutdown(1s);
      over = true;
      sim.require(report.clean(), "a shutdown without stuck calls was not clean: " + penstock::to_string(report));
      for (const auto& each : report.subscriptions) require_balanced(sim, each.ledger);
    });
    sim.run_until_idle();
    sim.require_all_done();
    const penstock::ledger counted = reader.ledger();
    require_balanced(sim, counted);
    sim.require(counted.offered == offered && counted.accepted == taken, "results and ledger differ");
    sim.require(counted.handled + counted.discarded == taken && handled == counted.handled, "an accepted event has no fate");
    sim.require(events.live == 0, "a payload was not released");
  });
}
