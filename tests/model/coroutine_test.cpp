// Coroutine handlers, lanes and operations against cancellation, preempted at every atomic operation and lock.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "coverage.hpp"
#include "exec/lane_queue.hpp"
#include "tracked.hpp"

#include <penstock/exec/run.hpp>
#include <penstock/exec/sleep.hpp>
#include <penstock/exec/task.hpp>
#include <penstock/testing/simulation.hpp>

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <stop_token>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using penstock::close_mode;
using penstock::close_status;
using penstock::errc;
using penstock::publish_result;
using penstock::publisher;
using penstock::stream_options;
using penstock::subscribe_options;
using penstock::subscription;
using penstock::task;
using penstock::testing::explore;
using penstock::testing::simulation;
using penstock_test::closure_witness;
using penstock_test::inside_call;
using penstock_test::litter;
using penstock_test::require_balanced;
using penstock_test::tracked;

namespace {

struct numbered {
  std::uint32_t number = 0;
};
struct poke {
  std::uint32_t number = 0;
};

/// One lane made of a lane_queue and nothing else: whoever is told to schedule it starts a thread that runs it.
struct bare_lane {
  explicit bare_lane(simulation& ran_by) : sim(ran_by) { sim.require(queue.rest(), "a new queue does not rest"); }
  struct item : penstock::lane_item {
    bare_lane* all = nullptr;
    int poster = 0;
    int number = 0;
    int ran = 0;
  };
  void put(item& one) {
    if (!queue.put(one)) return;
    ++scheduled;
    sim.thread("lane", [this] { run(); });
  }
  void run() {
    for (;;) {
      sim.require(++running == 1, "the lane runs twice at once");
      for (penstock::lane_item* each = queue.take(); each != nullptr;) {
        penstock::lane_item* one = std::exchange(each, each->next_item);
        one->run_item(*one, penstock::lane_item::turn::run);
      }
      --running;  // from the moment it rests somebody else may run it
      if (queue.rest()) {
        ++rested;
        return;
      }
    }
  }
  simulation& sim;
  penstock::exec::lane_queue queue;
  int running = 0;
  int scheduled = 0;
  int rested = 0;
  std::vector<const item*> order;
};

/// How the tasks of a scenario ended.
struct task_ends {
  int started = 0;
  int ended = 0;
  int cancelled = 0;
  int wrong = 0;
  void start(simulation& sim, task<> work, std::stop_token stop = {}) {
    ++started;
    auto told = [this](penstock::outcome<void>&& came) noexcept {
      ++ended;
      if (came) return;
      try {
        std::rethrow_exception(came.error());
      } catch (const penstock::cancelled&) {
        ++cancelled;
      } catch (...) {
        ++wrong;
      }
    };
    penstock::start_task(sim.runtime().pool("default"), std::move(work), told, std::move(stop));
  }
  void require_all(simulation& sim) const {
    sim.require(started == ended && wrong == 0, "a task did not end once, or by something else");
  }
};

penstock::event_bus& quiet_bus(simulation& sim) {
  penstock::runtime_options options;
  options.on_failure([](const penstock::failure&) {});
  return sim.runtime(std::move(options)).bus();
}

void pause_a_little(simulation& sim) {
  for (auto pause = sim.random(4); pause > 0; --pause) sim.yield();
}

}  // namespace

TEST_CASE("a lane queue runs each item once, in each poster's order, and schedules its lane exactly when it rests") {
  int shared_turns = 0;
  explore(10'000, [&](simulation& sim) {
    bare_lane lane(sim);
    std::array<std::array<bare_lane::item, 3>, 2> items;
    for (std::size_t poster = 0; poster < 2; ++poster) {
      for (std::size_t i = 0; i < 3; ++i) {
        bare_lane::item& each = items[poster][i];
        each.all = &lane;
        each.poster = static_cast<int>(poster);
        each.number = static_cast<int>(i);
        each.run_item = [](penstock::lane_item& self, penstock::lane_item::turn) {
          auto& own = static_cast<bare_lane::item&>(self);
          own.all->sim.require(++own.ran == 1, "an item ran twice");
          own.all->order.push_back(&own);
        };
      }
      sim.thread("poster", [&, poster] {
        for (bare_lane::item& each : items[poster]) lane.put(each);
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(lane.order.size() == 6, "an item was left in the queue of a lane that rests");
    sim.require(lane.scheduled == lane.rested && lane.scheduled >= 1, "the lane was scheduled while it did not rest");
    std::array<int, 2> next{};
    for (const bare_lane::item* each : lane.order)
      sim.require(each->number == next[static_cast<std::size_t>(each->poster)]++, "one poster's items changed places");
    if (lane.scheduled < 6) ++shared_turns;
  });
  if (penstock_test::all_seeds_ran()) CHECK(shared_turns > 0);
}

TEST_CASE("an item that puts itself again is run again, and the lane does not rest over it") {
  explore(10'000, [](simulation& sim) {
    bare_lane lane(sim);
    bare_lane::item again;
    bare_lane::item once;
    again.all = once.all = &lane;
    again.run_item = [](penstock::lane_item& self, penstock::lane_item::turn) {
      auto& own = static_cast<bare_lane::item&>(self);
      if (++own.ran < 3) own.all->put(own);
    };
    once.run_item = [](penstock::lane_item& self, penstock::lane_item::turn) {
      ++static_cast<bare_lane::item&>(self).ran;
    };
    sim.thread("poster", [&] { lane.put(again); });
    sim.thread("other poster", [&] { lane.put(once); });
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(again.ran == 3 && once.ran == 1, "an item was lost, or ran twice");
    sim.require(lane.scheduled == lane.rested, "the lane was scheduled while it did not rest");
  });
}

TEST_CASE("a suspended handler whose waking meets a stop or a close ends once, before the close returns") {
  int cancelled = 0;
  int went_on = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    auto& bus = quiet_bus(sim);
    int calls = 0;
    int here_cancelled = 0;
    std::uint64_t ended = 0;
    bool closed = false;
    bool destroyed = false;
    const bool by_timer = sim.random(2) == 0;
    auto wakes = bus.stream<poke>("wakes");
    closure_witness witness([&destroyed] { destroyed = true; });
    subscription sub = bus.subscribe<tracked>(
        "suspended", subscribe_options().capacity(2), [&, own = std::move(witness)](const tracked& event) -> task<> {
          inside_call here(calls);
          sim.require(calls == 1 && !closed, "two calls overlap, or one began after the close");
          const std::uint32_t index = event.index;
          try {
            if (by_timer) {
              co_await penstock::sleep_for(1ms);
            } else {
              auto woken = co_await wakes.next();
            }
          } catch (const penstock::cancelled&) {
            ++here_cancelled;
            throw;
          }
          sim.require(!closed && !destroyed, "the handler ran after the close had returned");
          sim.require(event.index == index, "the event died under its call");
          ++ended;
        });
    const auto out = bus.publisher<tracked>();
    for (std::uint32_t i = 0; i < 2; ++i) sim.require(out.emplace(events, 0U, i).accepted() == 1, "a seat was refused");
    sim.run_until([&] { return calls == 1; });
    const auto kind = sim.random(4);
    sim.thread("waker", [&] {
      if (by_timer) return;
      pause_a_little(sim);
      static_cast<void>(bus.publish(poke{1}));
      static_cast<void>(bus.publish(poke{2}));
    });
    sim.thread("closer", [&] {
      if (by_timer) sim.sleep_for(1ms);
      pause_a_little(sim);
      if (kind == 0) sub.stop();
      const std::array modes{close_mode::stop_now, close_mode::stop_now, close_mode::cancel, close_mode::drain};
      sim.require(sub.close(modes[kind]) == close_status::closed, "a close did not close");
      closed = true;
      sim.require(destroyed && calls == 0, "a close returned before the call had ended and the closure died");
    });
    sim.run_until_idle();
    sim.require_all_done();
    const penstock::ledger counted = sub.ledger();
    require_balanced(sim, counted);
    sim.require(counted.quiescent() && counted.handled == ended, "the ledger is off: " + to_string(counted));
    sim.require(counted.failed == static_cast<std::uint64_t>(here_cancelled), "a cancelled call did not fail");
    sim.require(kind == 2 || here_cancelled == 0, "a close that cancels nothing cancelled a call");
    sim.require(kind != 3 || ended == 2, "a drain did not handle what was queued");
    ++(here_cancelled > 0 ? cancelled : went_on);
    wakes.close();
    sim.require(events.live == 0, "a payload was not released");
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(cancelled > 0);
  CHECK(went_on > 0);
}

namespace {

task<> publish_one(simulation& sim, publisher<tracked> out, litter& events, std::uint32_t index, int& accepted,
                   int& refused) {
  try {
    const publish_result result = co_await out.async_emplace(events, 0U, index);
    sim.require(result.accepted() == 1 && result.error() == errc::none, "an await that came to nothing did not throw");
    ++accepted;
  } catch (const penstock::cancelled&) {
    ++refused;
    throw;
  }
}

}  // namespace

TEST_CASE("an async_publish whose seat meets its cancellation has one of both, and leaks no seat") {
  int accepted = 0;
  int refused = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    auto& bus = quiet_bus(sim);
    task_ends tasks;
    std::set<std::uint32_t> handled;
    std::array<std::stop_source, 2> stops;
    auto held = sim.gate("the first call");
    auto reader = bus.subscribe<tracked>("reader", subscribe_options().capacity(1), [&](const tracked& event) {
      sim.require(handled.insert(event.index).second, "an event was handled twice");
      held.wait();
    });
    const auto out = bus.publisher<tracked>();
    sim.require(out.emplace(events, 0U, 10U).accepted() == 1, "the first event was not taken");
    sim.run_until_idle();
    sim.require(out.emplace(events, 0U, 11U).accepted() == 1, "a free seat was not given");
    int taken = 0;
    int given_up = 0;
    for (std::uint32_t i = 0; i < 2; ++i)
      tasks.start(sim, publish_one(sim, out, events, i, taken, given_up), stops[i].get_token());
    sim.run_until([&] { return reader.ledger().pending == 2; });
    const std::size_t victim = sim.random(2);  // it stands before or behind the other one
    sim.thread("opener", [&] { held.open(); });
    sim.thread("canceller", [&] { stops[victim].request_stop(); });
    sim.run_until_idle();
    sim.require_all_done();
    tasks.require_all(sim);
    sim.require(taken + given_up == 2 && given_up <= 1, "a publish has no fate, or another one was cancelled");
    sim.require(handled.size() == 2 + static_cast<std::size_t>(taken), "accepted and handled differ");
    const penstock::ledger counted = reader.ledger();
    require_balanced(sim, counted);
    sim.require(counted.rejected.cancelled == static_cast<std::uint64_t>(given_up) && counted.quiescent(),
                "the ledger is off: " + to_string(counted));
    held.close();
    sim.require(out.try_emplace(events, 0U, 20U).accepted() == 1, "an idle subscription refused an event");
    sim.run_until_idle();
    sim.require(out.try_emplace(events, 0U, 21U).accepted() == 1, "a seat was leaked");
    sim.require(out.try_emplace(events, 0U, 22U).rejected() == 1, "one event more than the capacity was taken");
    held.open();
    sim.run_until_idle();
    accepted += taken;
    refused += given_up;
    sim.require(reader.close() == close_status::closed, "a close at rest did not close");
    sim.require(events.live == 0, "a payload was not released");
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(accepted > 0);
  CHECK(refused > 0);
}

TEST_CASE("an async_publish that waits at two channels which decide and are cancelled at once is told once") {
  explore(10'000, [](simulation& sim) {
    litter events;
    auto& bus = quiet_bus(sim);
    task_ends tasks;
    std::stop_source stop;
    std::array<int, 2> handled{};
    auto held = sim.gate("both");
    std::array<subscription, 2> readers;
    for (std::size_t i = 0; i < 2; ++i) {
      readers[i] = bus.subscribe<tracked>("reader", subscribe_options().capacity(1),
                                          [&held, &seen = handled[i]](const tracked&) {
                                            ++seen;
                                            held.wait();
                                          });
    }
    const auto out = bus.publisher<tracked>();
    sim.require(out.emplace(events, 0U, 0U).accepted() == 2, "the first event was not taken");
    sim.run_until_idle();
    sim.require(out.emplace(events, 0U, 1U).accepted() == 2, "a free seat was not given");
    publish_result came;
    int thrown = 0;
    const auto publish_third = [&]() -> task<> {
      try {
        came = co_await out.async_emplace(events, 0U, 2U);
      } catch (const penstock::cancelled&) {
        ++thrown;
      }
    };
    tasks.start(sim, publish_third(), stop.get_token());
    sim.run_until([&] { return readers[0].ledger().pending + readers[1].ledger().pending == 2; });
    const bool stops_one = sim.random(2) == 0;
    sim.thread("opener", [&] { held.open(); });
    sim.thread("canceller", [&] { stop.request_stop(); });
    sim.thread("stopper", [&] {
      if (stops_one) readers[1].stop();
    });
    sim.run_until_idle();
    sim.require_all_done();
    tasks.require_all(sim);
    std::uint64_t third = 0;
    for (const subscription& each : readers) {
      const penstock::ledger counted = each.ledger();
      require_balanced(sim, counted);
      sim.require(counted.quiescent() && counted.offered == 3, "the ledger is off: " + to_string(counted));
      third += counted.accepted - 2;
    }
    sim.require(thrown == 1 ? third == 0 : came.accepted() == third, "the result is not what came of the publish");
    sim.require(thrown == 1 || came.accepted() + came.rejected() == 2, "an offer has no fate");
    for (subscription& each : readers) sim.require(each.close() == close_status::closed, "a close did not close");
    sim.require(events.live == 0, "a payload was not released");
  });
}

TEST_CASE("a coroutine's output that is decided while its call ends wakes the lane once") {
  int parked = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    auto& bus = quiet_bus(sim);
    int calls = 0;
    std::uint64_t made = 0;
    std::vector<std::uint32_t> handled;
    auto sink = bus.subscribe<tracked>("sink", subscribe_options().capacity(1), [&](const tracked& event) {
      sim.yield();
      handled.push_back(event.index);
    });
    const auto out = bus.publisher<tracked>();
    auto relay = bus.subscribe<numbered>("relay", subscribe_options().capacity(4), [&](const numbered& each) -> task<> {
      inside_call here(calls);
      sim.require(calls == 1, "the lane was woken twice: two calls overlap");
      sim.require(sink.ledger().pending == 0, "the lane took an event while an output of it was undecided");
      const auto way = sim.random(3);
      for (std::uint32_t i = 0; i < 2; ++i) {
        const std::uint32_t index = each.number * 2 + i;
        ++made;
        if (way == 0 || (way == 1 && i == 0)) {
          const publish_result result = co_await out.async_emplace(events, 0U, index);
          sim.require(result.accepted() == 1, "an open target refused an output");
        } else {
          const publish_result result = out.emplace(events, 0U, index);
          sim.require(result.accepted() + result.parked() == 1, "an open target refused an output");
          parked += static_cast<int>(result.parked());
        }
      }
      if (sim.random(2) == 0) co_await penstock::yield();
    });
    for (std::uint32_t i = 0; i < 3; ++i) sim.require(bus.publish(numbered{i}).accepted() == 1, "a seat was refused");
    sim.run_until_idle();
    sim.require(penstock_test::nobody_looked(sim), "somebody had to look by himself");
    sim.require(relay.ledger().handled == 3 && made == 6, "the lane was not woken after its outputs had been decided");
    sim.require(handled == std::vector<std::uint32_t>{0, 1, 2, 3, 4, 5}, "outputs of one lane were lost or swapped");
    for (const auto* each : {&sink, &relay}) {
      require_balanced(sim, each->ledger());
      sim.require(each->ledger().quiescent(), "something is left queued at rest");
    }
    sim.require(relay.close() == close_status::closed && sink.close() == close_status::closed, "a close did not close");
    sim.require(events.live == 0, "a payload was not released");
  });
  if (penstock_test::all_seeds_ran()) CHECK(parked > 1000);
}

TEST_CASE("a coroutine in async_publish that is cancelled by its own close has its seat or frees its place in line") {
  int cancelled = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    auto& bus = quiet_bus(sim);
    auto held = sim.gate("the sink");
    std::set<std::uint32_t> handled;
    int taken = 0;
    int given_up = 0;
    auto sink = bus.subscribe<tracked>("sink", subscribe_options().capacity(1), [&](const tracked& event) {
      sim.require(handled.insert(event.index).second, "an event was handled twice");
      held.wait();
    });
    const auto out = bus.publisher<tracked>();
    auto relay = bus.subscribe<numbered>("relay", [&](const numbered& each) -> task<> {
      const std::uint32_t number = each.number;
      try {
        const publish_result result = co_await out.async_emplace(events, 0U, number);
        sim.require(result.accepted() == 1, "an await that came to nothing did not throw");
        ++taken;
      } catch (const penstock::cancelled&) {
        ++given_up;
        throw;
      }
    });
    sim.require(out.emplace(events, 0U, 10U).accepted() == 1, "a seat was refused");
    sim.run_until_idle();
    sim.require(out.emplace(events, 0U, 11U).accepted() == 1, "a seat was refused");
    sim.require(bus.publish(numbered{0}).accepted() == 1, "a seat was refused");
    sim.run_until([&] { return sink.ledger().pending == 1; });
    sim.thread("opener", [&] { held.open(); });
    sim.thread("closer", [&] {
      sim.require(relay.close(close_mode::cancel) == close_status::closed, "a close did not close");
      sim.require(taken + given_up == 1, "a close returned while the call was suspended");
    });
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(handled.count(0) == static_cast<std::size_t>(taken), "accepted and handled differ");
    require_balanced(sim, sink.ledger());
    require_balanced(sim, relay.ledger());
    sim.require(sink.ledger().quiescent() && sink.ledger().rejected.total() == static_cast<std::uint64_t>(given_up),
                "the sink's ledger is off: " + to_string(sink.ledger()));
    sim.require(relay.ledger().quiescent() && relay.ledger().handled == static_cast<std::uint64_t>(taken),
                "the relay's ledger is off: " + to_string(relay.ledger()));
    cancelled += given_up;
    sim.require(sink.close() == close_status::closed, "a close did not close");
    sim.require(events.live == 0, "a payload was not released");
  });
  if (penstock_test::all_seeds_ran()) CHECK(cancelled > 0);
}

namespace {

task<> close_it(simulation& sim, subscription& target, const int& calls, const bool& destroyed, close_mode mode) {
  const close_status status = co_await target.async_close(mode);
  sim.require(status == close_status::closed, "an async_close from a task did not close");
  sim.require(calls == 0 && destroyed, "async_close completed before the last call had ended and the closure died");
}

}  // namespace

TEST_CASE("an async_close that meets the end of the last call, or its own cancellation, is told once and in time") {
  int cancelled = 0;
  explore(10'000, [&](simulation& sim) {
    auto& bus = quiet_bus(sim);
    task_ends tasks;
    std::stop_source stop;
    int calls = 0;
    bool destroyed = false;
    const bool drains = sim.random(2) == 0;
    const bool waits = sim.random(2) == 0;
    closure_witness witness([&destroyed] { destroyed = true; });
    subscription sub = bus.subscribe<numbered>("leaving", [&, own = std::move(witness)](const numbered&) -> task<> {
      inside_call here(calls);
      sim.require(!destroyed, "a call began after the end");
      if (waits) co_await penstock::yield();
    });
    sim.thread("publisher", [&] {
      for (std::uint32_t i = 0; i < 2; ++i) static_cast<void>(bus.publish(numbered{i}));
    });
    pause_a_little(sim);
    const close_mode mode = drains ? close_mode::drain : close_mode::stop_now;
    tasks.start(sim, close_it(sim, sub, calls, destroyed, mode));
    tasks.start(sim, close_it(sim, sub, calls, destroyed, mode), stop.get_token());
    sim.thread("canceller", [&] {
      pause_a_little(sim);
      stop.request_stop();
    });
    sim.run_until_idle();
    sim.require_all_done();
    tasks.require_all(sim);
    sim.require(penstock_test::nobody_looked(sim), "somebody had to look by himself");
    sim.require(destroyed && calls == 0, "the subscription did not end");
    require_balanced(sim, sub.ledger());
    sim.require(sub.ledger().quiescent(), "something is left of a closed subscription");
    sim.require(!drains || sub.ledger().discarded == 0, "a drain discarded an event");
    cancelled += tasks.cancelled;
  });
  if (penstock_test::all_seeds_ran()) CHECK(cancelled > 0);
}

TEST_CASE("two coroutine handlers that async_close each other at the same instant both finish") {
  int both_deadlocked = 0;
  explore(10'000, [&](simulation& sim) {
    auto& bus = quiet_bus(sim);
    std::array<subscription, 2> both;
    std::array<int, 2> begun{};
    std::array<int, 2> ended{};
    std::array<bool, 2> destroyed{};
    int deadlocks = 0;
    const auto make = [&](std::size_t own) {
      closure_witness witness([&gone = destroyed[own]] { gone = true; });
      return bus.subscribe<numbered>(
          "closer", [&, own, kept = std::move(witness)](const numbered&) -> task<> {
            const std::size_t other = 1 - own;
            ++begun[own];
            const close_status status = co_await both[other].async_close();
            sim.require(status == close_status::closed || status == close_status::would_deadlock, to_string(status));
            sim.require(status != close_status::closed || destroyed[other], "closed, and its closure is there");
            deadlocks += status == close_status::would_deadlock;
            ++ended[own];
          });
    };
    both[0] = make(0);
    both[1] = make(1);
    static_cast<void>(bus.publish(numbered{0}));  // the first may have closed the second meanwhile
    sim.run_until_idle();
    sim.require(begun == ended, "a handler waits for ever");
    sim.require(begun[0] + begun[1] >= 1 && deadlocks <= 1, "both were told that they would wait for themselves");
    for (std::size_t i = 0; i < 2; ++i) {
      require_balanced(sim, both[i].ledger());
      sim.require(both[i].ledger().quiescent(), "something is left queued at rest");
      sim.require(destroyed[i] || begun[1 - i] == 0, "a handler that was closed has not ended");
    }
    both_deadlocked += deadlocks;
  });
  if (penstock_test::all_seeds_ran()) CHECK(both_deadlocked > 0);
}
