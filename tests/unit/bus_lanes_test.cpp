// Lanes: order, concurrency, fairness, and handlers whose outputs are parked.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"

#include <penstock/penstock.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::close_mode;
using penstock::close_status;
using penstock::drop_reason;
using penstock::errc;
using penstock::overflow;
using penstock::publish_result;
using penstock::runtime_options;
using penstock::subscribe_options;
using penstock::worker_pool_options;

namespace {

struct raw {
  int value = 0;
};
struct cooked {
  int value = 0;
};
struct tick {
  int value = 0;
};

runtime_options workers(unsigned count, unsigned budget = 64) {
  return runtime_options()
      .pool("default", worker_pool_options().threads(count).budget(budget))
      .on_failure([](const penstock::failure&) {});
}

/// What a handler's publish said.
struct said {
  errc error;
  std::uint64_t accepted, parked, rejected;
};
said keep(const publish_result& r) { return {r.error(), r.accepted(), r.parked(), r.rejected()}; }

std::vector<int> first(int count) {
  std::vector<int> all;
  for (int i = 0; i < count; ++i) all.push_back(i);
  return all;
}

}  // namespace

// --- order and concurrency
// ---------------------------------------------------------------------------------------------

TEST_CASE("with concurrency 1 calls never overlap and each sees the effects of the one before", "[O1]") {
  const time_limit limit;
  penstock::runtime rt(workers(4, 3));
  std::atomic<int> inside{0};
  std::atomic<bool> overlapped{false};
  std::uint64_t plain_counter = 0;  // no atomic: the lane is the only writer, whatever worker it is on
  auto sub = rt.bus().subscribe<tick>("serial", subscribe_options().capacity(16), [&](const tick&) {
    if (inside.fetch_add(1) != 0) overlapped = true;
    ++plain_counter;
    inside.fetch_sub(1);
  });
  const int each = sanitized ? 500 : 5000;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      const auto publisher = rt.bus().publisher<tick>();
      for (int i = 0; i < each; ++i) publisher.publish({i});
    });
  for (auto& t : threads) t.join();
  REQUIRE(sub.close(close_mode::drain) == close_status::closed);
  CHECK_FALSE(overlapped);
  CHECK(plain_counter == static_cast<std::uint64_t>(each) * 3);
}

TEST_CASE("what one publish returned from before another thread's starts is handled first", "[O1][Q1]") {
  const time_limit limit;
  const std::size_t capacity = GENERATE(1, 4, 4096);
  penstock::runtime rt(workers(2));
  std::vector<int> seen;
  auto sub = rt.bus().subscribe<tick>("ordered", subscribe_options().capacity(capacity),
                                      [&](const tick& e) { seen.push_back(e.value); });
  const int rounds = sanitized ? 500 : 4000;
  // A baton: each thread publishes only after the other's publish has returned.
  std::atomic<int> turn{0};
  const auto play = [&](int parity) {
    const auto publisher = rt.bus().publisher<tick>();
    for (int i = parity; i < rounds; i += 2) {
      for (int now = turn.load(); now != i; now = turn.load()) turn.wait(now);
      publisher.publish({i});
      turn.store(i + 1);
      turn.notify_all();
    }
  };
  std::thread even(play, 0), odd(play, 1);
  even.join();
  odd.join();
  REQUIRE(sub.close(close_mode::drain) == close_status::closed);
  CHECK(seen == first(rounds));
}

TEST_CASE("two subscriptions each keep a publisher's order", "[O1][O5]") {
  const time_limit limit;
  penstock::runtime rt(workers(3, 2));
  std::vector<int> one, two;
  auto a =
      rt.bus().subscribe<tick>("one", subscribe_options().capacity(1), [&](const tick& e) { one.push_back(e.value); });
  auto b =
      rt.bus().subscribe<tick>("two", subscribe_options().capacity(7), [&](const tick& e) { two.push_back(e.value); });
  for (int i = 0; i < 1000; ++i) rt.bus().publish(tick{i});
  REQUIRE(a.close(close_mode::drain) == close_status::closed);
  REQUIRE(b.close(close_mode::drain) == close_status::closed);
  CHECK(one == first(1000));
  CHECK(two == first(1000));
}

TEST_CASE("with concurrency n up to n calls run at once, and never more", "[O2][Q14]") {
  const time_limit limit;
  const unsigned lanes = GENERATE(2U, 3U, 5U);
  penstock::runtime rt(workers(8));
  record<int> begun;
  gate release;
  std::atomic<unsigned> inside{0}, most{0};
  auto sub = rt.bus().subscribe<tick>("wide", subscribe_options().concurrency(lanes).capacity(4), [&](const tick& e) {
    const unsigned now = inside.fetch_add(1) + 1;
    for (unsigned seen = most.load(); seen < now && !most.compare_exchange_weak(seen, now);) {
    }
    begun.add(e.value);
    release.wait();
    inside.fetch_sub(1);
  });
  for (int i = 0; i < static_cast<int>(lanes) + 4; ++i) rt.bus().publish(tick{i});
  begun.wait_for(lanes);
  CHECK(rt.bus().publisher<tick>().try_publish({99}).accepted() == 0);  // n run, 4 wait
  CHECK(sub.ledger().running == lanes);
  CHECK(sub.ledger().queued == 4);
  CHECK(begun.size() == lanes);
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(most == lanes);
  CHECK(sub.ledger().handled == lanes + 4);
  CHECK(sub.ledger().balanced());
}

TEST_CASE("a ready lane starts within the budget of the lanes before it: a cold one is never starved", "[O4][Q4]") {
  const time_limit limit;
  constexpr unsigned budget = 4;
  penstock::runtime rt(workers(1, budget));
  gate release;
  record<int> order;
  auto hot = rt.bus().subscribe<raw>("hot", subscribe_options().capacity(2000), [&](const raw& e) {
    order.add(e.value);
    if (e.value == 0) release.wait();
  });
  auto cold = rt.bus().subscribe<cooked>("cold", [&](const cooked&) { order.add(-1); });
  rt.bus().publish(raw{0});
  order.wait_for(1);
  for (int i = 1; i <= 1000; ++i) rt.bus().publish(raw{i});
  rt.bus().publish(cooked{1});
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
  const auto all = order.all();
  const auto at = std::find(all.begin(), all.end(), -1) - all.begin();
  CHECK(at <= static_cast<int>(budget));
  CHECK(all.size() == 1002);
}

TEST_CASE("lanes and posted work take turns: neither starves the other", "[O4]") {
  const time_limit limit;
  penstock::runtime rt(workers(1, 1));
  gate release;
  record<int> order;
  auto hot = rt.bus().subscribe<raw>("hot", [&](const raw& e) {
    order.add(e.value);
    if (e.value == 0) release.wait();
  });
  rt.bus().publish(raw{0});
  order.wait_for(1);
  for (int i = 1; i <= 100; ++i) rt.bus().publish(raw{i});
  for (int i = 0; i < 3; ++i) REQUIRE(rt.pool("default")->post([&order] { order.add(-1); }) == errc::none);
  release.open();
  order.wait_for(104);
  const auto all = order.all();
  CHECK(std::count(all.begin(), all.begin() + 10, -1) == 3);
}

TEST_CASE("no ready lane stays behind a running handler while a worker sleeps", "[O4][Q16]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  gate release;
  record<int> begun;
  // The handler that is stuck has itself made the other lane ready, so its own worker would be the natural one to run
  // it.
  auto other = rt.bus().subscribe<cooked>("other", [&](const cooked& e) { begun.add(e.value); });
  auto stuck = rt.bus().subscribe<raw>("stuck", [&](const raw& e) {
    rt.bus().publish(cooked{e.value});
    release.wait();
  });
  rt.bus().publish(raw{1});
  begun.wait_for(1);
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
}

// --- handlers that publish
// ---------------------------------------------------------------------------------------------

TEST_CASE("a handler never blocks its worker: its output is parked and the lane rests until it has a seat",
          "[P3][B2]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));  // one worker: a blocked one would be a deadlock
  record<int> written;
  record<said> parked;
  auto writer = rt.bus().subscribe<cooked>("writer", subscribe_options().capacity(1),
                                           [&](const cooked& e) { written.add(e.value); });
  auto stage = rt.bus().subscribe<raw>("stage", subscribe_options().capacity(2), [&](const raw& e) {
    for (int i = 0; i < 3; ++i) parked.add(keep(rt.bus().publish(cooked{e.value * 3 + i})));
  });
  for (int i = 0; i < 200; ++i) rt.bus().publish(raw{i});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(written.all() == first(600));
  bool all_taken = true;
  for (const said& each : parked.all())
    all_taken = all_taken && each.error == errc::none && each.accepted + each.parked == 1;
  CHECK(all_taken);
}

TEST_CASE("a resting lane takes no new event until its parked outputs are decided", "[P3]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  gate release;
  record<int> written, staged;
  auto writer = rt.bus().subscribe<cooked>("writer", subscribe_options().capacity(1), [&](const cooked& e) {
    written.add(e.value);
    if (e.value == -1) release.wait();
  });
  rt.bus().publish(cooked{-1});
  written.wait_for(1);
  rt.bus().publish(cooked{-2});
  record<said> results;
  auto stage = rt.bus().subscribe<raw>("stage", [&](const raw& e) {
    results.add(keep(rt.bus().publish(cooked{e.value})));
    staged.add(e.value);
  });
  for (int i = 0; i < 5; ++i) rt.bus().publish(raw{i});
  staged.wait_for(1);
  eventually([&] { return stage.ledger().running == 0; });
  CHECK(results.all().front().parked == 1);
  CHECK(writer.ledger().pending == 1);
  CHECK(stage.ledger().queued == 4);
  CHECK(staged.size() == 1);
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(written.all() == std::vector{-1, -2, 0, 1, 2, 3, 4});
}

TEST_CASE("a handler may park max_parked outputs in one call, a further one is refused with would_block", "[P3]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  gate release;
  record<int> written;
  auto writer = rt.bus().subscribe<cooked>("writer", subscribe_options().capacity(1), [&](const cooked& e) {
    written.add(e.value);
    if (e.value == -1) release.wait();
  });
  rt.bus().publish(cooked{-1});
  written.wait_for(1);
  rt.bus().publish(cooked{-2});
  record<said> results;
  auto stage = rt.bus().subscribe<raw>("stage", subscribe_options().max_parked(3), [&](const raw&) {
    for (int i = 0; i < 5; ++i) results.add(keep(rt.bus().publish(cooked{i})));
  });
  rt.bus().publish(raw{0});
  results.wait_for(5);
  const auto all = results.all();
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(all[i].parked == (i < 3 ? 1 : 0));
    CHECK(all[i].error == (i < 3 ? errc::none : errc::would_block));
  }
  CHECK(writer.ledger().rejected.would_block == 2);
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(written.all() == std::vector{-1, -2, 0, 1, 2});
}

TEST_CASE("a publish that would wait is refused with would_block in posted work, and waits on a pool that may",
          "[P3]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  gate release;
  record<int> written;
  auto writer = rt.bus().subscribe<cooked>("writer", subscribe_options().capacity(1), [&](const cooked& e) {
    written.add(e.value);
    if (e.value == -1) release.wait();
  });
  rt.bus().publish(cooked{-1});
  written.wait_for(1);
  rt.bus().publish(cooked{-2});
  record<said> refused, waited;
  REQUIRE(rt.pool("default")->post([&] { refused.add(keep(rt.bus().publish(cooked{1}))); }) == errc::none);
  refused.wait_for(1);
  CHECK(refused.all().front().error == errc::would_block);
  CHECK(refused.all().front().rejected == 1);
  REQUIRE(rt.pool("blocking")->post([&] { waited.add(keep(rt.bus().publish(cooked{2}))); }) == errc::none);
  eventually([&] { return writer.ledger().pending == 1; });
  release.open();
  waited.wait_for(1);
  CHECK(waited.all().front().accepted == 1);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(written.all() == std::vector{-1, -2, 2});
}

TEST_CASE("with every handler resting on its outputs the consumers still run", "[P5][B2]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  std::atomic<int> written{0};
  std::vector<penstock::subscription> stages;
  auto writer =
      rt.bus().subscribe<cooked>("writer", subscribe_options().capacity(1), [&](const cooked&) { ++written; });
  for (int i = 0; i < 10; ++i)
    stages.push_back(rt.bus().subscribe<raw>("stage", subscribe_options().capacity(1), [&](const raw& e) {
      (void)rt.bus().publish(cooked{e.value});
      (void)rt.bus().publish(cooked{e.value});
    }));
  for (int i = 0; i < 50; ++i) rt.bus().publish(raw{i});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(written == 1000);
}

TEST_CASE("a handler that publishes its own event queues it: nothing is called on the publisher's stack", "[D13]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  bool inside = false, nested = false;
  int calls = 0;
  auto sub = rt.bus().subscribe<tick>("echo", subscribe_options().capacity(2), [&](const tick& e) {
    nested = nested || inside;
    inside = true;
    ++calls;
    if (e.value > 0) (void)rt.bus().publish(tick{e.value - 1});
    inside = false;
  });
  rt.bus().publish(tick{10000});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK_FALSE(nested);
  CHECK(calls == 10001);
}

TEST_CASE("a parked output belongs to its target: it stays in line when its producer stops", "[P6]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  gate release;
  record<int> written;
  auto writer = rt.bus().subscribe<cooked>("writer", subscribe_options().capacity(1), [&](const cooked& e) {
    written.add(e.value);
    if (e.value == -1) release.wait();
  });
  rt.bus().publish(cooked{-1});
  written.wait_for(1);
  rt.bus().publish(cooked{-2});
  auto stage = rt.bus().subscribe<raw>("stage", [&](const raw& e) { (void)rt.bus().publish(cooked{e.value}); });
  rt.bus().publish(raw{7});
  eventually([&] { return writer.ledger().pending == 1; });
  SECTION("stop and close do not wait for it") {
    stage.stop();
    CHECK(stage.close() == close_status::closed);
    CHECK(writer.ledger().pending == 1);
    release.open();
  }
  SECTION("close(drain) waits for it") {
    gate asked;
    std::atomic<bool> closed{false};
    std::thread closing([&] {
      asked.open();
      (void)stage.close(close_mode::drain);
      closed = true;
    });
    asked.wait();
    eventually([&] { return rt.bus().publish(raw{8}).matched() == 0; });  // it has left the topic: it is draining
    CHECK_FALSE(closed);
    release.open();
    closing.join();
    CHECK(writer.ledger().pending == 0);
  }
  REQUIRE(rt.bus().wait_idle(25s));
  auto all = written.all();
  REQUIRE(all.size() >= 3);
  all.resize(3);  // the looks at whether it drains may have been taken too
  CHECK(all == std::vector{-1, -2, 7});
}

TEST_CASE("a parked output is rejected and told to on_drop when its target closes or its deadline passes", "[P6][S7]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  gate release;
  record<int> written, dropped;
  record<drop_reason> reasons;
  auto options = subscribe_options().capacity(1).on_drop<cooked>([&](const cooked& e, drop_reason why) noexcept {
    reasons.add(why);
    dropped.add(e.value);
  });
  auto writer = rt.bus().subscribe<cooked>("writer", std::move(options), [&](const cooked& e) {
    written.add(e.value);
    if (e.value == -1) release.wait();
  });
  rt.bus().publish(cooked{-1});
  written.wait_for(1);
  rt.bus().publish(cooked{-2});
  const auto outputs = rt.bus().publisher<cooked>();
  record<said> results;
  auto stage = rt.bus().subscribe<raw>("stage", [&](const raw& e) {
    results.add(keep(e.value == 0 ? outputs.publish_for(5ms, cooked{7}) : outputs.publish({8})));
  });
  SECTION("deadline") {
    rt.bus().publish(raw{0});
    dropped.wait_for(1);
    CHECK(dropped.all() == std::vector{7});
    CHECK(reasons.all() == std::vector{drop_reason::timed_out});
    CHECK(results.all().front().parked == 1);
    CHECK(writer.ledger().rejected.timed_out == 1);
  }
  SECTION("target closes") {
    rt.bus().publish(raw{1});
    eventually([&] { return writer.ledger().pending == 1; });
    writer.stop();
    CHECK(dropped.all() == std::vector{8});
    CHECK(reasons.all() == std::vector{drop_reason::closed});
    CHECK(writer.ledger().rejected.closed == 1);
  }
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(stage.ledger().handled == 1);  // the lane went on
  CHECK(writer.ledger().balanced());
}

TEST_CASE("close(drain) of the target admits outputs parked before and releases callers with closed", "[P6]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  gate release;
  record<int> written;
  auto writer = rt.bus().subscribe<cooked>("writer", subscribe_options().capacity(1), [&](const cooked& e) {
    written.add(e.value);
    if (e.value == -1) release.wait();
  });
  rt.bus().publish(cooked{-1});
  written.wait_for(1);
  rt.bus().publish(cooked{-2});
  auto stage = rt.bus().subscribe<raw>("stage", [&](const raw& e) { (void)rt.bus().publish(cooked{e.value}); });
  rt.bus().publish(raw{7});
  eventually([&] { return writer.ledger().pending == 1; });
  record<said> came;
  std::thread caller([&] { came.add(keep(rt.bus().publish(cooked{9}))); });
  eventually([&] { return writer.ledger().pending == 2; });
  std::thread closing([&] { (void)writer.close(close_mode::drain); });
  caller.join();
  CHECK(came.all().front().error == errc::closed);
  CHECK(writer.ledger().pending == 1);
  release.open();
  closing.join();
  CHECK(written.all() == std::vector{-1, -2, 7});
  CHECK(writer.ledger().rejected.closed == 1);
  CHECK(writer.ledger().balanced());
}

TEST_CASE("a large parked event is shared, not copied, and dies after its last call", "[P3][E2][L3]") {
  const time_limit limit;
  struct large {
    std::shared_ptr<int> mark;
    int value;
  };
  penstock::runtime rt(workers(1));
  auto mark = std::make_shared<int>(0);
  record<int> written;
  auto writer = rt.bus().subscribe<large>("writer", subscribe_options().capacity(1),
                                          [&](const large& e) { written.add(e.value); });
  const auto outputs = rt.bus().publisher<large>();
  auto stage = rt.bus().subscribe<raw>("stage", [&](const raw&) {
    std::vector<large> span;
    for (int i = 0; i < 10; ++i) span.push_back({mark, i});
    (void)outputs.publish_many(span);
  });
  rt.bus().publish(raw{});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(written.all() == first(10));
  CHECK(mark.use_count() == 1);
}
