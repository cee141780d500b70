// A drain that feeds itself: how deep it may go, what becomes of it then, and how the report names it.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"
#include "../support/refusal.hpp"

#include <penstock/bus/dead_letter.hpp>
#include <penstock/penstock.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::dead_letter;
using penstock::errc;
using penstock::failure;
using penstock::log_record;
using penstock::runtime_options;
using penstock::shutdown_report;
using penstock::subscribe_options;
using penstock::task;
using penstock::worker_pool_options;

namespace drain_test {
/// Each says how many causes it has.
struct first {
  int depth = 0;
};
struct second {
  int depth = 0;
};
struct third {
  int depth = 0;
};
struct aside {
  int depth = 0;
};
}  // namespace drain_test

namespace {

using drain_test::aside;
using drain_test::first;
using drain_test::second;
using drain_test::third;

constexpr int bound = 64;
/// Longer than any of these shutdowns takes: one that is not cut is seen.
constexpr auto budget = 60s;
constexpr auto much_sooner = 30s;

runtime_options workers() {
  return runtime_options().pool("default", worker_pool_options().threads(2)).on_failure([](const failure&) {});
}

bool balanced(const shutdown_report& report) {
  return std::all_of(report.subscriptions.begin(), report.subscriptions.end(),
                     [](const auto& each) { return each.ledger.balanced() && each.ledger.quiescent(); });
}

void raise(std::atomic<int>& most, int depth) {
  for (int seen = most; seen < depth && !most.compare_exchange_weak(seen, depth);) {
  }
}

}  // namespace

TEST_CASE("a handler that feeds itself for ever does not hold a shutdown: after 64 generations it is refused, by name",
          "[drain][T15]") {
  const time_limit limit;
  gate go_on;
  record<int> begun;
  std::atomic<int> deepest{0}, refused_at{0}, refusals{0};
  penstock::runtime rt(workers());
  auto sub = rt.bus().subscribe<first>("echo", [&](const first& each) {
    if (each.depth == 0) {
      begun.add(0);
      go_on.wait();
    }
    raise(deepest, each.depth);
    const auto result = rt.bus().publish(first{each.depth + 1});
    if (result.error() == errc::none) return;
    refused_at = each.depth + 1;
    if (result.error() == errc::closed) ++refusals;
  });
  rt.bus().publish(first{});
  begun.wait_for(1);
  std::thread opener([&] {
    eventually([&] { return rt.shutdown_requested(); });
    go_on.open();
  });
  const auto report = rt.shutdown(budget);
  opener.join();
  CHECK(report.elapsed < much_sooner);
  CHECK(report.drained);
  CHECK_FALSE(report.clean());
  CHECK(report.undelivered() == 0);  // what was taken was handled
  CHECK(report.loop == std::vector<std::string>{"echo"});
  CHECK(deepest >= bound - 1);
  CHECK(refused_at == deepest + 1);
  CHECK(refusals == 1);
  CHECK(balanced(report));
  CHECK_THAT(to_string(report), contains_text("loop: echo feeds echo"));
}

TEST_CASE("a coroutine that feeds itself and waits in between is cut the same way", "[drain][T15]") {
  const time_limit limit;
  std::atomic<int> deepest{0};
  penstock::runtime rt(workers());
  const auto out = rt.bus().publisher<first>();
  auto sub = rt.bus().subscribe<first>("sleeper", [&](const first& each) -> task<void> {
    raise(deepest, each.depth);
    co_await penstock::sleep_for(1ms);
    co_await out.async_emplace(each.depth + 1);
  });
  rt.bus().publish(first{});
  const auto report = rt.shutdown(budget);
  CHECK(report.elapsed < much_sooner);
  CHECK(report.drained);
  CHECK(report.loop == std::vector<std::string>{"sleeper"});
  CHECK(deepest >= bound - 1);
  CHECK(balanced(report));
}

TEST_CASE("a ring of handlers is named in its order, without those that it feeds besides", "[drain][T15]") {
  const time_limit limit;
  penstock::runtime rt(workers());
  auto bus = rt.bus();
  auto sink = bus.subscribe<aside>("sink", [](const aside&) {});
  auto a = bus.subscribe<first>("a", [&](const first& each) {
    bus.publish(second{each.depth + 1});
    bus.publish(aside{});
  });
  auto c = bus.subscribe<third>("c", [&](const third& each) { bus.publish(first{each.depth + 1}); });
  auto b = bus.subscribe<second>("b", [&](const second& each) { bus.publish(third{each.depth + 1}); });
  bus.publish(first{});
  const auto report = rt.shutdown(budget);
  CHECK(report.elapsed < much_sooner);
  CHECK(report.loop == std::vector<std::string>{"a", "b", "c"});
  CHECK(report.drained);
  CHECK(balanced(report));
}

TEST_CASE("a chain of 63 events caused by each other, and a long queue in two stages, are drained to their end",
          "[drain][T15]") {
  const time_limit limit;
  constexpr int jobs = 500;
  gate go_on;
  std::atomic<int> chain{0}, staged{0};
  penstock::runtime rt(workers());
  auto bus = rt.bus();
  auto steps = bus.subscribe<first>("steps", [&](const first& each) {
    if (each.depth == 0) go_on.wait();
    ++chain;
    if (each.depth < bound - 1 && bus.publish(first{each.depth + 1}).error() != errc::none) chain = -1000;
  });
  auto one = bus.subscribe<second>("one", [&](const second& each) { bus.publish(third{each.depth}); });
  auto two = bus.subscribe<third>("two", [&](const third&) { ++staged; });
  bus.publish(first{});
  for (int i = 0; i < jobs; ++i) bus.publish(second{i});
  std::thread opener([&] {
    eventually([&] { return rt.shutdown_requested(); });
    go_on.open();
  });
  const auto report = rt.shutdown(budget);
  opener.join();
  CHECK(report.clean());
  CHECK(report.loop.empty());
  CHECK(chain == bound);
  CHECK(staged == jobs);
}

TEST_CASE("after a loop has been cut, dead letters of what fails then are still delivered", "[drain][T15][F3]") {
  const time_limit limit;
  std::atomic<int> letters{0}, refused{0};
  penstock::runtime rt(workers());
  auto bus = rt.bus();
  auto graves = bus.subscribe<dead_letter<first>>("graves", [&](const dead_letter<first>&) { ++letters; });
  auto sub = bus.subscribe<first>("echo", [&](const first& each) {
    if (bus.publish(first{each.depth + 1}).error() == errc::none) return;
    ++refused;
    throw std::runtime_error("nobody takes it");
  });
  bus.publish(first{});
  const auto report = rt.shutdown(budget);
  CHECK(report.loop == std::vector<std::string>{"echo"});
  CHECK(refused == 1);
  CHECK(letters == 1);
}

TEST_CASE("a ring through a stream's reader is cut too, and named by those that were still fed", "[drain][T15][S5]") {
  const time_limit limit;
  penstock::runtime rt(workers());
  auto bus = rt.bus();
  auto in = bus.stream<second>("read");
  auto sub = bus.subscribe<first>("feeds the reader", [&](const first& each) { bus.publish(second{each.depth + 1}); });
  std::thread reader([&] {
    while (auto one = in.receive()) one.publish_under([&] { bus.publish(first{one->depth + 1}); });
  });
  bus.publish(first{});
  const auto report = rt.shutdown(budget);
  reader.join();
  CHECK(report.elapsed < much_sooner);
  CHECK(report.drained);
  REQUIRE_FALSE(report.loop.empty());
  for (const auto& each : report.loop) CHECK((each == "read" || each == "feeds the reader"));
  CHECK(balanced(report));
}

TEST_CASE("a runtime whose destructor cuts a loop logs which", "[drain][T15][T19]") {
  const time_limit limit;
  record<std::string> lines;
  {
    auto options = workers();
    options.log_to([&](const log_record& each) { lines.add(to_string(each)); }).shutdown_within(budget);
    penstock::runtime rt(std::move(options));
    auto bus = rt.bus();
    auto sub = bus.subscribe<first>("echo", [bus](const first& each) { bus.publish(first{each.depth + 1}); });
    bus.publish(first{});
    sub.release();
  }
  const auto all = lines.all();
  const auto cut = std::find_if(all.begin(), all.end(), [](const std::string& line) {
    return line.find("a loop was cut") != std::string::npos && line.find("echo feeds echo") != std::string::npos;
  });
  CHECK(cut != all.end());
}
