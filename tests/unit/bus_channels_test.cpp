// Channels as a publisher meets them: exact capacity, overflow, lines, the ways a wait ends, and the accounting law.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"

#include <penstock/penstock.hpp>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::close_status;
using penstock::drop_reason;
using penstock::errc;
using penstock::overflow;
using penstock::publish_result;
using penstock::subscribe_options;

namespace {

/// Below zero: its handler waits until it is released.
struct number {
  int value = 0;
};
constexpr number plug{-1};

/// A subscription whose calls can be held up.
struct held {
  record<int> seen;
  gate release;
  penstock::subscription sub;

  held(penstock::runtime& rt, subscribe_options options, const std::string& name = "held") {
    sub = rt.bus().subscribe<number>(name, std::move(options), [this](const number& e) {
      seen.add(e.value);
      if (e.value < 0) release.wait();
    });
  }
  held(const held&) = delete;
  held& operator=(const held&) = delete;
  ~held() { release.open(); }
  /// From here on its lane is in a call and its channel is empty.
  void hold(const penstock::publisher<number>& to) {
    to.publish(plug);
    seen.wait_for(1);
  }
  std::uint64_t pending() const { return sub.ledger().pending; }
};

subscribe_options with(std::size_t capacity, overflow policy = overflow::block) {
  return subscribe_options().capacity(capacity).overflow(policy);
}

bool law_3(const publish_result& r) { return r.matched() == r.accepted() + r.parked() + r.dropped() + r.rejected(); }

/// What one publish said, kept by the test.
struct said {
  errc error = errc::none;
  std::uint64_t matched = 0, accepted = 0, rejected = 0;
  std::size_t prefix = 0;
};
said keep(const publish_result& r) { return {r.error(), r.matched(), r.accepted(), r.rejected(), r.prefix()}; }

std::vector<int> from_to(int first, int last) {
  std::vector<int> all(static_cast<std::size_t>(last - first + 1));
  std::iota(all.begin(), all.end(), first);
  return all;
}

/// A runtime with so many workers that each held call has its own.
penstock::runtime_options workers(unsigned count) {
  return penstock::runtime_options()
      .pool("default", penstock::worker_pool_options().threads(count))
      .on_failure([](const penstock::failure&) {});
}

}  // namespace

TEST_CASE("a channel of capacity N admits exactly N events that wait", "[C1][Q3]") {
  const time_limit limit;
  const std::size_t capacity = GENERATE(1, 2, 3, 1000);
  const overflow policy = GENERATE(overflow::block, overflow::fail, overflow::drop_newest, overflow::drop_oldest);
  penstock::runtime rt;
  held slow(rt, with(capacity, policy));
  const auto publisher = rt.bus().publisher<number>();
  slow.hold(publisher);
  for (std::size_t i = 0; i < capacity; ++i) REQUIRE(publisher.try_publish({static_cast<int>(i)}).accepted() == 1);
  CHECK(slow.sub.ledger().queued == capacity);
  const auto beyond = publisher.try_publish({9999});
  CHECK(beyond.accepted() == (policy == overflow::drop_oldest ? 1 : 0));
  CHECK(slow.sub.ledger().queued == capacity);
  CHECK(slow.sub.ledger().evicted == (policy == overflow::drop_oldest ? 1 : 0));
  CHECK(slow.sub.capacity() == capacity);
}

TEST_CASE("a seat is free from the moment its event's call begins", "[C1]") {
  const time_limit limit;
  penstock::runtime rt;
  record<int> begun;
  gate releases[4];
  auto sub = rt.bus().subscribe<number>("steps", with(3), [&](const number& e) {
    begun.add(e.value);
    releases[e.value].wait();
  });
  const auto publisher = rt.bus().publisher<number>();
  publisher.publish({0});
  begun.wait_for(1);
  CHECK(publisher.try_publish_many(std::vector<number>{{1}, {2}, {3}}).accepted() == 3);
  CHECK(publisher.try_publish({3}).accepted() == 0);
  for (std::size_t i = 0; i < 3; ++i) {
    releases[i].open();
    begun.wait_for(i + 2);
    CHECK(publisher.try_publish_many(std::vector<number>(10, number{3})).accepted() == 1);
    CHECK(sub.ledger().queued == 3);
  }
  for (gate& each : releases) each.open();
  REQUIRE(rt.bus().wait_idle(25s));
}

TEST_CASE("each overflow policy does what its name says, and tells each drop once", "[C2][S7][Q12]") {
  const time_limit limit;
  penstock::runtime rt;
  record<int> told;
  record<drop_reason> why;
  const auto hook = [&](const number& e, drop_reason reason) noexcept { told.add(e.value), why.add(reason); };

  SECTION("fail rejects the new event, as a count and not as an error") {
    held slow(rt, with(2, overflow::fail).on_drop<number>(hook));
    const auto publisher = rt.bus().publisher<number>();
    slow.hold(publisher);
    for (int i = 0; i < 2; ++i) CHECK(publisher.publish({i}).accepted() == 1);
    const auto refused = publisher.publish({2});
    CHECK(refused.rejected() == 1);
    CHECK(refused.error() == errc::none);
    REQUIRE(refused.refusals() == 1);
    CHECK(refused.refusal(0).subscription == std::string("held"));
    CHECK(refused.refusal(0).reason == errc::full);
    CHECK(refused.refusal(1).events == 0);
    CHECK(to_string(refused) == "matched 1, accepted 0, rejected 1 (held: full)");
    slow.release.open();
    REQUIRE(rt.bus().wait_idle(25s));
    CHECK(slow.seen.all() == std::vector{-1, 0, 1});
    CHECK(slow.sub.ledger().rejected.full == 1);
    CHECK(told.size() == 0);
  }
  SECTION("drop_newest drops the new event") {
    held slow(rt, with(2, overflow::drop_newest).on_drop<number>(hook));
    const auto publisher = rt.bus().publisher<number>();
    slow.hold(publisher);
    for (int i = 0; i < 5; ++i) {
      const auto result = publisher.publish({i});
      CHECK(result.accepted() == (i < 2 ? 1 : 0));
      CHECK(result.dropped() == (i < 2 ? 0 : 1));
      CHECK(result.error() == errc::none);
    }
    CHECK(told.all() == std::vector{2, 3, 4});
    CHECK(why.all() == std::vector(3, drop_reason::newest));
    slow.release.open();
    REQUIRE(rt.bus().wait_idle(25s));
    CHECK(slow.seen.all() == std::vector{-1, 0, 1});
    CHECK(slow.sub.ledger().dropped == 3);
  }
  SECTION("drop_oldest makes room by the oldest event that has not begun, never by the one that runs") {
    held slow(rt, with(2, overflow::drop_oldest).on_drop<number>(hook));
    const auto publisher = rt.bus().publisher<number>();
    slow.hold(publisher);
    for (int i = 0; i < 5; ++i) CHECK(publisher.publish({i}).accepted() == 1);
    CHECK(told.all() == std::vector{0, 1, 2});
    CHECK(why.all() == std::vector(3, drop_reason::oldest));
    CHECK(publisher.publish_many(std::vector<number>{{5}, {6}, {7}}).accepted() == 3);
    CHECK(told.all() == from_to(0, 5));
    slow.release.open();
    REQUIRE(rt.bus().wait_idle(25s));
    CHECK(slow.seen.all() == std::vector{-1, 6, 7});
    CHECK(slow.sub.ledger().evicted == 6);
    CHECK(slow.sub.ledger().handled == 3);
  }
  SECTION("latest keeps one event, the newest") {
    held slow(rt, subscribe_options().overflow(overflow::latest).on_drop<number>(hook));
    const auto publisher = rt.bus().publisher<number>();
    slow.hold(publisher);
    for (int i = 0; i < 4; ++i) CHECK(publisher.publish({i}).accepted() == 1);
    slow.release.open();
    REQUIRE(rt.bus().wait_idle(25s));
    CHECK(slow.seen.all() == std::vector{-1, 3});
    CHECK(told.all() == std::vector{0, 1, 2});
    CHECK(slow.sub.capacity() == 1);
  }
}

TEST_CASE("try_publish treats block as fail, also while others wait", "[C2]") {
  const time_limit limit;
  penstock::runtime rt;
  held slow(rt, with(1));
  const auto publisher = rt.bus().publisher<number>();
  slow.hold(publisher);
  CHECK(publisher.try_publish({0}).accepted() == 1);
  const auto refused = publisher.try_publish({1});
  CHECK(refused.rejected() == 1);
  CHECK(refused.refusal(0).reason == errc::full);
  std::thread waiter([&] { publisher.publish({2}); });
  eventually([&] { return slow.pending() == 1; });
  CHECK(publisher.try_emplace(3).rejected() == 1);
  slow.release.open();
  waiter.join();
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(slow.seen.all() == std::vector{-1, 0, 2});
}

TEST_CASE("a stuck subscriber delays nobody else: the others had the event before the publisher waited", "[C3][B3]") {
  const time_limit limit;
  penstock::runtime rt(workers(8));
  std::vector<std::unique_ptr<held>> stuck;
  const auto publisher = rt.bus().publisher<number>();
  for (int i = 0; i < 6; ++i) stuck.push_back(std::make_unique<held>(rt, with(1), "stuck " + std::to_string(i)));
  publisher.publish(plug);
  for (auto& each : stuck) each->seen.wait_for(1);
  publisher.publish({1});
  record<int> quick;
  auto after = rt.bus().subscribe<number>("quick", [&](const number& e) { quick.add(e.value); });
  record<said> came;
  std::thread waiting([&] { came.add(keep(publisher.publish({2}))); });  // at six full channels at once
  quick.wait_for(1);
  CHECK(quick.all() == std::vector{2});
  for (auto& each : stuck) eventually([&] { return each->pending() == 1; });
  CHECK(came.size() == 0);
  // Each admits it independently: who has been released gets it while the publisher still waits for the others.
  for (std::size_t i = 0; i < 5; ++i) {
    stuck[i]->release.open();
    stuck[i]->seen.wait_for(3);
    CHECK(came.size() == 0);
  }
  stuck[5]->release.open();
  waiting.join();
  const said result = came.all().front();
  CHECK(result.accepted == 7);
  CHECK(result.error == errc::none);
  for (auto& each : stuck) each->seen.wait_for(3);
}

TEST_CASE("waiters are served first in, first out, and a cancelled one in the middle takes no seat", "[C4][Q10]") {
  const time_limit limit;
  penstock::runtime rt;
  held slow(rt, with(1));
  const auto publisher = rt.bus().publisher<number>();
  slow.hold(publisher);
  publisher.publish({0});
  std::stop_source give_up;
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<record<said>>> came;
  for (int i = 1; i <= 6; ++i) {
    came.push_back(std::make_unique<record<said>>());
    threads.emplace_back([&, i, &out = *came.back()] {
      out.add(keep(i == 3 ? publisher.publish(number{i}, give_up.get_token()) : publisher.publish({i})));
    });
    eventually([&] { return slow.pending() == static_cast<std::uint64_t>(i); });
  }
  give_up.request_stop();
  threads[2].join();
  CHECK(came[2]->all().front().error == errc::cancelled);
  CHECK(came[2]->all().front().rejected == 1);
  CHECK(slow.pending() == 5);
  slow.release.open();
  for (std::size_t i = 0; i < threads.size(); ++i)
    if (i != 2) threads[i].join();
  for (std::size_t i = 0; i < came.size(); ++i)
    if (i != 2) CHECK(came[i]->all().front().accepted == 1);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(slow.seen.all() == std::vector{-1, 0, 1, 2, 4, 5, 6});
  CHECK(slow.sub.ledger().rejected.cancelled == 1);
  CHECK(slow.sub.ledger().balanced());
}

TEST_CASE("every waiter but the last may be cancelled and the last still gets its seat", "[C4][Q10]") {
  const time_limit limit;
  penstock::runtime rt;
  held slow(rt, with(1));
  const auto publisher = rt.bus().publisher<number>();
  slow.hold(publisher);
  publisher.publish({0});
  std::stop_source give_up;
  std::vector<std::thread> threads;
  record<said> came;
  for (int i = 1; i <= 5; ++i) {
    threads.emplace_back(
        [&, i] { came.add(keep(i < 5 ? publisher.publish(number{i}, give_up.get_token()) : publisher.publish({i}))); });
    eventually([&] { return slow.pending() == static_cast<std::uint64_t>(i); });
  }
  give_up.request_stop();
  slow.release.open();
  for (auto& each : threads) each.join();
  REQUIRE(rt.bus().wait_idle(25s));
  const auto ledger = slow.sub.ledger();
  CHECK(ledger.handled + ledger.rejected.cancelled == 7);
  CHECK(ledger.balanced());
  CHECK(slow.seen.all().back() == 5);
}

TEST_CASE("a publisher that waits is released in each of five ways, each with its own status", "[C5][B4]") {
  const time_limit limit;
  penstock::runtime rt;
  auto slow = std::make_unique<held>(rt, with(1));
  const auto publisher = rt.bus().publisher<number>();
  slow->hold(publisher);
  publisher.publish({0});
  record<said> came;
  std::stop_source give_up;

  SECTION("a seat comes free") {
    std::thread waiting([&] { came.add(keep(publisher.publish({1}))); });
    eventually([&] { return slow->pending() == 1; });
    slow->release.open();
    waiting.join();
    CHECK(came.all().front().error == errc::none);
    CHECK(came.all().front().accepted == 1);
  }
  SECTION("its deadline passes") {
    const auto result = keep(publisher.publish_for(5ms, number{1}));
    CHECK(result.error == errc::timed_out);
    CHECK(result.rejected == 1);
    CHECK(slow->sub.ledger().rejected.timed_out == 1);
    CHECK(slow->pending() == 0);
  }
  SECTION("its token is asked to stop") {
    std::thread waiting([&] { came.add(keep(publisher.publish(number{1}, give_up.get_token()))); });
    eventually([&] { return slow->pending() == 1; });
    give_up.request_stop();
    waiting.join();
    CHECK(came.all().front().error == errc::cancelled);
    CHECK(publisher.publish(number{1}, give_up.get_token()).error() == errc::cancelled);  // already asked
  }
  SECTION("the subscription stops") {
    std::thread waiting([&] { came.add(keep(publisher.publish({1}))); });
    eventually([&] { return slow->pending() == 1; });
    slow->sub.stop();
    waiting.join();
    CHECK(came.all().front().error == errc::closed);
    CHECK(came.all().front().rejected == 1);
    CHECK(slow->sub.ledger().rejected.closed == 1);
  }
  SECTION("the subscription drains") {
    std::thread waiting([&] { came.add(keep(publisher.publish({1}))); });
    eventually([&] { return slow->pending() == 1; });
    std::thread closing([&] { (void)slow->sub.close(penstock::close_mode::drain); });
    waiting.join();
    CHECK(came.all().front().error == errc::closed);
    slow->release.open();
    closing.join();
    CHECK(slow->seen.all() == std::vector{-1, 0});  // what was queued has been handled
  }
  SECTION("the bus shuts down") {
    std::thread waiting([&] { came.add(keep(publisher.publish({1}))); });
    eventually([&] { return slow->pending() == 1; });
    std::thread stopping([&] { (void)rt.shutdown(25s); });
    waiting.join();
    CHECK(came.all().front().error == errc::closed);
    slow->release.open();
    stopping.join();
  }
  slow->release.open();
  CHECK(slow->sub.close() == close_status::closed);
  CHECK(slow->sub.ledger().balanced());
}

TEST_CASE("a caller that got its seat is told, whatever the handlers do", "[C5]") {
  const time_limit limit;
  penstock::runtime rt;
  record<int> begun;
  gate first, second;
  auto sub = rt.bus().subscribe<number>("slow", with(64), [&](const number& e) {
    begun.add(e.value);
    if (e.value == -1) first.wait();
    if (e.value == -2) second.wait();
  });
  const auto publisher = rt.bus().publisher<number>();
  publisher.publish({-1});
  begun.wait_for(1);
  publisher.publish({-2});
  for (int i = 1; i < 64; ++i) publisher.publish({i});
  record<said> came;
  std::thread waiting([&] { came.add(keep(publisher.publish({64}))); });
  eventually([&] { return sub.ledger().pending == 1; });
  first.open();  // -2 begins: its seat goes to the waiter, and the lane is stuck again
  came.wait_for(1);
  CHECK(came.all().front().accepted == 1);
  CHECK(begun.size() == 2);
  waiting.join();
  second.open();
  REQUIRE(rt.bus().wait_idle(25s));
}

TEST_CASE("durations are clamped: the longest waits, and zero, negative and NaN ones do not", "[L4]") {
  const time_limit limit;
  penstock::runtime rt;
  held slow(rt, with(1));
  const auto publisher = rt.bus().publisher<number>();
  slow.hold(publisher);
  using float_hours = std::chrono::duration<double, std::ratio<3600>>;
  const auto nan = std::chrono::duration<double>(std::numeric_limits<double>::quiet_NaN());
  CHECK(publisher.publish_for(-5h, number{0}).accepted() == 1);  // with room none of them needs to wait
  CHECK(publisher.publish_for(0s, number{1}).error() == errc::timed_out);
  CHECK(publisher.publish_for(-1s, number{1}).error() == errc::timed_out);
  CHECK(publisher.publish_for(nan, number{1}).error() == errc::timed_out);
  CHECK(publisher.publish_for(std::chrono::hours::min(), number{1}).error() == errc::timed_out);
  CHECK(publisher.publish_for(float_hours(-1e300), number{1}).error() == errc::timed_out);
  CHECK(publisher.publish_until(penstock::steady_time::min(), number{1}).error() == errc::timed_out);
  CHECK(publisher.publish_many_for(nan, std::vector<number>(3)).error() == errc::timed_out);
  CHECK_FALSE(rt.bus().wait_idle(nan));
  CHECK_FALSE(rt.bus().wait_idle(-1s));
  CHECK_FALSE(rt.bus().wait_idle(std::chrono::nanoseconds::min()));

  record<said> came;
  std::vector<std::thread> threads;
  threads.emplace_back([&] { came.add(keep(publisher.publish_for(std::chrono::hours::max(), number{1}))); });
  threads.emplace_back([&] { came.add(keep(publisher.publish_for(std::chrono::nanoseconds::max(), number{2}))); });
  threads.emplace_back([&] { came.add(keep(publisher.publish_for(float_hours(1e300), number{3}))); });
  threads.emplace_back([&] { came.add(keep(publisher.publish_until(penstock::no_deadline, number{4}))); });
  threads.emplace_back([&] {
    said idle;
    if (!rt.bus().wait_idle(std::chrono::hours::max())) idle.error = errc::timed_out;
    came.add(idle);
  });
  eventually([&] { return slow.pending() == 4; });
  CHECK(came.size() == 0);
  slow.release.open();
  for (auto& each : threads) each.join();
  for (const said& each : came.all()) CHECK(each.error == errc::none);
  CHECK(slow.sub.close_for(std::chrono::hours::max()) == close_status::closed);
}

TEST_CASE("a result counts each matching subscription, and no match is visible in it and by a hook", "[P2]") {
  const time_limit limit;
  record<std::string> unmatched;
  penstock::runtime rt(penstock::runtime_options().on_unmatched([&](const std::string& event) {
    unmatched.add(event);
    throw 1;  // a hook that throws harms nobody
  }));
  const auto publisher = rt.bus().publisher<number>();
  const auto nobody = publisher.publish({1});
  CHECK(nobody.matched() == 0);
  CHECK(nobody.error() == errc::none);
  CHECK(to_string(nobody) == "matched 0, accepted 0");
  CHECK(rt.bus().publish(std::string("x")).matched() == 0);
  REQUIRE(unmatched.size() == 2);
  CHECK_THAT(unmatched.all()[0], contains_text("number"));
  CHECK_THAT(unmatched.all()[1], contains_text("string"));

  auto one = rt.bus().subscribe<number>("one", [](const number&) {});
  auto two = rt.bus().subscribe<number>("two", [](const number&) {});
  const auto both = rt.bus().publish(number{2});
  CHECK(both.matched() == 2);
  CHECK(both.accepted() == 2);
  CHECK(both.prefix() == 1);
  std::ostringstream text;
  text << both;
  CHECK(text.str() == "matched 2, accepted 2");
  CHECK(unmatched.size() == 2);
}

TEST_CASE("publish_many offers the whole span to each subscription before it waits, and keeps its order", "[P2]") {
  const time_limit limit;
  penstock::runtime rt(workers(3));
  held slow(rt, with(2));
  const auto publisher = rt.bus().publisher<number>();
  slow.hold(publisher);
  record<int> quick;
  auto sub = rt.bus().subscribe<number>("quick", with(64), [&](const number& e) { quick.add(e.value); });
  std::vector<number> span;
  for (int i = 0; i < 10; ++i) span.push_back({i});
  record<said> came;
  std::thread waiting([&] { came.add(keep(publisher.publish_many(span))); });
  quick.wait_for(10);
  CHECK(came.size() == 0);
  CHECK(quick.all() == from_to(0, 9));
  slow.release.open();
  waiting.join();
  CHECK(came.all().front().accepted == 20);
  CHECK(came.all().front().prefix == 10);
  REQUIRE(rt.bus().wait_idle(25s));
  auto seen = slow.seen.all();
  seen.erase(seen.begin());
  CHECK(seen == from_to(0, 9));
  CHECK(publisher.publish_many({}).matched() == 0);
}

TEST_CASE("try_publish_many takes what fits, and prefix counts the leading events nobody refused", "[P2]") {
  const time_limit limit;
  penstock::runtime rt(workers(4));
  held narrow(rt, with(3), "narrow");
  held failing(rt, with(5, overflow::fail), "failing");
  held dropping(rt, with(4, overflow::drop_newest), "dropping");
  const auto publisher = rt.bus().publisher<number>();
  publisher.publish(plug);
  for (held* each : {&narrow, &failing, &dropping}) each->seen.wait_for(1);
  std::vector<number> span;
  for (int i = 0; i < 8; ++i) span.push_back({i});
  const auto result = publisher.try_publish_many(span);
  CHECK(result.matched() == 24);
  CHECK(result.accepted() == 12);
  CHECK(result.rejected() == 8);
  CHECK(result.dropped() == 4);
  CHECK(result.prefix() == 3);
  CHECK(result.error() == errc::none);
  CHECK(law_3(result));
  for (held* each : {&narrow, &failing, &dropping}) each->release.open();
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(narrow.seen.all() == from_to(-1, 2));
  CHECK(failing.seen.all() == from_to(-1, 4));
  CHECK(dropping.seen.all() == from_to(-1, 3));
}

TEST_CASE("a span that gives up half-way says how far it came, and nothing is delivered twice", "[P1][P2]") {
  const time_limit limit;
  penstock::runtime rt;
  held slow(rt, with(4));
  const auto publisher = rt.bus().publisher<number>();
  slow.hold(publisher);
  std::vector<number> span;
  for (int i = 0; i < 10; ++i) span.push_back({i});
  const auto result = publisher.publish_many_for(5ms, span);
  CHECK(result.error() == errc::timed_out);
  CHECK(result.accepted() == 4);
  CHECK(result.rejected() == 6);
  CHECK(result.prefix() == 4);
  CHECK(slow.sub.ledger().rejected.timed_out == 6);
  slow.release.open();
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(slow.seen.all() == from_to(-1, 3));
}

TEST_CASE("the accounting law holds by the test's own counts, under every policy at once", "[laws]") {
  const time_limit limit;
  const char* given = std::getenv("PENSTOCK_TEST_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  INFO("seed " << seed << ": set PENSTOCK_TEST_SEED to it to run the same choices again");
  penstock::runtime rt(workers(3));
  struct counted {
    std::atomic<std::uint64_t> handled{0}, failed{0}, dropped{0}, evicted{0};
    penstock::subscription sub;
  };
  const overflow policies[] = {overflow::block, overflow::fail, overflow::drop_newest, overflow::drop_oldest,
                               overflow::latest};
  std::vector<std::unique_ptr<counted>> all;
  for (const overflow policy : policies) {
    auto& c = *all.emplace_back(std::make_unique<counted>());
    auto options = subscribe_options().overflow(policy).on_drop<number>([&c](const number&, drop_reason why) noexcept {
      (why == drop_reason::oldest ? c.evicted : c.dropped).fetch_add(1);
    });
    if (policy != overflow::latest) options.capacity(3);
    c.sub = rt.bus().subscribe<number>(std::string("policy ") + std::to_string(static_cast<int>(policy)),
                                       std::move(options), [&c](const number& e) {
                                         if (e.value % 7 == 0) {
                                           c.failed.fetch_add(1);
                                           throw e.value;
                                         }
                                         c.handled.fetch_add(1);
                                       });
  }
  std::atomic<std::uint64_t> matched{0}, accepted{0}, dropped{0}, rejected{0}, unbalanced{0}, offers{0};
  const int rounds = sanitized ? 300 : 2000;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      std::mt19937_64 random(seed + t);
      const auto publisher = rt.bus().publisher<number>();
      for (int i = 0; i < rounds; ++i) {
        publish_result result;
        std::uint64_t events = 1;
        const number event{static_cast<int>(random() % 1000)};
        switch (random() % 4) {
          case 0:
            result = publisher.publish(event);
            break;
          case 1:
            result = publisher.try_publish(event);
            break;
          case 2:
            result = publisher.publish_for(std::chrono::microseconds(random() % 50), event);
            break;
          default:
            events = random() % 9 + 1;
            result = publisher.publish_many(std::vector<number>(events, event));
        }
        offers += events * 5;
        matched += result.matched(), accepted += result.accepted();
        dropped += result.dropped(), rejected += result.rejected();
        if (!law_3(result) || result.parked() != 0) ++unbalanced;
      }
    });
  for (auto& each : threads) each.join();
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(unbalanced == 0);
  CHECK(matched == offers);
  std::uint64_t offered = 0, seated = 0, refused = 0, fell = 0;
  for (const auto& each : all) {
    const auto ledger = each->sub.ledger();
    INFO(each->sub.name() << ": " << to_string(ledger));
    CHECK(ledger.balanced());
    CHECK(ledger.quiescent());
    CHECK(ledger.handled == each->handled);
    CHECK(ledger.failed == each->failed);
    CHECK(ledger.evicted == each->evicted);
    CHECK(ledger.dropped == each->dropped);
    CHECK(ledger.accepted == each->handled + each->failed + each->evicted);
    offered += ledger.offered, seated += ledger.accepted, refused += ledger.rejected.total(), fell += ledger.dropped;
  }
  CHECK(matched == offered);
  CHECK(accepted == seated);
  CHECK(rejected == refused);
  CHECK(dropped == fell);
}
