// Subscribing and leaving: what stop and close promise, where closures die, and handles that outlive everything.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"

#include <penstock/penstock.hpp>

#include <atomic>
#include <latch>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::close_mode;
using penstock::close_status;
using penstock::drop_reason;
using penstock::errc;
using penstock::overflow;
using penstock::runtime_options;
using penstock::subscribe_options;
using penstock::subscription;
using penstock::worker_pool_options;

namespace {

struct tick {
  int value = 0;
};
struct tock {
  int value = 0;
};

runtime_options workers(unsigned count) {
  return runtime_options()
      .pool("default", worker_pool_options().threads(count))
      .on_failure([](const penstock::failure&) {});
}

/// Runs something when it dies, once, however often it was moved.
class on_death {
 public:
  explicit on_death(penstock::unique_function<void()> last) : last_(std::move(last)) {}
  on_death(on_death&&) = default;
  ~on_death() {
    if (last_) last_();
  }

 private:
  penstock::unique_function<void()> last_;
};

static_assert(!std::is_copy_constructible_v<subscription> && std::is_nothrow_move_constructible_v<subscription>);

}  // namespace

// --- subscribing
// -------------------------------------------------------------------------------------------------------

TEST_CASE("events published after subscribe returned are delivered, and none from before", "[S1][D8][D17]") {
  const time_limit limit;
  penstock::runtime rt;
  const auto publisher = rt.bus().publisher<tick>();
  publisher.publish({1});
  record<int> seen;
  auto first = rt.bus().subscribe<tick>("first", [&](const tick& e) { seen.add(e.value); });
  publisher.publish({2});
  record<int> late;
  std::optional<subscription> added;
  auto adder = rt.bus().subscribe<tock>("adder", [&](const tock& e) {
    added = rt.bus().subscribe<tock>("added in a call", [&](const tock& inner) { late.add(inner.value); });
    (void)e;
  });
  rt.bus().publish(tock{1});
  REQUIRE(rt.bus().wait_idle(25s));
  adder.stop();
  rt.bus().publish(tock{2});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(seen.all() == std::vector{2});
  CHECK(late.all() == std::vector{2});
}

TEST_CASE("a subscription's handle is move-only, and assigning to it closes the one it held", "[S1]") {
  const time_limit limit;
  record<int> one, two;  // outlive the runtime, and with it the subscription that is released below
  penstock::runtime rt;
  auto sub = rt.bus().subscribe<tick>("one", [&](const tick& e) { one.add(e.value); });
  sub = rt.bus().subscribe<tick>("two", [&](const tick& e) { two.add(e.value); });
  CHECK(rt.bus().publish(tick{1}).matched() == 1);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(one.size() == 0);
  CHECK(two.all() == std::vector{1});
  subscription moved(std::move(sub));
  CHECK_FALSE(sub);
  CHECK(sub.close() == close_status::closed);
  CHECK(sub.close(close_mode::drain) == close_status::closed);
  sub.stop();
  CHECK(sub.name().empty());
  CHECK(sub.capacity() == 0);
  CHECK(sub.ledger().offered == 0);
  CHECK(moved.name() == "two");
  auto& self = moved;
  moved = std::move(self);
  CHECK(moved.name() == "two");
  moved.release();
  CHECK_FALSE(moved);
  CHECK(rt.bus().publish(tick{2}).matched() == 1);  // lives as long as its bus
  REQUIRE(rt.bus().subscriptions().size() == 1);
  CHECK(rt.bus().subscriptions()[0].name == "two");
}

// --- stop and close
// ----------------------------------------------------------------------------------------------------

TEST_CASE("stop never waits, discards what is queued, and lets the running call end", "[S2][D2]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  record<int> begun;
  gate release;
  auto sub = rt.bus().subscribe<tick>("stopped", [&](const tick& e) { begun.add(e.value), release.wait(); });
  for (int i = 0; i < 5; ++i) rt.bus().publish(tick{i});
  begun.wait_for(1);
  std::mutex user;  // stop is callable under a user's own lock
  {
    const std::lock_guard lock(user);
    sub.stop();
    sub.stop();
  }
  CHECK(rt.bus().publish(tick{9}).matched() == 0);
  auto ledger = sub.ledger();
  CHECK(ledger.discarded == 4);
  CHECK(ledger.running == 1);
  CHECK(ledger.balanced());
  release.open();
  CHECK(sub.close() == close_status::closed);
  ledger = sub.ledger();
  CHECK(ledger.handled == 1);
  CHECK(ledger.quiescent());
  CHECK(ledger.balanced());
  CHECK(begun.size() == 1);
}

TEST_CASE("from closed on no code of the handler runs, and its closure has been destroyed", "[S3][D1]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  for (int round = 0; round < 50; ++round) {
    auto state = std::make_shared<std::atomic<int>>(0);
    std::atomic<bool> over{false}, late{false};
    auto sub = rt.bus().subscribe<tick>("closed", [state, &over, &late](const tick&) {
      if (over) late = true;
      ++*state;
      if (over) late = true;
    });
    std::jthread traffic([&](std::stop_token stop) {
      const auto publisher = rt.bus().publisher<tick>();
      while (!stop.stop_requested()) publisher.try_publish({1});
    });
    eventually([&] { return *state > 0; });
    REQUIRE(sub.close() == close_status::closed);
    over = true;
    CHECK(state.use_count() == 1);
    const int calls = *state;
    traffic.request_stop();
    traffic.join();
    CHECK(*state == calls);
    CHECK_FALSE(late);
  }
}

TEST_CASE("close(drain) handles the queued events first and takes no new ones", "[S2]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  record<int> seen;
  gate release;
  auto sub = rt.bus().subscribe<tick>("drained", [&](const tick& e) {
    seen.add(e.value);
    if (e.value == 0) release.wait();
  });
  for (int i = 0; i < 10; ++i) rt.bus().publish(tick{i});
  seen.wait_for(1);
  std::thread closing([&] { (void)sub.close(close_mode::drain); });
  eventually([&] { return rt.bus().publish(tick{99}).matched() == 0; });
  release.open();
  closing.join();
  CHECK(sub.close() == close_status::closed);
  const auto all = seen.all();
  for (std::size_t i = 0; i < 10; ++i) CHECK(all[i] == static_cast<int>(i));
  CHECK(sub.ledger().discarded == 0);
  CHECK(sub.ledger().handled == all.size());
}

TEST_CASE("in its own call close stops at once and answers closing, and the closure dies after the call", "[S2][D3]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  const close_mode mode = GENERATE(close_mode::stop_now, close_mode::drain, close_mode::cancel);
  record<close_status> status;
  gate died;
  std::optional<subscription> sub;
  std::atomic<bool> called{false}, died_inside{false}, inside{false};
  sub = rt.bus().subscribe<tick>("leaver", [&, death = on_death([&] {
                                                 died_inside = inside.load();
                                                 died.open();
                                               })](const tick&) {
    inside = true;
    called = true;
    status.add(sub->close(mode));
    status.add(sub->close_for(10s, mode));
    inside = false;
  });
  rt.bus().publish(tick{1});
  died.wait();
  CHECK(called);
  CHECK_FALSE(died_inside);
  CHECK(status.all() == std::vector{close_status::closing, close_status::closing});
  CHECK(rt.bus().publish(tick{2}).matched() == 0);
  CHECK(sub->close() == close_status::closed);
}

TEST_CASE("close of another subscription in a call answers closed when no call of it runs, else closing", "[S2]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  record<close_status> status;
  gate release;
  record<int> begun;
  auto idle = rt.bus().subscribe<tock>("idle", [](const tock&) {});
  auto busy = rt.bus().subscribe<tock>("busy", [&](const tock&) { begun.add(1), release.wait(); });
  rt.bus().publish(tock{});
  begun.wait_for(1);
  eventually([&] { return idle.ledger().quiescent() && idle.ledger().handled == 1; });
  auto closer = rt.bus().subscribe<tick>("closer", [&](const tick&) {
    // One of the two workers is in "busy", the other one here: so "idle" has left its last turn.
    status.add(idle.close());
    status.add(busy.close_for(10s));
  });
  rt.bus().publish(tick{});
  status.wait_for(2);
  CHECK(status.all() == std::vector{close_status::closed, close_status::closing});
  release.open();
  CHECK(busy.close() == close_status::closed);
}

TEST_CASE("the destructor of a subscription in its own call, or in posted work, only stops", "[S2]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  gate died, done;
  auto sub = std::make_unique<std::optional<subscription>>();
  auto* slot = sub.get();
  *slot = rt.bus().subscribe<tick>("leaver",
                                   [slot, death = on_death([&] { died.open(); })](const tick&) { slot->reset(); });
  rt.bus().publish(tick{});
  died.wait();
  auto other = std::make_shared<subscription>(rt.bus().subscribe<tick>("other", [](const tick&) {}));
  REQUIRE(rt.pool("default")->post([&, moved = std::move(other)]() mutable {
    moved.reset();
    done.open();
  }) == errc::none);
  done.wait();
  eventually([&] { return rt.bus().subscriptions().empty(); });
}

TEST_CASE("two handlers that close each other both finish", "[S3][D4]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  for (int round = 0; round < 20; ++round) {
    std::latch both(2);
    std::optional<subscription> one, two;
    record<close_status> status;
    one = rt.bus().subscribe<tick>("one", [&](const tick&) { both.arrive_and_wait(), status.add(two->close()); });
    two = rt.bus().subscribe<tick>("two", [&](const tick&) { both.arrive_and_wait(), status.add(one->close()); });
    rt.bus().publish(tick{});
    status.wait_for(2);
    CHECK(one->close() == close_status::closed);
    CHECK(two->close() == close_status::closed);
  }
}

TEST_CASE("several threads may close at once, and all learn that it is closed", "[S2]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  record<int> begun;
  gate release;
  auto sub = rt.bus().subscribe<tick>("shared", [&](const tick&) { begun.add(1), release.wait(); });
  rt.bus().publish(tick{});
  begun.wait_for(1);
  record<close_status> status;
  std::vector<std::thread> threads;
  for (const close_mode mode : {close_mode::stop_now, close_mode::drain, close_mode::cancel, close_mode::stop_now})
    threads.emplace_back([&, mode] { status.add(sub.close(mode)); });
  eventually([&] { return rt.bus().publish(tick{}).matched() == 0; });
  release.open();
  for (auto& each : threads) each.join();
  CHECK(status.all() == std::vector(4, close_status::closed));
}

TEST_CASE("a close past its deadline abandons: stopped, its queue discarded, the call still running by name", "[S6]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  record<int> begun;
  gate release, died;
  auto sub = rt.bus().subscribe<tick>("stuck", [&, death = on_death([&] { died.open(); })](const tick& e) {
    begun.add(e.value);
    release.wait();
  });
  for (int i = 0; i < 4; ++i) rt.bus().publish(tick{i});
  begun.wait_for(1);
  SECTION("close") { CHECK(sub.close_for(5ms) == close_status::timed_out); }
  SECTION("close(drain)") { CHECK(sub.close_for(5ms, close_mode::drain) == close_status::timed_out); }
  SECTION("close(cancel)") { CHECK(sub.close_for(5ms, close_mode::cancel) == close_status::timed_out); }
  SECTION("no time at all") { CHECK(sub.close_for(-1s) == close_status::timed_out); }
  CHECK(sub.close() == close_status::timed_out);  // a later close returns at once
  const auto ledger = sub.ledger();
  CHECK(ledger.running == 1);
  CHECK(ledger.discarded == 3);
  CHECK(ledger.balanced());
  CHECK_FALSE(died.is_open());
  release.open();
  died.wait();  // the closure lives until its call has ended
  eventually([&] { return sub.close() == close_status::closed; });
  CHECK(sub.ledger().handled == 1);
  CHECK(begun.size() == 1);
}

// --- where closures die
// ------------------------------------------------------------------------------------------------

TEST_CASE("a closure is destroyed outside every lock: its destructor may use the bus", "[S3][S4][D5]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  const auto bus = rt.bus();
  gate died;
  record<int> seen;
  auto other = bus.subscribe<tock>("other", [&](const tock& e) { seen.add(e.value); });
  auto sub = bus.subscribe<tick>("user of the bus", [&, death = on_death([&] {
                                                          (void)bus.publish(tick{2});
                                                          (void)bus.publish(tock{2});
                                                          (void)bus.subscriptions();
                                                          auto extra = bus.subscribe<tick>("made in a destructor",
                                                                                           [](const tick&) {});
                                                          extra.stop();
                                                          died.open();
                                                        })](const tick&) {});
  bus.publish(tick{1});
  REQUIRE(bus.wait_idle(25s));
  SECTION("by close") { CHECK(sub.close() == close_status::closed); }
  SECTION("by stop") { sub.stop(); }
  SECTION("by the handle's destructor") { sub = subscription(); }
  died.wait();
  seen.wait_for(1);
}

TEST_CASE("a closure never dies on a publisher's stack, nor on that of stop", "[S2][S3][D5]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  std::atomic<std::thread::id> where{};
  gate died;
  auto sub = rt.bus().subscribe<tick>("closure", [death = on_death([&] {
                                                    where = std::this_thread::get_id();
                                                    died.open();
                                                  })](const tick&) {});
  SECTION("an idle one") {}
  SECTION("one that was called") {
    rt.bus().publish(tick{});
    REQUIRE(rt.bus().wait_idle(25s));
  }
  sub.stop();
  died.wait();
  CHECK(where.load() != std::this_thread::get_id());
  CHECK(rt.bus().publish(tick{}).matched() == 0);
}

TEST_CASE("a closure may hold the last handle to its own bus", "[D6]") {
  const time_limit limit;
  gate died;
  {
    auto rt = std::make_unique<penstock::runtime>(workers(2));
    auto sub =
        rt->bus().subscribe<tick>("holder", [bus = rt->bus(), death = on_death([&] { died.open(); })](const tick&) {});
    sub.release();
    rt->bus().publish(tick{});
  }
  died.wait();
}

TEST_CASE("a closure may own its own subscription", "[S6][D6]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  gate died;
  auto slot = std::make_shared<subscription>();
  *slot =
      rt.bus().subscribe<tick>("own", [slot, death = on_death([&] { died.open(); })](const tick&) { slot->stop(); });
  slot.reset();
  rt.bus().publish(tick{});
  died.wait();
}

// --- on_drop
// -----------------------------------------------------------------------------------------------------------

TEST_CASE("close waits for a running on_drop", "[S7]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  gate inside, release, closing;
  std::atomic<bool> ended{false}, died{false}, died_first{false};
  record<int> begun;
  gate handler;
  auto options = subscribe_options()
                     .capacity(1)
                     .overflow(overflow::drop_newest)
                     .on_drop<tick>([&, death = on_death([&] { died = true; })](const tick& e, drop_reason) noexcept {
                       if (e.value != 3) return;  // one of those below, before the close has begun
                       inside.open();
                       release.wait();
                       died_first = died.load();
                       ended = true;
                     });
  auto sub =
      rt.bus().subscribe<tick>("dropping", std::move(options), [&](const tick&) { begun.add(1), handler.wait(); });
  rt.bus().publish(tick{1});
  begun.wait_for(1);
  rt.bus().publish(tick{2});
  std::thread dropper([&] { rt.bus().publish(tick{3}); });
  inside.wait();
  handler.open();
  bool ended_at_close = false;
  std::thread closer([&] {
    closing.open();
    (void)sub.close();
    ended_at_close = ended;
  });
  closing.wait();
  eventually([&] { return rt.bus().publish(tick{4}).matched() == 0; });
  release.open();
  closer.join();
  dropper.join();
  CHECK(ended_at_close);
  CHECK_FALSE(died_first);
  CHECK(died);
}

TEST_CASE("a drop caused inside on_drop is counted and not called back", "[S7]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  gate release;
  record<int> begun;
  std::atomic<int> told{0};
  const auto publisher = rt.bus().publisher<tick>();
  auto options = subscribe_options()
                     .capacity(1)
                     .overflow(overflow::drop_oldest)
                     .on_drop<tick>([&](const tick& e, drop_reason) noexcept {
                       ++told;
                       if (e.value < 100) (void)publisher.publish({e.value + 100});  // pushes the next one out
                     });
  auto sub =
      rt.bus().subscribe<tick>("dropping", std::move(options), [&](const tick&) { begun.add(1), release.wait(); });
  publisher.publish({0});
  begun.wait_for(1);
  publisher.publish({1});
  publisher.publish({2});
  CHECK(told == 1);
  CHECK(sub.ledger().evicted == 2);
  CHECK(sub.ledger().balanced());
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
}

TEST_CASE("a publish inside on_drop that would wait is refused with would_block", "[S7][P3]") {
  const time_limit limit;
  penstock::runtime rt(workers(3));
  gate release;
  record<int> begun;
  record<errc> inside;
  auto full = rt.bus().subscribe<tock>("full", subscribe_options().capacity(1),
                                       [&](const tock&) { begun.add(1), release.wait(); });
  auto options =
      subscribe_options()
          .capacity(1)
          .overflow(overflow::drop_newest)
          .on_drop<tick>([&](const tick&, drop_reason) noexcept { inside.add(rt.bus().publish(tock{}).error()); });
  auto sub =
      rt.bus().subscribe<tick>("dropping", std::move(options), [&](const tick&) { begun.add(1), release.wait(); });
  rt.bus().publish(tock{});
  rt.bus().publish(tick{});
  begun.wait_for(2);
  rt.bus().publish(tock{});
  rt.bus().publish(tick{});
  rt.bus().publish(tick{});
  CHECK(inside.all() == std::vector{errc::would_block});
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
}

// --- no lock is held
// ---------------------------------------------------------------------------------------------------

TEST_CASE("no user code runs with an internal mutex held: handlers and publishers may share a user's lock",
          "[S4][D7][F103]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  std::mutex user;
  int calls = 0, drops = 0;
  auto options = subscribe_options()
                     .capacity(2)
                     .overflow(overflow::drop_oldest)
                     .on_drop<tick>([&](const tick&, drop_reason) noexcept {
                       ++drops;
                     });  // on the publisher's stack, under its lock
  auto sub = rt.bus().subscribe<tick>("locker", std::move(options), [&](const tick&) {
    const std::lock_guard lock(user);
    ++calls;
  });
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 300; ++i) {
        const std::lock_guard lock(user);
        rt.bus().publish(tick{i});
        (void)rt.bus().subscriptions();
        auto brief = rt.bus().subscribe<tick>("brief", [](const tick&) {});
        brief.stop();
      }
    });
  for (auto& each : threads) each.join();
  REQUIRE(sub.close(close_mode::drain) == close_status::closed);
  CHECK(calls + drops == 600);
}

// --- handles outlive bus and runtime
// -----------------------------------------------------------------------------------

TEST_CASE("all handles may outlive bus and runtime, and every operation then answers closed", "[S6][P11]") {
  const time_limit limit;
  subscription sub;
  penstock::publisher<tick> publisher;
  penstock::publisher<std::string> large;
  std::optional<penstock::event_bus> bus;
  penstock::scheduler_ptr pool;
  {
    penstock::runtime rt(workers(2));
    bus = rt.bus();
    pool = rt.pool("default");
    publisher = bus->publisher<tick>();
    large = bus->publisher<std::string>();
    sub = bus->subscribe<tick>("survivor", [](const tick&) {});
    publisher.publish({1});
    publisher.publish({2});
  }
  CHECK(publisher.publish({3}).error() == errc::closed);
  CHECK(publisher.try_publish({3}).error() == errc::closed);
  CHECK(publisher.publish_for(1h, tick{3}).error() == errc::closed);
  CHECK(publisher.emplace(3).error() == errc::closed);
  CHECK(publisher.publish_many(std::vector<tick>(3)).error() == errc::closed);
  CHECK(publisher.publish(penstock::make_event<tick>(3)).error() == errc::closed);
  CHECK(large.publish("text").error() == errc::closed);
  CHECK(large.emplace("text").error() == errc::closed);
  CHECK(large.publish(penstock::make_event<std::string>("text")).error() == errc::closed);
  CHECK(large.publish_many(std::vector<std::string>(3)).error() == errc::closed);
  CHECK(bus->publish(tick{3}).error() == errc::closed);
  CHECK(bus->try_publish(std::string("text")).error() == errc::closed);
  CHECK(bus->subscriptions().empty());
  CHECK(bus->wait_idle(1h));
  CHECK(sub.close() == close_status::closed);
  CHECK(sub.close(close_mode::drain) == close_status::closed);
  CHECK(sub.name() == "survivor");
  CHECK(sub.ledger().handled == 2);
  CHECK(sub.ledger().balanced());
  sub.stop();
  CHECK(pool->post([] {}) == errc::closed);
  const auto late = bus->try_subscribe<tick>("late", subscribe_options(), [](const tick&) {});
  CHECK(late.error == errc::closed);
  CHECK_THAT(late.text, contains_text("late"));
  try {
    (void)bus->publisher<tick>();
    FAIL("a publisher of a closed bus was made");
  } catch (const std::system_error& refused) {
    CHECK(refused.code() == errc::closed);
  }
}
