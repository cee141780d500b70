// The end of a subscription against publishers and running calls, its lanes, and its failures.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "coverage.hpp"
#include "tracked.hpp"

#include "exec/context.hpp"

#include <penstock/runtime/log.hpp>
#include <penstock/testing/simulation.hpp>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>

using namespace std::chrono_literals;
using penstock::close_mode;
using penstock::close_status;
using penstock::errc;
using penstock::publish_result;
using penstock::subscribe_options;
using penstock::testing::explore;
using penstock::testing::simulation;
using penstock_test::closure_witness;
using penstock_test::inside_call;
using penstock_test::litter;
using penstock_test::require_balanced;
using penstock_test::tracked;

TEST_CASE("after close has returned closed, no call runs, the closure is gone, and each event has one fate") {
  int discarded = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    events.looks_at = sim.runtime().bus();
    int calls = 0;
    int destroyed = 0;
    bool closed = false;
    std::uint64_t handled = 0;
    auto reader = sim.runtime().bus().subscribe<tracked>(
        "reader", subscribe_options().capacity(1 + sim.random(3)),
        [&, end = closure_witness([&] {
           sim.require(calls == 0, "the closure was destroyed inside a call");
           ++destroyed;
           events.look();
         })](const tracked&) {
          sim.require(!closed, "a call began after close had returned closed");
          inside_call here(calls);
          sim.require(calls == 1, "two calls of one lane overlap");
          ++handled;
          sim.yield();
          sim.require(!closed, "close returned closed inside a call");
        });
    const auto out = sim.runtime().bus().publisher<tracked>();
    std::uint64_t matched = 0;
    std::uint64_t taken = 0;
    for (std::uint32_t producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (std::uint32_t index = 0; index < 3; ++index) {
          const publish_result result = out.emplace(events, producer, index);
          sim.require(result.accepted() + result.rejected() == result.matched(), "a publish has an unnamed fate");
          sim.require(result.rejected() == 0 || result.error() == errc::closed, "refused, but not because it was closed");
          matched += result.matched();
          taken += result.accepted();
        }
      });
    }
    const close_mode mode = sim.random(2) == 0 ? close_mode::stop_now : close_mode::drain;
    const std::uint64_t closers = 1 + sim.random(2);
    for (std::uint64_t i = 0; i < closers; ++i) {
      sim.thread("closer", [&, i] {
        if (i == 1) reader.stop();
        sim.require(reader.close(mode) == close_status::closed, "a close without a deadline did not close");
        sim.require(calls == 0, "close returned closed inside a call");
        sim.require(destroyed == 1, "close returned closed and the closure was not destroyed once");
        closed = true;
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(penstock_test::nobody_looked(sim), "a publisher was not released by the close");
    const penstock::ledger counted = reader.ledger();
    require_balanced(sim, counted);
    sim.require(counted.quiescent(), "something is left of a closed subscription: " + penstock::to_string(counted));
    sim.require(counted.offered == matched && counted.accepted == taken, "results and ledger differ");
    sim.require(counted.handled == handled && counted.handled + counted.discarded == taken, "an accepted event has no fate");
    sim.require(counted.discarded == 0 || mode == close_mode::stop_now || closers == 2, "a drain discarded an event");
    discarded += static_cast<int>(counted.discarded);
    sim.require(destroyed == 1, "the closure was not destroyed once");
    sim.require(events.live == 0, "a payload was not released");
    events.looks_at.reset();
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(discarded > 0);
}

TEST_CASE(
    "an event that meets the end of its subscription is handled or given to on_undelivered, once, under the gate") {
  int waited = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    auto bus = sim.runtime(penstock::runtime_options().log_to([](const penstock::log_record&) {})).bus();
    events.looks_at = bus;
    int fates[2][3] = {};
    bool stopping = false;
    bool closed = false;
    int destroyed = 0;
    std::uint64_t given = 0;
    std::uint64_t handled = 0;
    subscribe_options options;
    options.capacity(1 + sim.random(3))
        .on_undelivered<tracked>(
            [&, end = closure_witness([&] { ++destroyed; })](const tracked& each, const penstock::undelivered& why) {
              sim.require(!closed, "given after close had returned closed");
              sim.require(why.sequence() > handled, "the seat of a handled event");
              ++fates[each.producer][each.index];
              ++given;
              sim.require(stopping, "given by somebody else than who stopped it");
              events.look();
              sim.yield();
              if (sim.random(4) == 0) throw std::runtime_error("the hook failed");
              sim.require(destroyed == 0, "the hook was destroyed inside a call of it");
            });
    auto reader = bus.subscribe<tracked>("reader", std::move(options), [&](const tracked& each) {
      ++fates[each.producer][each.index];
      ++handled;
    });
    const auto out = bus.publisher<tracked>();
    std::uint64_t taken = 0;
    for (std::uint32_t producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (std::uint32_t index = 0; index < 3; ++index) taken += out.emplace(events, producer, index).accepted();
      });
    }
    sim.thread("closer", [&] {
      stopping = true;
      reader.stop();
      stopping = false;
      sim.require(reader.close() == close_status::closed, "a close without a deadline did not close");
      closed = true;
      sim.require(destroyed == 1, "the hook was not destroyed with its subscription");
    });
    sim.run_until_idle();
    sim.require_all_done();
    const penstock::ledger counted = reader.ledger();
    require_balanced(sim, counted);
    if (sim.elapsed() > 0ns) ++waited;
    sim.require(counted.discarded == given, "discarded and given differ: " + penstock::to_string(counted));
    sim.require(handled + given == taken, "an accepted event has no fate");
    for (const auto& producer : fates)
      for (const int times : producer) sim.require(times <= 1, "an event was given twice, or handled and given");
    sim.require(events.live == 0, "a payload was not released");
    events.looks_at.reset();
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(waited > 0);  // for a publisher that was just writing
}

TEST_CASE("a stop never destroys the closure on its own stack or on a publisher's, and drops meet no dead hook") {
  explore(10'000, [](simulation& sim) {
    litter events;
    events.looks_at = sim.runtime().bus();
    int destroyed = 0;
    int hooks_destroyed = 0;
    std::uint64_t told = 0;
    const auto on_worker = [&](int& count) {
      const penstock::exec::context* here = penstock::exec::current_context();
      sim.require(here != nullptr && here->kind == penstock::exec::context_kind::worker,
                  "a closure was destroyed on a publisher's stack, or under a call");
      ++count;
      events.look();
    };
    auto reader = sim.runtime().bus().subscribe<tracked>(
        "reader",
        subscribe_options()
            .capacity(1)
            .overflow(sim.random(2) == 0 ? penstock::overflow::drop_newest : penstock::overflow::drop_oldest)
            .on_drop<tracked>([&, end = closure_witness([&] { on_worker(hooks_destroyed); })](
                                  const tracked&, penstock::drop_reason) noexcept {
              if (hooks_destroyed != 0 || destroyed != 0) return std::abort();
              ++told;
              events.look();
            }),
        [&, end = closure_witness([&] { on_worker(destroyed); })](const tracked&) { sim.yield(); });
    const auto out = sim.runtime().bus().publisher<tracked>();
    for (std::uint32_t producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (std::uint32_t index = 0; index < 3; ++index) static_cast<void>(out.emplace(events, producer, index));
      });
    }
    sim.thread("stopper", [&] { reader.stop(); });
    sim.run_until_idle();
    sim.require_all_done();
    const penstock::ledger counted = reader.ledger();
    require_balanced(sim, counted);
    sim.require(counted.quiescent(), "something is left of a stopped subscription");
    sim.require(told == counted.dropped + counted.evicted, "a drop was counted and not told, or told and not counted");
    sim.require(destroyed == 1 && hooks_destroyed == 1, "a closure was not destroyed once");
    sim.require(events.live == 0, "a payload was not released");
    events.looks_at.reset();
  });
}

TEST_CASE("a subscription of concurrency two runs two calls at most, uses both lanes, and leaves nothing queued") {
  int both = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    int calls = 0;
    int most = 0;
    std::uint64_t handled = 0;
    auto held = sim.gate("a long call");
    auto reader = sim.runtime().bus().subscribe<tracked>(
        "reader", subscribe_options().capacity(1 + sim.random(4)).concurrency(2), [&, held](const tracked& event) {
          inside_call here(calls);
          sim.require(calls <= 2, "more calls run than the concurrency allows");
          most = calls > most ? calls : most;
          ++handled;
          if (event.producer == 0 && event.index == 0) held.wait();
          if (sim.random(2) == 0) sim.yield();
        });
    const auto out = sim.runtime().bus().publisher<tracked>();
    for (std::uint32_t producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (std::uint32_t index = 0; index < 3; ++index)
          sim.require(out.emplace(events, producer, index).accepted() == 1, "an open subscription refused an event");
      });
    }
    sim.run_until_idle();
    // One lane stands at the gate; the other one must have handled everything else.
    sim.require(handled == 6, "an event is left queued although a lane is asleep");
    sim.require(calls == 1, "nobody stands at the gate");
    held.open();
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(penstock_test::nobody_looked(sim),
                "a publisher had to look by itself: the lanes rested and had not told it");
    both += most == 2 ? 1 : 0;
    require_balanced(sim, reader.ledger());
    sim.require(reader.ledger().handled == 6 && reader.ledger().quiescent(), "the ledger is off");
    sim.require(reader.close() == close_status::closed, "a close at rest did not close");
    sim.require(events.live == 0, "a payload was not released");
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(both > 0);
}

TEST_CASE("a call that throws is counted and told once, harms no other event, and gives its payload back") {
  explore(10'000, [](simulation& sim) {
    litter events;
    std::uint64_t told = 0;
    std::uint64_t thrown = 0;
    std::uint64_t handled = 0;
    bool sequences[8] = {};
    penstock::runtime_options options;
    options.on_failure([&](const penstock::failure& record) {
      ++told;
      sim.require(record.subscription == "reader" && record.exception.what == "as planned", "a failure was told of another");
      sim.require(record.sequence >= 1 && record.sequence <= 4 && !std::exchange(sequences[record.sequence], true),
                  "a failure was told twice");
    });
    auto reader = sim.runtime(std::move(options))
                      .bus()
                      .subscribe<tracked>("reader", subscribe_options().capacity(1).concurrency(1 + sim.random(2)),
                                          [&](const tracked& event) {
                                            sim.yield();
                                            if (event.index == 0) {
                                              ++thrown;
                                              throw std::runtime_error("as planned");
                                            }
                                            ++handled;
                                          });
    const auto out = sim.runtime().bus().publisher<tracked>();
    for (std::uint32_t producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (std::uint32_t index = 0; index < 2; ++index)
          sim.require(out.emplace(events, producer, index).accepted() == 1, "an open subscription refused an event");
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    const penstock::ledger counted = reader.ledger();
    require_balanced(sim, counted);
    sim.require(thrown == 2 && handled == 2, "an event was not handled");
    sim.require(counted.failed == thrown && counted.handled == handled, "a failure was not counted");
    sim.require(told == thrown, "a failure was not told, or told twice");
    sim.require(reader.close() == close_status::closed, "a close at rest did not close");
    sim.require(events.live == 0, "a payload was not released");
  });
}
