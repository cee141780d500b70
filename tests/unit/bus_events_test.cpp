// Events as the bus sees them: identity, payloads of every shape, one payload per publish, what a call may keep.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"
#include "bus_events_second_file.hpp"

#include <penstock/penstock.hpp>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::call;
using penstock::errc;
using penstock::event_ptr;
using penstock::make_event;
using penstock::overflow;
using penstock::subscribe_options;

namespace {

struct private_event {
  int value = 0;
};
struct shared_here {
  int value = 0;
};
struct other_layout {
  double value = 0;
};
struct next_schema {
  int value = 0;
};
struct plain {
  int value = 0;
};
struct base {
  int value = 0;
};
struct derived : base {};

/// Counts what is made of it.
struct tracked {
  static inline std::atomic<int> alive{0}, copies{0}, moves{0};
  static void reset() { alive = copies = moves = 0; }
  std::string text;
  explicit tracked(std::string given) : text(std::move(given)) { ++alive; }
  tracked(const tracked& other) : text(other.text) { ++alive, ++copies; }
  tracked(tracked&& other) noexcept : text(std::move(other.text)) { ++alive, ++moves; }
  tracked& operator=(const tracked&) = delete;
  ~tracked() { --alive; }
};

struct move_only {
  std::unique_ptr<int> value;
};

/// Lives behind event_ptr only.
struct immovable {
  explicit immovable(int given) : value(given) {}
  immovable(const immovable&) = delete;
  immovable& operator=(const immovable&) = delete;
  int value;
};

struct throws_on_copy {
  explicit throws_on_copy(bool armed) : throws(armed) {}
  throws_on_copy(const throws_on_copy& other) : throws(other.throws), name(other.name) {
    if (throws) throw std::domain_error("no copy");
  }
  bool throws;
  std::string name = "an event that is not trivially copyable";
};

struct throws_when_built {
  explicit throws_when_built(int) { throw std::range_error("no such event"); }
  std::string name;
};

template <std::size_t Bytes>
struct sized {
  std::array<unsigned char, Bytes> bytes{};
};
struct alignas(64) wide {
  std::array<unsigned char, 64> bytes{};
};
struct alignas(4096) page_aligned {
  int value = 0;
};
struct empty {};

bool settle(penstock::runtime& rt) { return rt.bus().wait_idle(25s); }

}  // namespace

template <>
struct penstock::event_name<shared_here> {
  static constexpr std::string_view value = "unit.shared";
};
template <>
struct penstock::event_name<other_layout> {
  static constexpr std::string_view value = "unit.shared";
};
template <>
struct penstock::event_name<next_schema> {
  static constexpr std::string_view value = "unit.shared";
  static constexpr std::uint32_t schema = 2;
};

// --- identity (E1)
// -----------------------------------------------------------------------------------------------------

TEST_CASE("two files' events of the same name in unnamed namespaces have separate topics", "[E1]") {
  const time_limit limit;
  penstock::runtime rt;
  record<int> first, second;
  auto mine = rt.bus().subscribe<private_event>("first", [&](const private_event& e) { first.add(e.value); });
  auto theirs = subscribe_second_private(rt.bus(), second);
  CHECK(rt.bus().publish(private_event{1}).matched() == 1);
  CHECK(publish_second_private(rt.bus(), 2).matched() == 1);
  REQUIRE(settle(rt));
  CHECK(first.all() == std::vector{1});
  CHECK(second.all() == std::vector{2});
}

TEST_CASE("two types that carry the same event_name and layout share a topic", "[E1]") {
  const time_limit limit;
  penstock::runtime rt;
  record<int> first, second;
  auto mine = rt.bus().subscribe<shared_here>("first", [&](const shared_here& e) { first.add(e.value); });
  auto theirs = subscribe_second_shared(rt.bus(), second);
  const auto result = rt.bus().publish(shared_here{7});
  CHECK(result.matched() == 2);
  REQUIRE(settle(rt));
  CHECK(first.all() == std::vector{7});
  CHECK(second.all() == std::vector{7});
  CHECK(rt.bus().publisher<shared_here>().topic_name() == "unit.shared");
}

TEST_CASE("an event name that is taken by another layout or schema is refused when the handle is made", "[E1]") {
  const time_limit limit;
  penstock::runtime rt;
  auto taken = rt.bus().subscribe<shared_here>("taken", [](const shared_here&) {});
  try {
    (void)rt.bus().publisher<other_layout>();
    FAIL("a publisher of another layout was made");
  } catch (const std::system_error& refused) {
    CHECK(refused.code() == errc::event_type_mismatch);
    CHECK_THAT(refused.what(), contains_text("unit.shared"));
  }
  const auto refused = rt.bus().try_subscribe<next_schema>("late", subscribe_options(), [](const next_schema&) {});
  CHECK(refused.error == errc::event_type_mismatch);
  CHECK_THAT(refused.text, contains_text("schema 2"));
  CHECK_THROWS_AS(rt.bus().publish(other_layout{1.5}), std::system_error);
  // Once nobody holds the topic, its name is free again.
  CHECK(taken.close() == penstock::close_status::closed);
  CHECK_NOTHROW(rt.bus().publisher<other_layout>());
}

TEST_CASE("an event's topic is its static type: a base class's subscriber does not see it", "[E1]") {
  const time_limit limit;
  penstock::runtime rt;
  record<int> seen;
  auto sub = rt.bus().subscribe<base>("base", [&](const base& e) { seen.add(e.value); });
  derived event;
  CHECK(rt.bus().publish(event).matched() == 0);
  CHECK(rt.bus().publish(base{3}).matched() == 1);
  REQUIRE(settle(rt));
  CHECK(seen.all() == std::vector{3});
}

// --- payloads (E2)
// -----------------------------------------------------------------------------------------------------

TEST_CASE("all subscribers of one publish see the same object, and nothing was copied for them", "[E2][Q6]") {
  const time_limit limit;
  tracked::reset();
  penstock::runtime rt;
  record<const tracked*> seen;
  std::vector<penstock::subscription> subs;
  for (int i = 0; i < 5; ++i)
    subs.push_back(rt.bus().subscribe<tracked>("reader", [&](const tracked& e) { seen.add(&e); }));
  CHECK(rt.bus().publisher<tracked>().emplace("built in place").accepted() == 5);
  REQUIRE(settle(rt));
  const auto all = seen.all();
  REQUIRE(all.size() == 5);
  for (const tracked* each : all) CHECK(each == all.front());
  CHECK(tracked::copies == 0);
  CHECK(tracked::moves == 0);
  CHECK(tracked::alive == 0);
}

TEST_CASE("publish of an event_ptr hands the very object over without a copy", "[E2]") {
  const time_limit limit;
  tracked::reset();
  penstock::runtime rt;
  record<const tracked*> seen;
  auto sub = rt.bus().subscribe<tracked>("reader", [&](const tracked& e) { seen.add(&e); });
  auto event = make_event<tracked>("shared");
  const tracked* address = event.get();
  const auto publisher = rt.bus().publisher<tracked>();
  CHECK(publisher.publish(event).accepted() == 1);
  CHECK(publisher.try_publish(std::move(event)).accepted() == 1);
  REQUIRE(settle(rt));
  CHECK(seen.all() == std::vector<const tracked*>{address, address});
  CHECK(tracked::copies + tracked::moves == 0);
  CHECK(tracked::alive == 0);
}

TEST_CASE("an event that nobody took leaves the argument of publish unmoved", "[E2]") {
  const time_limit limit;
  penstock::runtime rt(penstock::runtime_options().pool("default", penstock::worker_pool_options().threads(3)));
  const auto publisher = rt.bus().publisher<move_only>();
  const auto intact = [](const move_only& event) { return event.value != nullptr && *event.value == 41; };
  move_only event{std::make_unique<int>(41)};

  SECTION("no subscriber") {
    CHECK(publisher.publish(std::move(event)).matched() == 0);
    CHECK(intact(event));
  }
  SECTION("an empty publisher") {
    CHECK(penstock::publisher<move_only>().publish(std::move(event)).error() == errc::closed);
    CHECK(intact(event));
  }
  SECTION("full everywhere") {
    gate release;
    record<int> begun;
    const auto slow = [&](const move_only&) { begun.add(1), release.wait(); };
    auto blocking = rt.bus().subscribe<move_only>("blocking", subscribe_options().capacity(1), slow);
    auto failing =
        rt.bus().subscribe<move_only>("failing", subscribe_options().capacity(1).overflow(overflow::fail), slow);
    auto dropping = rt.bus().subscribe<move_only>(
        "dropping", subscribe_options().capacity(1).overflow(overflow::drop_newest), slow);
    CHECK(publisher.publish(move_only{std::make_unique<int>(0)}).accepted() == 3);
    begun.wait_for(3);
    CHECK(publisher.publish(move_only{std::make_unique<int>(0)}).accepted() == 3);
    const auto refused = publisher.try_publish(std::move(event));
    CHECK(refused.matched() == 3);
    CHECK(refused.dropped() == 1);
    CHECK(refused.rejected() == 2);
    CHECK(intact(event));
    const auto late = publisher.publish_for(10ms, std::move(event));
    CHECK(late.error() == errc::timed_out);
    CHECK(intact(event));
    CHECK(publisher.publish_for(-1s, std::move(event)).error() == errc::timed_out);
    CHECK(intact(event));
    release.open();
    REQUIRE(settle(rt));
    CHECK(publisher.publish(std::move(event)).accepted() == 3);
    CHECK_FALSE(event.value);
  }
  SECTION("shut down") {
    auto sub = rt.bus().subscribe<move_only>("reader", [](const move_only&) {});
    (void)rt.shutdown(25s);
    CHECK(publisher.publish(std::move(event)).error() == errc::closed);
    CHECK(intact(event));
  }
}

TEST_CASE("move-only and immovable events reach every subscriber", "[E2]") {
  const time_limit limit;
  penstock::runtime rt;
  record<int> seen;
  auto one = rt.bus().subscribe<move_only>("one", [&](const move_only& e) { seen.add(*e.value); });
  auto two = rt.bus().subscribe<move_only>("two", [&](const move_only& e) { seen.add(*e.value); });
  auto fixed = rt.bus().subscribe<immovable>("fixed", [&](const immovable& e) { seen.add(e.value); });
  CHECK(rt.bus().publish(move_only{std::make_unique<int>(5)}).accepted() == 2);
  CHECK(rt.bus().publisher<move_only>().emplace(std::make_unique<int>(5)).accepted() == 2);
  CHECK(rt.bus().publisher<immovable>().publish(make_event<immovable>(5)).accepted() == 1);
  CHECK(rt.bus().publisher<immovable>().emplace(5).accepted() == 1);
  REQUIRE(settle(rt));
  CHECK(seen.all() == std::vector<int>(6, 5));
}

TEST_CASE("events of every size and alignment arrive whole and aligned", "[E2]") {
  const time_limit limit;
  penstock::runtime rt;
  const auto round_trip = [&]<class E>(std::type_identity<E>) {
    record<bool> good;
    auto sub = rt.bus().subscribe<E>("reader", subscribe_options().capacity(3), [&](const E& event) {
      bool whole = reinterpret_cast<std::uintptr_t>(&event) % alignof(E) == 0;
      for (std::size_t i = 0; i < event.bytes.size(); ++i) whole = whole && event.bytes[i] == (i * 7 + 1) % 256;
      good.add(whole);
    });
    E event;
    for (std::size_t i = 0; i < event.bytes.size(); ++i) event.bytes[i] = static_cast<unsigned char>((i * 7 + 1) % 256);
    const auto publisher = rt.bus().template publisher<E>();
    for (int i = 0; i < 20; ++i) publisher.publish(event);
    publisher.publish(make_event<E>(event));
    publisher.publish_many(std::vector<E>(5, event));
    good.wait_for(26);
    return good.all() == std::vector<bool>(26, true);
  };
  CHECK(round_trip(std::type_identity<sized<1>>()));
  CHECK(round_trip(std::type_identity<sized<7>>()));
  CHECK(round_trip(std::type_identity<sized<8>>()));
  CHECK(round_trip(std::type_identity<sized<63>>()));
  CHECK(round_trip(std::type_identity<sized<64>>()));
  CHECK(round_trip(std::type_identity<sized<65>>()));
  CHECK(round_trip(std::type_identity<sized<5000>>()));
  CHECK(round_trip(std::type_identity<wide>()));
}

TEST_CASE("an event without members and one aligned to a page arrive", "[E2]") {
  const time_limit limit;
  penstock::runtime rt;
  record<int> seen;
  auto none = rt.bus().subscribe<empty>("empty", [&](const empty&) { seen.add(1); });
  auto page = rt.bus().subscribe<page_aligned>("page", [&](const page_aligned& e) {
    seen.add(reinterpret_cast<std::uintptr_t>(&e) % 4096 == 0 ? e.value : -1);
  });
  rt.bus().publish(empty());
  rt.bus().publish(page_aligned{1});
  rt.bus().publisher<page_aligned>().emplace(1);
  seen.wait_for(3);
  CHECK(seen.all() == std::vector<int>(3, 1));
}

TEST_CASE("a payload dies when its last call ends, not when its slot is used again", "[L3][Q7]") {
  const time_limit limit;
  tracked::reset();
  penstock::runtime rt;
  gate release;
  record<int> begun;
  auto quick = rt.bus().subscribe<tracked>("quick", [](const tracked&) {});
  auto slow = rt.bus().subscribe<tracked>("slow", [&](const tracked&) { begun.add(1), release.wait(); });
  rt.bus().publisher<tracked>().emplace("long-lived");
  begun.wait_for(1);
  CHECK(tracked::alive == 1);
  release.open();
  REQUIRE(settle(rt));
  CHECK(tracked::alive == 0);  // both channels keep their slots, neither keeps the event
}

TEST_CASE("payloads that are discarded, evicted or dropped die as well", "[L3]") {
  const time_limit limit;
  tracked::reset();
  {
    penstock::runtime rt;
    gate release;
    record<int> begun;
    auto old = rt.bus().subscribe<tracked>("old", subscribe_options().capacity(2).overflow(overflow::drop_oldest),
                                           [&](const tracked&) { begun.add(1), release.wait(); });
    auto publisher = rt.bus().publisher<tracked>();
    publisher.emplace("runs");
    begun.wait_for(1);
    for (int i = 0; i < 10; ++i) publisher.emplace("evicts");
    CHECK(tracked::alive == 3);
    old.stop();
    CHECK(tracked::alive == 1);
    release.open();
    CHECK(old.close() == penstock::close_status::closed);
    CHECK(tracked::alive == 0);
  }
  CHECK(tracked::alive == 0);
}

// --- what E's own code throws (F4)
// -------------------------------------------------------------------------------------

TEST_CASE("what the event's own copy or constructor throws leaves publish with nothing offered", "[F4][Q6]") {
  const time_limit limit;
  penstock::runtime rt;
  record<int> seen;
  auto sub = rt.bus().subscribe<throws_on_copy>("reader", [&](const throws_on_copy&) { seen.add(1); });
  auto built = rt.bus().subscribe<throws_when_built>("built", [&](const throws_when_built&) { seen.add(2); });
  const throws_on_copy bad(true);
  CHECK_THROWS_AS(rt.bus().publish(bad), std::domain_error);
  CHECK_THROWS_AS(rt.bus().publisher<throws_on_copy>().try_publish(bad), std::domain_error);
  std::vector<throws_on_copy> span;
  span.reserve(2);
  span.emplace_back(false);
  span.emplace_back(true);
  CHECK_THROWS_AS(rt.bus().publisher<throws_on_copy>().publish_many(span), std::domain_error);
  CHECK_THROWS_AS(rt.bus().publisher<throws_when_built>().emplace(1), std::range_error);
  CHECK_THROWS_AS(make_event<throws_when_built>(1), std::range_error);
  CHECK(sub.ledger().offered == 0);
  CHECK(built.ledger().offered == 0);
  CHECK(rt.bus().publish(throws_on_copy(false)).accepted() == 1);
  REQUIRE(settle(rt));
  CHECK(seen.all() == std::vector{1});
  CHECK(sub.ledger().balanced());
}

// --- handlers (H1)
// -----------------------------------------------------------------------------------------------------

namespace {
record<int>* free_handler_saw = nullptr;
void free_handler(const plain& event) { free_handler_saw->add(event.value); }
struct member_handler {
  record<int>* seen;
  std::unique_ptr<int> owned;  // move-only
  void operator()(const plain& event, const call&) { seen->add(event.value + *owned); }
};
}  // namespace

TEST_CASE("a handler may be a lambda, a function or its pointer, a std::function, or move-only", "[H1]") {
  const time_limit limit;
  penstock::runtime rt;
  record<int> seen;
  free_handler_saw = &seen;
  auto pointer = rt.bus().subscribe<plain>("pointer", &free_handler);
  auto function = rt.bus().subscribe<plain>("function", free_handler);
  auto wrapped = rt.bus().subscribe<plain>("std::function", std::function<void(const plain&)>(free_handler));
  auto moved = rt.bus().subscribe<plain>("move-only", member_handler{&seen, std::make_unique<int>(0)});
  auto counting = rt.bus().subscribe<plain>("mutable", [&seen, calls = 0](const plain&) mutable { seen.add(++calls); });
  auto by_value = rt.bus().subscribe<plain>("by value", [&](plain e) { seen.add(e.value); });
  CHECK(rt.bus().publish(plain{1}).accepted() == 6);
  REQUIRE(settle(rt));
  CHECK(seen.all() == std::vector<int>(6, 1));
}

TEST_CASE("a call tells the subscription's name, the attempt, and a sequence without gaps", "[H1][E3]") {
  const time_limit limit;
  penstock::runtime rt;
  record<std::uint64_t> sequences;
  record<std::string> names;
  auto sub = rt.bus().subscribe<plain>("auditor", subscribe_options().capacity(2), [&](const plain&, const call& info) {
    sequences.add(info.sequence());
    names.add(std::string(info.subscription()) + " attempt " + std::to_string(info.attempt()));
  });
  std::vector<std::uint64_t> wanted;
  for (std::uint64_t i = 1; i <= 50; ++i) {
    rt.bus().publish(plain{});
    wanted.push_back(i);
  }
  REQUIRE(settle(rt));
  CHECK(sequences.all() == wanted);
  CHECK(names.all() == std::vector<std::string>(50, "auditor attempt 1"));
}

TEST_CASE("call.share keeps the event beyond the call, the subscription and the runtime", "[H1][E2]") {
  const time_limit limit;
  tracked::reset();
  event_ptr<tracked> kept;
  event_ptr<plain> kept_small;
  const tracked* address = nullptr;
  {
    penstock::runtime rt;
    auto large = rt.bus().subscribe<tracked>("large", [&](const tracked& e, const call& info) {
      address = &e;
      kept = info.share(e);
    });
    auto small =
        rt.bus().subscribe<plain>("small", [&](const plain& e, const call& info) { kept_small = info.share(e); });
    rt.bus().publish(tracked("kept"));
    rt.bus().publish(plain{9});
    REQUIRE(settle(rt));
    CHECK(tracked::copies == 0);
  }
  REQUIRE(kept);
  CHECK(kept.get() == address);
  CHECK(kept->text == "kept");
  CHECK(kept_small->value == 9);
  CHECK(tracked::alive == 1);
  kept = {};
  CHECK(tracked::alive == 0);
}

TEST_CASE("the stop token of a call is asked to stop by close(cancel) and not by close", "[H3]") {
  const time_limit limit;
  penstock::runtime rt;
  record<std::stop_token> begun;
  gate release;
  auto sub = rt.bus().subscribe<plain>("patient", [&](const plain&, const call& info) {
    begun.add(info.stop_token());
    release.wait();
  });
  rt.bus().publish(plain{});
  begun.wait_for(1);
  const std::stop_token token = begun.all().front();
  sub.stop();
  CHECK_FALSE(token.stop_requested());
  CHECK(sub.close_for(1ms, penstock::close_mode::cancel) == penstock::close_status::timed_out);
  CHECK(token.stop_requested());
  release.open();
}
