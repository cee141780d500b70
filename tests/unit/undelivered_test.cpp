// What is given to on_undelivered: by a stop, a close, a shutdown, of every kind of event; and what is not.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"
#include "../support/refusal.hpp"

#include <penstock/penstock.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::call;
using penstock::close_mode;
using penstock::close_status;
using penstock::drop_reason;
using penstock::errc;
using penstock::event_ptr;
using penstock::failure;
using penstock::failure_policy;
using penstock::log_record;
using penstock::metadata;
using penstock::overflow;
using penstock::runtime_options;
using penstock::stream_options;
using penstock::subscribe_options;
using penstock::subscription;
using penstock::topic_options;
using penstock::undelivered;
using penstock::undelivered_reason;
using penstock::worker_pool_options;

namespace undelivered_test {
struct job {
  int value = 0;
};
/// Travels in a block, and cannot be copied.
struct parcel {
  explicit parcel(int number) : value(std::make_unique<int>(number)) {}
  std::unique_ptr<int> value;
};
}  // namespace undelivered_test

namespace {

using undelivered_test::job;
using undelivered_test::parcel;

runtime_options workers(unsigned count = 2) {
  return runtime_options().pool("default", worker_pool_options().threads(count)).on_failure([](const failure&) {});
}

/// What the hook was given.
struct given {
  int value = 0;
  std::uint64_t sequence = 0;
  undelivered_reason reason = undelivered_reason::closed;
  unsigned attempt = 0;
  bool operator==(const given&) const = default;
};

given noted(int value, const undelivered& why) { return {value, why.sequence(), why.reason(), why.attempt()}; }

}  // namespace

TEST_CASE("a shutdown gives the events it could not deliver to whoever asks, in order, and the ledger counts the same",
          "[undelivered]") {
  const time_limit limit;
  gate stuck;
  record<int> begun;
  std::vector<given> told;
  std::string name;
  penstock::runtime rt(workers());
  auto asks = subscribe_options().on_undelivered<job>([&](const job& each, const undelivered& why) {
    told.push_back(noted(each.value, why));
    name = why.subscription();
  });
  auto sub = rt.bus().subscribe<job>("ledger", std::move(asks), [&](const job& each) {
    begun.add(each.value);
    stuck.wait();
  });
  for (int i = 0; i < 5; ++i) rt.bus().publish(job{i});
  begun.wait_for(1);
  const auto report = rt.shutdown(0s);
  const std::vector<given> rest{{1, 2, undelivered_reason::shutdown, 1},
                                {2, 3, undelivered_reason::shutdown, 1},
                                {3, 4, undelivered_reason::shutdown, 1},
                                {4, 5, undelivered_reason::shutdown, 1}};
  CHECK(told == rest);
  CHECK(name == "ledger");
  CHECK(report.undelivered() == told.size());
  CHECK(sub.ledger().discarded == told.size());
  REQUIRE(report.stuck.size() == 1);
  CHECK(report.stuck[0].sequence == 1);  // begun: named, and not given
}

TEST_CASE("stop, close, and a policy that unsubscribes give what was queued; close(drain) leaves nothing to give",
          "[undelivered][S2]") {
  const time_limit limit;
  const std::string how = GENERATE("stop", "close", "destroyed", "unsubscribe", "drain");
  CAPTURE(how);
  gate held;
  record<int> begun;
  record<given> told;
  penstock::runtime rt(workers());
  subscribe_options options;
  options.on_undelivered<job>([&](const job& each, const undelivered& why) { told.add(noted(each.value, why)); });
  if (how == "unsubscribe") options.on_failure(failure_policy::unsubscribe());
  auto sub = rt.bus().subscribe<job>("leaves", std::move(options), [&](const job& each) {
    begun.add(each.value);
    held.wait();
    if (how == "unsubscribe") throw std::runtime_error("enough");
  });
  for (int i = 0; i < 4; ++i) rt.bus().publish(job{i});
  begun.wait_for(1);
  if (how == "stop" || how == "close" || how == "destroyed") sub.stop();  // close would wait for the call
  const std::size_t at_once = told.size();
  held.open();
  if (how == "unsubscribe") eventually([&] { return sub.state() == penstock::subscription_state::ended; });
  const auto end = [&] {
    if (how == "destroyed") {
      const auto ledger = sub.ledger();
      sub = subscription();
      return ledger;
    }
    CHECK(sub.close(how == "drain" ? close_mode::drain : close_mode::stop_now) == close_status::closed);
    return sub.ledger();
  }();
  if (how == "drain") {
    CHECK(told.size() == 0);
    CHECK(begun.size() == 4);
    return;
  }
  if (how != "unsubscribe") CHECK(at_once == 3);  // before stop returned
  const std::vector<given> rest{{1, 2, undelivered_reason::closed, 1},
                                {2, 3, undelivered_reason::closed, 1},
                                {3, 4, undelivered_reason::closed, 1}};
  CHECK(told.all() == rest);
  CHECK(end.discarded == 3);
}

TEST_CASE("an undelivered event may be kept: a block is shared without a copy, also of a move-only type",
          "[undelivered][E2]") {
  const time_limit limit;
  std::vector<event_ptr<parcel>> kept;
  std::vector<event_ptr<job>> copied;
  {
    penstock::runtime rt(workers());
    auto parcels = rt.bus().stream<parcel>(
        "parcels", stream_options().on_undelivered<parcel>(
                       [&](const parcel& each, const undelivered& why) { kept.push_back(why.share(each)); }));
    auto jobs =
        rt.bus().stream<job>("jobs", stream_options().on_undelivered<job>([&](const job& each, const undelivered& why) {
          copied.push_back(why.share(each));
        }));
    rt.bus().publish(parcel(7));
    rt.bus().publish(job{8});
    CHECK(rt.shutdown(0s).undelivered() == 2);
  }
  REQUIRE(kept.size() == 1);
  CHECK(*kept[0]->value == 7);
  REQUIRE(copied.size() == 1);
  CHECK(copied[0]->value == 8);
}

TEST_CASE("an event that a reader put back is given with its next attempt when its stream ends", "[undelivered][S5]") {
  const time_limit limit;
  record<given> told;
  penstock::runtime rt(workers());
  auto in =
      rt.bus().stream<job>("read", stream_options().on_undelivered<job>([&](const job& each, const undelivered& why) {
        told.add(noted(each.value, why));
      }));
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  auto first = in.receive();
  auto second = in.receive();
  CHECK(first.requeue() == errc::none);
  in.close();
  CHECK(told.size() == 2);  // the one that was put back, and the one in line
  CHECK(second.requeue() == errc::none);
  auto all = told.all();
  std::sort(all.begin(), all.end(), [](const given& a, const given& b) { return a.sequence < b.sequence; });
  const std::vector<given> each{{0, 1, undelivered_reason::closed, 2},
                                {1, 2, undelivered_reason::closed, 2},
                                {2, 3, undelivered_reason::closed, 1}};
  CHECK(all == each);
  CHECK(in.ledger().discarded == 3);
}

TEST_CASE("what a paused subscription still holds at a shutdown is given", "[undelivered][F3]") {
  const time_limit limit;
  std::vector<int> told;
  penstock::runtime rt(workers());
  subscribe_options options;
  options.on_failure(failure_policy::pause(1, 1h)).on_undelivered<job>([&](const job& each, const undelivered&) {
    told.push_back(each.value);
  });
  auto sub = rt.bus().subscribe<job>("mail", std::move(options), [](const job&) { throw std::runtime_error("down"); });
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  eventually([&] { return sub.state() == penstock::subscription_state::paused; });
  const auto report = rt.shutdown(20s);
  CHECK(report.drained);
  CHECK(told == std::vector<int>{1, 2});
  CHECK(report.undelivered() == 2);
}

TEST_CASE("evicted, dropped, filtered and failed events are not given: each has its own fate", "[undelivered][C2]") {
  const time_limit limit;
  gate held;
  record<int> begun, evicted;
  record<given> told;
  penstock::runtime rt(workers());
  subscribe_options options;
  options.capacity(2)
      .overflow(overflow::drop_oldest)
      .filter<job>([](const job& each) { return each.value != 1; })
      .on_drop<job>([&](const job& each, drop_reason) noexcept { evicted.add(each.value); })
      .on_undelivered<job>([&](const job& each, const undelivered& why) { told.add(noted(each.value, why)); });
  auto sub = rt.bus().subscribe<job>("latest two", std::move(options), [&](const job& each) {
    begun.add(each.value);
    held.wait();
    throw std::runtime_error("failed");
  });
  rt.bus().publish(job{1});  // filtered
  eventually([&] { return sub.ledger().filtered == 1; });
  rt.bus().publish(job{0});
  begun.wait_for(1);
  for (int i = 2; i < 5; ++i) rt.bus().publish(job{i});
  sub.stop();
  held.open();
  CHECK(sub.close() == close_status::closed);
  CHECK(evicted.all() == std::vector<int>{2});
  REQUIRE(told.size() == 2);
  CHECK(told.all()[0].value == 3);
  CHECK(told.all()[1].value == 4);
  const auto end = sub.ledger();
  CHECK((end.filtered == 1 && end.failed == 1 && end.evicted == 1 && end.discarded == 2));
  CHECK(quiet(sub));
}

TEST_CASE("a hook that throws is told to the log with the event's number, and the next event is given all the same",
          "[undelivered]") {
  const time_limit limit;
  record<log_record> lines;
  record<int> told;
  penstock::runtime rt(workers().log_to([&](const log_record& each) { lines.add(each); }));
  auto in =
      rt.bus().stream<job>("spool", stream_options().on_undelivered<job>([&](const job& each, const undelivered&) {
        told.add(each.value);
        if (each.value == 1) throw std::runtime_error("the disk is full");
      }));
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  const auto report = rt.shutdown(0s);
  CHECK(told.all() == std::vector<int>{0, 1, 2});
  CHECK(report.undelivered() == 3);
  std::vector<std::string> texts;
  for (const auto& each : lines.all())
    if (const auto line = to_string(each); line.find("on_undelivered") != std::string::npos) texts.push_back(line);
  REQUIRE(texts.size() == 1);
  CHECK_THAT(texts[0],
             contains_text("subscription=spool") && contains_text("sequence=2") && contains_text("the disk is full"));
}

TEST_CASE("the hook runs with no lock held: it may look at the bus, publish, and stop what else there is",
          "[undelivered][S4]") {
  const time_limit limit;
  record<int> told, others;
  record<std::string> seen;
  penstock::runtime rt(workers());
  auto bus = rt.bus();
  auto other = bus.stream<job>("other", stream_options().on_undelivered<job>(
                                            [&](const job& each, const undelivered&) { others.add(each.value); }));
  penstock::stream<job> in;
  in = bus.stream<job>("one", stream_options().on_undelivered<job>([&](const job& each, const undelivered&) {
    told.add(each.value);
    for (const auto& one : bus.snapshot().subscriptions) seen.add(one.name);
    if (each.value == 0) other.close();
    bus.publish(job{each.value + 10});
    in.close();
  }));
  for (int i = 0; i < 2; ++i) bus.publish(job{i});
  in.close();
  CHECK(told.all() == std::vector<int>{0, 1});
  CHECK(others.all() == std::vector<int>{0, 1});
  CHECK(seen.size() >= 2);
  CHECK(in.ledger().discarded == 2);
}

TEST_CASE("close waits for a running hook, and its closure is gone when close returns", "[undelivered][S3]") {
  const time_limit limit;
  gate inside, go_on;
  std::atomic<bool> left{false};
  auto witness = std::make_shared<int>(0);
  std::weak_ptr<int> alive = witness;
  penstock::runtime rt(workers());
  gate held;
  record<int> begun;
  subscribe_options options;
  options.on_undelivered<job>([&, keeps = std::move(witness)](const job&, const undelivered&) {
    inside.open();
    go_on.wait();
    left = true;
  });
  auto sub = rt.bus().subscribe<job>("closed", std::move(options), [&](const job&) {
    begun.add(1);
    held.wait();
  });
  for (int i = 0; i < 2; ++i) rt.bus().publish(job{i});
  begun.wait_for(1);
  std::thread stopper([&] { sub.stop(); });
  inside.wait();
  held.open();
  CHECK(sub.close_for(10ms) == close_status::timed_out);
  CHECK_FALSE(alive.expired());
  go_on.open();
  stopper.join();
  eventually([&] { return alive.expired(); });
  CHECK(left);
}

TEST_CASE("in a shutdown every call is asked to stop before a slow hook begins", "[undelivered]") {
  const time_limit limit;
  gate asked_to_stop;
  record<int> begun;
  std::atomic<bool> asked_before{false};
  penstock::runtime rt(workers());
  auto in = rt.bus().stream<job>("slow", stream_options().on_undelivered<job>([&](const job&, const undelivered&) {
    asked_to_stop.wait();  // opened by the other's request: a deadlock if that came later
    asked_before = true;
  }));
  auto sub = rt.bus().subscribe<job>("obeys", [&](const job&, const call& info) {
    begun.add(1);
    std::stop_callback wake(info.stop_token(), [&] { asked_to_stop.open(); });
    asked_to_stop.wait();
  });
  rt.bus().publish(job{1});
  begun.wait_for(1);
  const auto report = rt.shutdown(20ms);
  CHECK(asked_before);
  CHECK(report.undelivered() == 1);
}

TEST_CASE("an undelivered event says when it was published, on a topic that keeps that", "[undelivered][E3]") {
  const time_limit limit;
  penstock::runtime rt(workers());
  auto topic = rt.bus().topic<job>(topic_options().metadata(metadata::precise));
  std::optional<penstock::steady_time> published;
  auto in = rt.bus().stream<job>(
      "stamped",
      stream_options().on_undelivered<job>([&](const job&, const undelivered& why) { published = why.published(); }));
  const auto before = rt.time().now();
  rt.bus().publish(job{1});
  const auto after = rt.time().now();
  in.close();
  REQUIRE(published.has_value());
  CHECK((*published >= before && *published <= after));
}

TEST_CASE("on_undelivered for another event than the subscription's is refused by name", "[undelivered]") {
  const time_limit limit;
  penstock::runtime rt(workers());
  const auto refused = refusal_of([&] {
    static_cast<void>(rt.bus().subscribe<job>(
        "wrong", subscribe_options().on_undelivered<parcel>([](const parcel&, const undelivered&) {}),
        [](const job&) {}));
  });
  CHECK(refused.first == errc::event_type_mismatch);
  CHECK_THAT(refused.second, contains_text("on_undelivered") && contains_text("wrong"));
}

TEST_CASE("publishers that meet a stop give their own event: with threads, each is handled or given, once",
          "[undelivered]") {
  const time_limit limit;
  constexpr int each_publishes = 200;
  for (int round = 0; round < 50; ++round) {
    penstock::runtime rt(workers());
    std::vector<std::atomic<int>> fates(3 * each_publishes);
    std::atomic<std::uint64_t> accepted{0}, told{0};
    subscribe_options options;
    options.capacity(64).overflow(overflow::fail).on_undelivered<parcel>([&](const parcel& each, const undelivered&) {
      ++fates[static_cast<std::size_t>(*each.value)];
      ++told;
    });
    auto sub = rt.bus().subscribe<parcel>("ends", std::move(options),
                                          [&](const parcel& each) { ++fates[static_cast<std::size_t>(*each.value)]; });
    std::vector<std::thread> publishers;
    for (int who = 0; who < 3; ++who)
      publishers.emplace_back([&, who] {
        for (int i = 0; i < each_publishes; ++i)
          accepted += rt.bus().publish(parcel(who * each_publishes + i)).accepted();
      });
    eventually([&] { return sub.ledger().accepted > static_cast<std::uint64_t>(round); });
    CHECK(sub.close() == close_status::closed);
    for (auto& each : publishers) each.join();
    const auto end = sub.ledger();
    std::uint64_t decided = 0;
    for (const auto& times : fates) {
      REQUIRE(times <= 1);
      decided += static_cast<std::uint64_t>(times);
    }
    REQUIRE(decided == accepted);
    REQUIRE(told == end.discarded);
    REQUIRE(quiet(sub));
  }
}
