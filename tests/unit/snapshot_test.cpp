// A whole runtime seen from outside: pools, tasks and bus in one value, and its JSON.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/child.hpp"
#include "../support/gate.hpp"

#include <penstock/penstock.hpp>

#include <nlohmann/json.hpp>

#include <chrono>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using nlohmann::ordered_json;
using penstock::failure;
using penstock::json_form;
using penstock::pool_snapshot;
using penstock::restart_policy;
using penstock::retry_policy;
using penstock::runtime_options;
using penstock::runtime_snapshot;
using penstock::spawn_options;
using penstock::subscribe_options;
using penstock::task;
using penstock::wait_edge;
using penstock::worker_pool_options;

namespace snapshot_test {
struct job {
  int value = 0;
};
struct result {
  int value = 0;
};
}  // namespace snapshot_test

namespace {

using snapshot_test::job;
using snapshot_test::result;

runtime_options options() {
  return runtime_options()
      .pool("default", worker_pool_options().threads(2))
      .pool("blocking", worker_pool_options().threads(3))
      .on_failure([](const failure&) {});
}

pool_snapshot pool_of(const runtime_snapshot& seen, const std::string& name) {
  for (const auto& each : seen.pools)
    if (each.name == name) return each;
  return {};
}

std::vector<std::string> keys_of(const ordered_json& value) {
  std::vector<std::string> keys;
  for (const auto& [key, part] : value.items()) keys.push_back(key);
  return keys;
}

}  // namespace

TEST_CASE("a pool's snapshot counts its workers, who is busy, who is parked, and what waits for them", "[snapshot]") {
  const time_limit limit;
  gate release;
  record<int> begun;
  penstock::runtime rt(options());
  eventually([&] {
    const auto seen = pool_of(rt.snapshot(), "default");
    return seen.workers == 2 && seen.parked == 2 && seen.busy == 0 && seen.ready == 0 && seen.queued == 0;
  });
  CHECK(pool_of(rt.snapshot(), "blocking").may_wait);
  CHECK_FALSE(pool_of(rt.snapshot(), "default").may_wait);
  std::vector<penstock::subscription> subscriptions;
  for (const char* name : {"one", "two", "three"})
    subscriptions.push_back(rt.bus().subscribe<job>(name, [&](const job&) {
      begun.add(1);
      release.wait();
    }));
  rt.bus().publish(job{});
  begun.wait_for(2);
  for (int i = 0; i < 2; ++i) CHECK(rt.pool("default")->post([] {}) == penstock::errc::none);
  const auto full = pool_of(rt.snapshot(), "default");
  CHECK(full.busy == 2);
  CHECK(full.parked == 0);
  CHECK(full.ready == 1);  // the third's lane
  CHECK(full.queued == 2);
  CHECK(pool_of(rt.snapshot(), "blocking").busy == 0);
  release.open();
}

TEST_CASE("a runtime's snapshot has its tasks with owner, state, age and restarts, and the bus with its wait edges",
          "[snapshot]") {
  const time_limit limit;
  gate release, up;
  record<int> begun;
  penstock::runtime rt(options());
  auto bus = rt.bus();
  auto sink = bus.subscribe<result>("sink", subscribe_options().capacity(1), [&](const result&) {
    begun.add(1);
    release.wait();
  });
  auto stage = bus.subscribe<job>("stage", [&](const job& each) { bus.publish(result{each.value}); });
  auto owned = rt.tasks().owner("plugin").spawn("watcher", [&] {
    up.open();
    release.wait();
  });
  auto again = rt.tasks().spawn(
      "restarted", spawn_options().restart(restart_policy().attempts(9).pauses(retry_policy().backoff(1ms).cap(1ms))),
      [&, runs = 0]() mutable {
        if (++runs < 3) throw std::runtime_error("not yet");
        begun.add(100);
        release.wait();
      });
  up.wait();
  bus.publish(result{});
  begun.wait_for(2);  // the sink's call, and the third run of the task
  for (int i = 0; i < 2; ++i) bus.publish(job{i});
  eventually([&] { return !bus.snapshot().waits.empty(); });

  const auto seen = rt.snapshot();
  CHECK(seen.phase == "open");
  REQUIRE(seen.bus.waits.size() == 1);
  CHECK((seen.bus.waits[0].from == "stage" && seen.bus.waits[0].to == "sink"));
  const auto json = ordered_json::parse(to_json(seen));
  CHECK(keys_of(json) == std::vector<std::string>{"phase", "pools", "tasks", "bus"});
  CHECK(keys_of(json["bus"]) == std::vector<std::string>{"topics", "subscriptions", "waits"});
  CHECK(keys_of(json["pools"][0]) ==
        std::vector<std::string>{"name", "workers", "busy", "parked", "ready", "queued", "may_wait"});
  CHECK(json["bus"] == ordered_json::parse(to_json(seen.bus)));
  REQUIRE(json["pools"].size() == 2);
  CHECK(json["pools"][0]["name"] == "blocking");
  CHECK(json["pools"][0]["busy"] == 2);
  REQUIRE(json["tasks"].size() == 2);
  const auto& watcher = json["tasks"][0];
  CHECK(watcher["name"] == "watcher");
  CHECK(watcher["owner"] == "plugin");
  CHECK(watcher["state"] == "running");
  CHECK(watcher["restarts"] == 0);
  CHECK(watcher["age_ms"] >= watcher["running_ms"]);
  const auto& restarted = json["tasks"][1];
  CHECK(restarted["owner"] == "");
  CHECK(restarted["runs"] == 3);
  CHECK(restarted["restarts"] == 2);
  CHECK(restarted["failures"] == 2);
  CHECK(keys_of(watcher) == keys_of(restarted));
  release.open();
}

TEST_CASE("JSON on one line is the same value as the indented one, whatever bytes the names have", "[snapshot]") {
  const time_limit limit;
  penstock::runtime rt(options());
  auto odd = rt.bus().subscribe<job>("line\nbreak \"quoted\" \xff", [](const job&) {});
  auto waits = rt.tasks().spawn("two\nlines", []() -> task<void> { co_await penstock::sleep_for(1h); });
  const auto seen = rt.snapshot();
  const std::string line = to_json(seen, json_form::line);
  const std::string indented = to_json(seen);
  CHECK(line.find('\n') == std::string::npos);
  CHECK(indented.find("\n  \"pools\"") != std::string::npos);
  CHECK(ordered_json::parse(line) == ordered_json::parse(indented));
  CHECK(to_json(seen.bus, json_form::line).find('\n') == std::string::npos);
  CHECK(keys_of(ordered_json::parse(to_json(runtime_snapshot()))) ==
        std::vector<std::string>{"phase", "pools", "tasks", "bus"});
}

TEST_CASE("a snapshot says in which phase of its end a runtime is, and may be taken after it", "[snapshot]") {
  const time_limit limit;
  gate release;
  record<int> begun;
  penstock::runtime rt(options());
  auto sub = rt.bus().subscribe<job>("slow", [&](const job&) {
    begun.add(1);
    release.wait();
  });
  rt.bus().publish(job{});
  begun.wait_for(1);
  rt.request_shutdown("test");
  CHECK(rt.snapshot().phase == "draining");
  release.open();
  CHECK(rt.wait_for_shutdown().clean());
  const auto after = rt.snapshot();
  CHECK(after.phase == "done");
  CHECK(after.bus.subscriptions.empty());
  for (const auto& each : after.pools)
    CHECK((each.busy == 0 && each.parked == 0 && each.ready == 0 && each.queued == 0));
}

TEST_CASE("in a child after fork a runtime's snapshot says so, and nothing else", "[snapshot][S6]") {
  penstock::runtime rt(options());
  auto sub = rt.bus().subscribe<job>("parent's", [](const job&) {});
  CHECK(in_child([&] {
          const auto seen = rt.snapshot();
          return seen.phase == "forked" && seen.pools.empty() && seen.bus.subscriptions.empty() ? 0 : 1;
        }) == "exit 0");
  CHECK(rt.snapshot().bus.subscriptions.size() == 1);
}
