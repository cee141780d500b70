// The end of a runtime under ten thousand schedules each: in its time, every ledger balanced, every unfinished one named.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "schedules.hpp"

#include <penstock/exec/sleep.hpp>
#include <penstock/exec/task.hpp>
#include <penstock/testing/simulation.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using penstock::close_mode;
using penstock::errc;
using penstock::failure_policy;
using penstock::ledger;
using penstock::publish_result;
using penstock::retry_policy;
using penstock::runtime_options;
using penstock::shutdown_report;
using penstock::spawn_options;
using penstock::stream_options;
using penstock::subscribe_options;
using penstock::subscription;
using penstock::task;
using penstock::task_handle;
using penstock::task_status;
using penstock::testing::simulation;
using penstock_test::dawdle;
using penstock_test::in_all_schedules;

namespace {

/// Workers that are in no call have this to end, when the budget is spent or the end is forced.
constexpr std::chrono::milliseconds moment{20};

struct raw {
  int number = 0;
};
struct cut {
  int number = 0;
};

void let_go_on(simulation& sim, std::uint64_t most) {
  for (auto steps = sim.random(most); steps != 0 && sim.step(); --steps) {
  }
}
std::chrono::milliseconds some_ms(simulation& sim, std::uint64_t most) {
  return std::chrono::milliseconds(static_cast<std::chrono::milliseconds::rep>(sim.random(most + 1)));
}

runtime_options quiet() {
  runtime_options made;
  made.on_failure([](const penstock::failure&) {}).on_escalate([](const penstock::failure&) {});
  return made;
}

/// The tests' own account of one topic's offers and of who began what.
struct books {
  std::uint64_t matched = 0;
  std::uint64_t accepted = 0;
  std::map<int, int> times;  // by number: how often it was begun
  errc operator()(simulation& sim, const publish_result& result) {
    sim.require(result.matched() == result.accepted() + result.parked() + result.dropped() + result.rejected(),
                "the counts of one publish do not add up: " + to_string(result));
    matched += result.matched();
    accepted += result.accepted() + result.parked();
    return result.error();
  }
};

/// Until the token is asked.
void wait_for_stop(simulation& sim, const std::stop_token& stop) {
  auto asked = sim.gate("asked to stop");
  std::stop_callback wake(stop, [asked] { asked.open(); });
  asked.wait();
}

task<void> sleeps_for_hours() { co_await penstock::sleep_for(24h); }

/// Until it is stopped, and then holds its worker for so long.
task<void> takes_time_to_end(simulation& sim, int& begun, std::chrono::milliseconds needs) {
  ++begun;
  try {
    co_await penstock::sleep_for(24h);
  } catch (const penstock::cancelled&) {
    sim.sleep_for(needs);
    throw;
  }
}

/// One shutdown by the scenario itself, and what holds of every one: its time, its ledgers, and the names of what is left.
shutdown_report end_of(simulation& sim, penstock::runtime& rt, std::chrono::milliseconds budget) {
  const auto began = sim.elapsed();
  shutdown_report report = rt.shutdown(budget);
  sim.require(sim.elapsed() - began <= budget + moment, "later than its budget: " + to_string(report));
  std::set<std::string> named;
  for (const auto& each : report.stuck) {
    named.insert(each.subscription);
    sim.require(each.at_least <= report.elapsed, "an age beyond the whole shutdown: " + to_string(report));
    sim.require(!each.file.empty() && each.line > 0, "no place: " + to_string(report));
  }
  for (const auto& each : report.subscriptions) {
    sim.require(each.ledger.balanced(), "not balanced: " + to_string(report));
    sim.require(each.ledger.queued == 0 && each.ledger.pending == 0, "something waits still: " + to_string(report));
    sim.require(each.ledger.running == 0 || named.count(each.name) == 1, "it runs and is not named: " + to_string(report));
  }
  sim.require(report.tasks.counts.balanced(), to_string(report));
  sim.require(report.tasks.counts.running <= report.tasks.left(), "a task is left and not named: " + to_string(report));
  sim.require(rt.shutdown(1h).elapsed == report.elapsed, "the second one differs");
  sim.require(rt.bus().publish(raw{}).error() == errc::closed, "open after its end");
  return report;
}

void require_at_rest(simulation& sim, const books& offers, std::initializer_list<ledger> ledgers) {
  std::uint64_t offered = 0;
  std::uint64_t accepted = 0;
  for (const ledger& each : ledgers) {
    sim.require(each.balanced() && each.quiescent(), to_string(each));
    offered += each.offered;
    accepted += each.accepted;
  }
  sim.require(offered == offers.matched, "offered " + std::to_string(offered) + ", matched " + std::to_string(offers.matched));
  sim.require(accepted >= offers.accepted || ledgers.size() > 1, "an accepted event is gone");
}
void require_once(simulation& sim, const books& offers, const ledger& end) {
  for (const auto& [number, times] : offers.times)
    sim.require(times == 1, "event " + std::to_string(number) + " was begun " + std::to_string(times) + " times");
  sim.require(offers.times.size() == end.handled + end.failed + end.running, "begun and ended differ: " + to_string(end));
}

}  // namespace

TEST_CASE("an idle runtime with idle tasks ends at once, in no time") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime(quiet());
    auto sub = rt.bus().subscribe<raw>("idle", [](const raw&) {});
    auto in = rt.bus().stream<cut>("nobody reads");
    auto first = rt.tasks().spawn("first", [&](const std::stop_token& stop) { wait_for_stop(sim, stop); });
    auto sleeper = rt.tasks().spawn("sleeper", sleeps_for_hours);
    auto kept = rt.tasks().spawn("kept", spawn_options().keep_until_drained(),
                                 [&](const std::stop_token& stop) { wait_for_stop(sim, stop); });
    auto ticker = rt.tasks().every("ticker", 1h, [] {});
    let_go_on(sim, 16);
    const auto report = end_of(sim, rt, 5s);
    sim.require(report.clean() && report.elapsed == 0s, to_string(report));
    for (const auto& each : {first, sleeper, kept, ticker}) sim.require(each.done(), each.name());
    sim.run_until_idle();
    sim.require_all_done();
  });
}

TEST_CASE("what was taken before a shutdown of a busy bus is handled once, and what is refused is told so") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime(quiet());
    auto bus = rt.bus();
    books offers;
    auto sub = bus.subscribe<raw>("busy", subscribe_options().capacity(1 + sim.random(3)).concurrency(1 + sim.random(2)),
                                  [&](const raw& each) {
                                    ++offers.times[each.number];
                                    dawdle(sim);
                                  });
    std::uint64_t taken = 0;
    for (int producer = 0; producer < 3; ++producer)
      sim.thread("publisher", [&, producer] {
        for (int number = 0; number < 4; ++number) {
          const auto result = bus.publish(raw{producer * 10 + number});
          const errc error = offers(sim, result);
          sim.require(error == errc::none || error == errc::closed);
          taken += result.accepted();
        }
      });
    let_go_on(sim, 40);
    const auto report = end_of(sim, rt, 5s);
    sim.require(report.clean() && sim.elapsed() == 0s, to_string(report));
    sim.run_until_idle();
    sim.require_all_done();
    require_at_rest(sim, offers, {sub.ledger()});
    require_once(sim, offers, sub.ledger());
    sim.require(sub.ledger().handled == taken, "taken and handled differ");
  });
}

TEST_CASE("a shutdown with stuck, throwing and obedient handlers names the stuck ones and no other") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime(quiet());
    auto bus = rt.bus();
    books offers;
    auto gate = sim.gate("stuck");
    auto stuck = bus.subscribe<raw>("stuck", subscribe_options().capacity(4), [gate](const raw&) { gate.wait(); });
    auto brittle = bus.subscribe<raw>("brittle", subscribe_options().capacity(4), [&](const raw& each) {
      dawdle(sim);
      throw each.number;
    });
    auto obedient = bus.subscribe<raw>("obedient", subscribe_options().capacity(4),
                                       [&](const raw&, const penstock::call& info) { wait_for_stop(sim, info.stop_token()); });
    for (int number = 0; number < 3; ++number) offers(sim, bus.publish(raw{number}));
    const bool up = sim.run_until([&] { return gate.waiting() == 1; });
    sim.require(up, "the stuck one has not begun");
    let_go_on(sim, 20);
    const auto report = end_of(sim, rt, 1s);
    sim.require(!report.clean() && !report.drained, to_string(report));
    sim.require(report.stuck.size() == 1 && report.stuck[0].subscription == "stuck", to_string(report));
    sim.require(report.stuck[0].at_least == 1s && report.stuck[0].sequence == 1, to_string(report));
    sim.require(report.abandoned_workers == 1, to_string(report));
    gate.open();
    sim.run_until_idle();
    sim.require_all_done();
    require_at_rest(sim, offers, {stuck.ledger(), brittle.ledger(), obedient.ledger()});
    sim.require(stuck.ledger().handled == 1 && brittle.ledger().failed == 3, "done twice or lost");
  });
}

TEST_CASE("the age of a stuck call that began after the shutdown did is its own") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime(quiet());
    auto bus = rt.bus();
    auto gate = sim.gate("stuck");
    std::chrono::nanoseconds call_began{};
    auto stuck = bus.subscribe<raw>("stuck", [&, gate](const raw&) {
      call_began = sim.elapsed();
      gate.wait();
    });
    // It ignores the request until the last moment of its share, and publishes then.
    const auto late = some_ms(sim, 290);
    rt.tasks().spawn("feed", [&, late](const std::stop_token& stop) {
      wait_for_stop(sim, stop);
      sim.sleep_for(late);
      (void)bus.publish(raw{1});
    });
    sim.run_until_idle();
    const auto report = end_of(sim, rt, 1s);
    sim.require(report.stuck.size() == 1, to_string(report));
    sim.require(report.stuck[0].at_least <= sim.elapsed() - call_began, "older than it is: " + to_string(report));
    gate.open();
    sim.run_until_idle();
    sim.require_all_done();
  });
}

TEST_CASE("what a shutdown or a stop at any instant discards is given to whoever asks, once, and nothing else is") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime(quiet());
    auto bus = rt.bus();
    books raws, cuts;
    std::map<int, int> given_raws, given_cuts;
    const auto pause = some_ms(sim, 10);
    const bool stuck = sim.random(3) == 0;
    auto never = sim.gate("stuck");
    subscribe_options asks;
    asks.capacity(1 + sim.random(4)).on_undelivered<raw>([&](const raw& each, const penstock::undelivered&) {
      ++given_raws[each.number];
    });
    auto sub = bus.subscribe<raw>("asks", std::move(asks), [&, never](const raw& each) -> task<void> {
      ++raws.times[each.number];
      if (stuck && each.number == 2) never.wait();
      co_await penstock::sleep_for(pause);
      cuts(sim, bus.publish(cut{each.number}));
    });
    auto in = bus.stream<cut>("asks too",
                              stream_options().capacity(2).on_undelivered<cut>(
                                  [&](const cut& each, const penstock::undelivered&) { ++given_cuts[each.number]; }));
    std::uint64_t read = 0;
    sim.thread("reader", [&] {
      while (auto one = in.receive()) {
        dawdle(sim);
        if (sim.random(2) == 0 && one.attempt() < 3)
          (void)one.requeue();
        else
          ++read, one.done();
      }
    });
    sim.thread("publisher", [&] {
      for (int number = 0; number < 8; ++number) raws(sim, bus.publish(raw{number}));
    });
    let_go_on(sim, 40);
    if (sim.random(3) == 0) sub.stop();
    const auto report = end_of(sim, rt, some_ms(sim, 40));
    never.open();
    sim.run_until_idle();
    sim.require_all_done();
    const auto require_given = [&](const ledger& end, const std::map<int, int>& given) {
      for (const auto& [number, times] : given)
        sim.require(times == 1, "event " + std::to_string(number) + " was given " + std::to_string(times) + " times");
      sim.require(end.discarded == given.size(), "given " + std::to_string(given.size()) + ": " + to_string(end));
    };
    require_given(sub.ledger(), given_raws);
    require_given(in.ledger(), given_cuts);
    for (const auto& [number, times] : raws.times)
      sim.require(given_raws.count(number) == 0, "begun and given: " + std::to_string(number));
    sim.require(in.ledger().handled == read, to_string(in.ledger()));
    require_at_rest(sim, raws, {sub.ledger()});
    cuts.accepted = 0;  // one that was parked may have been rejected: that is on_drop's
    require_at_rest(sim, cuts, {in.ledger()});
  });
}

TEST_CASE("handlers that feed each other for ever end after 64 generations or with the budget, and nothing is lost") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime(quiet());
    auto bus = rt.bus();
    books raws, cuts;
    const auto pause = 1ms + some_ms(sim, 9);
    int deepest = 0;
    int refused_at = 0;
    const auto note = [&](int depth, errc error) {
      deepest = std::max(deepest, depth);
      if (error == errc::closed) refused_at = depth + 1;
    };
    auto ping = bus.subscribe<raw>("ping", subscribe_options().capacity(2), [&](const raw& each) -> task<void> {
      co_await penstock::sleep_for(pause);
      note(each.number, cuts(sim, bus.publish(cut{each.number + 1})));
    });
    auto pong = bus.subscribe<cut>("pong", subscribe_options().capacity(2), [&](const cut& each) {
      dawdle(sim);
      note(each.number, raws(sim, bus.publish(raw{each.number + 1})));
    });
    raws(sim, bus.publish(raw{0}));
    let_go_on(sim, 20);
    const bool has_time = sim.random(2) == 0;
    const auto report = end_of(sim, rt, has_time ? 10s : 200ms);
    sim.require(report.stuck.empty() && report.abandoned_workers == 0, to_string(report));
    sim.require(report.drained || !has_time, "it took all its time: " + to_string(report));
    if (report.drained) {
      sim.require(report.loop == std::vector<std::string>{"ping", "pong"}, to_string(report));
      sim.require(report.undelivered() == 0 && !report.clean(), to_string(report));
      // The bound is on events, whatever the order: none is refused that has fewer causes.
      sim.require(refused_at >= 64 && refused_at == deepest + 1, "refused at " + std::to_string(refused_at));
    }
    sim.run_until_idle();
    sim.require_all_done();
    require_at_rest(sim, raws, {ping.ledger()});
    require_at_rest(sim, cuts, {pong.ledger()});
  });
}

TEST_CASE("coroutines suspended in sleep, publish or receive end with a shutdown, their tasks too, and none is named") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime(quiet());
    auto bus = rt.bus();
    int begun = 0;
    int ended = 0;
    auto nothing = bus.stream<cut>("nobody sends");
    auto full = bus.stream<int>("nobody reads", stream_options().capacity(1));
    struct counting {
      int& ended;
      ~counting() { ++ended; }
    };
    const auto suspends = [&](int how) -> task<void> {
      ++begun;
      const counting leaves{ended};
      if (how == 0) co_await penstock::sleep_for(24h);
      if (how == 1) static_cast<void>(co_await nothing.next());
      const auto out = bus.publisher<int>();
      for (;;) {
        const publish_result result = co_await out.async_emplace(how);
        if (result.error() != errc::none) break;
      }
    };
    auto sub = bus.subscribe<raw>("suspended", subscribe_options().capacity(4).concurrency(3),
                                  [&](const raw& each) { return suspends(each.number % 3); });
    std::vector<task_handle> tasks;
    for (int how = 0; how < 3; ++how) {
      spawn_options options;
      if (sim.random(2) == 0) options.keep_until_drained();
      tasks.push_back(rt.tasks().spawn("suspended task", std::move(options), [&, how] { return suspends(how); }));
    }
    for (int number = 0; number < 3; ++number) bus.publish(raw{number});
    let_go_on(sim, 30);
    const auto report = end_of(sim, rt, 1s);
    sim.require(report.stuck.empty() && report.abandoned_workers == 0, to_string(report));
    sim.require(report.tasks.left() == 0, to_string(report));
    sim.require(begun == ended, "a frame was left");
    for (const auto& each : tasks) sim.require(each.done(), each.name());
    sim.run_until_idle();
    sim.require_all_done();
    const ledger end = sub.ledger();
    sim.require(end.handled + end.failed + end.discarded == 3, to_string(end));
  });
}

TEST_CASE("retries at a shutdown: each event ends once, within the budget, whatever delay it is in") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime(quiet());
    auto bus = rt.bus();
    books offers;
    std::map<int, int> tries;
    const auto delay = sim.random(2) == 0 ? 10ms : 2h;
    auto sub = bus.subscribe<raw>(
        "retried", subscribe_options().capacity(4).retry(retry_policy().attempts(3).backoff(delay).jitter(0.0)),
        [&](const raw& each) {
          if (++tries[each.number] <= each.number % 3) throw std::runtime_error("not yet");
        });
    for (int number = 0; number < 4; ++number) offers(sim, bus.publish(raw{number}));
    let_go_on(sim, 12);
    const auto report = end_of(sim, rt, 1s);
    sim.require(report.drained && report.stuck.empty(), to_string(report));
    sim.run_until_idle();
    sim.require_all_done();
    const ledger end = sub.ledger();
    require_at_rest(sim, offers, {end});
    sim.require(end.handled + end.failed == 4 && tries.size() == 4, to_string(end));
    for (const auto& [number, times] : tries) sim.require(times <= number % 3 + 1, "tried after it had been handled");
    if (delay == 10ms) sim.require(end.handled == 4, "a delay that fits was cut short: " + to_string(end));
  });
}

TEST_CASE("a stream with deliveries held at a shutdown is named while they are, and each is decided once") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime(quiet());
    auto bus = rt.bus();
    books offers;
    auto in = bus.stream<raw>("held", stream_options().capacity(4));
    for (int number = 0; number < 4; ++number) offers(sim, bus.publish(raw{number}));
    const bool lets_go = sim.random(2) == 0;
    auto hold = sim.gate("hold");
    std::uint64_t handled = 0;
    std::uint64_t back = 0;
    sim.thread("reader", [&, hold] {
      for (;;) {
        auto one = in.receive();
        if (!one) return;
        if (lets_go)
          sim.sleep_for(some_ms(sim, 20));
        else
          hold.wait();
        if (sim.random(3) == 0)
          ++back, (void)one.requeue();
        else
          ++handled, one.done();
      }
    });
    let_go_on(sim, 12);
    const auto report = end_of(sim, rt, 1s);
    const ledger at_end = in.ledger();
    // The reader may not have taken its first one before everything was discarded.
    sim.require(report.stuck.size() == (at_end.running > 0 ? 1 : 0), to_string(report));
    sim.require(!lets_go || report.drained, to_string(report));
    hold.open();
    sim.run_until_idle();
    sim.require_all_done();
    const ledger end = in.ledger();
    require_at_rest(sim, offers, {end});
    sim.require(end.handled == handled && end.handled + end.failed + end.discarded == 4, to_string(end));
  });
}

TEST_CASE("first tasks publish until they end, kept ones are asked last, and deaf ones are named, in the budget") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime(quiet());
    auto bus = rt.bus();
    books offers;
    auto deaf_gate = sim.gate("deaf");
    bool kept_asked = false;
    const bool deaf_is_kept = sim.random(2) == 0;
    const bool is_deaf = sim.random(2) == 0;
    auto sub = bus.subscribe<raw>("counted", subscribe_options().capacity(2), [&](const raw& each) {
      sim.require(!kept_asked, "a kept task was asked before the last event was handled");
      ++offers.times[each.number];
      dawdle(sim);
    });
    int next = 0;
    auto first = rt.tasks().spawn("first", [&](const std::stop_token& stop) {
      if (sim.random(2) == 0) wait_for_stop(sim, stop);
      for (int i = 0; i < 3; ++i) {
        sim.require(offers(sim, bus.publish(raw{next++})) == errc::none, "refused while a first task lives");
        dawdle(sim);
      }
    });
    auto kept = rt.tasks().spawn("kept", spawn_options().keep_until_drained(), [&](const std::stop_token& stop) {
      wait_for_stop(sim, stop);
      kept_asked = true;
    });
    spawn_options order;
    if (deaf_is_kept) order.keep_until_drained();
    task_handle deaf;
    if (is_deaf) deaf = rt.tasks().spawn("deaf", std::move(order), [deaf_gate] { deaf_gate.wait(); });
    const bool begun = sim.run_until([&] { return (!is_deaf || deaf_gate.waiting() == 1) && kept.info().started &&
                                                  first.info().started; });
    sim.require(begun);
    let_go_on(sim, 20);
    const auto report = end_of(sim, rt, 1s);
    sim.require(report.drained, to_string(report));
    sim.require(report.tasks.left() == (is_deaf ? 1 : 0), to_string(report));
    sim.require(report.clean() == !is_deaf && report.abandoned_workers == (is_deaf ? 1 : 0), to_string(report));
    sim.require(first.status() == task_status::completed && kept.status() == task_status::completed, to_string(report));
    sim.require(is_deaf || sim.elapsed() == 0s, "time passed for nothing");
    deaf_gate.open();
    sim.run_until_idle();
    sim.require_all_done();
    require_at_rest(sim, offers, {sub.ledger()});
    require_once(sim, offers, sub.ledger());
    sim.require(sub.ledger().handled == 3, to_string(sub.ledger()));
  });
}

TEST_CASE("first tasks that end after their share and within the budget are neither left nor cut off") {
  in_all_schedules([](simulation& sim) {
    auto options = quiet();
    options.pool("default", penstock::worker_pool_options().threads(1));
    auto& rt = sim.runtime(std::move(options));
    int begun = 0;
    const auto needs = some_ms(sim, 2000);
    auto slow = rt.tasks().spawn("slow", [&, needs](const std::stop_token& stop) {
      ++begun;
      wait_for_stop(sim, stop);
      sim.sleep_for(needs);
    });
    // One worker for both: the second is asked at once, and hears it when the first has ended.
    const auto each_needs = some_ms(sim, 1000);
    auto one = rt.tasks().spawn("one", takes_time_to_end(sim, begun, each_needs));
    auto two = rt.tasks().spawn("two", takes_time_to_end(sim, begun, each_needs));
    sim.run_until([&] { return begun == 3; });
    const auto report = end_of(sim, rt, 1s);
    const auto longest = std::max(needs, 2 * each_needs);
    if (longest < 1s) sim.require(report.clean() && report.elapsed == longest, to_string(report));
    if (needs > 1s + moment) sim.require(report.tasks.left() >= 1, to_string(report));
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(slow.status() == task_status::completed);
    if (longest < 1s)
      sim.require(one.status() == task_status::cancelled && two.status() == task_status::cancelled, to_string(report));
  });
}

TEST_CASE("a shutdown requested in a handler or a task, and again from threads, is one shutdown with one report") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime(quiet());
    auto bus = rt.bus();
    books offers;
    std::vector<std::string> reasons;
    const auto ask = [&](const char* why) {
      if (sim.random(2) == 0)
        rt.request_shutdown(why);
      else
        reasons.push_back(rt.shutdown(1s, why).reason);
    };
    auto sub = bus.subscribe<raw>("quitter", subscribe_options().capacity(4), [&](const raw& each) {
      ++offers.times[each.number];
      if (each.number == 1) ask("handler");
      dawdle(sim);
    });
    auto function = rt.tasks().spawn("function", [&] { ask("function"); });
    auto coroutine = rt.tasks().spawn("coroutine", [&]() -> task<void> {
      co_await penstock::yield();
      ask("coroutine");
    });
    std::vector<shutdown_report> reports;
    for (int i = 0; i < 2; ++i)
      sim.thread("caller", [&, i] {
        dawdle(sim);
        reports.push_back(i == 0 ? rt.wait_for_shutdown() : rt.shutdown(1s, "thread"));
      });
    for (int number = 0; number < 3; ++number) offers(sim, bus.publish(raw{number}));
    sim.run_until([&] { return reports.size() == 2; });
    sim.require(reports.size() == 2, "somebody waits for ever");
    sim.require(sim.elapsed() == 0s, "somebody waited for itself");
    const auto& report = reports.front();
    sim.require(report.clean() && report.tasks.left() == 0, to_string(report));
    sim.require(reports.back().reason == report.reason && reports.back().elapsed == report.elapsed);
    for (const auto& each : reasons) sim.require(each == report.reason, each + " is not " + report.reason);
    sim.run_until_idle();
    sim.require_all_done();
    require_at_rest(sim, offers, {sub.ledger()});
    require_once(sim, offers, sub.ledger());
  });
}

TEST_CASE("force at any instant of a shutdown ends it there, and whatever has not ended is named") {
  std::uint64_t forced = 0;
  std::uint64_t cut_off = 0;
  in_all_schedules([&](simulation& sim) {
    auto& rt = sim.runtime(quiet());
    auto bus = rt.bus();
    books offers;
    auto gate = sim.gate("stuck");
    const bool is_stuck = sim.random(2) == 0;
    auto sub = bus.subscribe<raw>("handler", subscribe_options().capacity(4), [&, gate](const raw& each) {
      ++offers.times[each.number];
      dawdle(sim);
      if (is_stuck && each.number == 1) gate.wait();
    });
    auto sleeping = bus.subscribe<cut>("sleeping", [](const cut&) -> task<void> { co_await penstock::sleep_for(24h); });
    auto first = rt.tasks().spawn("first", [&](const std::stop_token& stop) {
      wait_for_stop(sim, stop);
      if (is_stuck) sim.sleep_for(100ms);
    });
    auto kept = rt.tasks().spawn("kept", spawn_options().keep_until_drained(),
                                 [&](const std::stop_token& stop) { wait_for_stop(sim, stop); });
    auto waits = rt.tasks().spawn("waits", sleeps_for_hours());
    auto waits_kept = rt.tasks().spawn("waits, kept", spawn_options().keep_until_drained(), sleeps_for_hours());
    for (int number = 0; number < 3; ++number) offers(sim, bus.publish(raw{number}));
    if (sim.random(2) == 0) bus.publish(cut{1});
    let_go_on(sim, 20);
    std::chrono::nanoseconds forced_at = -1ns;
    sim.thread("forcer", [&] {
      while (!rt.shutdown_requested()) sim.sleep_for(1ms);
      if (sim.random(2) == 0) sim.sleep_for(some_ms(sim, 1200));
      dawdle(sim);
      forced_at = sim.elapsed();
      rt.force_shutdown();
    });
    const auto report = end_of(sim, rt, 1s);
    const auto ended_at = sim.elapsed();
    if (report.forced) {
      ++forced;
      sim.require(forced_at >= 0ns && ended_at - forced_at <= moment, "not at once: " + to_string(report));
    }
    // What waits in a coroutine ends with its pool, and has its own word; only who is inside its code is left.
    for (const auto& each : report.stuck) sim.require(each.subscription != "sleeping", to_string(report));
    for (const auto& each : report.tasks.tasks) {
      const bool waits_only = each.name.starts_with("waits");
      sim.require(!waits_only || each.status != task_status::running, to_string(report));
      sim.require(!each.suspended, to_string(report));
      cut_off += waits_only && each.status == task_status::closed ? 1 : 0;
    }
    sim.require(waits.done() && waits_kept.done(), "a coroutine outlived its pool");
    sim.require(!report.clean() || report.tasks.cut_off() == 0, to_string(report));
    gate.open();
    sim.run_until_idle();
    sim.require_all_done();
    require_at_rest(sim, offers, {sub.ledger()});
    require_once(sim, offers, sub.ledger());
    sim.require(first.done() && kept.done(), "a task never ended");
  });
  CHECK(forced > 0);
  CHECK(cut_off > 0);
}

TEST_CASE("a shutdown against subscribe, publish, close and spawn refuses what comes late and loses nothing") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime(quiet());
    auto bus = rt.bus();
    books offers;
    bool over = false;
    std::vector<subscription> made(2);
    std::vector<task_handle> tasks;
    std::uint64_t refused_tasks = 0;
    const auto handler = [&](const raw&) {
      sim.require(!over, "a call after the shutdown");
      dawdle(sim);
    };
    auto always = bus.subscribe<raw>("always", subscribe_options().capacity(2), handler);
    for (std::size_t i = 0; i < made.size(); ++i)
      sim.thread("subscriber", [&, i] {
        dawdle(sim);
        auto result = bus.try_subscribe<raw>("comes and goes", subscribe_options().capacity(1), handler);
        sim.require(result.error == errc::none || result.error == errc::closed, result.text);
        made[i] = std::move(result.subscription);
        dawdle(sim);
        if (sim.random(2) == 0) static_cast<void>(made[i].close(close_mode::drain));
      });
    sim.thread("publisher", [&] {
      for (int number = 0; number < 6; ++number) {
        const errc error = offers(sim, bus.publish(raw{number}));
        sim.require(error == errc::none || error == errc::closed);
        dawdle(sim);
      }
    });
    sim.thread("spawner", [&] {
      for (int i = 0; i < 3; ++i) {
        spawn_options options;
        if (sim.random(2) == 0) options.keep_until_drained();
        const auto result = rt.tasks().try_spawn("late", std::move(options), [&](const std::stop_token& stop) {
          if (sim.random(2) == 0) wait_for_stop(sim, stop);
        });
        sim.require(result.error == errc::none || result.error == errc::closed, result.text);
        if (result) tasks.push_back(result.handle);
        if (!result) ++refused_tasks;
        dawdle(sim);
      }
    });
    let_go_on(sim, 40);
    const auto report = end_of(sim, rt, 1s);
    over = true;
    sim.require(report.clean() && sim.elapsed() == 0s, to_string(report));
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(tasks.size() + refused_tasks == 3);
    for (const auto& each : tasks) sim.require(each.done(), "a task was forgotten");
    const auto counts = rt.tasks().counts();
    sim.require(counts.balanced() && counts.spawned == tasks.size() && counts.running == 0, to_string(counts));
    std::uint64_t offered = always.ledger().offered;
    for (const auto& each : made) {
      if (!each) continue;
      sim.require(each.ledger().balanced() && each.ledger().quiescent(), to_string(each.ledger()));
      offered += each.ledger().offered;
    }
    sim.require(always.ledger().balanced() && always.ledger().quiescent(), to_string(always.ledger()));
    sim.require(offered == offers.matched, "an offer has no subscription");
  });
}
