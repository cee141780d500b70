// What a lane copies ahead of its calls, under preemption at every atomic operation and lock: a copy is no call.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "coverage.hpp"
#include "journal.hpp"
#include "tracked.hpp"

#include <penstock/testing/simulation.hpp>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

using namespace std::chrono_literals;
using penstock::close_mode;
using penstock::close_status;
using penstock::errc;
using penstock::publish_result;
using penstock::runtime_options;
using penstock::subscribe_options;
using penstock::worker_pool;
using penstock::worker_pool_options;
using penstock::testing::explore;
using penstock::testing::explore_options;
using penstock::testing::simulation;
using penstock_test::coverage;
using penstock_test::event_id;
using penstock_test::litter;
using penstock_test::require_balanced;
using penstock_test::require_in_turn;
using penstock_test::run_to_the_end;
using penstock_test::tracked;

namespace {

/// As `tracked`, but in place.
struct small {
  small(litter&, std::uint32_t by, std::uint32_t number) : producer(by), index(number) {}
  std::uint32_t producer;
  std::uint32_t index;
};

explore_options seeds(std::uint64_t count, unsigned preemptions = 5) {
  return explore_options().seeds(count).each(penstock::testing::simulation_options().preemptions(preemptions));
}

template <class Event>
std::vector<Event> span_of(litter& events, std::uint32_t producer, std::uint32_t first, std::size_t count) {
  std::vector<Event> made;
  made.reserve(count);
  for (std::size_t i = 0; i < count; ++i) made.emplace_back(events, producer, first + static_cast<std::uint32_t>(i));
  return made;
}

/// What a subscription was given, and given back.
struct fates {
  std::vector<event_id> handled;
  std::vector<event_id> discarded;
  bool over = false;

  template <class Event>
  void discard(simulation& sim, const Event& event) {
    sim.require(!over, "given back after close had returned closed");
    discarded.emplace_back(event.producer, event.index);
  }
  /// Of each producer the handled are the first, the discarded the next, and none is missing in between.
  void require_whole(simulation& sim) const {
    std::vector<event_id> all = handled;
    all.insert(all.end(), discarded.begin(), discarded.end());
    require_in_turn(sim, all);
  }
};

struct member : fates {
  penstock::subscription sub;

  /// `then`: the rest of a call.
  template <class Event, class Then>
  void join(simulation& sim, const penstock::event_bus& bus, std::size_t capacity, Then then) {
    sub = bus.subscribe<Event>(
        "member",
        subscribe_options().capacity(capacity).on_undelivered<Event>(
            [this, &sim](const Event& event, const penstock::undelivered&) { discard(sim, event); }),
        [this, &sim, then](const Event& event) {
          sim.require(!over, "a call began after its subscription had ended");
          handled.emplace_back(event.producer, event.index);
          then();
        });
  }
  /// At rest: its fates are whole, and what its ledger says.
  void require_accounted(simulation& sim) const {
    require_whole(sim);
    const penstock::ledger counted = sub.ledger();
    require_balanced(sim, counted);
    sim.require(counted.quiescent() && counted.handled == handled.size() && counted.discarded == discarded.size() &&
                    counted.accepted == handled.size() + discarded.size(),
                "the ledger is off: " + penstock::to_string(counted));
  }
  /// Stops it when the others have had up to so many turns.
  void stop_within(simulation& sim, std::uint64_t turns, coverage& left_events) {
    for (std::uint64_t i = sim.random(turns); i > 0; --i) sim.yield();
    sim.require(sub.close(close_mode::stop_now) == close_status::closed, "a close did not close");
    over = true;
    if (!discarded.empty() && !handled.empty()) left_events.count();
  }
};

template <class Event>
void one_seat_for_each_call(simulation& sim, coverage& copied, coverage& raced) {
  litter events;
  {
    const std::size_t capacity = 2 + sim.random(20);
    std::deque<penstock::testing::gate> gates;
    for (std::size_t i = 0; i < 2 * capacity + 2; ++i) gates.push_back(sim.gate("a call"));
    const auto bus = sim.runtime().bus();
    fates seen;
    auto sub = bus.subscribe<Event>("held",
                                    subscribe_options().capacity(capacity).on_undelivered<Event>(
                                        [&](const Event& event, const penstock::undelivered& what) {
                                          seen.discard(sim, event);
                                          sim.require(what.sequence() == event.index + 1, "not its seat's number");
                                        }),
                                    [&](const Event& event, const penstock::call& call) {
                                      sim.require(!seen.over, "a call began after its subscription had ended");
                                      seen.handled.emplace_back(event.producer, event.index);
                                      sim.require(call.sequence() == event.index + 1, "not its seat's number");
                                      gates[event.index].wait();
                                    });
    const auto out = bus.publisher<Event>();
    // A span is found whole: the lane has as many copies as it takes at once, or as there are.
    auto next = static_cast<std::uint32_t>(capacity);
    const auto made = span_of<Event>(events, 0, 0, capacity);
    sim.require(out.try_publish_many(std::span<const Event>(made)).accepted() == capacity, "a free seat was not given");
    sim.run_until_idle();
    const std::size_t calls = sim.random(capacity + 1);
    for (std::uint32_t call = 0; call <= calls; ++call) {
      sim.require(seen.handled.size() == call + 1, "not one call began");
      const penstock::ledger counted = sub.ledger();
      sim.require(counted.running == 1 && counted.queued == capacity - 1,
                  "what was copied has begun: " + penstock::to_string(counted));
      sim.require(out.try_emplace(events, 0U, next).accepted() == 1, "the seat of a call was not free");
      const publish_result more = out.try_emplace(events, 0U, next + 1);
      sim.require(more.accepted() == 0 && more.rejected() == 1, "a seat was free whose call had not begun");
      ++next;
      if (call == calls) break;
      gates[call].open();
      sim.run_until_idle();
    }
    copied.count();
    const bool races = sim.random(2) == 0;
    const std::size_t before = seen.handled.size();
    sim.thread("closer", [&] {
      sim.require(sub.close(close_mode::stop_now) == close_status::closed, "a close did not close");
      seen.over = true;
    });
    if (races) {
      sim.thread("opener", [&] {
        for (const auto& each : gates) each.open();
      });
    } else {
      sim.run_for(10us);
      for (const auto& each : gates) each.open();
    }
    sim.run_until_idle();
    sim.require_all_done();
    if (races && seen.handled.size() > before && !seen.discarded.empty()) raced.count();
    sim.require(races || seen.handled.size() == before, "a copy was handled after the stop");
    sim.require(seen.handled.size() + seen.discarded.size() == next, "an event has no fate, or two");
    seen.require_whole(sim);
    const penstock::ledger counted = sub.ledger();
    require_balanced(sim, counted);
    sim.require(counted.handled == seen.handled.size() && counted.discarded == seen.discarded.size(),
                "the ledger is off: " + penstock::to_string(counted));
  }
  sim.require(events.live == 0, "a payload was not released");
}

template <class Event>
void turns_end_with_copies(simulation& sim, coverage& longer, coverage& stopped) {
  litter events;
  {
    const auto budget = static_cast<unsigned>(1 + sim.random(4));
    const auto bus =
        sim.runtime(runtime_options().pool("default", worker_pool_options().threads(2).budget(budget))).bus();
    constexpr std::uint32_t producers = 2;
    std::deque<member> members(1 + sim.random(2));
    for (member& each : members) {
      each.join<Event>(sim, bus, 1 + sim.random(12), [&sim] {
        if (sim.random(4) == 0) sim.yield();
      });
    }
    const auto out = bus.publisher<Event>();
    const bool stops = sim.random(3) == 0;
    for (std::uint32_t producer = 0; producer < producers; ++producer) {
      sim.thread("publisher", [&, producer] {
        std::uint32_t next = 0;
        for (int i = 0; i < 3; ++i) {
          const std::size_t size = 1 + sim.random(6);
          const auto made = span_of<Event>(events, producer, next, size);
          next += static_cast<std::uint32_t>(size);
          if (size > budget) longer.count();
          const publish_result result = out.publish_many(std::span<const Event>(made));
          sim.require(result.accepted() + result.rejected() == result.matched(), "an offer has no fate, or two");
          sim.require(result.rejected() == 0 || (stops && result.error() == errc::closed), "an open one refused");
        }
      });
    }
    if (stops) sim.thread("closer", [&] { members[0].stop_within(sim, 12, stopped); });
    run_to_the_end(sim);
    for (member& each : members) {
      each.require_accounted(sim);
      sim.require(each.sub.close() == close_status::closed, "a close at rest did not close");
    }
  }
  sim.require(events.live == 0, "a payload was not released");
}

template <class Event>
void long_stretches(simulation& sim, coverage& near, coverage& stopped) {
  litter events;
  {
    // From 34 seats on a lane that is as fast as its publishers falls back.
    const std::size_t capacity = sim.random(4) == 0 ? 32 + sim.random(4) : 34 + sim.random(100);
    const auto bus = sim.runtime().bus();
    std::deque<member> members(1 + sim.random(2));
    for (member& each : members) {
      each.join<Event>(sim, bus, capacity, [&each, &near] {
        if (each.handled.size() % 16 == 0 && each.sub.ledger().queued < 17) near.count();
      });
    }
    const auto out = bus.publisher<Event>();
    const bool stops = sim.random(4) == 0;
    constexpr std::uint32_t producers = 2;
    std::uint32_t published[producers] = {};
    for (std::uint32_t producer = 0; producer < producers; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (int i = 0; i < 3; ++i) {
          const std::size_t size = 1 + sim.random(20);
          const auto made = span_of<Event>(events, producer, published[producer], size);
          published[producer] += static_cast<std::uint32_t>(size);
          const publish_result result = out.publish_many(std::span<const Event>(made));
          sim.require(result.rejected() == 0 || (stops && result.error() == errc::closed), "an open one refused");
          if (sim.random(2) == 0) sim.yield();
        }
      });
    }
    if (stops) sim.thread("closer", [&] { members[0].stop_within(sim, 8, stopped); });
    run_to_the_end(sim);
    for (member& each : members) {
      each.require_accounted(sim);
      if (!stops || &each != &members[0])
        sim.require(each.handled.size() == published[0] + published[1], "an event lies there and its lane sleeps");
      sim.require(each.sub.close() == close_status::closed, "a close at rest did not close");
    }
  }
  sim.require(events.live == 0, "a payload was not released");
}

template <int Lane>
struct of_lane {
  std::uint32_t index;
};

std::shared_ptr<worker_pool> default_pool(simulation& sim) {
  return std::static_pointer_cast<worker_pool>(sim.runtime().pool("default"));
}

// Without preemptions, and with handlers that switch nowhere: who sees a worker busy sees a lane that lets a moment pass.
void looks_of_one_worker(simulation& sim, coverage& looked, coverage& fell_back, coverage& came) {
  const auto bus = sim.runtime(runtime_options().pool("default", worker_pool_options().threads(1))).bus();
  const auto pool = default_pool(sim);
  constexpr std::size_t capacity = 100;
  std::uint32_t published[2] = {};
  std::uint32_t handled[2] = {};
  const auto take = [&](int lane, std::uint32_t index) {
    sim.require(index == handled[lane]++, "an event was lost, came twice, or was overtaken");
  };
  auto first = bus.subscribe<of_lane<0>>("first", subscribe_options().capacity(capacity),
                                         [&](const of_lane<0>& event) { take(0, event.index); });
  auto second = bus.subscribe<of_lane<1>>("second", subscribe_options().capacity(capacity),
                                          [&](const of_lane<1>& event) { take(1, event.index); });
  const auto to_first = bus.publisher<of_lane<0>>();
  const auto to_second = bus.publisher<of_lane<1>>();
  const auto publish = [&](const auto& out, auto event, int lane) {
    std::vector<decltype(event)> made;
    for (std::size_t left = 1 + sim.random(30); left > 0; --left) {
      event.index = published[lane] + static_cast<std::uint32_t>(made.size());
      made.push_back(event);
    }
    published[lane] += static_cast<std::uint32_t>(out.try_publish_many(std::span(std::as_const(made))).accepted());
  };
  sim.thread("publisher", [&] {
    std::uint64_t before = sim.steps();
    for (int i = 0; i < 24; ++i) {
      const penstock::pool_snapshot seen = pool->snapshot();
      if (seen.busy > 0) {
        // Within one step nobody else ran: this look was seen before.
        sim.require(seen.ready == 0 || sim.steps() == before + 1,
                    "a lane waits for more events while another waits for its worker");
        looked.count();
        if (seen.ready == 0 && (handled[0] < published[0] || handled[1] < published[1])) fell_back.count();
      }
      const std::uint64_t which = sim.random(5);
      if (which == 0 || which == 1) publish(to_first, of_lane<0>{}, 0);
      if (which == 0 || which == 2) publish(to_second, of_lane<1>{}, 1);
      if (seen.busy > 0 && seen.ready == 0 && pool->snapshot().ready > 0) came.count();
      before = sim.steps();
      sim.yield();
    }
  });
  sim.run_until_idle();
  sim.require_all_done();
  for (int lane = 0; lane < 2; ++lane)
    sim.require(handled[lane] == published[lane], "an event lies there and its lane sleeps");
}

/// How often something came while a lane let a moment pass. Not counted with preemptions, when nobody can tell.
struct looks_met {
  coverage lingered{"events that came while a lane lingered", 500};
  coverage fell_back{"events that came while a lane let some come", 200};
  coverage stopped{"stops in a look", 100};
  coverage drained{"drains that began in a look", 100};
};

template <class Event>
void comes_in_a_look(simulation& sim, looks_met* met) {
  litter events;
  {
    const std::size_t capacity = 34 + sim.random(100);
    const auto threads = static_cast<unsigned>(1 + sim.random(2));
    const auto bus = sim.runtime(runtime_options().pool("default", worker_pool_options().threads(threads))).bus();
    const auto pool = default_pool(sim);
    struct counted_member : member {
      int calls = 0;
    };
    std::deque<counted_member> members(1 + sim.random(2));
    int calls = 0;
    const bool switches = sim.random(2) == 0;
    for (counted_member& each : members) {
      each.sub = bus.subscribe<Event>(
          "member",
          subscribe_options().capacity(capacity).on_undelivered<Event>(
              [&](const Event& event, const penstock::undelivered&) { each.discard(sim, event); }),
          [&](const Event& event) {
            const penstock_test::inside_call here(each.calls);
            const penstock_test::inside_call there(calls);
            sim.require(each.calls == 1, "a lane is in two places");
            sim.require(!each.over, "a call began after its subscription had ended");
            each.handled.emplace_back(event.producer, event.index);
            if (switches && sim.random(8) == 0) sim.yield();
          });
    }
    const auto out = bus.publisher<Event>();
    const auto look_met = [&](std::uint64_t patience) {
      const auto looking = [&] { return pool->snapshot().busy > static_cast<unsigned>(calls); };
      while (patience-- > 0 && !looking()) sim.yield();
      return looking();
    };
    const bool closes = sim.random(2) == 0;
    const close_mode mode = sim.random(2) == 0 ? close_mode::stop_now : close_mode::drain;
    constexpr std::uint32_t producers = 2;
    std::uint32_t published[producers] = {};
    for (std::uint32_t producer = 0; producer < producers; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (int i = 0; i < 4; ++i) {
          const std::size_t size = sim.random(2) == 0 ? 1 + sim.random(3) : 10 + sim.random(30);
          const auto made = span_of<Event>(events, producer, published[producer], size);
          const bool hit = look_met(sim.random(8));
          if (hit && met != nullptr) {
            const bool all = members[0].handled.size() == published[0] + published[1];
            (all ? met->lingered : met->fell_back).count();
          }
          published[producer] += static_cast<std::uint32_t>(size);
          const publish_result result = out.publish_many(std::span<const Event>(made));
          sim.require(result.rejected() == 0 || (closes && result.error() == errc::closed), "an open one refused");
        }
      });
    }
    if (closes) {
      sim.thread("closer", [&] {
        const bool hit = look_met(sim.random(24));
        if (hit && met != nullptr) (mode == close_mode::drain ? met->drained : met->stopped).count();
        sim.require(members[0].sub.close(mode) == close_status::closed, "a close did not close");
        members[0].over = true;
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(penstock_test::nobody_looked(sim), "somebody had to look by himself: nobody had told him");
    for (member& each : members) {
      each.require_accounted(sim);
      if (!closes || &each != &members[0])
        sim.require(each.handled.size() == published[0] + published[1], "an event lies there and its lane sleeps");
      else
        sim.require(mode == close_mode::stop_now || each.discarded.empty(), "a drain left an event");
      sim.require(each.sub.close() == close_status::closed, "a close at rest did not close");
    }
  }
  sim.require(events.live == 0, "a payload was not released");
}

}  // namespace

TEST_CASE("a seat is free when its call begins, not when its event is copied, and a stop has what was only copied") {
  coverage copied("lanes with copies in hand", 10'000);
  coverage raced("calls that began against the stop, and events that did not", 200);
  static_assert(std::is_trivially_copyable_v<small>);
  explore(seeds(6'000), [&](simulation& sim) { one_seat_for_each_call<small>(sim, copied, raced); });
  explore(seeds(6'000), [&](simulation& sim) { one_seat_for_each_call<tracked>(sim, copied, raced); });
  copied.check();
  raced.check();
}

TEST_CASE("a lane whose turn ends while it has copies reads those events again, each once and in order") {
  coverage longer("spans longer than a turn", 10'000);
  coverage stopped("stops that left events", 200);
  explore(seeds(6'000), [&](simulation& sim) { turns_end_with_copies<small>(sim, longer, stopped); });
  explore(seeds(6'000), [&](simulation& sim) { turns_end_with_copies<tracked>(sim, longer, stopped); });
  longer.check();
  stopped.check();
}

TEST_CASE("a lane that has long had no gap and lets events come loses no wake-up, and waits for nobody") {
  coverage near("long stretches with few events behind them", 2'000);
  coverage stopped("stops that left events", 50);
  explore(seeds(3'000), [&](simulation& sim) { long_stretches<small>(sim, near, stopped); });
  explore(seeds(3'000), [&](simulation& sim) { long_stretches<tracked>(sim, near, stopped); });
  near.check();
  stopped.check();
}

TEST_CASE("a lane waits for no more events while another lane of its pool has work") {
  coverage looked("looks", 5'000);
  coverage fell_back("lanes that let events come", 500);
  coverage came("lanes that became ready in a look", 500);
  explore(seeds(10'000, 0), [&](simulation& sim) { looks_of_one_worker(sim, looked, fell_back, came); });
  looked.check();
  fell_back.check();
  came.check();
}

TEST_CASE("events and a close that come while a lane waits for more are met, each once and in order") {
  looks_met met;
  explore(seeds(3'000, 0), [&](simulation& sim) { comes_in_a_look<small>(sim, &met); });
  explore(seeds(3'000, 0), [&](simulation& sim) { comes_in_a_look<tracked>(sim, &met); });
  explore(seeds(5'000), [&](simulation& sim) { comes_in_a_look<small>(sim, nullptr); });
  explore(seeds(5'000), [&](simulation& sim) { comes_in_a_look<tracked>(sim, nullptr); });
  for (const coverage* each : {&met.lingered, &met.fell_back, &met.stopped, &met.drained}) each->check();
}
