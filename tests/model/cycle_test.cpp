// Handlers that wait for each other at the same instant, under preemption at every atomic operation and lock.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "coverage.hpp"
#include "tracked.hpp"

#include <penstock/exec/task.hpp>
#include <penstock/testing/simulation.hpp>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

using namespace std::chrono_literals;
using penstock::close_status;
using penstock::drop_reason;
using penstock::errc;
using penstock::publish_result;
using penstock::subscribe_options;
using penstock::subscription;
using penstock::task;
using penstock::testing::explore;
using penstock::testing::simulation;
using penstock_test::require_balanced;

namespace {

template <int Place>
struct token {
  std::uint32_t hops = 0;
};

/// What the handlers of a cycle made, and what came of it.
struct cycle_log {
  std::uint64_t made = 0;
  std::uint64_t parked = 0;
  std::uint64_t refused = 0;  ///< in results
  std::uint64_t dropped = 0;  ///< told to on_drop
  std::uint64_t told = 0;     ///< told to on_failure
  std::uint64_t calls = 0;
  bool may_close = false;
  void book(simulation& sim, const publish_result& result) {
    ++made;
    parked += result.parked();
    refused += result.rejected();
    sim.require(result.matched() == result.accepted() + result.parked() + result.rejected() &&
                    (result.matched() == 1 || may_close),
                "an output has no fate, or two");
    const bool named = result.error() == errc::backpressure_cycle || (may_close && result.error() == errc::closed);
    sim.require(result.rejected() == 0 || named, "refused for another reason than a cycle");
  }
};

penstock::event_bus& bus_that_counts(simulation& sim, cycle_log& log) {
  penstock::runtime_options options;
  options.on_failure([&log](const penstock::failure&) { ++log.told; });
  return sim.runtime(std::move(options)).bus();
}

template <int Place>
subscribe_options narrow(cycle_log& log) {
  subscribe_options options;
  options.capacity(1).template on_drop<token<Place>>([&log](const token<Place>&, drop_reason reason) noexcept {
    if (reason == drop_reason::cycle) ++log.dropped;
  });
  return options;
}

/// Sends each event on to the next place `copies` times.
template <int Place, int Next>
subscription plain_stage(simulation& sim, penstock::event_bus& bus, cycle_log& log, unsigned copies) {
  return bus.subscribe<token<Place>>("stage", narrow<Place>(log), [&sim, &bus, &log, copies](const token<Place>& each) {
    ++log.calls;
    if (each.hops == 0) return;
    const auto out = bus.publisher<token<Next>>();
    for (unsigned i = 0; i < copies; ++i) log.book(sim, out.emplace(each.hops - 1));
  });
}

template <int Place, int Next>
subscription waiting_stage(simulation& sim, penstock::event_bus& bus, cycle_log& log, unsigned copies) {
  return bus.subscribe<token<Place>>(
      "stage", narrow<Place>(log), [&sim, &bus, &log, copies](const token<Place>& each) -> task<> {
        ++log.calls;
        if (each.hops == 0) co_return;
        const auto out = bus.publisher<token<Next>>();
        for (unsigned i = 0; i < copies; ++i) {
          const publish_result result = co_await out.async_emplace(each.hops - 1);
          log.book(sim, result);
        }
      });
}

void require_all_accounted(simulation& sim, const cycle_log& log, std::uint64_t fed,
                           std::initializer_list<const subscription*> all) {
  sim.require_all_done();
  sim.require(penstock_test::nobody_looked(sim), "somebody had to look by himself");
  std::uint64_t cycles = 0;
  std::uint64_t handled = 0;
  for (const subscription* each : all) {
    const penstock::ledger counted = each->ledger();
    require_balanced(sim, counted);
    sim.require(counted.quiescent(), "a deadlock: " + to_string(counted));
    cycles += counted.rejected.cycle;
    handled += counted.handled;
  }
  sim.require(cycles == log.refused && cycles == log.dropped && cycles == log.told, "a refusal was not told once");
  sim.require(handled == log.calls && handled + cycles == log.made + fed, "an event has no fate");
}

}  // namespace

TEST_CASE("two handlers that park into each other at the same instant: at most one is refused, none waits for ever") {
  std::uint64_t parked = 0;
  std::uint64_t refused = 0;
  explore(10'000, [&](simulation& sim) {
    cycle_log log;
    auto& bus = bus_that_counts(sim, log);
    auto left = plain_stage<0, 1>(sim, bus, log, 1);
    auto right = plain_stage<1, 0>(sim, bus, log, 1);
    // Each has one event in its call and one in its seat; the two outputs of one hop meet full channels.
    sim.thread("feeds left", [&] {
      sim.require(bus.publish(token<0>{1}).accepted() == 1, "a thread was refused");
      sim.require(bus.publish(token<0>{0}).accepted() == 1, "a thread was refused");
    });
    sim.thread("feeds right", [&] {
      sim.require(bus.publish(token<1>{1}).accepted() == 1, "a thread was refused");
      sim.require(bus.publish(token<1>{0}).accepted() == 1, "a thread was refused");
    });
    sim.run_until_idle();
    require_all_accounted(sim, log, 4, {&left, &right});
    sim.require(log.refused <= 1, "both were refused: one of them could have waited");
    parked += log.parked;
    refused += log.refused;
    sim.require(left.close() == close_status::closed && right.close() == close_status::closed, "a close did not close");
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(parked > 0);
  CHECK(refused > 0);
}

TEST_CASE("two coroutine handlers that await each other's seats: at most one is refused, and none waits for ever") {
  std::uint64_t refused = 0;
  explore(10'000, [&](simulation& sim) {
    cycle_log log;
    auto& bus = bus_that_counts(sim, log);
    auto left = waiting_stage<0, 1>(sim, bus, log, 1);
    auto right = sim.random(2) == 0 ? waiting_stage<1, 0>(sim, bus, log, 1) : plain_stage<1, 0>(sim, bus, log, 1);
    sim.thread("feeds left", [&] {
      sim.require(bus.publish(token<0>{1}).accepted() == 1, "a thread was refused");
      sim.require(bus.publish(token<0>{0}).accepted() == 1, "a thread was refused");
    });
    sim.thread("feeds right", [&] {
      sim.require(bus.publish(token<1>{1}).accepted() == 1, "a thread was refused");
      sim.require(bus.publish(token<1>{0}).accepted() == 1, "a thread was refused");
    });
    sim.run_until_idle();
    require_all_accounted(sim, log, 4, {&left, &right});
    sim.require(log.refused <= 1, "both were refused: one of them could have waited");
    refused += log.refused;
    sim.require(left.close() == close_status::closed && right.close() == close_status::closed, "a close did not close");
  });
  if (penstock_test::all_seeds_ran()) CHECK(refused > 0);
}

TEST_CASE("a ring of three whose handlers each send two events never hangs, and accounts for everything") {
  std::uint64_t refused = 0;
  explore(10'000, [&](simulation& sim) {
    cycle_log log;
    auto& bus = bus_that_counts(sim, log);
    auto one = plain_stage<0, 1>(sim, bus, log, 2);
    auto two = waiting_stage<1, 2>(sim, bus, log, 2);
    auto three = plain_stage<2, 0>(sim, bus, log, 1);
    sim.thread("feeds one", [&] { static_cast<void>(bus.publish(token<0>{3})); });
    sim.thread("feeds two", [&] { static_cast<void>(bus.publish(token<1>{3})); });
    sim.run_until_idle();
    require_all_accounted(sim, log, 2, {&one, &two, &three});
    refused += log.refused;
  });
  if (penstock_test::all_seeds_ran()) CHECK(refused > 0);
}

TEST_CASE("a cycle whose one member stops at the instant of the park leaves nobody waiting") {
  explore(10'000, [](simulation& sim) {
    cycle_log log;
    log.may_close = true;
    auto& bus = bus_that_counts(sim, log);
    auto left = plain_stage<0, 1>(sim, bus, log, 2);
    auto right = waiting_stage<1, 0>(sim, bus, log, 2);
    sim.thread("feeds left", [&] {
      for (int i = 0; i < 2; ++i) sim.require(bus.publish(token<0>{2}).accepted() == 1, "a thread was refused");
    });
    sim.thread("feeds right", [&] { static_cast<void>(bus.publish(token<1>{2})); });
    sim.thread("stopper", [&] {
      for (auto pause = sim.random(4); pause > 0; --pause) sim.yield();
      sim.require(right.close() == close_status::closed, "a close did not close");
    });
    sim.run_until_idle();
    sim.require_all_done();
    for (const subscription* each : {&left, &right}) {
      require_balanced(sim, each->ledger());
      sim.require(each->ledger().quiescent(), "a deadlock: " + to_string(each->ledger()));
    }
    sim.require(left.ledger().handled == left.ledger().accepted, "an event of the other one was lost");
    const std::uint64_t cycles = left.ledger().rejected.cycle + right.ledger().rejected.cycle;
    sim.require(cycles == log.dropped, "a refused cycle was not told to on_drop once");
    sim.require(left.close() == close_status::closed, "a close did not close");
  });
}
