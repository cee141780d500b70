// Coroutines and the bus: handlers that wait, and publishing, closing and idling without holding a thread.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"

#include <penstock/penstock.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::block_on;
using penstock::cancelled;
using penstock::close_mode;
using penstock::close_status;
using penstock::drop_reason;
using penstock::errc;
using penstock::outcome;
using penstock::overflow;
using penstock::publish_result;
using penstock::runtime_options;
using penstock::sleep_for;
using penstock::start_task;
using penstock::subscribe_options;
using penstock::subscription;
using penstock::task;
using penstock::worker_pool_options;

namespace {

struct raw {
  int value = 0;
};
struct cooked {
  int value = 0;
};
/// Travels in a block, and shows by its mark how long it lives.
struct large {
  large(std::shared_ptr<int> made, int number) : mark(std::move(made)), value(number) {}
  std::shared_ptr<int> mark;
  int value;
};
struct movable {
  explicit movable(int number) : value(std::make_unique<int>(number)) {}
  std::unique_ptr<int> value;
};

runtime_options workers(unsigned count) {
  return runtime_options()
      .pool("default", worker_pool_options().threads(count))
      .on_failure([](const penstock::failure&) {});
}

using flag = std::atomic<bool>;

/// What a coroutine waits for instead of a gate: holds no thread, and ends by a cancel.
task<void> until(const flag& open) {
  while (!open.load()) co_await sleep_for(1ms);
}

/// What came of a publish.
struct said {
  errc error = errc::none;
  std::uint64_t matched = 0, accepted = 0, parked = 0, rejected = 0;
};
said keep(const publish_result& r) { return {r.error(), r.matched(), r.accepted(), r.parked(), r.rejected()}; }

/// As `eventually`, and gives up: for what a bug would let hang, so that the other cases still run.
template <class Condition>
bool soon(Condition condition, std::chrono::seconds limit = sanitized ? 10s : 3s) {
  const auto end = std::chrono::steady_clock::now() + limit;
  bool came = false;
  eventually([&] {
    came = condition();
    return came || std::chrono::steady_clock::now() > end;
  });
  return came;
}

template <class T>
bool was_cancelled(const outcome<T>& came) {
  if (came) return false;
  try {
    std::rethrow_exception(came.error());
  } catch (const cancelled&) {
    return true;
  } catch (...) {
    return false;
  }
}

/// A subscription for E with one seat, held in its first call until it is let go: it holds no thread. After `fill` its
/// seat is taken too, and whoever comes next waits.
template <class E>
class held {
 public:
  held(const penstock::event_bus& bus, const std::string& name, subscribe_options options = subscribe_options())
      : sub(bus.subscribe<E>(name, std::move(options.capacity(1)), [this](const E& e) -> task<void> {
          seen.add(e.value);
          co_await until(go);
        })) {}
  record<int> seen;
  flag go{false};
  subscription sub;
};

/// Publishes until the first call runs and the one seat is taken.
template <class E>
void fill(const penstock::event_bus& bus, held<E>& target) {
  bus.publish(E{-1});
  target.seen.wait_for(1);
  bus.publish(E{-2});
}

/// Publishes one event from a task, and records what came of it.
task<void> publish_one(penstock::publisher<cooked> to, int value, record<said>& results) {
  const cooked event{value};
  const publish_result came = co_await to.async_publish(event);
  results.add(keep(came));
}

std::vector<int> first(int count) {
  std::vector<int> all;
  for (int i = 0; i < count; ++i) all.push_back(i);
  return all;
}

}  // namespace

// --- a coroutine handler and its lane
// ----------------------------------------------------------------------------------

TEST_CASE("a coroutine handler occupies its lane until it has finished: its calls never overlap", "[H2][O1]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  std::atomic<int> inside{0};
  flag overlapped{false};
  std::vector<int> order;  // no lock: the lane is the only writer
  auto sub = rt.bus().subscribe<raw>("serial", [&](const raw& e) -> task<void> {
    if (inside.fetch_add(1) != 0) overlapped = true;
    order.push_back(e.value);
    if (e.value % 3 == 0) co_await sleep_for(100us);
    if (e.value % 3 == 1) co_await penstock::yield();
    order.push_back(e.value);
    inside.fetch_sub(1);
  });
  const int count = 200;
  std::vector<int> expected;
  for (int i = 0; i < count; ++i) {
    rt.bus().publish(raw{i});
    expected.push_back(i);
    expected.push_back(i);
  }
  REQUIRE(sub.close(close_mode::drain) == close_status::closed);
  CHECK_FALSE(overlapped);
  CHECK(order == expected);
  CHECK(sub.ledger().handled == count);
  CHECK(sub.ledger().balanced());
}

TEST_CASE("with concurrency n up to n coroutine calls are open at once, on one thread, and never more", "[H2][O2]") {
  const time_limit limit;
  const unsigned lanes = GENERATE(2U, 5U);
  penstock::runtime rt(workers(1));
  record<int> begun;
  flag go{false};
  std::atomic<unsigned> inside{0}, most{0};
  auto sub = rt.bus().subscribe<raw>("wide", subscribe_options().concurrency(lanes), [&](const raw& e) -> task<void> {
    const unsigned now = ++inside;
    if (now > most) most = now;  // one worker: nobody writes at the same time
    begun.add(e.value);
    co_await until(go);
    --inside;
  });
  for (int i = 0; i < static_cast<int>(lanes) + 4; ++i) rt.bus().publish(raw{i});
  begun.wait_for(lanes);
  CHECK(sub.ledger().running == lanes);
  CHECK(sub.ledger().queued == 4);
  CHECK(sub.ledger().balanced());
  go = true;
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(most == lanes);
  CHECK(sub.ledger().handled == lanes + 4);
}

TEST_CASE("a suspended handler holds no worker, and its event counts as running", "[H2][P5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<raw> target(rt.bus(), "held");
  fill(rt.bus(), target);
  gate ran;
  REQUIRE(rt.pool("default")->post([&] { ran.open(); }) == errc::none);
  ran.wait();
  const auto ledger = target.sub.ledger();
  CHECK(ledger.running == 1);
  CHECK(ledger.queued == 1);
  CHECK(ledger.balanced());
  CHECK_FALSE(rt.bus().wait_idle(2ms));
  target.go = true;
  CHECK(rt.bus().wait_idle(25s));
  CHECK(target.sub.ledger().handled == 2);
}

TEST_CASE("the frame of a handler resumes on its own pool only, whoever wakes it", "[H2]") {
  const time_limit limit;
  record<std::thread::id> own;
  auto special = worker_pool_options().threads(1).on_thread_start([&](unsigned) {
    own.add(std::this_thread::get_id());
  });
  penstock::runtime rt(workers(2).pool("special", std::move(special)));
  own.wait_for(1);
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  record<std::thread::id> seen;
  auto here = subscribe_options().on(rt.pool("special"));
  auto sub = rt.bus().subscribe<raw>("here", std::move(here), [&](const raw& e) -> task<void> {
    seen.add(std::this_thread::get_id());
    co_await sleep_for(1ms);  // woken by a timer
    seen.add(std::this_thread::get_id());
    const cooked event{e.value};
    (void)co_await rt.bus().async_publish(event);  // woken by a lane of the other pool
    seen.add(std::this_thread::get_id());
  });
  rt.bus().publish(raw{1});
  eventually([&] { return writer.sub.ledger().pending == 1; });
  writer.go = true;
  REQUIRE(rt.bus().wait_idle(25s));
  const auto all = seen.all();
  REQUIRE(all.size() == 3);
  for (const auto& each : all) CHECK(each == own.all().front());
}

TEST_CASE("an event that travels in place lives until its coroutine has ended", "[E2][H1]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  flag changed{false};
  auto sub = rt.bus().subscribe<raw>("long", subscribe_options().capacity(4), [&](const raw& e) -> task<void> {
    const int value = e.value;
    const raw* const where = &e;
    for (int i = 0; i < 3; ++i) {
      co_await penstock::yield();
      if (e.value != value || &e != where) changed = true;
    }
    co_await sleep_for(50us);
    if (e.value != value) changed = true;
  });
  for (int i = 0; i < 300; ++i) rt.bus().publish(raw{i});  // seats are used again and again
  REQUIRE(sub.close(close_mode::drain) == close_status::closed);
  CHECK_FALSE(changed);
  CHECK(sub.ledger().handled == 300);
}

TEST_CASE("an event in a block lives until its coroutine has ended, and no longer", "[E2][H1][L3]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto mark = std::make_shared<int>(0);
  const std::weak_ptr<int> watch = mark;
  flag go{false};
  record<bool> alive;
  auto sub = rt.bus().subscribe<large>("long", [&](const large& e) -> task<void> {
    alive.add(!watch.expired());
    co_await until(go);
    alive.add(!watch.expired() && e.mark == watch.lock() && e.value == 5);
  });
  rt.bus().publish(large(std::move(mark), 5));
  alive.wait_for(1);
  CHECK(watch.use_count() == 1);
  go = true;
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(alive.all() == std::vector{true, true});
  CHECK(watch.expired());
}

TEST_CASE("an event that a coroutine shares lives on beyond the call", "[H1]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto mark = std::make_shared<int>(0);
  penstock::event_ptr<large> kept;
  auto sub = rt.bus().subscribe<large>("sharing", [&](const large& e, const penstock::call& info) -> task<void> {
    co_await penstock::yield();
    kept = info.share(e);
    co_return;
  });
  rt.bus().publish(large(mark, 5));
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(mark.use_count() == 2);
  REQUIRE(kept);
  CHECK(kept->value == 5);
  kept = penstock::event_ptr<large>();
  CHECK(mark.use_count() == 1);
}

TEST_CASE("call answers the same before and after a suspension", "[H1]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  record<std::uint64_t> sequences;
  flag wrong{false};
  auto sub = rt.bus().subscribe<raw>("asking", [&](const raw&, const penstock::call& info) -> task<void> {
    const std::uint64_t before = info.sequence();
    co_await sleep_for(100us);
    if (info.sequence() != before || info.subscription() != "asking" || info.attempt() != 1) wrong = true;
    sequences.add(before);
  });
  for (int i = 0; i < 4; ++i) rt.bus().publish(raw{i});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(sequences.all() == std::vector<std::uint64_t>{1, 2, 3, 4});
  CHECK_FALSE(wrong);
}

TEST_CASE("a capturing coroutine lambda stays alive until its last run has finished, also when unsubscribed", "[H4]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  flag go{false};
  auto mark = std::make_shared<int>(41);
  const std::weak_ptr<int> watch = mark;
  record<int> begun;
  std::atomic<int> seen{0};
  std::optional<subscription> sub;
  sub = rt.bus().subscribe<raw>("capturing", [mark, &go, &begun, &seen](const raw& e) -> task<void> {
    begun.add(e.value);
    co_await until(go);
    seen = ++*mark;  // through the closure
  });
  mark.reset();
  rt.bus().publish(raw{1});
  begun.wait_for(1);
  rt.bus().publish(raw{2});
  SECTION("stopped") {
    sub->stop();
    CHECK_FALSE(watch.expired());
    go = true;
    CHECK(sub->close() == close_status::closed);
  }
  SECTION("its handle destroyed in posted work, where nothing may wait") {
    gate gone;
    REQUIRE(rt.pool("default")->post([&] {
      sub.reset();
      gone.open();
    }) == errc::none);
    gone.wait();
    CHECK_FALSE(watch.expired());
    go = true;
  }
  SECTION("its handle destroyed on a thread, which waits") {
    std::thread destroying([&] { sub.reset(); });
    eventually([&] { return rt.bus().publish(raw{9}).matched() == 0; });
    CHECK_FALSE(watch.expired());
    go = true;
    destroying.join();
    CHECK(watch.expired());
  }
  SECTION("abandoned") {
    CHECK(sub->close_for(2ms) == close_status::timed_out);
    CHECK_FALSE(watch.expired());
    go = true;
  }
  eventually([&] { return watch.expired(); });
  CHECK(seen == 42);
  CHECK(begun.all() == std::vector{1});
}

// --- failures
// ----------------------------------------------------------------------------------------------------------

TEST_CASE("what a coroutine handler throws is a failure of that call; others, and later events, go on", "[F1][F2]") {
  const time_limit limit;
  record<penstock::failure> failures;
  penstock::runtime rt(runtime_options()
                           .pool("default", worker_pool_options().threads(2))
                           .on_failure([&](const penstock::failure& record) { failures.add(record); }));
  record<int> other_seen;
  auto failing = rt.bus().subscribe<raw>("failing", [&](const raw& e) -> task<void> {
    if (e.value == 0) throw std::runtime_error("before");
    co_await penstock::yield();
    if (e.value == 1) throw std::runtime_error("after");
    if (e.value == 2) throw 5;
    co_await sleep_for(100us);
    if (e.value == 3) throw std::logic_error("after a sleep");
  });
  auto plain = [](const raw& e) -> task<void> {  // no coroutine: it throws, or gives an empty task
    if (e.value == 0) throw std::runtime_error("no task");
    return task<void>();
  };
  auto other = rt.bus().subscribe<raw>("other", [&](const raw& e) { other_seen.add(e.value); });
  for (int i = 0; i < 6; ++i) rt.bus().publish(raw{i});
  REQUIRE(rt.bus().wait_idle(25s));
  const auto told = failures.all();
  REQUIRE(told.size() == 4);
  CHECK(told[0].exception.what == "before");
  CHECK(told[1].exception.what == "after");
  CHECK(told[2].exception.type_name == "int");
  CHECK(told[3].exception.what == "after a sleep");
  for (std::size_t i = 0; i < told.size(); ++i) {
    CHECK(told[i].subscription == "failing");
    CHECK(told[i].sequence == i + 1);
    CHECK(told[i].attempt == 1);
  }
  CHECK(other_seen.all() == first(6));
  CHECK(failing.ledger().failed == 4);
  CHECK(failing.ledger().handled == 2);
  CHECK(failing.ledger().balanced());
  auto empty = rt.bus().subscribe<cooked>("without a task", [&plain](const cooked& e) { return plain(raw{e.value}); });
  rt.bus().publish(cooked{0});
  rt.bus().publish(cooked{1});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(empty.ledger().failed == 2);
  CHECK(failures.size() == 6);
  CHECK(empty.ledger().balanced());
}

TEST_CASE("the exception of a coroutine handler is current in the failure hook", "[F2]") {
  const time_limit limit;
  record<int> caught;
  penstock::runtime rt(runtime_options()
                           .pool("default", worker_pool_options().threads(1))
                           .on_failure([&](const penstock::failure&) {
                             try {
                               throw;
                             } catch (int value) {
                               caught.add(value);
                             }
                           }));
  auto sub = rt.bus().subscribe<raw>("failing", [](const raw& e) -> task<void> {
    co_await sleep_for(50us);
    throw e.value;
  });
  rt.bus().publish(raw{8});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(caught.all() == std::vector{8});
}

// --- closing with a suspended handler
// ----------------------------------------------------------------------------------

TEST_CASE("close() waits for a suspended handler and cancels nothing", "[H3][S2]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<raw> target(rt.bus(), "held");
  fill(rt.bus(), target);
  flag over{false};
  record<close_status> status;
  std::thread closing([&] {
    status.add(target.sub.close());
    over = true;
  });
  eventually([&] { return target.sub.state() != penstock::subscription_state::open; });
  CHECK_FALSE(over);
  CHECK(target.sub.ledger().running == 1);
  CHECK(target.sub.ledger().discarded == 1);
  target.go = true;
  closing.join();
  CHECK(status.all() == std::vector{close_status::closed});
  CHECK(target.sub.ledger().handled == 1);
  CHECK(target.sub.ledger().quiescent());
  CHECK(target.sub.ledger().balanced());
}

TEST_CASE("close(drain) waits for a suspended handler and then handles what is queued", "[S2]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<raw> target(rt.bus(), "held");
  fill(rt.bus(), target);
  record<close_status> status;
  std::thread closing([&] { status.add(target.sub.close(close_mode::drain)); });
  eventually([&] { return target.sub.state() != penstock::subscription_state::open; });
  CHECK(status.size() == 0);
  target.go = true;
  closing.join();
  CHECK(status.all() == std::vector{close_status::closed});
  CHECK(target.seen.all() == std::vector{-1, -2});
  CHECK(target.sub.ledger().handled == 2);
  CHECK(target.sub.ledger().discarded == 0);
  CHECK(target.sub.ledger().balanced());
}

TEST_CASE("close(cancel) sets the stop token, cancels the await of the running coroutine, and says who and why",
          "[H1][H3]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  record<int> begun;
  struct found {
    bool stop_before, stop_after, reason_before;
    penstock::cancel_kind kind_thrown, kind_of_call;
    std::string who;
  };
  record<found> all;
  auto sub = rt.bus().subscribe<raw>("cancelled one", [&](const raw&, const penstock::call& info) -> task<void> {
    found seen{};
    const std::stop_token token = info.stop_token();
    seen.stop_before = token.stop_requested();
    seen.reason_before = info.stop_reason() != nullptr;
    begun.add(1);
    try {
      co_await sleep_for(1h);
    } catch (const cancelled& thrown) {
      seen.kind_thrown = thrown.why().kind;
      seen.stop_after = token.stop_requested();
      if (info.stop_reason() != nullptr) {
        seen.kind_of_call = info.stop_reason()->kind;
        seen.who = info.stop_reason()->who;
      }
    }
    all.add(seen);
  });
  rt.bus().publish(raw{1});
  begun.wait_for(1);
  CHECK(sub.close(close_mode::cancel) == close_status::closed);
  REQUIRE(all.size() == 1);
  const found seen = all.all().front();
  CHECK_FALSE(seen.stop_before);
  CHECK_FALSE(seen.reason_before);
  CHECK(seen.stop_after);
  CHECK(seen.kind_thrown == penstock::cancel_kind::requested);
  CHECK(seen.kind_of_call == penstock::cancel_kind::requested);
  CHECK_FALSE(seen.who.empty());
  CHECK(sub.ledger().handled == 1);  // it swallowed the request and came to its end
  CHECK(sub.ledger().balanced());
}

TEST_CASE("a coroutine handler that does not catch its cancel ends by it, and the ledger balances", "[H3]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  record<int> begun;
  flag beyond{false};
  auto sub = rt.bus().subscribe<raw>("ended by cancel", subscribe_options().concurrency(3),
                                     [&](const raw& e) -> task<void> {
                                       begun.add(e.value);
                                       co_await sleep_for(1h);
                                       beyond = true;
                                     });
  for (int i = 0; i < 3; ++i) rt.bus().publish(raw{i});
  begun.wait_for(3);
  CHECK(sub.close(close_mode::cancel) == close_status::closed);
  const auto ledger = sub.ledger();
  CHECK(ledger.handled + ledger.failed == 3);
  CHECK(ledger.quiescent());
  CHECK(ledger.balanced());
  CHECK_FALSE(beyond);
}

TEST_CASE("close(cancel) begins no queued event: the call that its cancel ends is the last", "[S2][H3]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  int more_than_one = 0, not_discarded = 0, unbalanced = 0;
  for (int round = 0; round < 300; ++round) {
    record<int> begun;
    auto sub = rt.bus().subscribe<raw>("cancelled", [&](const raw& e) -> task<void> {
      begun.add(e.value);
      co_await sleep_for(1h);
    });
    for (int i = 0; i < 3; ++i) rt.bus().publish(raw{i});
    begun.wait_for(1);
    const close_status status = sub.close(close_mode::cancel);
    REQUIRE(status == close_status::closed);
    if (begun.size() != 1) ++more_than_one;
    if (sub.ledger().discarded != 2) ++not_discarded;
    if (!sub.ledger().balanced()) ++unbalanced;
  }
  CHECK(more_than_one == 0);
  CHECK(not_discarded == 0);
  CHECK(unbalanced == 0);
}

TEST_CASE("a pool that ends under a suspended handler ends its subscription: frames and closure are destroyed",
          "[H4][S6]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto pool = penstock::worker_pool::start("own", worker_pool_options().threads(1));
  auto mark = std::make_shared<int>(0);
  const std::weak_ptr<int> watch = mark;
  auto local = std::make_shared<int>(0);
  const std::weak_ptr<int> watch_local = local;
  flag go{false};
  record<int> begun;
  auto options = subscribe_options().on(pool);
  auto sub = rt.bus().subscribe<raw>("orphan", std::move(options), [&, mark](const raw& e) -> task<void> {
    const std::shared_ptr<int> held_in_frame = std::move(local);
    begun.add(e.value);
    co_await until(go);
    begun.add(++*mark);
  });
  mark.reset();
  rt.bus().publish(raw{1});
  begun.wait_for(1);
  rt.bus().publish(raw{2});
  CHECK(pool->stop(penstock::no_deadline) == 0);
  CHECK(soon([&] { return watch_local.expired(); }));
  CHECK(soon([&] { return watch.expired(); }));
  CHECK(sub.close_for(1s) == close_status::closed);
  CHECK(begun.size() == 1);
  CHECK(sub.ledger().quiescent());
  CHECK(sub.ledger().balanced());
}

TEST_CASE("a close past its deadline abandons a suspended call, which stays in the ledger until it ends", "[S6]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<raw> target(rt.bus(), "held");
  fill(rt.bus(), target);
  CHECK(target.sub.close_for(2ms) == close_status::timed_out);
  CHECK(target.sub.close() == close_status::timed_out);
  CHECK(target.sub.ledger().running == 1);
  CHECK(target.sub.ledger().discarded == 1);
  CHECK(target.sub.ledger().balanced());
  target.go = true;
  eventually([&] { return target.sub.close() == close_status::closed; });
  CHECK(target.sub.ledger().handled == 1);
}

TEST_CASE("the forced end of a shutdown cancels suspended handlers, with the kind shutdown", "[H3]") {
  const time_limit limit;
  auto rt = std::make_unique<penstock::runtime>(workers(1));
  record<int> begun;
  record<penstock::cancel_kind> kinds;
  auto sub = rt->bus().subscribe<raw>("long", [&](const raw& e) -> task<void> {
    begun.add(e.value);
    try {
      co_await sleep_for(1h);
    } catch (const cancelled& thrown) {
      kinds.add(thrown.why().kind);
      throw;
    }
  });
  rt->bus().publish(raw{1});
  begun.wait_for(1);
  (void)rt->shutdown(20ms);
  rt.reset();
  CHECK(kinds.all() == std::vector{penstock::cancel_kind::shutdown});
  CHECK(sub.close() == close_status::closed);
  CHECK(sub.ledger().balanced());
}

TEST_CASE("a shutdown drains suspended handlers that come to their end in time", "[H2]") {
  const time_limit limit;
  auto rt = std::make_unique<penstock::runtime>(workers(1));
  std::atomic<int> ended{0};
  auto sub = rt->bus().subscribe<raw>("brief", [&](const raw&) -> task<void> {
    co_await sleep_for(1ms);
    ++ended;
  });
  for (int i = 0; i < 5; ++i) rt->bus().publish(raw{i});
  (void)rt->shutdown(20s);
  CHECK(ended == 5);
  CHECK(sub.ledger().handled == 5);
  CHECK(sub.ledger().balanced());
}

// --- async_publish from a task
// -----------------------------------------------------------------------------------------

TEST_CASE("async_publish does not suspend when nobody must wait, and now and then lets others go first", "[P1]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto sub = rt.bus().subscribe<cooked>("room", subscribe_options().overflow(overflow::drop_newest).capacity(4),
                                        [](const cooked&) {});
  flag other_ran{false};
  bool at_once = false, in_the_end = false;
  said came;
  auto body = [&]() -> task<void> {
    (void)rt.pool("default")->post([&] { other_ran = true; });
    const cooked event{1};
    const publish_result one = co_await rt.bus().async_publish(event);
    came = keep(one);
    at_once = !other_ran;  // the only worker has not been given back
    for (int i = 0; i < 100'000 && !other_ran; ++i) (void)co_await rt.bus().async_publish(event);
    in_the_end = other_ran;
  };
  block_on(rt.pool("default"), body());
  CHECK(came.error == errc::none);
  CHECK(came.matched == 1);
  CHECK(came.accepted == 1);
  CHECK(at_once);
  CHECK(in_the_end);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(sub.ledger().balanced());
}

TEST_CASE("async_publish nobody matches says so; an empty publisher and an empty event_ptr are refused", "[P1][P2]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  std::vector<said> all;
  auto body = [&]() -> task<void> {
    const cooked event{1};
    const publish_result unmatched = co_await rt.bus().async_publish(event);
    all.push_back(keep(unmatched));
    const penstock::publisher<cooked> nobody;
    const publish_result empty = co_await nobody.async_publish(event);
    all.push_back(keep(empty));
    const penstock::publisher<large> to = rt.bus().publisher<large>();
    penstock::event_ptr<large> none;
    const publish_result null = co_await to.async_publish(none);
    all.push_back(keep(null));
  };
  block_on(rt.pool("default"), body());
  REQUIRE(all.size() == 3);
  CHECK(all[0].error == errc::none);
  CHECK(all[0].matched == 0);
  CHECK(all[1].error == errc::closed);
  CHECK(all[2].error == errc::invalid_argument);
}

TEST_CASE("async_publish waits when a subscription is full, holds no thread, and gets the seat that comes free",
          "[P1][C5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  record<said> results;
  start_task(rt.pool("default"), publish_one(rt.bus().publisher<cooked>(), 1, results), [](outcome<void>&&) {});
  eventually([&] { return writer.sub.ledger().pending == 1; });
  CHECK(results.size() == 0);
  gate ran;
  REQUIRE(rt.pool("default")->post([&] { ran.open(); }) == errc::none);
  ran.wait();  // on the only worker
  CHECK(writer.sub.ledger().balanced());
  writer.go = true;
  results.wait_for(1);
  CHECK(results.all().front().accepted == 1);
  CHECK(results.all().front().parked == 0);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(writer.seen.all() == std::vector{-1, -2, 1});
  CHECK(writer.sub.ledger().handled == 3);
  CHECK(writer.sub.ledger().balanced());
}

TEST_CASE("tasks and threads that wait at a full subscription are served in the order they came", "[C4][P1]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  record<said> results;
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    if (i % 2 == 0)
      start_task(rt.pool("default"), publish_one(rt.bus().publisher<cooked>(), i, results), [](outcome<void>&&) {});
    else
      threads.emplace_back([&, i] { results.add(keep(rt.bus().publish(cooked{i}))); });
    eventually([&] { return writer.sub.ledger().pending == static_cast<std::uint64_t>(i) + 1; });
  }
  CHECK(rt.bus().publisher<cooked>().try_publish({99}).accepted() == 0);  // not overtaken
  writer.go = true;
  for (auto& each : threads) each.join();
  results.wait_for(6);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(writer.seen.all() == std::vector{-1, -2, 0, 1, 2, 3, 4, 5});
  for (const said& each : results.all()) CHECK(each.accepted == 1);
  CHECK(writer.sub.ledger().balanced());
}

TEST_CASE("async_publish waits at more than four full subscriptions at once, and those with room have it before",
          "[C3][P1]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  std::vector<std::unique_ptr<held<cooked>>> writers;
  for (int i = 0; i < 7; ++i) {
    const std::string name = "full " + std::to_string(i);
    writers.push_back(std::make_unique<held<cooked>>(rt.bus(), name));
  }
  rt.bus().publish(cooked{-1});
  for (auto& each : writers) each->seen.wait_for(1);
  rt.bus().publish(cooked{-2});
  record<int> open_seen;
  auto open = rt.bus().subscribe<cooked>("open", [&](const cooked& e) { open_seen.add(e.value); });
  record<said> results;
  start_task(rt.pool("default"), publish_one(rt.bus().publisher<cooked>(), 1, results), [](outcome<void>&&) {});
  open_seen.wait_for(1);
  for (auto& each : writers) eventually([&] { return each->sub.ledger().pending == 1; });
  CHECK(results.size() == 0);
  // Each admits it independently.
  writers[5]->go = true;
  writers[5]->seen.wait_for(3);
  CHECK(results.size() == 0);
  CHECK(writers[4]->sub.ledger().pending == 1);
  for (auto& each : writers) each->go = true;
  results.wait_for(1);
  CHECK(results.all().front().matched == 8);
  CHECK(results.all().front().accepted == 8);
  REQUIRE(rt.bus().wait_idle(25s));
  for (auto& each : writers) {
    CHECK(each->seen.all() == std::vector{-1, -2, 1});
    CHECK(each->sub.ledger().balanced());
  }
}

TEST_CASE("a cancel of an async_publish that nobody has accepted throws cancelled, and it is never delivered", "[P1]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  record<said> results;
  record<bool> ends;
  std::stop_source stop;
  const auto outputs = rt.bus().publisher<cooked>();
  start_task(rt.pool("default"), publish_one(outputs, 1, results),
             [&](outcome<void>&& came) { ends.add(was_cancelled(came)); }, stop.get_token());
  eventually([&] { return writer.sub.ledger().pending == 1; });
  start_task(rt.pool("default"), publish_one(outputs, 2, results), [](outcome<void>&&) {});
  eventually([&] { return writer.sub.ledger().pending == 2; });
  stop.request_stop();
  ends.wait_for(1);
  CHECK(ends.all() == std::vector{true});
  CHECK(results.size() == 0);
  CHECK(writer.sub.ledger().pending == 1);
  CHECK(writer.sub.ledger().rejected.cancelled == 1);
  CHECK(writer.sub.ledger().balanced());
  writer.go = true;  // the one behind it is not stranded
  results.wait_for(1);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(writer.seen.all() == std::vector{-1, -2, 2});
  CHECK(writer.sub.ledger().balanced());
}

TEST_CASE("a cancel of an async_publish that somebody has accepted gives k of n, and the next await throws",
          "[P1][A8]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  record<int> open_seen;
  auto open = rt.bus().subscribe<cooked>("open", [&](const cooked& e) { open_seen.add(e.value); });
  record<said> results;
  record<std::string> names;
  record<bool> ends;
  auto body = [&]() -> task<void> {
    const cooked event{1};
    const publish_result came = co_await rt.bus().async_publish(event);
    results.add(keep(came));
    for (std::size_t i = 0; i < came.refusals(); ++i) names.add(came.refusal(i).subscription);
    co_await sleep_for(1h);
  };
  std::stop_source stop;
  start_task(rt.pool("default"), body(), [&](outcome<void>&& came) { ends.add(was_cancelled(came)); },
             stop.get_token());
  open_seen.wait_for(1);
  eventually([&] { return writer.sub.ledger().pending == 1; });
  stop.request_stop();
  ends.wait_for(1);
  REQUIRE(results.size() == 1);
  const said came = results.all().front();
  CHECK(came.error == errc::cancelled);
  CHECK(came.matched == 2);
  CHECK(came.accepted == 1);
  CHECK(came.rejected == 1);
  CHECK(names.all() == std::vector<std::string>{"writer"});
  CHECK(ends.all() == std::vector{true});
  writer.go = true;
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(writer.seen.all() == std::vector{-1, -2});
  CHECK(open_seen.all() == std::vector{1});
  CHECK(writer.sub.ledger().balanced());
  CHECK(open.ledger().balanced());
}

TEST_CASE("a cancel that races the seat leaves the event delivered once or not at all, as its result says",
          "[A8][P1]") {
  const time_limit limit(sanitized ? 300 : give_up_seconds);
  penstock::runtime rt(workers(2));
  std::atomic<std::uint64_t> delivered{0};
  auto writer = rt.bus().subscribe<cooked>("writer", subscribe_options().capacity(1), [&](const cooked& e) {
    if (e.value == 1) ++delivered;
  });
  std::atomic<std::uint64_t> accepted{0}, refused{0}, thrown{0};
  const auto outputs = rt.bus().publisher<cooked>();
  auto body = [&]() -> task<void> {
    const cooked event{1};
    const publish_result came = co_await outputs.async_publish(event);
    if (came.accepted() == 1)
      ++accepted;
    else
      ++refused;
  };
  const std::uint64_t rounds = sanitized ? 300 : 3000;
  std::atomic<std::uint64_t> ended{0};
  for (std::uint64_t i = 0; i < rounds; ++i) {
    std::stop_source stop;
    outputs.try_publish({0});
    start_task(
        rt.pool("default"), body(),
        [&](outcome<void>&& came) {
          if (was_cancelled(came)) ++thrown;
          ++ended;
        },
        stop.get_token());
    outputs.try_publish({0});
    if (i % 2 == 0) std::this_thread::yield();
    stop.request_stop();
    if (i % 16 == 0) eventually([&] { return ended == i + 1; });
  }
  eventually([&] { return ended == rounds; });
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(accepted + refused + thrown == rounds);
  CHECK(refused == 0);  // a cancel that nobody has accepted throws
  CHECK(delivered == accepted);
  CHECK(writer.ledger().quiescent());
  CHECK(writer.ledger().balanced());
}

TEST_CASE("an async_publish whose target closes is released with closed", "[C5][P6]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  record<said> results;
  start_task(rt.pool("default"), publish_one(rt.bus().publisher<cooked>(), 1, results), [](outcome<void>&&) {});
  eventually([&] { return writer.sub.ledger().pending == 1; });
  SECTION("stop") { writer.sub.stop(); }
  SECTION("close") { CHECK(writer.sub.close_for(0ms) == close_status::timed_out); }
  SECTION("close(drain): a caller that still waits is no output of a lane") {
    CHECK(writer.sub.close_for(0ms, close_mode::drain) == close_status::timed_out);
  }
  results.wait_for(1);
  const said came = results.all().front();
  CHECK(came.error == errc::closed);
  CHECK(came.matched == 1);
  CHECK(came.accepted == 0);
  CHECK(came.rejected == 1);
  CHECK(writer.sub.ledger().rejected.closed == 1);
  CHECK(writer.sub.ledger().pending == 0);
  CHECK(writer.sub.ledger().balanced());
  writer.go = true;
  eventually([&] { return writer.sub.close() == close_status::closed; });
  CHECK(writer.sub.ledger().quiescent());
  CHECK(writer.sub.ledger().balanced());
}

TEST_CASE("a shutdown releases an async_publish that waits with closed", "[C5]") {
  const time_limit limit;
  auto rt = std::make_unique<penstock::runtime>(workers(1));
  auto writer = std::make_unique<held<cooked>>(rt->bus(), "writer");
  fill(rt->bus(), *writer);
  record<said> results;
  start_task(rt->pool("default"), publish_one(rt->bus().publisher<cooked>(), 1, results), [](outcome<void>&&) {});
  eventually([&] { return writer->sub.ledger().pending == 1; });
  (void)rt->shutdown(20ms);
  results.wait_for(1);
  CHECK(results.all().front().error == errc::closed);
  CHECK(writer->sub.ledger().balanced());
  rt.reset();
}

TEST_CASE("a waiting thread is released by its token while the handler it waits for is suspended", "[C5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  const auto outputs = rt.bus().publisher<cooked>();
  CHECK(outputs.publish_for(2ms, cooked{1}).error() == errc::timed_out);
  std::stop_source stop;
  record<said> results;
  std::thread waiting([&] { results.add(keep(outputs.publish(cooked{2}, stop.get_token()))); });
  eventually([&] { return writer.sub.ledger().pending == 1; });
  stop.request_stop();
  waiting.join();
  CHECK(results.all().front().error == errc::cancelled);
  writer.go = true;
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(writer.seen.all() == std::vector{-1, -2});
  CHECK(writer.sub.ledger().balanced());
}

TEST_CASE("async_emplace builds the event, and event_ptr hands it over without a copy", "[P1][E2]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto mark = std::make_shared<int>(0);
  record<int> seen;
  const large* seen_at = nullptr;
  auto sub = rt.bus().subscribe<large>("large", subscribe_options().capacity(1), [&](const large& e) {
    seen_at = &e;
    seen.add(e.value);
  });
  auto only = rt.bus().subscribe<movable>("movable", [&](const movable& e) { seen.add(*e.value); });
  const large* handed = nullptr;
  std::vector<said> results;
  auto body = [&]() -> task<void> {
    const publish_result built = co_await rt.bus().async_emplace<large>(mark, 1);
    results.push_back(keep(built));
    const publish_result by_publisher = co_await rt.bus().publisher<large>().async_emplace(mark, 2);
    results.push_back(keep(by_publisher));
    const publish_result unmovable = co_await rt.bus().async_emplace<movable>(3);
    results.push_back(keep(unmovable));
    movable moved(4);
    const publish_result by_move = co_await rt.bus().async_publish(std::move(moved));
    results.push_back(keep(by_move));
  };
  block_on(rt.pool("default"), body());
  REQUIRE(rt.bus().wait_idle(25s));
  for (const said& each : results) CHECK(each.accepted == 1);
  auto all = seen.all();
  std::sort(all.begin(), all.end());
  CHECK(all == std::vector{1, 2, 3, 4});
  CHECK(mark.use_count() == 1);
  auto hand_over = [&]() -> task<void> {
    penstock::event_ptr<large> made = penstock::make_event<large>(mark, 5);
    handed = made.get();
    (void)co_await rt.bus().publisher<large>().async_publish(std::move(made));
  };
  block_on(rt.pool("default"), hand_over());
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(seen_at == handed);
  CHECK(mark.use_count() == 1);
  CHECK(sub.ledger().handled == 3);
  CHECK(sub.ledger().balanced());
}

TEST_CASE("a large event of a cancelled async_publish dies with it", "[P1][L3]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto mark = std::make_shared<int>(0);
  held<large> writer(rt.bus(), "writer");
  rt.bus().publish(large(nullptr, -1));
  writer.seen.wait_for(1);
  rt.bus().publish(large(nullptr, -2));
  std::stop_source stop;
  record<bool> ends;
  auto body = [&]() -> task<void> {
    (void)co_await rt.bus().async_emplace<large>(mark, 1);
  };
  start_task(rt.pool("default"), body(), [&](outcome<void>&& came) { ends.add(was_cancelled(came)); },
             stop.get_token());
  eventually([&] { return writer.sub.ledger().pending == 1; });
  CHECK(mark.use_count() == 2);
  stop.request_stop();
  ends.wait_for(1);
  CHECK(ends.all() == std::vector{true});
  CHECK(mark.use_count() == 1);
  writer.go = true;
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(writer.sub.ledger().balanced());
}

// --- outputs of coroutine handlers
// -------------------------------------------------------------------------------------

TEST_CASE("an async_publish in a coroutine handler is its lane's output: it takes no new event until decided", "[P3]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  record<int> begun;
  record<said> results;
  auto stage = rt.bus().subscribe<raw>("stage", [&](const raw& e) -> task<void> {
    begun.add(e.value);
    const cooked event{e.value};
    const publish_result came = co_await rt.bus().async_publish(event);
    results.add(keep(came));
  });
  for (int i = 1; i <= 3; ++i) rt.bus().publish(raw{i});
  eventually([&] { return writer.sub.ledger().pending == 1; });
  CHECK(begun.size() == 1);
  CHECK(stage.ledger().running == 1);
  CHECK(stage.ledger().queued == 2);
  CHECK(stage.ledger().balanced());
  writer.go = true;
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(writer.seen.all() == std::vector{-1, -2, 1, 2, 3});
  for (const said& each : results.all()) CHECK(each.accepted == 1);
  CHECK(results.size() == 3);
  CHECK(stage.ledger().balanced());
  CHECK(writer.sub.ledger().balanced());
}

TEST_CASE("a publish in a coroutine handler parks, and the lane takes no new event until it is decided", "[P3]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  record<int> begun, ended;
  record<said> results;
  auto stage = rt.bus().subscribe<raw>("stage", [&](const raw& e) -> task<void> {
    begun.add(e.value);
    co_await penstock::yield();
    results.add(keep(rt.bus().publish(cooked{e.value})));  // after a suspension: its context is the lane's all the same
    co_await penstock::yield();
    ended.add(e.value);
  });
  for (int i = 1; i <= 2; ++i) rt.bus().publish(raw{i});
  ended.wait_for(1);
  CHECK(results.all().front().parked == 1);
  gate ran;
  REQUIRE(rt.pool("default")->post([&] { ran.open(); }) == errc::none);
  ran.wait();
  CHECK(begun.size() == 1);
  CHECK(writer.sub.ledger().pending == 1);
  writer.go = true;
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(begun.all() == std::vector{1, 2});
  CHECK(writer.seen.all() == std::vector{-1, -2, 1, 2});
  CHECK(stage.ledger().balanced());
  CHECK(writer.sub.ledger().balanced());
}

TEST_CASE("an output of a coroutine handler beyond max_parked is refused with would_block", "[P3]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  record<said> results;
  auto stage = rt.bus().subscribe<raw>("stage", subscribe_options().max_parked(2), [&](const raw& e) -> task<void> {
    for (int i = 0; i < 2; ++i) results.add(keep(rt.bus().publish(cooked{e.value + i})));
    const cooked event{9};
    const publish_result came = co_await rt.bus().async_publish(event);
    results.add(keep(came));
  });
  rt.bus().publish(raw{1});
  results.wait_for(3);
  const auto all = results.all();
  CHECK(all[0].parked == 1);
  CHECK(all[1].parked == 1);
  CHECK(all[2].error == errc::would_block);
  CHECK(all[2].rejected == 1);
  CHECK(writer.sub.ledger().rejected.would_block == 1);
  writer.go = true;
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(writer.seen.all() == std::vector{-1, -2, 1, 2});
  CHECK(stage.ledger().balanced());
  CHECK(writer.sub.ledger().balanced());
}

TEST_CASE("with every handler of a small pool suspended in async_publish the consumers still run", "[P5]") {
  const time_limit limit;
  const unsigned threads = GENERATE(1U, 2U);
  penstock::runtime rt(workers(threads));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  const auto outputs = rt.bus().publisher<cooked>();
  std::vector<subscription> stages;
  for (int i = 0; i < 10; ++i)
    stages.push_back(rt.bus().subscribe<raw>("stage", [&](const raw& e) -> task<void> {
      const cooked event{e.value};
      (void)co_await outputs.async_publish(event);
      (void)co_await outputs.async_publish(event);
    }));
  for (int i = 0; i < 5; ++i) rt.bus().publish(raw{i});
  eventually([&] { return writer.sub.ledger().pending == 10; });
  for (const subscription& each : stages) CHECK(each.ledger().running == 1);
  writer.go = true;
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(writer.seen.size() == 2 + 100);
  for (const subscription& each : stages) {
    CHECK(each.ledger().handled == 5);
    CHECK(each.ledger().balanced());
  }
  CHECK(writer.sub.ledger().balanced());
}

TEST_CASE("a coroutine handler that would wait for itself is refused with backpressure_cycle", "[P4]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  record<said> results;
  record<drop_reason> reasons;
  auto options = subscribe_options().capacity(1).on_drop<raw>(
      [&](const raw&, drop_reason why) noexcept { reasons.add(why); });
  auto echo = rt.bus().subscribe<raw>("echo", std::move(options), [&](const raw& e) -> task<void> {
    if (e.value != 0) co_return;
    const raw one{1};
    const publish_result seated = co_await rt.bus().async_publish(one);
    results.add(keep(seated));
    const raw two{2};
    const publish_result refused = co_await rt.bus().async_publish(two);
    results.add(keep(refused));
  });
  rt.bus().publish(raw{0});
  results.wait_for(2);
  REQUIRE(rt.bus().wait_idle(25s));
  const auto all = results.all();
  CHECK(all[0].accepted == 1);
  CHECK(all[1].error == errc::backpressure_cycle);
  CHECK(all[1].accepted == 0);
  CHECK(all[1].rejected == 1);
  CHECK(reasons.all() == std::vector{drop_reason::cycle});
  CHECK(echo.ledger().rejected.cycle == 1);
  CHECK(echo.ledger().handled == 2);
  CHECK(echo.ledger().balanced());
}

TEST_CASE("a cycle through two coroutine handlers is refused, with the chain in a failure record, and both go on",
          "[P4]") {
  const time_limit limit;
  record<penstock::failure> failures;
  penstock::runtime rt(runtime_options()
                           .pool("default", worker_pool_options().threads(2))
                           .on_failure([&](const penstock::failure& record) { failures.add(record); }));
  flag go_one{false}, go_two{false};
  record<said> from_one, from_two;
  record<int> begun;
  auto one = rt.bus().subscribe<raw>("one", subscribe_options().capacity(1), [&](const raw& e) -> task<void> {
    begun.add(1);
    co_await until(go_one);
    const cooked event{e.value};
    const publish_result came = co_await rt.bus().async_publish(event);
    from_one.add(keep(came));
  });
  auto two = rt.bus().subscribe<cooked>("two", subscribe_options().capacity(1), [&](const cooked& e) -> task<void> {
    begun.add(2);
    co_await until(go_two);
    if (e.value < 0) {
      const raw event{1};
      const publish_result came = co_await rt.bus().async_publish(event);
      from_two.add(keep(came));
    }
  });
  rt.bus().publish(raw{10});
  rt.bus().publish(cooked{-10});
  begun.wait_for(2);
  rt.bus().publish(raw{11});
  rt.bus().publish(cooked{11});
  go_one = true;
  eventually([&] { return two.ledger().pending == 1; });
  go_two = true;
  from_two.wait_for(1);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(from_two.all().front().error == errc::backpressure_cycle);
  CHECK(from_two.all().front().rejected == 1);
  CHECK(one.ledger().rejected.cycle == 1);
  for (const said& each : from_one.all()) CHECK(each.accepted == 1);
  CHECK(from_one.size() == 2);
  CHECK(one.ledger().balanced());
  CHECK(two.ledger().balanced());
  REQUIRE(failures.size() == 1);
  const std::string text = to_string(failures.all().front());
  CHECK_THAT(text, contains_text("one"));
  CHECK_THAT(text, contains_text("two"));
}

TEST_CASE("close(cancel) of a handler suspended in async_publish withdraws its output and strands nobody", "[H3][P6]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  auto stage = rt.bus().subscribe<raw>("stage", [&](const raw& e) -> task<void> {
    const cooked event{e.value};
    (void)co_await rt.bus().async_publish(event);
  });
  rt.bus().publish(raw{1});
  eventually([&] { return writer.sub.ledger().pending == 1; });
  record<said> results;
  start_task(rt.pool("default"), publish_one(rt.bus().publisher<cooked>(), 2, results), [](outcome<void>&&) {});
  eventually([&] { return writer.sub.ledger().pending == 2; });
  CHECK(stage.close(close_mode::cancel) == close_status::closed);
  CHECK(writer.sub.ledger().pending == 1);
  CHECK(writer.sub.ledger().rejected.cancelled == 1);
  writer.go = true;
  results.wait_for(1);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(writer.seen.all() == std::vector{-1, -2, 2});
  CHECK(stage.ledger().balanced());
  CHECK(writer.sub.ledger().balanced());
}

TEST_CASE("close(drain) of a producer waits for what its coroutine publishes", "[P6]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  auto stage = rt.bus().subscribe<raw>("stage", [&](const raw& e) -> task<void> {
    const cooked event{e.value};
    (void)co_await rt.bus().async_publish(event);
  });
  for (int i = 1; i <= 3; ++i) rt.bus().publish(raw{i});
  eventually([&] { return writer.sub.ledger().pending == 1; });
  record<close_status> status;
  auto closing = [&]() -> task<void> {
    const close_status came = co_await stage.async_close(close_mode::drain);
    status.add(came);
  };
  gate over;
  start_task(rt.pool("default"), closing(), [&](outcome<void>&&) { over.open(); });
  eventually([&] { return stage.state() != penstock::subscription_state::open; });
  CHECK(status.size() == 0);
  writer.go = true;
  over.wait();
  CHECK(status.all() == std::vector{close_status::closed});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(writer.seen.all() == std::vector{-1, -2, 1, 2, 3});
  CHECK(stage.ledger().handled == 3);
  CHECK(stage.ledger().balanced());
}

TEST_CASE("an output that a coroutine handler waits for stays in line when its handler stops", "[P6]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  record<said> results;
  auto stage = rt.bus().subscribe<raw>("stage", [&](const raw& e) -> task<void> {
    const cooked event{e.value};
    const publish_result came = co_await rt.bus().async_publish(event);
    results.add(keep(came));
  });
  rt.bus().publish(raw{1});
  eventually([&] { return writer.sub.ledger().pending == 1; });
  rt.bus().publish(raw{2});
  stage.stop();
  CHECK(writer.sub.ledger().pending == 1);
  CHECK(results.size() == 0);
  writer.go = true;
  CHECK(stage.close() == close_status::closed);
  REQUIRE(rt.bus().wait_idle(25s));
  REQUIRE(results.size() == 1);
  CHECK(results.all().front().accepted == 1);
  CHECK(writer.seen.all() == std::vector{-1, -2, 1});
  CHECK(stage.ledger().handled == 1);
  CHECK(stage.ledger().discarded == 1);
  CHECK(stage.ledger().balanced());
  CHECK(writer.sub.ledger().balanced());
}

TEST_CASE("an output that a coroutine handler waits for is rejected and told to on_drop when its target closes",
          "[P6]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  record<drop_reason> reasons;
  auto options = subscribe_options().on_drop<cooked>(
      [&](const cooked&, drop_reason why) noexcept { reasons.add(why); });
  held<cooked> writer(rt.bus(), "writer", std::move(options));
  fill(rt.bus(), writer);
  record<said> results;
  auto stage = rt.bus().subscribe<raw>("stage", [&](const raw& e) -> task<void> {
    const cooked event{e.value};
    const publish_result came = co_await rt.bus().async_publish(event);
    results.add(keep(came));
  });
  rt.bus().publish(raw{1});
  eventually([&] { return writer.sub.ledger().pending == 1; });
  writer.sub.stop();
  results.wait_for(1);
  CHECK(results.all().front().error == errc::closed);
  CHECK(results.all().front().rejected == 1);
  CHECK(reasons.all() == std::vector{drop_reason::closed});
  CHECK(writer.sub.ledger().rejected.closed == 1);
  rt.bus().publish(raw{2});  // its lane goes on; nobody matches now
  results.wait_for(2);
  CHECK(results.all().back().matched == 0);
  writer.go = true;
  CHECK(writer.sub.close() == close_status::closed);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(stage.ledger().handled == 2);
  CHECK(stage.ledger().balanced());
  CHECK(writer.sub.ledger().balanced());
}

TEST_CASE("close(drain) of the target admits what a coroutine handler waits to put in, and releases tasks", "[P6]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  record<said> from_stage, from_task;
  auto stage = rt.bus().subscribe<raw>("stage", [&](const raw& e) -> task<void> {
    const cooked event{e.value};
    const publish_result came = co_await rt.bus().async_publish(event);
    from_stage.add(keep(came));
  });
  rt.bus().publish(raw{1});
  eventually([&] { return writer.sub.ledger().pending == 1; });
  start_task(rt.pool("default"), publish_one(rt.bus().publisher<cooked>(), 2, from_task), [](outcome<void>&&) {});
  eventually([&] { return writer.sub.ledger().pending == 2; });
  std::thread closing([&] { (void)writer.sub.close(close_mode::drain); });
  from_task.wait_for(1);
  CHECK(from_task.all().front().error == errc::closed);
  CHECK(writer.sub.ledger().pending == 1);
  CHECK(from_stage.size() == 0);
  writer.go = true;
  closing.join();
  CHECK(writer.seen.all() == std::vector{-1, -2, 1});
  from_stage.wait_for(1);
  CHECK(from_stage.all().front().accepted == 1);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(writer.sub.ledger().rejected.closed == 1);
  CHECK(writer.sub.ledger().balanced());
  CHECK(stage.ledger().balanced());
}

// --- async_close
// -------------------------------------------------------------------------------------------------------

TEST_CASE("async_close in a task waits without a thread; from closed on the closure has been destroyed", "[S2][S3]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  flag go{false};
  auto mark = std::make_shared<int>(0);
  record<int> begun;
  auto sub = rt.bus().subscribe<raw>("closing", [mark, &go, &begun](const raw& e) -> task<void> {
    begun.add(e.value);
    co_await until(go);
  });
  rt.bus().publish(raw{1});
  rt.bus().publish(raw{2});
  begun.wait_for(1);
  record<std::pair<close_status, long>> came;
  auto body = [&](close_mode mode) -> task<void> {
    const close_status status = co_await sub.async_close(mode);
    came.add({status, mark.use_count()});
  };
  gate over;
  std::size_t calls = 1;
  close_mode asked = close_mode::stop_now;
  SECTION("stop_now") {}
  SECTION("drain") {
    asked = close_mode::drain;
    calls = 2;
  }
  start_task(rt.pool("default"), body(asked), [&](outcome<void>&&) { over.open(); });
  eventually([&] { return sub.state() != penstock::subscription_state::open; });
  CHECK(came.size() == 0);
  CHECK(mark.use_count() == 2);
  go = true;
  over.wait();
  REQUIRE(came.size() == 1);
  CHECK(came.all().front().first == close_status::closed);
  CHECK(came.all().front().second == 1);
  CHECK(begun.size() == calls);
  CHECK(sub.ledger().handled == calls);
  CHECK(sub.ledger().balanced());
  // Again, and of an empty handle: at once.
  subscription none;
  auto again = [&]() -> task<bool> {
    const close_status one = co_await sub.async_close();
    const close_status two = co_await none.async_close();
    const close_status three = co_await none.async_close_for(1h);
    co_return one == close_status::closed && two == close_status::closed && three == close_status::closed;
  };
  CHECK(block_on(rt.pool("default"), again()));
}

TEST_CASE("async_close(cancel) cancels the running coroutine and waits for its end", "[H3][S2]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  record<int> begun;
  auto sub = rt.bus().subscribe<raw>("cancelled", [&](const raw& e) -> task<void> {
    begun.add(e.value);
    co_await sleep_for(1h);
  });
  rt.bus().publish(raw{1});
  begun.wait_for(1);
  auto body = [&]() -> task<close_status> {
    const close_status came = co_await sub.async_close(close_mode::cancel);
    co_return came;
  };
  CHECK(block_on(rt.pool("default"), body()) == close_status::closed);
  CHECK(sub.ledger().quiescent());
  CHECK(sub.ledger().balanced());
}

TEST_CASE("a handler's coroutine awaits the close of another subscription", "[S2][S3]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> target(rt.bus(), "target");
  fill(rt.bus(), target);
  record<close_status> status;
  auto closer = rt.bus().subscribe<raw>("closer", [&](const raw&) -> task<void> {
    const close_status came = co_await target.sub.async_close();
    status.add(came);
  });
  rt.bus().publish(raw{1});
  eventually([&] { return target.sub.state() != penstock::subscription_state::open; });
  CHECK(status.size() == 0);
  target.go = true;
  status.wait_for(1);
  CHECK(status.all() == std::vector{close_status::closed});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(target.sub.ledger().discarded == 1);
  CHECK(target.sub.ledger().balanced());
  CHECK(closer.ledger().handled == 1);
}

TEST_CASE("async_close awaited in a call that it would wait for gives would_deadlock at once, already stopped",
          "[S3]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const close_mode mode = GENERATE(close_mode::stop_now, close_mode::drain, close_mode::cancel);
  const unsigned lanes = GENERATE(1U, 2U);
  record<close_status> status;
  record<int> begun;
  gate died;
  std::optional<subscription> sub;
  std::shared_ptr<int> mark(new int(0), [&](int* dead) {
    delete dead;
    died.open();
  });
  flag matched_after{false};
  auto options = subscribe_options().concurrency(lanes);
  sub = rt.bus().subscribe<raw>("leaver", std::move(options), [&, mark](const raw& e) -> task<void> {
    begun.add(e.value);
    co_await penstock::yield();
    const close_status came = co_await sub->async_close(mode);
    status.add(came);
    matched_after = rt.bus().publish(raw{9}).matched() != 0;
  });
  mark.reset();
  rt.bus().publish(raw{1});
  died.wait();  // the rest happens when the call has ended
  CHECK(status.all() == std::vector{close_status::would_deadlock});
  CHECK_FALSE(matched_after);
  CHECK(sub->close() == close_status::closed);
  CHECK(begun.size() == 1);
  CHECK(sub->ledger().quiescent());
  CHECK(sub->ledger().balanced());
}

TEST_CASE("two coroutine handlers that close each other both finish", "[S3]") {
  const time_limit limit;
  const unsigned threads = GENERATE(1U, 2U);
  const close_mode mode = GENERATE(close_mode::stop_now, close_mode::drain);
  penstock::runtime rt(workers(threads));
  for (int round = 0; round < 10; ++round) {
    std::optional<subscription> one, two;
    record<close_status> status;
    std::atomic<int> there{0};
    auto meet = [&]() -> task<void> {
      ++there;
      while (there < 2) co_await penstock::yield();
    };
    one = rt.bus().subscribe<raw>("one", [&](const raw&) -> task<void> {
      co_await meet();
      const close_status came = co_await two->async_close(mode);
      status.add(came);
    });
    two = rt.bus().subscribe<raw>("two", [&](const raw&) -> task<void> {
      co_await meet();
      const close_status came = co_await one->async_close(mode);
      status.add(came);
    });
    rt.bus().publish(raw{1});
    status.wait_for(2);
    CHECK(one->close() == close_status::closed);
    CHECK(two->close() == close_status::closed);
    const auto all = status.all();
    CHECK(std::count(all.begin(), all.end(), close_status::would_deadlock) == 1);
    CHECK(std::count(all.begin(), all.end(), close_status::closed) == 1);
    CHECK(one->ledger().balanced());
    CHECK(two->ledger().balanced());
  }
}

TEST_CASE("three coroutine handlers that close each other in a ring all finish", "[S3]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  subscription ring[3];
  record<close_status> status;
  std::atomic<int> there{0};
  auto meet = [&]() -> task<void> {
    ++there;
    while (there < 3) co_await penstock::yield();
  };
  for (int i = 0; i < 3; ++i)
    ring[i] = rt.bus().subscribe<raw>("ring", [&, i](const raw&) -> task<void> {
      co_await meet();
      const close_status came = co_await ring[(i + 1) % 3].async_close();
      status.add(came);
    });
  rt.bus().publish(raw{1});
  status.wait_for(3);
  for (subscription& each : ring) CHECK(each.close() == close_status::closed);
  const auto all = status.all();
  CHECK(std::count(all.begin(), all.end(), close_status::would_deadlock) == 1);
}

TEST_CASE("async_close_for gives timed_out when the call has not ended in time, and the call stays in the ledger",
          "[S2][S6]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<raw> target(rt.bus(), "held");
  fill(rt.bus(), target);
  const close_mode mode = GENERATE(close_mode::stop_now, close_mode::drain);
  const auto wait = GENERATE(2ms, 0ms, -1ms);
  auto body = [&]() -> task<close_status> {
    const close_status came = co_await target.sub.async_close_for(wait, mode);
    co_return came;
  };
  CHECK(block_on(rt.pool("default"), body()) == close_status::timed_out);
  CHECK(block_on(rt.pool("default"), body()) == close_status::timed_out);  // abandoned: at once
  CHECK(target.sub.close() == close_status::timed_out);
  CHECK(target.sub.ledger().running == 1);
  CHECK(target.sub.ledger().discarded == 1);
  CHECK(target.sub.ledger().balanced());
  target.go = true;
  eventually([&] { return target.sub.close() == close_status::closed; });
  CHECK(target.sub.ledger().handled == 1);
  CHECK(target.sub.ledger().balanced());
}

TEST_CASE("async_close_for with the longest duration waits and does not overflow", "[L4][S2]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<raw> target(rt.bus(), "held");
  fill(rt.bus(), target);
  record<close_status> status;
  auto body = [&]() -> task<void> {
    const close_status came = co_await target.sub.async_close_for(std::chrono::hours::max());
    status.add(came);
  };
  start_task(rt.pool("default"), body(), [](outcome<void>&&) {});
  eventually([&] { return target.sub.state() != penstock::subscription_state::open; });
  CHECK(status.size() == 0);
  target.go = true;
  status.wait_for(1);
  CHECK(status.all() == std::vector{close_status::closed});
}

TEST_CASE("a cancel ends the waiting of async_close; the subscription stays stopped or draining", "[S2]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<raw> target(rt.bus(), "held");
  fill(rt.bus(), target);
  const close_mode mode = GENERATE(close_mode::stop_now, close_mode::drain);
  auto body = [&]() -> task<void> { (void)co_await target.sub.async_close(mode); };
  std::stop_source stop;
  record<bool> ends;
  start_task(rt.pool("default"), body(), [&](outcome<void>&& came) { ends.add(was_cancelled(came)); },
             stop.get_token());
  eventually([&] { return target.sub.state() != penstock::subscription_state::open; });
  stop.request_stop();
  ends.wait_for(1);
  CHECK(ends.all() == std::vector{true});
  CHECK(target.sub.state() ==
        (mode == close_mode::drain ? penstock::subscription_state::draining : penstock::subscription_state::stopped));
  CHECK(target.sub.ledger().running == 1);
  target.go = true;
  CHECK(target.sub.close(mode) == close_status::closed);
  CHECK(target.sub.ledger().handled == (mode == close_mode::drain ? 2 : 1));
  CHECK(target.sub.ledger().balanced());
}

TEST_CASE("several tasks and threads may close one subscription at once, and all learn that it is closed", "[S2]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  held<raw> target(rt.bus(), "held");
  fill(rt.bus(), target);
  record<close_status> status;
  auto body = [&]() -> task<void> {
    const close_status came = co_await target.sub.async_close();
    status.add(came);
  };
  for (int i = 0; i < 4; ++i) start_task(rt.pool("default"), body(), [](outcome<void>&&) {});
  std::thread closing([&] { status.add(target.sub.close()); });
  eventually([&] { return target.sub.state() != penstock::subscription_state::open; });
  target.go = true;
  closing.join();
  status.wait_for(5);
  CHECK(status.all() == std::vector(5, close_status::closed));
}

// --- async_wait_idle
// ---------------------------------------------------------------------------------------------------

TEST_CASE("async_wait_idle waits for suspended handlers and parked outputs, without a thread", "[P5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<cooked> writer(rt.bus(), "writer");
  fill(rt.bus(), writer);
  auto stage = rt.bus().subscribe<raw>("stage", [&](const raw& e) -> task<void> {
    const cooked event{e.value};
    (void)co_await rt.bus().async_publish(event);
  });
  rt.bus().publish(raw{1});
  eventually([&] { return writer.sub.ledger().pending == 1; });
  record<bool> idle;
  auto body = [&]() -> task<void> {
    const bool came = co_await rt.bus().async_wait_idle();
    idle.add(came);
  };
  start_task(rt.pool("default"), body(), [](outcome<void>&&) {});
  gate ran;
  REQUIRE(rt.pool("default")->post([&] { ran.open(); }) == errc::none);
  ran.wait();
  CHECK(idle.size() == 0);
  writer.go = true;
  idle.wait_for(1);
  CHECK(idle.all() == std::vector{true});
  CHECK(writer.seen.size() == 3);
  CHECK(writer.sub.ledger().quiescent());
  CHECK(stage.ledger().quiescent());
  CHECK(writer.sub.ledger().balanced());
  CHECK(stage.ledger().balanced());
}

TEST_CASE("async_wait_idle is true at once on an idle bus, and false at once in a handler", "[P5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto ask = [&]() -> task<bool> {
    const bool came = co_await rt.bus().async_wait_idle();
    co_return came;
  };
  CHECK(block_on(rt.pool("default"), ask()));
  record<bool> in_handler;
  auto sub = rt.bus().subscribe<raw>("asking", [&](const raw&) -> task<void> {
    const bool now = co_await rt.bus().async_wait_idle();
    in_handler.add(now);
    const bool later = co_await rt.bus().async_wait_idle_for(1h);
    in_handler.add(later);
  });
  rt.bus().publish(raw{1});
  in_handler.wait_for(2);
  CHECK(in_handler.all() == std::vector{false, false});
  CHECK(block_on(rt.pool("default"), ask()));
  CHECK(sub.ledger().handled == 1);
}

TEST_CASE("async_wait_idle_for is false when its time passes first, and a cancel ends either", "[P5]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  held<raw> target(rt.bus(), "held");
  fill(rt.bus(), target);
  auto brief = [&](std::chrono::milliseconds wait) -> task<bool> {
    const bool came = co_await rt.bus().async_wait_idle_for(wait);
    co_return came;
  };
  CHECK_FALSE(block_on(rt.pool("default"), brief(2ms)));
  CHECK_FALSE(block_on(rt.pool("default"), brief(0ms)));
  CHECK_FALSE(block_on(rt.pool("default"), brief(-1ms)));
  auto forever = [&]() -> task<void> { (void)co_await rt.bus().async_wait_idle(); };
  auto longest = [&]() -> task<void> { (void)co_await rt.bus().async_wait_idle_for(std::chrono::hours::max()); };
  std::stop_source stop;
  record<bool> ends;
  const auto done = [&](outcome<void>&& came) { ends.add(was_cancelled(came)); };
  start_task(rt.pool("default"), forever(), done, stop.get_token());
  start_task(rt.pool("default"), longest(), done, stop.get_token());
  block_on(rt.pool("default"), brief(2ms));  // both wait by now: there is one worker
  CHECK(ends.size() == 0);
  stop.request_stop();
  ends.wait_for(2);
  CHECK(ends.all() == std::vector{true, true});
  target.go = true;
  CHECK(block_on(rt.pool("default"), brief(20'000ms)));
  CHECK(target.sub.ledger().handled == 2);
  CHECK(target.sub.ledger().balanced());
}
