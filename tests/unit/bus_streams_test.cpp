// Streams: reading by thread and by task, competing readers, what becomes of a delivery, and the ends of both.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"
#include "../support/refusal.hpp"

#include <penstock/bus/dead_letter.hpp>
#include <penstock/penstock.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::close_mode;
using penstock::dead_letter;
using penstock::delivery;
using penstock::drop_reason;
using penstock::errc;
using penstock::failure;
using penstock::overflow;
using penstock::runtime_options;
using penstock::stream;
using penstock::stream_options;
using penstock::subscribe_options;
using penstock::task;
using penstock::worker_pool_options;

namespace bus_streams_test {
struct tick {
  int value = 0;
};
}  // namespace bus_streams_test

namespace {

using bus_streams_test::tick;
struct tock {
  int value = 0;
};
/// Travels in a block: it has a destructor.
struct letter {
  std::string text;
};
/// Travels in a block: it is large.
struct large {
  std::array<int, 100> values{};
};
/// The largest that travels in place.
struct brim {
  std::array<char, 64> bytes{};
};
struct move_only {
  std::unique_ptr<int> value;
};
struct nothing {};
struct counted {
  std::shared_ptr<int> life;
};

runtime_options workers(unsigned count) {
  return runtime_options()
      .pool("default", worker_pool_options().threads(count))
      .on_failure([](const failure&) {});
}
runtime_options workers(unsigned count, record<failure>& failures) {
  return runtime_options()
      .pool("default", worker_pool_options().threads(count))
      .on_failure([&failures](const failure& f) { failures.add(f); });
}

std::vector<int> first(int count) {
  std::vector<int> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

/// How many readers wait at the stream of this name.
std::size_t readers_of(const penstock::event_bus& bus, const std::string& name) {
  for (const auto& each : bus.snapshot().subscriptions)
    if (each.name == name) return each.readers;
  return 0;
}

task<int> read_to_the_end(const stream<tick>& from, record<int>& seen) {
  int count = 0;
  for (;;) {
    auto got = co_await from.next();
    if (!got) break;
    seen.add(got->value);
    ++count;
  }
  co_return count;
}

task<int> read_one(const stream<tick>& from) {
  auto got = co_await from.next();
  co_return got ? got->value : -1;
}

task<void> read_and_throw(const stream<tick>& from) {
  auto got = co_await from.next();
  if (got) throw std::runtime_error("the task failed");
}

task<void> read_and_hand_on(const stream<tick>& from, record<int>& seen) {
  auto got = co_await from.next();
  if (got) seen.add(got->value);
}

task<void> read_and_publish(const stream<tick>& from, const penstock::event_bus& bus, record<int>& begun,
                            record<errc>& said, const std::atomic<bool>& go) {
  auto got = co_await from.next();
  begun.add(1);
  while (!go) co_await penstock::sleep_for(1ms);
  auto body = [&] { said.add(bus.publish(tock{got->value}).error()); };
  got.publish_under(body);
}

static_assert(!std::is_copy_constructible_v<stream<tick>> && std::is_nothrow_move_constructible_v<stream<tick>>);
static_assert(!std::is_copy_constructible_v<delivery<tick>> && std::is_nothrow_move_constructible_v<delivery<tick>>);

}  // namespace

// --- reading
// -----------------------------------------------------------------------------------------------------------

TEST_CASE("a stream gives its events in order, each with its seat number, and nothing after its close", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  rt.bus().publish(tick{-1});
  auto ticks = rt.bus().stream<tick>("ticks");
  CHECK(ticks);
  CHECK(ticks.name() == "ticks");
  for (int i = 0; i < 5; ++i) CHECK(rt.bus().publish(tick{i}).accepted() == 1);
  CHECK(ticks.ledger().queued == 5);
  for (int i = 0; i < 5; ++i) {
    const auto got = ticks.receive();
    REQUIRE(got);
    CHECK(got->value == i);
    CHECK((*got).value == i);
    CHECK(got.get()->value == i);
    CHECK(got.sequence() == static_cast<unsigned>(i) + 1);
    CHECK(got.attempt() == 1);
    CHECK(ticks.ledger().running == 1);
    CHECK(ticks.ledger().balanced());
  }
  CHECK(ticks.ledger().handled == 5);
  CHECK(quiet(ticks));
  ticks.close();
  ticks.close();
  CHECK_FALSE(ticks.receive());
  CHECK_FALSE(ticks.try_receive());
  CHECK_FALSE(ticks.receive_for(1h));
  CHECK(rt.bus().publish(tick{9}).matched() == 0);
  CHECK(quiet(ticks));
}

TEST_CASE("try_receive never waits: it is empty when nothing is there", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  CHECK_FALSE(ticks.try_receive());
  rt.bus().publish(tick{7});
  {
    const auto got = ticks.try_receive();
    REQUIRE(got);
    CHECK(got->value == 7);
    CHECK_FALSE(ticks.try_receive());
  }
  CHECK_FALSE(ticks.try_receive());
  CHECK(ticks.ledger().handled == 1);
  CHECK(quiet(ticks));
}

TEST_CASE("receive_for gives up at its deadline and consumes nothing", "[S5][L4]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  const auto before = rt.time().now();
  CHECK_FALSE(ticks.receive_for(5ms));
  CHECK(rt.time().now() - before >= 5ms);
  CHECK_FALSE(ticks.receive_for(0ms));
  CHECK_FALSE(ticks.receive_for(-1h));
  CHECK_FALSE(ticks.receive_until(before));
  CHECK(readers_of(rt.bus(), "ticks") == 0);
  rt.bus().publish(tick{1});
  rt.bus().publish(tick{2});
  const auto one = ticks.receive_for(std::chrono::hours::max());
  REQUIRE(one);
  CHECK(one->value == 1);
  const auto two = ticks.receive_for(0ms);  // what is there is given, however short the time
  REQUIRE(two);
  CHECK(two->value == 2);
  CHECK(ticks.ledger().balanced());
}

TEST_CASE("receive waits for the event, also with the longest of durations", "[S5][L4]") {
  const time_limit limit;
  record<int> seen;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  std::thread reader([&] {
    if (const auto got = ticks.receive()) seen.add(got->value);
    if (const auto got = ticks.receive_for(std::chrono::nanoseconds::max())) seen.add(got->value);
    if (const auto got = ticks.receive_until(penstock::no_deadline)) seen.add(got->value);
  });
  for (int i = 0; i < 3; ++i) {
    eventually([&] { return readers_of(rt.bus(), "ticks") == 1; });
    CHECK(seen.size() == static_cast<std::size_t>(i));
    rt.bus().publish(tick{i});
    seen.wait_for(static_cast<std::size_t>(i) + 1);
  }
  reader.join();
  CHECK(seen.all() == first(3));
  CHECK(quiet(ticks));
}

TEST_CASE("a stop token ends the waiting of its reader, who has consumed nothing", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  std::stop_source stop;
  std::atomic<bool> empty{false};
  std::thread reader([&] { empty = !ticks.receive(stop.get_token()); });
  eventually([&] { return readers_of(rt.bus(), "ticks") == 1; });
  stop.request_stop();
  reader.join();
  CHECK(empty);
  CHECK_FALSE(ticks.receive(stop.get_token()));  // asked before it began
  CHECK(readers_of(rt.bus(), "ticks") == 0);
  rt.bus().publish(tick{1});
  const auto got = ticks.try_receive();
  REQUIRE(got);
  CHECK(got->value == 1);
  CHECK(got.sequence() == 1);
}

TEST_CASE("a reader whose stop races with an event either has it or has left it", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  const int rounds = sanitized ? 100 : 1000;
  int wrong = 0;
  for (int i = 0; i < rounds; ++i) {
    std::stop_source stop;
    std::atomic<int> got_by_reader{-1};
    std::thread reader([&] {
      if (const auto got = ticks.receive(stop.get_token())) got_by_reader = got->value;
    });
    std::thread publisher([&] { rt.bus().publish(tick{i}); });
    stop.request_stop();
    publisher.join();
    reader.join();
    const auto left = ticks.try_receive();
    const int other = left ? left->value : -1;
    if ((got_by_reader == i) == (other == i)) ++wrong;
  }
  CHECK(wrong == 0);
  CHECK(ticks.ledger().handled == static_cast<unsigned>(rounds));
  CHECK(quiet(ticks));
}

TEST_CASE("where a thread may not wait, receive looks once", "[S5][P3]") {
  const time_limit limit;
  record<int> seen;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  const auto look = [&] {
    const auto got = ticks.receive();
    const int value = got ? got->value : -1;
    seen.add(value);
  };
  REQUIRE(rt.pool("default")->post(look) == errc::none);
  seen.wait_for(1);
  rt.bus().publish(tick{1});
  REQUIRE(rt.pool("default")->post(look) == errc::none);
  seen.wait_for(2);
  auto sub = rt.bus().subscribe<tock>("reads in its handler", [&](const tock&) { look(); });
  rt.bus().publish(tock{});
  seen.wait_for(3);
  rt.bus().publish(tick{2});
  rt.bus().publish(tock{});
  seen.wait_for(4);
  CHECK(seen.all() == std::vector{-1, 1, -1, 2});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(quiet(ticks));
}

TEST_CASE("a task reads with next, in order, until the stream is closed", "[S5]") {
  const time_limit limit;
  record<int> seen;
  penstock::runtime rt(workers(1));
  auto ticks = rt.bus().stream<tick>("ticks", stream_options().capacity(4));
  std::thread traffic([&] {
    for (int i = 0; i < 300; ++i) rt.bus().publish(tick{i});
    ticks.close(close_mode::drain);
  });
  CHECK(penstock::block_on(rt.pool("default"), read_to_the_end(ticks, seen)) == 300);
  traffic.join();
  CHECK(seen.all() == first(300));
  CHECK(ticks.ledger().handled == 300);
  CHECK(quiet(ticks));
}

TEST_CASE("tasks that wait in next hold no worker", "[S5][P5]") {
  const time_limit limit;
  record<int> seen;
  std::atomic<int> ended{0};
  penstock::runtime rt(workers(1));
  auto ticks = rt.bus().stream<tick>("ticks");
  for (int i = 0; i < 5; ++i)
    penstock::start_task(rt.pool("default"), read_to_the_end(ticks, seen),
                         [&](penstock::outcome<int>&&) noexcept { ++ended; });
  eventually([&] { return readers_of(rt.bus(), "ticks") == 5; });
  gate ran;
  REQUIRE(rt.pool("default")->post([&] { ran.open(); }) == errc::none);
  ran.wait();
  for (int i = 0; i < 50; ++i) rt.bus().publish(tick{i});
  seen.wait_for(50);
  ticks.close();
  eventually([&] { return ended == 5; });
  auto all = seen.all();
  std::sort(all.begin(), all.end());
  CHECK(all == first(50));
  CHECK(quiet(ticks));
}

// --- the channel
// -------------------------------------------------------------------------------------------------------

TEST_CASE("a stream's capacity is exact, and a seat is free once its event is in a reader's hands", "[S5][C1]") {
  const time_limit limit;
  const std::size_t capacity = GENERATE(1, 3, 1000);
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks", stream_options().capacity(capacity));
  const auto publisher = rt.bus().publisher<tick>();
  std::size_t taken = 0;
  for (std::size_t i = 0; i < capacity; ++i) taken += publisher.try_publish(tick{1}).accepted();
  CHECK(taken == capacity);
  auto refused = publisher.try_publish(tick{1});
  CHECK(refused.rejected() == 1);
  CHECK(ticks.ledger().rejected.total() == 1);
  const auto held = ticks.receive();
  CHECK(ticks.ledger().running == 1);
  CHECK(publisher.try_publish(tick{1}).accepted() == 1);
  CHECK(publisher.try_publish(tick{1}).accepted() == 0);
  CHECK(ticks.ledger().queued == capacity);
  CHECK(ticks.ledger().balanced());
}

TEST_CASE("a publisher waits at a full stream until a reader has taken an event", "[S5][C5]") {
  const time_limit limit;
  record<int> published;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks", stream_options().capacity(2));
  std::thread publisher([&] {
    for (int i = 0; i < 5; ++i) {
      (void)rt.bus().publish(tick{i});
      published.add(i);
    }
  });
  for (int i = 0; i < 3; ++i) {
    eventually([&] { return ticks.ledger().pending == 1; });
    CHECK(published.size() == static_cast<std::size_t>(i) + 2);
    CHECK(rt.bus().try_publish(tick{99}).accepted() == 0);
    CHECK(ticks.ledger().balanced());
    CHECK(ticks.receive()->value == i);
  }
  publisher.join();
  CHECK(ticks.receive()->value == 3);
  CHECK(ticks.receive()->value == 4);
  CHECK(ticks.ledger().handled == 5);
  CHECK(quiet(ticks));
}

TEST_CASE("a waiting publisher gives up at its deadline, and the stream's ledger says so", "[S5][C5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks", stream_options().capacity(1));
  const auto publisher = rt.bus().publisher<tick>();
  publisher.publish(tick{0});
  const auto result = publisher.publish_for(3ms, tick{1});
  CHECK(result.error() == errc::timed_out);
  CHECK(ticks.ledger().rejected.timed_out == 1);
  CHECK(ticks.receive()->value == 0);
  CHECK_FALSE(ticks.try_receive());
  CHECK(quiet(ticks));
}

TEST_CASE("a handler's output is parked at a full stream, and admitted when a reader has taken an event", "[S5][P3]") {
  const time_limit limit;
  record<std::uint64_t> parked;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks", stream_options().capacity(1));
  auto stage = rt.bus().subscribe<tock>("stage", [&](const tock& e) {
    parked.add(rt.bus().publish(tick{e.value}).parked());
  });
  for (int i = 0; i < 3; ++i) rt.bus().publish(tock{i});
  parked.wait_for(2);
  eventually([&] { return ticks.ledger().pending == 1; });
  for (int i = 0; i < 3; ++i) CHECK(ticks.receive()->value == i);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(parked.all().front() == 0);
  CHECK(parked.all().at(1) == 1);
  CHECK(quiet(ticks));
}

TEST_CASE("a full stream refuses, drops or evicts as its policy says, and on_drop is told once", "[S5][C2]") {
  const time_limit limit;
  record<std::pair<int, drop_reason>> drops;
  penstock::runtime rt(workers(1));
  const auto hook = [&](const tick& e, drop_reason reason) noexcept { drops.add({e.value, reason}); };
  using drop_list = std::vector<std::pair<int, drop_reason>>;
  const auto fill = [&] {
    for (int i = 0; i < 5; ++i) (void)rt.bus().publish(tick{i});
  };
  const auto rest = [](const stream<tick>& from) {
    std::vector<int> all;
    while (const auto got = from.try_receive()) all.push_back(got->value);
    return all;
  };
  SECTION("fail") {
    const auto ticks = rt.bus().stream<tick>("ticks", stream_options().capacity(2).overflow(overflow::fail)
                                                          .on_drop<tick>(hook));
    fill();
    CHECK(rest(ticks) == first(2));
    CHECK(ticks.ledger().rejected.full == 3);
    CHECK(drops.size() == 0);
    CHECK(quiet(ticks));
  }
  SECTION("drop_newest") {
    const auto ticks = rt.bus().stream<tick>("ticks", stream_options().capacity(2).overflow(overflow::drop_newest)
                                                          .on_drop<tick>(hook));
    fill();
    CHECK(rest(ticks) == first(2));
    CHECK(ticks.ledger().dropped == 3);
    const drop_list expected{{2, drop_reason::newest}, {3, drop_reason::newest}, {4, drop_reason::newest}};
    CHECK((drops.all() == expected));
    CHECK(quiet(ticks));
  }
  SECTION("drop_oldest") {
    const auto ticks = rt.bus().stream<tick>("ticks", stream_options().capacity(2).overflow(overflow::drop_oldest)
                                                          .on_drop<tick>(hook));
    fill();
    CHECK(rest(ticks) == std::vector{3, 4});
    CHECK(ticks.ledger().evicted == 3);
    const drop_list expected{{0, drop_reason::oldest}, {1, drop_reason::oldest}, {2, drop_reason::oldest}};
    CHECK((drops.all() == expected));
    CHECK(quiet(ticks));
  }
  SECTION("latest") {
    const auto ticks =
        rt.bus().stream<tick>("ticks", stream_options().overflow(overflow::latest).on_drop<tick>(hook));
    fill();
    CHECK(rest(ticks) == std::vector{4});
    CHECK(ticks.ledger().evicted == 4);
    CHECK(drops.size() == 4);
    CHECK(quiet(ticks));
  }
}

TEST_CASE("streams and handlers of one topic have each event, and none holds up another", "[S5][C3]") {
  const time_limit limit;
  record<int> handled;
  penstock::runtime rt(workers(1));
  const auto one = rt.bus().stream<tick>("one");
  const auto two = rt.bus().stream<tick>("two", stream_options().capacity(1).overflow(overflow::drop_newest));
  auto sub = rt.bus().subscribe<tick>("handler", [&](const tick& e) { handled.add(e.value); });
  for (int i = 0; i < 10; ++i) CHECK(rt.bus().publish(tick{i}).matched() == 3);
  REQUIRE(sub.close(close_mode::drain) == penstock::close_status::closed);
  CHECK(handled.all() == first(10));
  for (int i = 0; i < 10; ++i) CHECK(one.receive()->value == i);
  CHECK(two.receive()->value == 0);
  CHECK(two.ledger().dropped == 9);
  CHECK(quiet(one));
  CHECK(quiet(two));
}

// --- several readers
// ---------------------------------------------------------------------------------------------------

TEST_CASE("several readers compete: each event comes to one of them, once", "[S5]") {
  const time_limit limit;
  record<int> seen;
  penstock::runtime rt(workers(2));
  auto ticks = rt.bus().stream<tick>("ticks", stream_options().capacity(8));
  const int count = sanitized ? 600 : 6000;
  std::atomic<int> tasks_ended{0};
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&] {
      while (const auto got = ticks.receive()) seen.add(got->value);
    });
  threads.emplace_back([&] {
    std::stop_source stop;
    while (ticks.ledger().handled < static_cast<unsigned>(count))
      if (const auto got = ticks.receive_for(1ms)) seen.add(got->value);
  });
  for (int r = 0; r < 2; ++r)
    penstock::start_task(rt.pool("default"), read_to_the_end(ticks, seen),
                         [&](penstock::outcome<int>&&) noexcept { ++tasks_ended; });
  const auto publish_half = [&](int parity) {
    const auto publisher = rt.bus().publisher<tick>();
    for (int i = parity; i < count; i += 2) publisher.publish(tick{i});
  };
  std::thread odd([&] { publish_half(1); });
  publish_half(0);
  odd.join();
  eventually([&] { return ticks.ledger().handled == static_cast<unsigned>(count); });
  ticks.close();
  for (auto& each : threads) each.join();
  eventually([&] { return tasks_ended == 2; });
  auto all = seen.all();
  std::sort(all.begin(), all.end());
  CHECK(all == first(count));
  CHECK(quiet(ticks));
}

TEST_CASE("readers wait in line: the first that came has the first event", "[S5]") {
  const time_limit limit;
  record<std::pair<int, int>> seen;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  std::vector<std::thread> readers;
  for (int r = 0; r < 4; ++r) {
    readers.emplace_back([&, r] {
      if (const auto got = ticks.receive()) seen.add({r, got->value});
    });
    eventually([&] { return readers_of(rt.bus(), "ticks") == static_cast<std::size_t>(r) + 1; });
  }
  CHECK_FALSE(ticks.try_receive());  // others wait before
  for (int i = 0; i < 4; ++i) {
    rt.bus().publish(tick{i});
    seen.wait_for(static_cast<std::size_t>(i) + 1);
    CHECK((seen.all().back() == std::pair(i, i)));
  }
  for (auto& each : readers) each.join();
  CHECK(quiet(ticks));
}

TEST_CASE("a reader that gives up in the middle of the line strands nobody", "[S5][C4]") {
  const time_limit limit;
  record<int> seen;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  std::stop_source stops[3];
  std::vector<std::thread> readers;
  for (int r = 0; r < 3; ++r) {
    readers.emplace_back([&, r] {
      if (const auto got = ticks.receive(stops[r].get_token())) seen.add(r * 10 + got->value);
    });
    eventually([&] { return readers_of(rt.bus(), "ticks") == static_cast<std::size_t>(r) + 1; });
  }
  stops[1].request_stop();
  readers[1].join();
  CHECK(readers_of(rt.bus(), "ticks") == 2);
  rt.bus().publish(tick{1});
  seen.wait_for(1);
  rt.bus().publish(tick{2});
  seen.wait_for(2);
  readers[0].join();
  readers[2].join();
  CHECK(seen.all() == std::vector{1, 22});
  CHECK(quiet(ticks));
}

TEST_CASE("max_in_flight bounds the deliveries that are held, and a further receive waits for one to end", "[S5]") {
  const time_limit limit;
  record<int> seen;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks", stream_options().max_in_flight(2));
  for (int i = 0; i < 4; ++i) rt.bus().publish(tick{i});
  auto one = ticks.receive();
  auto two = ticks.receive();
  CHECK_FALSE(ticks.try_receive());
  CHECK_FALSE(ticks.receive_for(2ms));
  CHECK(ticks.ledger().running == 2);
  CHECK(ticks.ledger().queued == 2);
  std::thread reader([&] {
    for (int i = 0; i < 2; ++i)
      if (auto got = ticks.receive()) seen.add(got->value);
  });
  eventually([&] { return readers_of(rt.bus(), "ticks") == 1; });
  SECTION("handled") { two.done(); }
  SECTION("failed") { two.fail("for the test"); }
  SECTION("dead") { two = delivery<tick>(); }
  reader.join();
  CHECK(seen.all() == std::vector{2, 3});
  one.done();
  CHECK(quiet(ticks));
}

TEST_CASE("a requeued event that is read again counts against max_in_flight and takes no seat", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>(
      "ticks", stream_options().capacity(1).overflow(penstock::overflow::fail).max_in_flight(1).max_attempts(9));
  rt.bus().publish(tick{1});
  auto held = ticks.receive();
  CHECK(rt.bus().publish(tick{2}).accepted() == 1);
  CHECK(held.requeue() == errc::none);
  CHECK(ticks.ledger().queued == 2);
  CHECK(rt.bus().publish(tick{3}).rejected() == 1);  // the seat is that of 2
  auto again = ticks.receive();
  CHECK(again->value == 1);
  CHECK_FALSE(ticks.try_receive());
  CHECK(ticks.ledger().queued == 1);
  again.done();
  CHECK(ticks.try_receive()->value == 2);
  CHECK(quiet(ticks));
}

// --- what becomes of a delivery
// ----------------------------------------------------------------------------------------

TEST_CASE("a delivery is handled by its death, or by done, once", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  for (int i = 0; i < 4; ++i) rt.bus().publish(tick{i});
  { const auto got = ticks.receive(); }
  CHECK(ticks.ledger().handled == 1);
  auto got = ticks.receive();
  got.done();
  CHECK_FALSE(got);
  CHECK(ticks.ledger().handled == 2);
  got.done();
  got.fail("too late");
  CHECK(got.requeue() != errc::none);
  CHECK(ticks.ledger().handled == 2);
  CHECK(ticks.ledger().failed == 0);
  got = ticks.receive();
  got = ticks.receive();  // what it held before is handled
  CHECK(ticks.ledger().handled == 3);
  delivery<tick> moved(std::move(got));
  CHECK_FALSE(got);
  CHECK(moved->value == 3);
  auto& self = moved;
  moved = std::move(self);
  CHECK(moved);
  CHECK(ticks.ledger().running == 1);
  moved = delivery<tick>();
  CHECK(ticks.ledger().handled == 4);
  CHECK(quiet(ticks));
}

TEST_CASE("a delivery past which an exception unwinds has failed", "[S5][F1]") {
  const time_limit limit;
  record<failure> failures;
  penstock::runtime rt(workers(1, failures));
  const auto ticks = rt.bus().stream<tick>("ticks");
  for (int i = 0; i < 2; ++i) rt.bus().publish(tick{i});
  SECTION("in a thread") {
    try {
      const auto got = ticks.receive();
      throw std::runtime_error("reader");
    } catch (const std::runtime_error&) {
      const auto other = ticks.receive();  // nothing is being unwound any more
    }
  }
  SECTION("moved on before") {
    try {
      std::vector<delivery<tick>> kept;
      kept.push_back(ticks.receive());
      throw std::runtime_error("reader");
    } catch (const std::runtime_error&) {
    }
    ticks.receive().done();
  }
  SECTION("in a task") {
    CHECK_THROWS_AS(penstock::block_on(rt.pool("default"), read_and_throw(ticks)), std::runtime_error);
    ticks.receive().done();
  }
  CHECK(ticks.ledger().failed == 1);
  CHECK(ticks.ledger().handled == 1);
  REQUIRE(failures.size() == 1);
  CHECK(failures.all().front().subscription == "ticks");
  CHECK(failures.all().front().sequence == 1);
  CHECK(failures.all().front().attempt == 1);
  CHECK_THAT(failures.all().front().event, contains_text("tick"));
  CHECK_THAT(failures.all().front().file, contains_text("bus_streams_test.cpp"));
  CHECK(quiet(ticks));
}

TEST_CASE("a delivery that is received and dies within an unwinding is handled", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  rt.bus().publish(tick{1});
  struct reads_when_it_dies {
    const stream<tick>& from;
    ~reads_when_it_dies() { const auto got = from.try_receive(); }
  };
  try {
    const reads_when_it_dies last{ticks};
    throw std::runtime_error("something else");
  } catch (const std::runtime_error&) {
  }
  CHECK(ticks.ledger().handled == 1);
  CHECK(ticks.ledger().failed == 0);
  CHECK(quiet(ticks));
}

TEST_CASE("fail tells the failure hook the reason and makes a dead letter", "[S5][F2][F3]") {
  const time_limit limit;
  record<failure> failures;
  penstock::runtime rt(workers(1, failures));
  const auto ticks = rt.bus().stream<tick>("ticks");
  const auto graves = rt.bus().stream<dead_letter<tick>>("graves");
  for (int i = 0; i < 2; ++i) rt.bus().publish(tick{i});
  auto got = ticks.receive();
  got.fail("no such customer");
  CHECK_FALSE(got);
  CHECK(ticks.ledger().failed == 1);
  REQUIRE(failures.size() == 1);
  CHECK_THAT(to_string(failures.all().front()), contains_text("no such customer"));
  CHECK(failures.all().front().sequence == 1);
  {
    const auto buried = graves.try_receive();
    REQUIRE(buried);
    CHECK(buried->event().value == 0);
    CHECK(buried->reason() == "no such customer");
    CHECK(buried->subscription() == "ticks");
    CHECK(buried->sequence() == 1);
    CHECK(buried->attempts() == 1);
    CHECK_THAT(buried->topic(), contains_text("tick"));
  }
  CHECK_FALSE(graves.try_receive());
  CHECK(ticks.receive()->value == 1);
  CHECK(quiet(ticks));
  CHECK(quiet(graves));
}

TEST_CASE("requeue puts the event back at the head, with one attempt more and the same seat number", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  for (int i = 0; i < 3; ++i) rt.bus().publish(tick{i});
  auto got = ticks.receive();
  CHECK(got.requeue() == errc::none);
  CHECK_FALSE(got);
  CHECK(ticks.ledger().queued == 3);
  CHECK(ticks.ledger().running == 0);
  CHECK(ticks.ledger().offered == 3);  // it is no offer
  CHECK(ticks.ledger().balanced());
  got = ticks.receive();
  CHECK(got->value == 0);
  CHECK(got.attempt() == 2);
  CHECK(got.sequence() == 1);
  CHECK(got.requeue() == errc::none);
  got = ticks.try_receive();
  CHECK(got->value == 0);
  CHECK(got.attempt() == 3);
  got = ticks.receive();
  CHECK(got->value == 1);
  CHECK(got.attempt() == 1);
  got = ticks.receive();
  CHECK(got->value == 2);
  got.done();
  CHECK(ticks.ledger().handled == 3);
  CHECK(quiet(ticks));
}

TEST_CASE("what is requeued waits outside the capacity", "[S5][C1]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks", stream_options().capacity(1));
  rt.bus().publish(tick{0});
  auto got = ticks.receive();
  rt.bus().publish(tick{1});
  CHECK(got.requeue() == errc::none);
  CHECK(ticks.ledger().queued == 2);
  CHECK(rt.bus().try_publish(tick{2}).accepted() == 0);
  CHECK(ticks.receive()->value == 0);
  CHECK(rt.bus().try_publish(tick{2}).accepted() == 0);  // the seat is still the other's
  CHECK(ticks.receive()->value == 1);
  CHECK(rt.bus().try_publish(tick{2}).accepted() == 1);
  CHECK(ticks.receive()->value == 2);
  CHECK(quiet(ticks));
}

TEST_CASE("a reader that waits has the requeued event", "[S5]") {
  const time_limit limit;
  record<unsigned> attempts;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  rt.bus().publish(tick{0});
  auto got = ticks.receive();
  std::thread reader([&] {
    if (const auto again = ticks.receive()) attempts.add(again.attempt());
  });
  eventually([&] { return readers_of(rt.bus(), "ticks") == 1; });
  CHECK(got.requeue() == errc::none);
  reader.join();
  CHECK(attempts.all() == std::vector{2U});
  CHECK(quiet(ticks));
}

TEST_CASE("a requeue after the last attempt fails the event, once, with a dead letter", "[S5][F3]") {
  const time_limit limit;
  record<failure> failures;
  penstock::runtime rt(workers(1, failures));
  const auto ticks = rt.bus().stream<tick>("ticks", stream_options().max_attempts(3));
  const auto graves = rt.bus().stream<dead_letter<tick>>("graves");
  rt.bus().publish(tick{5});
  for (unsigned i = 1; i <= 3; ++i) {
    CHECK(failures.size() == 0);
    auto got = ticks.receive();
    CHECK(got.attempt() == i);
    CHECK(got.requeue() == errc::none);
    CHECK_FALSE(got);
  }
  CHECK_FALSE(ticks.try_receive());
  CHECK(ticks.ledger().failed == 1);
  CHECK(failures.size() == 1);
  const auto buried = graves.try_receive();
  REQUIRE(buried);
  CHECK(buried->event().value == 5);
  CHECK(buried->attempts() == 3);
  CHECK(quiet(ticks));
}

TEST_CASE("with max_attempts 1 the first requeue fails the event", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks", stream_options().max_attempts(1));
  rt.bus().publish(tick{5});
  CHECK(ticks.receive().requeue() == errc::none);
  CHECK(ticks.ledger().failed == 1);
  CHECK(quiet(ticks));
}

TEST_CASE("after close a held delivery is still its reader's, and its requeue discards it", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto ticks = rt.bus().stream<tick>("ticks");
  for (int i = 0; i < 4; ++i) rt.bus().publish(tick{i});
  auto handled = ticks.receive();
  auto failed = ticks.receive();
  auto requeued = ticks.receive();
  ticks.close();
  CHECK(handled->value == 0);
  CHECK(ticks.ledger().discarded == 1);
  CHECK(ticks.ledger().running == 3);
  CHECK(ticks.ledger().balanced());
  handled.done();
  failed.fail("late");
  CHECK(requeued.requeue() == errc::none);
  CHECK_FALSE(ticks.try_receive());
  CHECK(ticks.ledger().handled == 1);
  CHECK(ticks.ledger().failed == 1);
  CHECK(ticks.ledger().discarded == 2);
  CHECK(quiet(ticks));
}

TEST_CASE("what was requeued before a close is discarded by it", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto life = std::make_shared<int>(0);
  auto events = rt.bus().stream<counted>("events");
  rt.bus().publisher<counted>().emplace(life);
  CHECK(events.receive().requeue() == errc::none);
  CHECK(life.use_count() == 2);
  events.close();
  CHECK(events.ledger().discarded == 1);
  CHECK(life.use_count() == 1);
  CHECK(quiet(events));
}

TEST_CASE("a delivery outlives its stream, its bus and its runtime", "[S5][S6]") {
  const time_limit limit;
  record<failure> failures;
  auto life = std::make_shared<int>(0);
  delivery<tick> near;
  delivery<letter> far;
  delivery<counted> last;
  {
    penstock::runtime rt(workers(1, failures).shutdown_within(10ms));
    auto ticks = rt.bus().stream<tick>("ticks");
    auto letters = rt.bus().stream<letter>("letters");
    auto counteds = rt.bus().stream<counted>("counted");
    rt.bus().publish(tick{42});
    rt.bus().publisher<letter>().emplace("a text that is too long to lie within the string itself");
    rt.bus().publisher<counted>().emplace(life);
    near = ticks.receive();
    far = letters.receive();
    last = counteds.receive();
    SECTION("the streams first") {}
    SECTION("the runtime first") {
      rt.shutdown(10ms);
      CHECK(near->value == 42);
    }
  }
  CHECK(near->value == 42);
  CHECK(far->text == "a text that is too long to lie within the string itself");
  CHECK(life.use_count() == 2);
  near.done();
  far.fail("nobody is there any more");
  CHECK(last.requeue() == errc::none);
  CHECK_FALSE(last);
  CHECK(life.use_count() == 1);
}

TEST_CASE("a stream outlives its runtime, and is closed then", "[S5][S6]") {
  const time_limit limit;
  stream<tick> ticks;
  CHECK_FALSE(ticks);
  CHECK_FALSE(ticks.receive());
  CHECK_FALSE(ticks.try_receive());
  CHECK_FALSE(ticks.receive_for(1h));
  CHECK(ticks.name().empty());
  ticks.close();
  {
    penstock::runtime rt(workers(1).shutdown_within(10ms));
    ticks = rt.bus().stream<tick>("ticks");
    for (int i = 0; i < 3; ++i) rt.bus().publish(tick{i});
    ticks.receive().done();
  }
  CHECK(ticks);
  CHECK_FALSE(ticks.receive());
  CHECK_FALSE(ticks.try_receive());
  CHECK_FALSE(ticks.receive_for(1h));
  CHECK(ticks.name() == "ticks");
  CHECK(ticks.ledger().handled == 1);
  CHECK(ticks.ledger().discarded == 2);
  CHECK(quiet(ticks));
  ticks.close();
  ticks.close(close_mode::drain);
}

// --- cancelled tasks
// ---------------------------------------------------------------------------------------------------

TEST_CASE("a cancelled next throws and consumes nothing", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  std::stop_source stop;
  std::thread canceller([&] {
    eventually([&] { return readers_of(rt.bus(), "ticks") == 1; });
    stop.request_stop();
  });
  CHECK_THROWS_AS(penstock::block_on(rt.pool("default"), read_one(ticks), stop.get_token()), penstock::cancelled);
  canceller.join();
  CHECK(readers_of(rt.bus(), "ticks") == 0);
  CHECK(ticks.ledger().balanced());
  rt.bus().publish(tick{3});
  CHECK(penstock::block_on(rt.pool("default"), read_one(ticks)) == 3);
  CHECK(quiet(ticks));
}

TEST_CASE("a next in a task that was asked to stop before it was started consumes nothing", "[S5]") {
  const time_limit limit;
  const int way = GENERATE(0, 1);
  record<bool> got;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  rt.bus().publish(tick{3});
  std::stop_source stop;
  stop.request_stop();
  if (way == 0) {
    penstock::start_task(rt.pool("default"), read_one(ticks),
                         [&](penstock::outcome<int>&& came) noexcept { got.add(static_cast<bool>(came)); },
                         stop.get_token());
    got.wait_for(1);
    CHECK(got.all() == std::vector{false});
  } else {
    CHECK_THROWS_AS(penstock::block_on(rt.pool("default"), read_one(ticks), stop.get_token()), penstock::cancelled);
  }
  CHECK(ticks.ledger().queued == 1);
  CHECK(ticks.ledger().balanced());
}

TEST_CASE("a task whose cancellation races with an event either has it or has left it", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  const auto ticks = rt.bus().stream<tick>("ticks");
  const int rounds = sanitized ? 100 : 1000;
  int wrong = 0;
  for (int i = 0; i < rounds; ++i) {
    std::stop_source stop;
    std::thread publisher([&] { rt.bus().publish(tick{i}); });
    std::thread canceller([&] { stop.request_stop(); });
    int got_by_task = -1;
    try {
      got_by_task = penstock::block_on(rt.pool("default"), read_one(ticks), stop.get_token());
    } catch (const penstock::cancelled&) {
    }
    publisher.join();
    canceller.join();
    const auto left = ticks.try_receive();
    const int other = left ? left->value : -1;
    const bool right = (got_by_task == i && other == -1) || (got_by_task == -1 && other == i);
    if (!right) ++wrong;
  }
  CHECK(wrong == 0);
  CHECK(ticks.ledger().handled == static_cast<unsigned>(rounds));
  CHECK(quiet(ticks));
}

TEST_CASE("a task that is destroyed while it waits in next leaves the line, and takes no event with it", "[S5]") {
  const time_limit limit;
  record<int> seen;
  std::atomic<bool> told{false};
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  auto other = penstock::worker_pool::start("other", worker_pool_options().threads(1));
  penstock::start_task(other, read_and_hand_on(ticks, seen), [&](penstock::outcome<void>&&) noexcept { told = true; });
  eventually([&] { return readers_of(rt.bus(), "ticks") == 1; });
  for (int i = 0; i < 2; ++i) {
    if (i == 1) rt.bus().publish(tick{0});
    if (i == 0) {
      // Nothing has come: the pool ends under a waiting task.
      CHECK(other->stop(penstock::no_deadline) == 0);
      rt.bus().publish(tick{1});
    }
  }
  const auto one = ticks.receive();
  CHECK(one->value == 1);
  const auto two = ticks.receive();
  CHECK(two->value == 0);
  CHECK(one.attempt() == 1);
  CHECK(two.attempt() == 1);
  CHECK(seen.size() == 0);
}

TEST_CASE("an event that had come to a task which is destroyed before it ran on is back at the head", "[S5]") {
  const time_limit limit;
  record<int> seen;
  std::atomic<bool> told{false};
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  auto other = penstock::worker_pool::start("other", worker_pool_options().threads(1));
  penstock::start_task(other, read_and_hand_on(ticks, seen), [&](penstock::outcome<void>&&) noexcept { told = true; });
  eventually([&] { return readers_of(rt.bus(), "ticks") == 1; });
  gate blocked, release;
  REQUIRE(other->post([&] {
    blocked.open();
    release.wait();
  }) == errc::none);
  blocked.wait();
  for (int i = 0; i < 3; ++i) rt.bus().publish(tick{i});
  CHECK(readers_of(rt.bus(), "ticks") == 0);
  CHECK(ticks.ledger().balanced());
  std::thread stopper([&] { (void)other->stop(penstock::no_deadline); });
  eventually([&] { return other->post([] {}) != errc::none; });
  release.open();
  stopper.join();
  eventually([&] { return told.load(); });
  CHECK(seen.size() == 0);
  for (int i = 0; i < 3; ++i) {
    const auto got = ticks.receive_for(5s);
    REQUIRE(got);
    CHECK(got->value == i);
    CHECK(got.attempt() == 1);
  }
  CHECK(ticks.ledger().handled == 3);
  CHECK(quiet(ticks));
}

// --- the end
// -----------------------------------------------------------------------------------------------------------

TEST_CASE("close discards what is queued and tells the readers that wait", "[S5]") {
  const time_limit limit;
  const close_mode mode = GENERATE(close_mode::stop_now, close_mode::drain, close_mode::cancel);
  penstock::runtime rt(workers(2));
  auto ticks = rt.bus().stream<tick>("ticks");
  std::atomic<int> empty{0};
  std::vector<std::thread> readers;
  for (int r = 0; r < 3; ++r)
    readers.emplace_back([&] {
      if (!ticks.receive()) ++empty;
    });
  penstock::start_task(rt.pool("default"), read_one(ticks), [&](penstock::outcome<int>&& came) noexcept {
    if (came && std::move(came).get() == -1) ++empty;
  });
  eventually([&] { return readers_of(rt.bus(), "ticks") == 4; });
  ticks.close(mode);
  for (auto& each : readers) each.join();
  eventually([&] { return empty == 4; });
  CHECK(quiet(ticks));
}

TEST_CASE("close(stop_now) discards the queue and releases waiting publishers with closed", "[S5][C5]") {
  const time_limit limit;
  record<errc> said;
  auto life = std::make_shared<int>(0);
  penstock::runtime rt(workers(1));
  auto events = rt.bus().stream<counted>("events", stream_options().capacity(2));
  const auto publisher = rt.bus().publisher<counted>();
  for (int i = 0; i < 2; ++i) publisher.emplace(life);
  std::vector<std::thread> publishers;
  for (int i = 0; i < 2; ++i)
    publishers.emplace_back([&] { said.add(publisher.emplace(std::shared_ptr<int>()).error()); });
  eventually([&] { return events.ledger().pending == 2; });
  events.close();
  for (auto& each : publishers) each.join();
  CHECK(said.all() == std::vector{errc::closed, errc::closed});
  CHECK(events.ledger().discarded == 2);
  CHECK(events.ledger().rejected.closed == 2);
  eventually([&] { return life.use_count() == 1; });
  CHECK(quiet(events));
}

TEST_CASE("close(drain) lets the rest be read, takes nothing more, and is empty then", "[S5]") {
  const time_limit limit;
  record<errc> said;
  penstock::runtime rt(workers(1));
  auto ticks = rt.bus().stream<tick>("ticks", stream_options().capacity(3));
  for (int i = 0; i < 3; ++i) rt.bus().publish(tick{i});
  std::thread waiting([&] { said.add(rt.bus().publish(tick{9}).error()); });
  eventually([&] { return ticks.ledger().pending == 1; });
  ticks.close(close_mode::drain);
  waiting.join();
  CHECK(said.all() == std::vector{errc::closed});
  CHECK(rt.bus().publish(tick{10}).matched() == 0);
  CHECK(ticks.receive()->value == 0);
  auto held = ticks.receive();
  CHECK(held->value == 1);
  CHECK(ticks.receive()->value == 2);
  CHECK_FALSE(ticks.receive());
  CHECK(held.requeue() == errc::none);  // in a drain it fails
  CHECK_FALSE(ticks.try_receive());
  CHECK(ticks.ledger().handled == 2);
  CHECK(ticks.ledger().failed == 1);
  CHECK(ticks.ledger().discarded == 0);
  CHECK(ticks.ledger().rejected.closed == 1);
  CHECK(quiet(ticks));
}

TEST_CASE("close(drain) and then close discards what has not been read", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto ticks = rt.bus().stream<tick>("ticks");
  for (int i = 0; i < 3; ++i) rt.bus().publish(tick{i});
  ticks.close(close_mode::drain);
  CHECK(ticks.receive()->value == 0);
  ticks.close();
  CHECK_FALSE(ticks.receive());
  CHECK(ticks.ledger().discarded == 2);
  CHECK(quiet(ticks));
}

TEST_CASE("a stream's destructor, and assigning to it, is close", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  {
    const auto ticks = rt.bus().stream<tick>("gone");
    CHECK(rt.bus().publish(tick{1}).matched() == 1);
  }
  CHECK(rt.bus().publish(tick{1}).matched() == 0);
  auto ticks = rt.bus().stream<tick>("one");
  ticks = rt.bus().stream<tick>("two");
  CHECK(rt.bus().publish(tick{1}).matched() == 1);
  CHECK(ticks.name() == "two");
  stream<tick> moved(std::move(ticks));
  CHECK_FALSE(ticks);
  CHECK_FALSE(ticks.try_receive());
  CHECK(moved.receive()->value == 1);
  eventually([&] { return rt.bus().subscriptions().size() == 1; });
}

TEST_CASE("a shutdown drains a stream whose reader reads on, and tells it the end", "[S5]") {
  const time_limit limit;
  record<int> seen;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  for (int i = 0; i < 100; ++i) rt.bus().publish(tick{i});
  gate ended;
  std::thread reader([&] {
    while (const auto got = ticks.receive()) seen.add(got->value);
    ended.open();
  });
  const auto report = rt.shutdown(25s);
  ended.wait();
  reader.join();
  INFO(to_string(report));
  CHECK(report.clean());
  CHECK(seen.all() == first(100));
  CHECK(ticks.ledger().handled == 100);
  CHECK(quiet(ticks));
  for (const auto& each : report.subscriptions) CHECK(each.ledger.balanced());
}

TEST_CASE("a shutdown gives up on a stream that nobody reads, and counts what it held", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  for (int i = 0; i < 3; ++i) rt.bus().publish(tick{i});
  const auto report = rt.shutdown(30ms);
  CHECK_FALSE(report.clean());
  CHECK_FALSE(report.drained);
  CHECK(report.undelivered() == 3);
  CHECK(ticks.ledger().discarded == 3);
  CHECK_FALSE(ticks.receive());
  CHECK(quiet(ticks));
}

TEST_CASE("in a shutdown's drain a requeue fails the event, and a failed event has its dead letter", "[S5][F3]") {
  const time_limit limit;
  record<failure> failures;
  record<std::string> reasons;
  penstock::runtime rt(workers(1, failures));
  const auto ticks = rt.bus().stream<tick>("ticks");
  auto graves = rt.bus().subscribe<dead_letter<tick>>("graves", [&](const dead_letter<tick>& e) {
    reasons.add(e.reason());
  });
  rt.bus().publish(tick{1});
  auto held = ticks.receive();
  penstock::shutdown_report report;
  std::thread ending([&] { report = rt.shutdown(25s); });
  eventually([&] { return rt.bus().publish(tock{}).error() == errc::closed; });
  std::string reason;
  SECTION("requeue") {
    reason = "shutdown";
    CHECK(held.requeue() == errc::none);
  }
  SECTION("fail") {
    reason = "by its reader";
    held.fail(reason);
  }
  ending.join();
  INFO(to_string(report));
  CHECK(report.clean());
  CHECK(ticks.ledger().failed == 1);
  CHECK(failures.size() == 1);
  CHECK(reasons.all() == std::vector<std::string>{reason});
  CHECK(graves.ledger().handled == 1);
  CHECK(quiet(ticks));
}

TEST_CASE("what a reader publishes under its delivery is taken in the drain, other publishes are closed", "[S5]") {
  const time_limit limit;
  record<int> written;
  record<errc> inner;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  auto writer = rt.bus().subscribe<tock>("writer", [&](const tock& e) { written.add(e.value); });
  rt.bus().publish(tick{7});
  auto held = ticks.receive();
  held.publish_under([&] { inner.add(rt.bus().publish(tock{1}).error()); });
  penstock::shutdown_report report;
  std::thread ending([&] { report = rt.shutdown(25s); });
  eventually([&] { return rt.bus().publish(tock{-1}).error() == errc::closed; });
  held.publish_under([&] { inner.add(rt.bus().publish(tock{held->value}).error()); });
  CHECK(rt.bus().publish(tock{-2}).error() == errc::closed);  // the permission ends with the body
  held.done();
  ending.join();
  INFO(to_string(report));
  CHECK(report.clean());
  CHECK(inner.all() == std::vector{errc::none, errc::none});
  const auto all = written.all();
  CHECK(std::count(all.begin(), all.end(), 7) == 1);
  CHECK(std::count(all.begin(), all.end(), -2) == 0);
  CHECK(quiet(ticks));
  held.publish_under([&] { inner.add(rt.bus().publish(tock{3}).error()); });
  CHECK(inner.all().back() == errc::closed);
}

TEST_CASE("what a task publishes under its delivery is taken in the drain as well", "[S5]") {
  const time_limit limit;
  record<int> written, begun;
  record<errc> inner;
  std::atomic<bool> go{false}, ended{false};
  penstock::runtime rt(workers(2));
  const auto bus = rt.bus();
  const auto ticks = bus.stream<tick>("ticks");
  auto writer = bus.subscribe<tock>("writer", [&](const tock& e) { written.add(e.value); });
  bus.publish(tick{7});
  penstock::start_task(rt.pool("default"), read_and_publish(ticks, bus, begun, inner, go),
                       [&](penstock::outcome<void>&&) noexcept { ended = true; });
  begun.wait_for(1);
  penstock::shutdown_report report;
  std::thread ending([&] { report = rt.shutdown(25s); });
  eventually([&] { return bus.publish(tock{-1}).error() == errc::closed; });
  go = true;
  ending.join();
  INFO(to_string(report));
  CHECK(report.clean());
  CHECK(inner.all() == std::vector{errc::none});
  const auto all = written.all();
  CHECK(std::count(all.begin(), all.end(), 7) == 1);
  CHECK(quiet(ticks));
}

TEST_CASE("under its delivery a reader waits at a full channel in the drain, and loses nothing", "[S5]") {
  const time_limit limit;
  record<int> written;
  gate release;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  auto writer = rt.bus().subscribe<tock>("writer", subscribe_options().capacity(1), [&](const tock& e) {
    if (e.value == 0) release.wait();
    if (e.value >= 0) written.add(e.value);
  });
  rt.bus().publish(tick{7});
  auto held = ticks.receive();
  penstock::shutdown_report report;
  std::thread ending([&] { report = rt.shutdown(25s); });
  eventually([&] { return rt.bus().try_publish(tock{-1}).error() == errc::closed; });
  std::uint64_t accepted = 0;
  std::thread opener([&] {
    eventually([&] { return writer.ledger().pending == 1; });
    release.open();
  });
  held.publish_under([&] {
    for (int i = 0; i < 10; ++i) accepted += rt.bus().publish(tock{i}).accepted();
  });
  held.done();
  opener.join();
  ending.join();
  INFO(to_string(report));
  CHECK(report.clean());
  CHECK(accepted == 10);
  CHECK(written.all() == first(10));
  CHECK(quiet(ticks));
  CHECK(writer.ledger().balanced());
}

TEST_CASE("what the body of publish_under throws comes out of it", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto ticks = rt.bus().stream<tick>("ticks");
  rt.bus().publish(tick{7});
  auto held = ticks.receive();
  CHECK_THROWS_AS(held.publish_under([] { throw 7; }), int);
  CHECK(held);
  held.done();
  CHECK(ticks.ledger().handled == 1);
  CHECK(quiet(ticks));
}

// --- kinds of events
// ---------------------------------------------------------------------------------------------------

TEST_CASE("a stream carries move-only, large, empty, and in-place events up to the last byte", "[S5][E2]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto letters = rt.bus().stream<letter>("letters");
  const auto larges = rt.bus().stream<large>("larges");
  const auto brims = rt.bus().stream<brim>("brims");
  const auto moved = rt.bus().stream<move_only>("moved");
  const auto nothings = rt.bus().stream<nothing>("nothings");
  for (int i = 0; i < 3; ++i) {
    rt.bus().publisher<letter>().emplace(std::string(100, static_cast<char>('a' + i)));
    large big;
    big.values.back() = i;
    rt.bus().publish(big);
    brim full;
    full.bytes.fill(static_cast<char>(i));
    rt.bus().publish(full);
    move_only only;
    only.value = std::make_unique<int>(i);
    rt.bus().publish(std::move(only));
    rt.bus().publish(nothing{});
  }
  for (int i = 0; i < 3; ++i) {
    CHECK(letters.receive()->text == std::string(100, static_cast<char>('a' + i)));
    CHECK(larges.receive()->values.back() == i);
    const auto full = brims.receive();
    CHECK(std::count(full->bytes.begin(), full->bytes.end(), static_cast<char>(i)) == 64);
    auto one = moved.receive();
    CHECK(*one->value == i);
    if (i == 0) {
      CHECK(one.requeue() == errc::none);
      CHECK(*moved.receive()->value == 0);
    }
    CHECK(nothings.receive());
  }
  CHECK(quiet(letters));
  CHECK(quiet(larges));
  CHECK(quiet(brims));
  CHECK(quiet(moved));
  CHECK(quiet(nothings));
}

TEST_CASE("an event in a block is destroyed when its delivery has ended", "[S5][L3]") {
  const time_limit limit;
  auto life = std::make_shared<int>(0);
  penstock::runtime rt(workers(1));
  auto events = rt.bus().stream<counted>("events", stream_options().capacity(2).overflow(overflow::drop_oldest));
  const auto publisher = rt.bus().publisher<counted>();
  publisher.emplace(life);
  CHECK(life.use_count() == 2);
  SECTION("handled") { events.receive().done(); }
  SECTION("failed") { events.receive().fail("x"); }
  SECTION("died") { (void)events.receive(); }
  SECTION("evicted") {
    for (int i = 0; i < 2; ++i) publisher.emplace(std::shared_ptr<int>());
  }
  SECTION("discarded") { events.close(); }
  eventually([&] { return life.use_count() == 1; });
  CHECK(events.ledger().balanced());
}

// --- options
// -----------------------------------------------------------------------------------------------------------

TEST_CASE("an option out of its range is invalid_argument, and the text names the stream and the option", "[S5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto bus = rt.bus();
  struct refused {
    std::string option;
    std::pair<errc, std::string> what;
  };
  std::vector<refused> all;
  const auto attempt = [&](const std::string& option, stream_options options) {
    all.push_back({option, refusal_of([&] { (void)bus.stream<tick>("ticks", std::move(options)); })});
  };
  attempt("capacity", stream_options().capacity(0));
  attempt("max_in_flight", stream_options().max_in_flight(0));
  attempt("max_attempts", stream_options().max_attempts(0));
  attempt("latest", stream_options().capacity(3).overflow(overflow::latest));
  for (const refused& each : all) {
    INFO(each.option << ": " << each.what.second);
    CHECK(each.what.first == errc::invalid_argument);
    CHECK_THAT(each.what.second, contains_text("ticks"));
    CHECK_THAT(each.what.second, contains_text(each.option));
  }
  CHECK(refusal_of([&] { (void)bus.stream<tick>(""); }).first == errc::invalid_argument);
  const auto mismatch = refusal_of([&] {
    (void)bus.stream<tick>("ticks", stream_options().on_drop<tock>([](const tock&, drop_reason) noexcept {}));
  });
  CHECK(mismatch.first == errc::event_type_mismatch);
  CHECK_THAT(mismatch.second, contains_text("ticks"));
  CHECK_THAT(mismatch.second, contains_text("on_drop"));
  CHECK(bus.subscriptions().empty());
  CHECK(bus.publish(tick{1}).matched() == 0);
  (void)rt.shutdown(1s);
  CHECK(refusal_of([&] { (void)bus.stream<tick>("late"); }).first == errc::closed);
}
