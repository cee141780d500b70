// Readers of a stream against events, cancellation and close, under preemption at every atomic operation and lock.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "coverage.hpp"
#include "tracked.hpp"

#include <penstock/exec/run.hpp>
#include <penstock/exec/task.hpp>
#include <penstock/testing/simulation.hpp>

#include <cstdint>
#include <map>
#include <stop_token>
#include <utility>

using namespace std::chrono_literals;
using penstock::close_mode;
using penstock::errc;
using penstock::stream_options;
using penstock::task;
using penstock::testing::explore;
using penstock::testing::simulation;
using penstock_test::litter;
using penstock_test::require_balanced;
using penstock_test::tracked;

namespace {

/// How often each event came, and how the tasks that read ended.
struct reading {
  std::map<std::uint32_t, int> came;
  std::uint64_t taken = 0;
  std::uint64_t requeued = 0;
  int ended = 0;
  int cancelled = 0;
  int wrong = 0;
  int left_by_pool = 0;
};

void take(simulation& sim, penstock::delivery<tracked>& one, reading& log) {
  sim.require(++log.came[one->index] == 1, "an event was delivered twice");
  ++log.taken;
  one.done();
}

task<> read_in_a_task(simulation& sim, penstock::stream<tracked>& in, reading& log) {
  for (;;) {
    auto one = co_await in.next();
    if (!one) co_return;
    take(sim, one, log);
  }
}

void start(simulation& sim, task<> work, reading& log, std::stop_token stop) {
  auto told = [&log](penstock::outcome<void>&& came) noexcept {
    ++log.ended;
    if (came) return;
    try {
      std::rethrow_exception(came.error());
    } catch (const penstock::cancelled&) {
      ++log.cancelled;
    } catch (...) {
      ++log.wrong;
    }
  };
  penstock::start_task(sim.runtime().pool("default"), std::move(work), told, std::move(stop));
}

void publish(simulation& sim, penstock::event_bus& bus, litter& events, std::uint32_t first, std::uint32_t count,
             std::uint64_t& accepted) {
  const auto out = bus.publisher<tracked>();
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto result = out.emplace(events, 0U, first + i);
    sim.require(result.matched() == result.accepted() + result.rejected(), "a publish has no fate, or two");
    sim.require(result.rejected() == 0 || result.error() == errc::closed, "an open stream refused an event");
    accepted += result.accepted();
  }
}

}  // namespace

TEST_CASE("a thread's receive that is cancelled while an event comes has the event or leaves it for the next") {
  int won = 0;
  int lost = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    auto& bus = sim.runtime().bus();
    reading log;
    std::uint64_t accepted = 0;
    std::stop_source stop;
    auto in = bus.stream<tracked>("read", stream_options().capacity(2));
    sim.thread("reader", [&] {
      auto one = in.receive(stop.get_token());
      sim.require(one || stop.stop_requested(), "a receive came back empty for no reason");
      if (one) take(sim, one, log);
    });
    sim.thread("publisher", [&] { publish(sim, bus, events, 0, 2, accepted); });
    sim.thread("canceller", [&] { stop.request_stop(); });
    sim.run_until_idle();
    sim.require_all_done();
    ++(log.taken == 1 ? won : lost);
    sim.require(accepted == 2 && in.ledger().queued == 2 - log.taken, "an event was lost by a cancelled reader");
    require_balanced(sim, in.ledger());
    while (auto one = in.try_receive()) take(sim, one, log);
    sim.require(log.taken == 2 && in.ledger().handled == 2 && in.ledger().quiescent(), "an event was lost");
    in.close();
    sim.require(events.live == 0, "a payload was not released");
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(won > 0);
  CHECK(lost > 0);
}

TEST_CASE("a task's receive that is cancelled while an event comes has the event or leaves it for the next") {
  int cancelled = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    auto& bus = sim.runtime().bus();
    reading log;
    std::uint64_t accepted = 0;
    std::stop_source stop;
    auto in = bus.stream<tracked>("read", stream_options().capacity(2));
    start(sim, read_in_a_task(sim, in, log), log, stop.get_token());
    sim.thread("publisher", [&] { publish(sim, bus, events, 0, 2, accepted); });
    sim.thread("canceller", [&] {
      for (auto pause = sim.random(4); pause > 0; --pause) sim.yield();
      stop.request_stop();
    });
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(log.ended == 1 && log.wrong == 0, "the task did not end, or by something else");
    sim.require(accepted == 2 && in.ledger().queued == 2 - log.taken, "an event was lost by a cancelled reader");
    require_balanced(sim, in.ledger());
    while (auto one = in.try_receive()) take(sim, one, log);
    sim.require(log.taken == 2 && in.ledger().handled == 2 && in.ledger().quiescent(), "an event was lost");
    cancelled += log.cancelled;
    in.close();
    sim.require(events.live == 0, "a payload was not released");
  });
  if (penstock_test::all_seeds_ran()) CHECK(cancelled > 0);
}

TEST_CASE("a reader that is cancelled strands neither the other reader nor an event") {
  explore(10'000, [](simulation& sim) {
    litter events;
    auto& bus = sim.runtime().bus();
    reading log;
    std::uint64_t accepted = 0;
    std::stop_source stop;
    auto in = bus.stream<tracked>("read", stream_options().capacity(1));
    start(sim, read_in_a_task(sim, in, log), log, stop.get_token());
    sim.thread("reader", [&] {
      while (auto one = in.receive()) take(sim, one, log);
    });
    sim.thread("publisher", [&] { publish(sim, bus, events, 0, 3, accepted); });
    sim.thread("canceller", [&] { stop.request_stop(); });
    sim.run_until([&] { return log.taken == 3; });
    sim.require(log.taken == 3 && penstock_test::nobody_looked(sim), "an event lies there while a reader waits");
    in.close();
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(accepted == 3, "an open stream refused an event");
    sim.require(log.ended == 1 && log.wrong == 0, "the task did not end, or by something else");
    require_balanced(sim, in.ledger());
    sim.require(in.ledger().handled == 3 && in.ledger().quiescent(), "an event was lost");
    sim.require(events.live == 0, "a payload was not released");
  });
}

TEST_CASE("readers and a close: every reader comes back, and each event is read or discarded once") {
  int discarded = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    auto& bus = sim.runtime().bus();
    reading log;
    std::uint64_t accepted = 0;
    const bool drains = sim.random(2) == 0;
    auto in = bus.stream<tracked>("read", stream_options().capacity(1 + sim.random(2)));
    start(sim, read_in_a_task(sim, in, log), log, {});
    sim.thread("reader", [&] {
      while (auto one = in.receive()) take(sim, one, log);
    });
    sim.thread("publisher", [&] { publish(sim, bus, events, 0, 3, accepted); });
    sim.thread("closer", [&] {
      for (auto pause = sim.random(4); pause > 0; --pause) sim.yield();
      in.close(drains ? close_mode::drain : close_mode::stop_now);
    });
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(log.ended == 1 && log.wrong == 0 && log.cancelled == 0, "a reader was not told of the close");
    const penstock::ledger counted = in.ledger();
    require_balanced(sim, counted);
    sim.require(counted.quiescent() && counted.accepted == accepted, "the ledger is off: " + to_string(counted));
    sim.require(counted.handled == log.taken, "a delivery was not counted once: " + to_string(counted));
    sim.require(counted.handled + counted.discarded == accepted, "an event has no fate: " + to_string(counted));
    sim.require(!drains || counted.discarded == 0, "a drain discarded an event");
    sim.require(penstock_test::nobody_looked(sim), "somebody had to look by himself");
    discarded += static_cast<int>(counted.discarded);
    sim.require(events.live == 0, "a payload was not released");
  });
  if (penstock_test::all_seeds_ran()) CHECK(discarded > 0);
}

TEST_CASE("a requeue that meets a close: the event is delivered again, or discarded or failed, and released once") {
  int discarded = 0;
  int again = 0;
  explore(10'000, [&](simulation& sim) {
    litter events;
    penstock::runtime_options options;
    options.on_failure([](const penstock::failure&) {});
    auto& bus = sim.runtime(std::move(options)).bus();
    std::uint64_t accepted = 0;
    std::uint64_t handled = 0;
    const bool drains = sim.random(2) == 0;
    auto in = bus.stream<tracked>("read", stream_options().capacity(2));
    publish(sim, bus, events, 0, 2, accepted);
    auto first = in.try_receive();
    sim.require(first && first->index == 0, "the oldest event does not come first");
    sim.thread("requeuer", [&] { sim.require(first.requeue() == errc::none && !first, "it was not taken back"); });
    sim.thread("reader", [&] {
      while (auto one = in.receive()) {
        sim.require(one.attempt() == (one->index == 0 ? 2U : 1U), "attempts are miscounted");
        if (one->index == 0) ++again;
        ++handled;
      }
    });
    sim.thread("closer", [&] { in.close(drains ? close_mode::drain : close_mode::stop_now); });
    sim.run_until_idle();
    sim.require_all_done();
    const penstock::ledger counted = in.ledger();
    require_balanced(sim, counted);
    sim.require(counted.quiescent() && counted.handled == handled, "the ledger is off: " + to_string(counted));
    sim.require(counted.handled + counted.discarded + counted.failed == 2, "an event has no fate, or two");
    sim.require(drains ? counted.discarded == 0 : counted.failed == 0, "the wrong fate: " + to_string(counted));
    discarded += static_cast<int>(counted.discarded);
    sim.require(events.live == 0, "a payload was not released");
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(discarded > 0);
  CHECK(again > 0);
}

TEST_CASE("who waits for idle is told when a delivery is given back to a stream that is being closed") {
  explore(10'000, [](simulation& sim) {
    litter events;
    auto& bus = sim.runtime().bus();
    std::uint64_t accepted = 0;
    auto in = bus.stream<tracked>("read", stream_options().capacity(2));
    publish(sim, bus, events, 0, 1, accepted);
    auto one = in.try_receive();
    bool idle = false;
    sim.thread("waits for idle", [&] { idle = bus.wait_idle(1h); });
    sim.thread("requeuer", [&] { sim.require(one.requeue() == errc::none && !one, "it was not taken back"); });
    sim.thread("closer", [&] { in.close(); });
    sim.run_until_idle();
    sim.require_all_done();
    require_balanced(sim, in.ledger());
    sim.require(in.ledger().discarded == 1 && in.ledger().quiescent(), "the ledger is off: " + to_string(in.ledger()));
    sim.require(idle && sim.elapsed() < 1s, "somebody was not told that the stream is at rest");
    sim.require(events.live == 0, "a payload was not released");
  });
}

TEST_CASE("max_in_flight holds with readers that settle at the same instant, and nobody is left waiting") {
  explore(10'000, [](simulation& sim) {
    litter events;
    auto& bus = sim.runtime().bus();
    std::uint64_t accepted = 0;
    std::uint64_t taken = 0;
    std::size_t held = 0;
    const std::size_t most = 1 + sim.random(2);
    auto in = bus.stream<tracked>("read", stream_options().capacity(1).max_in_flight(most));
    for (int reader = 0; reader < 3; ++reader) {
      sim.thread("reader", [&] {
        while (auto one = in.receive()) {
          sim.require(++held <= most, "more deliveries at once than allowed");
          sim.yield();
          ++taken;
          --held;
        }
      });
    }
    sim.thread("publisher", [&] { publish(sim, bus, events, 0, 4, accepted); });
    sim.run_until([&] { return taken == 4; });
    sim.require(taken == 4 && penstock_test::nobody_looked(sim), "an event lies there while a reader waits");
    in.close(sim.random(2) == 0 ? close_mode::drain : close_mode::stop_now);
    sim.run_until_idle();
    sim.require_all_done();
    require_balanced(sim, in.ledger());
    sim.require(in.ledger().handled == 4 && in.ledger().quiescent(), "an event was lost");
    sim.require(events.live == 0, "a payload was not released");
  });
}
