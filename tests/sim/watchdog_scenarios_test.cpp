// The watchdog in virtual time: what it says does not depend on the order in which things run.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "schedules.hpp"

#include <penstock/penstock.hpp>
#include <penstock/testing/simulation.hpp>

#include <chrono>
#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using penstock::runtime_options;
using penstock::subscribe_options;
using penstock::watchdog_options;
using penstock::watchdog_report;
using penstock::worker_pool_options;
using penstock::testing::explore;
using penstock::testing::simulation;
using penstock_test::seeds;
using what = penstock::watchdog_report::what;

namespace {

struct order {
  int number = 0;
};

/// A runtime whose watchdog is heard; the reports live as long as the scenario.
penstock::runtime& watched(simulation& sim, std::vector<watchdog_report>& told, runtime_options options = {}) {
  return sim.runtime(std::move(options).watchdog(
      watchdog_options().on_report([&told](const watchdog_report& r) { told.push_back(r); })));
}

}  // namespace

TEST_CASE("a handler at a gate is told within a period of its limit, with back-off, and told as over", "[watchdog]") {
  explore(seeds, [](simulation& sim) {
    std::vector<watchdog_report> told;
    auto& rt = watched(sim, told);
    auto release = sim.gate("release");
    auto mail = rt.bus().subscribe<order>("mail", [&](const order& o) { if (o.number == 3) release.wait(); });
    auto others = rt.bus().subscribe<order>("others", [](const order&) {});
    for (int i = 1; i <= 5; ++i) rt.bus().publish(order{i});
    sim.run_for(19s);
    sim.require(told.size() == 2, "told at 5 s and at 10 s: " + std::to_string(told.size()));
    sim.require(told[0].subscription == "mail" && told[0].sequence == 3, "who and what");
    sim.require(told[0].elapsed >= 5s && told[0].elapsed < 6s, "the first within a period of the limit");
    sim.require(told[1].elapsed >= 10s && told[1].elapsed < 11s, "the second at twice the limit");
    release.open();
    sim.run_for(2s);
    sim.require(told.size() == 3 && told[2].kind == what::recovered, "told as over");
    sim.require(rt.shutdown(1s).clean(), "clean");
  });
}

TEST_CASE("a watchdog at rest has no timer, and a stuck call alone does not keep a simulation going", "[watchdog]") {
  explore(seeds, [](simulation& sim) {
    std::vector<watchdog_report> told;
    auto& rt = watched(sim, told);
    auto release = sim.gate("release");
    auto mail = rt.bus().subscribe<order>("mail", [&](const order& o) { if (o.number == 2) release.wait(); });
    rt.bus().publish(order{1});
    sim.run_until_idle();
    sim.require(sim.elapsed() == 0s, "time passes for nobody's sake");
    sim.run_for(2s);
    const std::uint64_t steps = sim.steps();
    sim.run_for(1h);
    sim.require(sim.steps() == steps, "at rest it does not look");
    rt.bus().publish(order{2});
    sim.run_until_idle();
    sim.require(told.empty() && sim.elapsed() == 1h + 2s, "nor for the sake of a call that waits at a gate");
    release.open();
  });
}

TEST_CASE("short calls without end are never told, and neither is a pool that is merely busy", "[watchdog]") {
  explore(seeds / 10, [](simulation& sim) {
    std::vector<watchdog_report> told;
    auto& rt = watched(sim, told, runtime_options().pool("default", worker_pool_options().threads(1)));
    int handled = 0;
    auto mail = rt.bus().subscribe<order>("mail", [&](const order&) { sim.sleep_for(3s), ++handled; });
    auto more = rt.bus().subscribe<order>("more", [&](const order&) { sim.sleep_for(1s), ++handled; });
    for (int i = 0; i < 10; ++i) rt.bus().publish(order{i});
    sim.run_until_idle();
    sim.require(handled == 20, "all handled");
    sim.require(told.empty(), told.empty() ? "" : to_string(told[0]));
  });
}

TEST_CASE("a starved pool and the call that holds it are told, and a chain that rests on it", "[watchdog]") {
  explore(seeds / 10, [](simulation& sim) {
    std::vector<watchdog_report> told;
    auto& rt = watched(sim, told, runtime_options().pool("narrow", worker_pool_options().threads(1)));
    auto& bus = rt.bus();
    auto release = sim.gate("release");
    auto slow = bus.subscribe<std::string>("slow", subscribe_options().capacity(1).on(rt.pool("narrow")),
                                           [&](const std::string&) { release.wait(); });
    auto behind = bus.subscribe<int>("behind", subscribe_options().on(rt.pool("narrow")), [](const int&) {});
    auto feeder = bus.subscribe<order>("feeder", [&](const order&) { static_cast<void>(bus.publish(std::string("x"))); });
    for (int i = 0; i < 3; ++i) bus.publish(order{i});
    sim.run_until([&] { return release.waiting() == 1; });
    bus.publish(7);
    sim.run_for(9s);
    const auto count = [&](what kind) {
      int found = 0;
      for (const watchdog_report& each : told) found += each.kind == kind ? 1 : 0;
      return found;
    };
    sim.require(count(what::stuck_call) == 1, "the call");
    sim.require(count(what::starved_pool) == 1, "the pool");
    sim.require(count(what::wait_chain) == 1, "the chain");
    for (const watchdog_report& each : told)
      if (each.kind == what::wait_chain)
        sim.require(each.chain == std::vector<std::string>{"feeder", "slow"}, "who waits for whom");
    release.open();
    sim.run_for(2s);
    sim.require(count(what::recovered) == 3, "each told as over: " + std::to_string(count(what::recovered)));
    sim.require(rt.shutdown(1s).clean(), "clean");
  });
}

TEST_CASE("tasks are told at their limit by what is expected of each, and one that waits is never told", "[watchdog]") {
  explore(seeds / 10, [](simulation& sim) {
    std::vector<watchdog_report> told;
    auto& rt = watched(sim, told);
    auto release = sim.gate("release");
    auto tasks = rt.tasks();
    tasks.spawn("import", [&] { release.wait(); });
    auto service = tasks.spawn("service", [&](const std::stop_token&) { release.wait(); });
    tasks.spawn("patient", []() -> penstock::task<void> { co_await penstock::sleep_for(1h); });
    tasks.spawn("greedy", [](penstock::testing::gate until) -> penstock::task<void> {
      co_await penstock::sleep_for(2s);
      until.wait();
    }(release));
    tasks.every("sweep", 2s, [&] { release.wait(); });
    sim.run_for(9s);
    const auto at = [&](const char* name) {
      std::chrono::nanoseconds first{};
      for (const watchdog_report& each : told) {
        sim.require(each.kind == what::stuck_task, to_string(each));
        if (each.task == name && first == 0s) first = each.elapsed;
      }
      return first;
    };
    for (const char* name : {"import", "greedy", "sweep"})
      sim.require(at(name) >= 5s && at(name) <= 6s, std::string(name) + " within a period of the limit");
    sim.require(told.size() == 3, "nobody else: " + std::to_string(told.size()));
    service.request_cancel("enough");
    sim.run_for(7s);
    sim.require(at("service") >= 5s && at("service") <= 6s, "the service counts from the request to stop on");
    sim.require(at("patient") == 0s, "who waits is not stuck");
    release.open();
    sim.run_for(2s);
    tasks.cancel_all("enough");
    sim.require(rt.shutdown(1s).clean(), "clean");
  });
}

TEST_CASE("a coroutine task that takes many turns is never told, however long it goes on", "[watchdog]") {
  explore(seeds / 10, [](simulation& sim) {
    std::vector<watchdog_report> told;
    auto& rt = watched(sim, told);
    rt.tasks().spawn("steady", [](simulation& in) -> penstock::task<void> {
      for (int i = 0; i < 12; ++i) {
        in.sleep_for(2s);  // holds its worker
        co_await penstock::sleep_for(1ms);
      }
    }(sim));
    sim.run_until_idle();
    sim.require(told.empty(), told.empty() ? "" : to_string(told[0]));
  });
}

TEST_CASE("a shutdown whose handler is stuck ends at its deadline beside a watchdog that tells of it", "[watchdog]") {
  explore(seeds / 10, [](simulation& sim) {
    std::vector<watchdog_report> told;
    auto& rt = watched(sim, told);
    auto release = sim.gate("release");
    auto mail = rt.bus().subscribe<order>("mail", [&](const order&) { release.wait(); });
    rt.bus().publish(order{1});
    const auto report = rt.shutdown(8s);
    sim.require(report.stuck.size() == 1, "named by the shutdown");
    sim.require(told.size() == 1 && told[0].kind == what::stuck_call, "and by the watchdog, once");
    release.open();
    sim.run_until_idle();
    sim.require(told.size() == 1, "after the end it says nothing");
  });
}
