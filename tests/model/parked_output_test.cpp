// Handlers whose outputs are parked: the lane rests until they are decided, and is woken once.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "coverage.hpp"
#include "tracked.hpp"

#include <penstock/testing/simulation.hpp>

#include <map>
#include <optional>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using penstock::close_mode;
using penstock::close_status;
using penstock::drop_reason;
using penstock::errc;
using penstock::publish_result;
using penstock::subscribe_options;
using penstock::testing::explore;
using penstock::testing::simulation;
using penstock_test::inside_call;
using penstock_test::litter;
using penstock_test::require_balanced;
using penstock_test::tracked;

namespace {

struct task {
  std::uint32_t number = 0;
};

/// What the first stage knows of its outputs.
struct outputs {
  std::uint64_t matched = 0;
  std::uint64_t accepted = 0;
  std::uint64_t parked = 0;
  std::uint64_t rejected = 0;
  void add(const publish_result& result) {
    matched += result.matched();
    accepted += result.accepted();
    parked += result.parked();
    rejected += result.rejected();
  }
};

}  // namespace

TEST_CASE("a lane takes no further event while an output is parked, and is woken once when the last one is decided") {
  int parked = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    auto& bus = sim.runtime().bus();
    int calls = 0;
    int relay_calls = 0;
    std::vector<std::uint32_t> handled;
    auto sink = bus.subscribe<tracked>("sink", subscribe_options().capacity(1), [&](const tracked& event) {
      inside_call here(calls);
      sim.require(calls == 1, "two calls of one lane overlap");
      handled.push_back(event.index);
      sim.yield();
    });
    const auto out = bus.publisher<tracked>();
    outputs made;
    std::uint32_t next = 0;
    auto relay = bus.subscribe<task>("relay", subscribe_options().capacity(1), [&](const task&) {
      inside_call here(relay_calls);
      sim.require(relay_calls == 1, "the resting lane was woken twice: two calls overlap");
      sim.require(sink.ledger().pending == 0, "the lane took an event while an output of it was parked");
      const std::uint64_t count = 1 + sim.random(3);
      for (std::uint64_t i = 0; i < count; ++i) made.add(out.emplace(events, 0U, next++));
      if (sim.random(2) == 0) sim.yield();
    });
    const auto in = bus.publisher<task>();
    for (int publisher = 0; publisher < 2; ++publisher) {
      sim.thread("publisher", [&] {
        for (std::uint32_t i = 0; i < 2; ++i)
          sim.require(in.publish(task{i}).accepted() == 1, "an open subscription refused an event");
      });
    }
    penstock_test::run_to_the_end(sim);
    sim.require(relay.ledger().handled == 4, "the lane was not woken after its outputs had been decided");
    sim.require(handled.size() == next, "an output was lost");
    for (std::uint32_t i = 0; i < next; ++i) sim.require(handled[i] == i, "outputs of one lane were turned round");
    sim.require(made.matched == next && made.accepted + made.parked == next, "an output has no result");
    for (const auto* each : {&sink, &relay}) {
      require_balanced(sim, each->ledger());
      sim.require(each->ledger().quiescent(), "something is left queued at rest");
    }
    parked += static_cast<int>(made.parked);
    sim.require(relay.close() == close_status::closed && sink.close() == close_status::closed, "a close did not close");
    sim.require(events.live == 0, "a payload was not released");
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(parked > 1000);
}

TEST_CASE("when its target closes, a parked output has one fate and its producer goes on") {
  int told_of_close = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    auto& bus = sim.runtime().bus();
    std::map<std::uint32_t, int> fates;
    std::uint64_t told = 0;
    bool closed = false;
    auto sink = bus.subscribe<tracked>("sink",
                                       subscribe_options().capacity(1).on_drop<tracked>(
                                           [&](const tracked& event, drop_reason reason) noexcept {
                                             ++fates[event.index];
                                             if (reason == drop_reason::closed) ++told;
                                           }),
                                       [&](const tracked& event) {
                                         sim.require(!closed, "a call began after close had returned closed");
                                         ++fates[event.index];
                                         sim.yield();
                                       });
    const auto out = bus.publisher<tracked>();
    outputs made;
    std::uint32_t next = 0;
    int relay_calls = 0;
    std::uint64_t relayed = 0;
    auto relay = bus.subscribe<task>("relay", subscribe_options().capacity(1), [&](const task&) {
      inside_call here(relay_calls);
      sim.require(relay_calls == 1, "the resting lane was woken twice: two calls overlap");
      for (int i = 0; i < 2; ++i) made.add(out.emplace(events, 0U, next++));
      ++relayed;
      sim.yield();
    });
    const auto in = bus.publisher<task>();
    sim.thread("publisher", [&] {
      for (std::uint32_t i = 0; i < 3; ++i)
        sim.require(in.publish(task{i}).accepted() == 1, "an open subscription refused an event");
    });
    const bool drains = sim.random(2) == 0;
    sim.thread("closer", [&] {
      for (auto pause = sim.random(4); pause > 0; --pause) sim.yield();
      sim.require(sink.close(drains ? close_mode::drain : close_mode::stop_now) == close_status::closed,
                  "a close did not close");
      closed = true;
    });
    const bool stopped_too = sim.random(2) == 0;
    if (stopped_too) {
      sim.thread("second closer", [&] {
        for (auto pause = sim.random(4); pause > 0; --pause) sim.yield();
        sink.stop();
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(relayed == 3 && relay.ledger().quiescent(), "the producer's lane was not woken");
    const penstock::ledger counted = sink.ledger();
    require_balanced(sim, counted);
    sim.require(counted.quiescent(), "something is left of a closed subscription");
    sim.require(counted.offered == made.matched, "results and ledger differ");
    sim.require(made.accepted + made.parked == made.matched, "a lane's output was refused by an open target");
    sim.require(counted.rejected.closed == told && counted.rejected.total() == told,
                "a rejected output was not told to on_drop once");
    const bool only_drained = drains && !stopped_too;
    sim.require(!only_drained || told == 0, "a drain of the target rejected an output that was parked before");
    sim.require(!only_drained || counted.discarded == 0, "a drain discarded an event");
    for (const auto& [event, count] : fates) sim.require(count == 1, "an output has two fates");
    sim.require(fates.size() == counted.handled + told, "an output has a fate that nobody counted");
    told_of_close += static_cast<int>(told);
    sim.require(relay.close() == close_status::closed, "a close at rest did not close");
    sim.require(events.live == 0, "a payload was not released");
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(told_of_close > 0);
}

TEST_CASE("a parked output whose deadline meets a freed seat is handled or dropped as timed out, and wakes its lane") {
  int timed_out = 0;
  int handled_late = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    auto& bus = sim.runtime().bus();
    auto held = sim.gate("the sink");
    std::map<std::uint32_t, int> fates;
    std::uint64_t told = 0;
    auto sink = bus.subscribe<tracked>("sink",
                                       subscribe_options().capacity(1).on_drop<tracked>(
                                           [&](const tracked& event, drop_reason reason) noexcept {
                                             ++fates[event.index];
                                             if (reason == drop_reason::timed_out) ++told;
                                           }),
                                       [&, held](const tracked& event) {
                                         ++fates[event.index];
                                         held.wait();
                                       });
    const auto out = bus.publisher<tracked>();
    outputs made;
    std::uint32_t next = 0;
    std::uint64_t relayed = 0;
    auto relay = bus.subscribe<task>("relay", [&](const task&) {
      // With the sink at its gate: the first begins, the second is seated, the third is parked.
      for (int i = 0; i < 2; ++i) made.add(out.publish_for(5ms, tracked(events, 0, next++)));
      ++relayed;
    });
    const auto in = bus.publisher<task>();
    sim.thread("publisher", [&] {
      for (std::uint32_t i = 0; i < 3; ++i)
        sim.require(in.publish(task{i}).accepted() == 1, "an open subscription refused an event");
    });
    sim.thread("opener", [&] {
      sim.sleep_for(5ms);
      held.open();
    });
    sim.run_until_idle();
    sim.require_all_done();
    const penstock::ledger counted = sink.ledger();
    require_balanced(sim, counted);
    sim.require(relayed == 3 && relay.ledger().quiescent(), "the producer's lane was not woken");
    sim.require(counted.quiescent() && counted.offered == 6 && made.matched == 6, "an output was not counted");
    sim.require(counted.rejected.timed_out == told && counted.handled == 6 - told, "an output has a fate that nobody counted");
    sim.require(fates.size() == 6, "an output has no fate");
    for (const auto& [event, count] : fates) sim.require(count == 1, "an output has two fates");
    timed_out += static_cast<int>(told);
    handled_late += made.parked > told ? 1 : 0;
    sim.require(relay.close() == close_status::closed && sink.close() == close_status::closed, "a close did not close");
    sim.require(events.live == 0, "a payload was not released");
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(timed_out > 0);
  CHECK(handled_late > 0);
}

TEST_CASE("an output that its producer parked before it was closed still reaches its target") {
  int parked_at_close = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    auto& bus = sim.runtime().bus();
    std::uint64_t handled = 0;
    auto sink = bus.subscribe<tracked>("sink", subscribe_options().capacity(1), [&](const tracked&) {
      ++handled;
      sim.yield();
    });
    const auto out = bus.publisher<tracked>();
    outputs made;
    int relay_calls = 0;
    bool closed = false;
    auto relay = bus.subscribe<task>("relay", [&](const task&) {
      inside_call here(relay_calls);
      sim.require(!closed, "a call began after close had returned closed");
      for (std::uint32_t i = 0; i < 3; ++i) made.add(out.emplace(events, 0U, i));
      sim.yield();
    });
    const auto in = bus.publisher<task>();
    std::uint64_t tasks = 0;
    sim.thread("publisher", [&] {
      for (std::uint32_t i = 0; i < 2; ++i) tasks += in.publish(task{i}).accepted();
    });
    const bool drains = sim.random(2) == 0;
    sim.thread("closer", [&] {
      for (auto pause = sim.random(4); pause > 0; --pause) sim.yield();
      sim.require(relay.close(drains ? close_mode::drain : close_mode::stop_now) == close_status::closed,
                  "a close did not close");
      sim.require(relay_calls == 0, "close returned closed inside a call");
      closed = true;
      const std::uint64_t waiting = sink.ledger().pending;
      sim.require(!drains || waiting == 0, "a drain of the producer did not wait for its outputs");
      parked_at_close += waiting > 0 ? 1 : 0;
    });
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(made.accepted + made.parked == made.matched, "an open target refused an output");
    sim.require(handled == made.matched && sink.ledger().handled == handled, "an output was lost with its producer");
    for (const auto* each : {&sink, &relay}) {
      require_balanced(sim, each->ledger());
      sim.require(each->ledger().quiescent(), "something is left queued at rest");
    }
    sim.require(relay.ledger().handled + relay.ledger().discarded == tasks, "a task has no fate");
    sim.require(!drains || relay.ledger().discarded == 0, "a drain discarded an event");
    sim.require(sink.close() == close_status::closed, "a close at rest did not close");
    sim.require(events.live == 0, "a payload was not released");
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(parked_at_close > 0);
}

TEST_CASE("when two threads stop a target at once, on_drop is told once of each output that was parked") {
  explore(10'000, [](simulation& sim) {
    litter events;
    auto& bus = sim.runtime().bus();
    auto held = sim.gate("the sink");
    std::uint64_t told = 0;
    auto sink = bus.subscribe<tracked>(
        "sink", subscribe_options().capacity(1).on_drop<tracked>([&](const tracked&, drop_reason) noexcept { ++told; }),
        [&, held](const tracked&) { held.wait(); });
    const auto out = bus.publisher<tracked>();
    outputs made;
    auto relay = bus.subscribe<task>("relay", [&](const task&) {
      for (std::uint32_t i = 0; i < 2; ++i) made.add(out.emplace(events, 0U, i));
    });
    for (std::uint32_t i = 0; i < 2; ++i) static_cast<void>(bus.publish(task{i}));
    sim.run_until_idle();
    sim.require(made.parked >= 2 && sink.ledger().pending == 2, "two outputs are not parked at a full target");
    for (int i = 0; i < 2; ++i) sim.thread("stopper", [&] { sink.stop(); });
    sim.run_until_idle();
    const penstock::ledger counted = sink.ledger();
    require_balanced(sim, counted);
    sim.require(counted.pending == 0 && counted.running == 1 && counted.rejected.closed == told,
                "a rejected output was not told to on_drop once");
    sim.require(relay.ledger().handled == 2, "the producer's lane was not woken");
    held.open();
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(sink.close() == close_status::closed && relay.close() == close_status::closed, "a close did not close");
    sim.require(events.live == 0, "a payload was not released");
  });
}
