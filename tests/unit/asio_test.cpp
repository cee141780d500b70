// penstock in an Asio program: completion tokens, cancellation, awaitable handlers, a service's own executors, and back.
// Floor 9, room tests.
#include "support/catch.hpp"
#include "support/gate.hpp"

#include <penstock/asio.hpp>
#include <penstock/testing/simulation.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;
using namespace penstock;
using penstock_test::contains_text;
using penstock_test::eventually;
using penstock_test::gate;
using penstock_test::record;
using penstock_test::time_limit;

struct tick {
  int value = 0;
};
struct note {
  std::string text;
};

/// A service's io_context, run by a thread of its own until it goes out of scope.
class service {
 public:
  service() : work_(asio::make_work_guard(io)), thread_([this] { io.run(); }) {}
  ~service() { finish(); }
  void finish() {
    work_.reset();
    if (thread_.joinable()) thread_.join();
  }
  std::thread::id id() const { return thread_.get_id(); }
  asio::io_context io;

 private:
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::thread thread_;
};

/// A subscription of capacity 1 that is full: one call is held at a gate, one event waits.
struct full_subscription {
  explicit full_subscription(event_bus& bus, const char* name = "full")
      : sub(bus.subscribe<tick>(name, subscribe_options().capacity(1), [this](const tick& e) {
          seen.add(e.value);
          held.wait();
        })) {
    bus.publish(tick{1});
    seen.wait_for(1);
    bus.publish(tick{2});
  }
  ~full_subscription() {
    held.open();
    (void)sub.close();
  }
  record<int> seen;
  gate held;
  subscription sub;
};

struct publish_end {
  boost::system::error_code error;
  publish_result result;
};

task<int> add(int a, int b) {
  co_await sleep_for(1ms);
  co_return a + b;
}
task<int> throws() {
  co_await yield();
  throw std::runtime_error("the task failed");
}
task<std::uint64_t> emplaces(event_bus bus) {
  const publish_result sent = co_await bus.async_emplace<tick>(8);
  co_return sent.accepted();
}
task<int> sleeps_for_ever() {
  co_await sleep_for(std::chrono::nanoseconds::max());
  co_return 0;
}

}  // namespace

// --- completion tokens ---------------------------------------------------------------------------------------------------

TEST_CASE("async_publish completes by post on the handler's executor, never on another's stack", "[P1]") {
  const time_limit limit;
  record<std::thread::id> where;
  record<errc> errors;
  service own;
  runtime rt;
  auto sub = rt.bus().subscribe<tick>("any", [](const tick&) {});
  std::atomic<bool> initiating{true};
  bool inline_call = false;
  asio::post(own.io, [&] {
    rt.bus().async_publish(tick{1}, asio::bind_executor(own.io, [&](boost::system::error_code ec, publish_result result) {
                             inline_call = initiating.load();
                             where.add(std::this_thread::get_id());
                             errors.add(ec ? errc::closed : result.error());
                           }));
    initiating = false;
  });
  errors.wait_for(1);  // the last thing the handler does
  CHECK_FALSE(inline_call);
  CHECK(where.all().front() == own.id());
  CHECK(errors.all().front() == errc::none);
}

TEST_CASE("a completion without an executor of its own runs on the bus's default pool", "[P1]") {
  const time_limit limit;
  record<std::uint64_t> accepted;
  runtime rt;
  auto sub = rt.bus().subscribe<note>("any", [](const note&) {});
  const note event{"by callback"};
  rt.bus().async_publish(event, [&](boost::system::error_code, publish_result result) { accepted.add(result.accepted()); });
  accepted.wait_for(1);
  CHECK(accepted.all().front() == 1);
}

TEST_CASE("async_publish takes futures, awaitables, deferred and callbacks, and waits while a subscription is full", "[P1]") {
  const time_limit limit;
  record<publish_result> results;
  service own;
  runtime rt;
  full_subscription full(rt.bus());
  auto future = rt.bus().async_publish(tick{3}, asio::use_future);
  auto body = [&]() -> asio::awaitable<void> {
    const tick event{4};
    results.add(co_await rt.bus().async_publish(event, asio::use_awaitable));
  };
  asio::co_spawn(own.io, body, asio::detached);
  eventually([&] { return full.sub.ledger().pending == 2; });
  CHECK(results.size() == 0);
  full.held.open();
  CHECK(future.get().accepted() == 1);
  results.wait_for(1);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(full.sub.ledger().handled == 4);
  CHECK(full.sub.ledger().balanced());
}

TEST_CASE("a terminal cancellation of a waiting async_publish is operation_aborted, and the event is never delivered", "[P1]") {
  const time_limit limit;
  const auto kind = GENERATE(asio::cancellation_type::terminal, asio::cancellation_type::partial,
                             asio::cancellation_type::total);
  record<std::pair<boost::system::error_code, std::uint64_t>> ends;
  service own;
  runtime rt;
  full_subscription full(rt.bus());
  asio::cancellation_signal signal;
  rt.bus().async_publish(tick{3}, asio::bind_cancellation_slot(
                                      signal.slot(), asio::bind_executor(own.io, [&](auto ec, publish_result result) {
                                        ends.add({ec, result.accepted()});
                                      })));
  eventually([&] { return full.sub.ledger().pending == 1; });
  asio::post(own.io, [&] { signal.emit(kind); });
  ends.wait_for(1);
  CHECK(ends.all().front().first == asio::error::operation_aborted);
  CHECK(ends.all().front().second == 0);
  full.held.open();
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(full.seen.all() == std::vector{1, 2});
  CHECK(full.sub.ledger().rejected.cancelled == 1);
}

TEST_CASE("partial cancels what still waits and says k of n; total is ignored once somebody has accepted", "[P1]") {
  const time_limit limit;
  record<std::pair<boost::system::error_code, std::uint64_t>> ends;
  record<int> free_saw;
  service own;
  runtime rt;
  full_subscription full(rt.bus());
  auto free_one = rt.bus().subscribe<tick>("free", [&](const tick& e) { free_saw.add(e.value); });
  asio::cancellation_signal signal;
  rt.bus().async_publish(tick{3}, asio::bind_cancellation_slot(
                                      signal.slot(), asio::bind_executor(own.io, [&](auto ec, publish_result result) {
                                        ends.add({ec, result.accepted()});
                                      })));
  free_saw.wait_for(1);
  gate asked;
  asio::post(own.io, [&] {
    signal.emit(asio::cancellation_type::total);
    asked.open();
  });
  asked.wait();
  CHECK(full.sub.ledger().pending == 1);
  asio::post(own.io, [&] { signal.emit(asio::cancellation_type::partial); });
  ends.wait_for(1);
  CHECK(ends.all().front().first == asio::error::operation_aborted);
  CHECK(ends.all().front().second == 1);
  CHECK(free_saw.all() == std::vector{3});
}

TEST_CASE("async_emplace with a token builds the event from its arguments, in place or shared", "[P1]") {
  const time_limit limit;
  record<int> values;
  record<std::string> texts;
  runtime rt;
  auto numbers = rt.bus().subscribe<tick>("numbers", [&](const tick& e) { values.add(e.value); });
  auto letters = rt.bus().subscribe<note>("letters", [&](const note& e) { texts.add(e.text); });
  CHECK(rt.bus().async_emplace<tick>(asio::use_future, 7).get().accepted() == 1);
  CHECK(rt.bus().publisher<note>().async_emplace(asio::use_future, "shared").get().accepted() == 1);
  CHECK(block_on(rt.pool("default"), emplaces(rt.bus())) == 1);  // the form without a token is another
  texts.wait_for(1);
  values.wait_for(2);
  CHECK(values.all() == std::vector<int>{7, 8});
  CHECK(texts.all().front() == "shared");
}

TEST_CASE("async_close_for and async_wait_idle_for with a token end with their time", "[S2][P1]") {
  const time_limit limit;
  runtime rt;
  full_subscription full(rt.bus());
  CHECK_FALSE(rt.bus().async_wait_idle_for(1ms, asio::use_future).get());
  CHECK(full.sub.async_close_for(1ms, close_mode::drain, asio::use_future).get() == close_status::timed_out);
  CHECK(full.sub.async_close_for(1ms, asio::use_future).get() == close_status::timed_out);
  full.held.open();
  auto idle = rt.bus().subscribe<tick>("idle", [](const tick&) {});
  CHECK(idle.async_close_for(1h, asio::use_future).get() == close_status::closed);
  CHECK(rt.bus().async_wait_idle_for(1h, asio::use_future).get());
}

TEST_CASE("a timer takes a token: it completes at its instant, or with operation_aborted when it is called off", "[timer]") {
  const time_limit limit;
  service own;
  runtime rt;
  record<boost::system::error_code> ends;
  timer due(rt.pool("default"), 1ms);
  due.async_wait(asio::use_future).get();
  CHECK(rt.time().now() >= due.expiry());
  due.expires_after(1h);
  asio::cancellation_signal signal;
  const auto tell = [&](boost::system::error_code ec) { ends.add(ec); };
  due.async_wait(asio::bind_executor(own.io, asio::bind_cancellation_slot(signal.slot(), tell)));
  due.async_wait(asio::bind_executor(own.io, tell));
  asio::post(own.io, [&] { signal.emit(asio::cancellation_type::total); });
  ends.wait_for(1);
  CHECK(due.cancel() == 1);
  ends.wait_for(2);
  CHECK(ends.all().front() == asio::error::operation_aborted);
  CHECK(ends.all().back() == asio::error::operation_aborted);
  rt.shutdown(1s);
  CHECK_THROWS_AS(due.async_wait(asio::bind_executor(own.io, asio::use_future)).get(), boost::system::system_error);
}

TEST_CASE("async_publish after shutdown completes with closed", "[P1][S6]") {
  const time_limit limit;
  service own;
  runtime rt;
  auto orders = rt.bus().publisher<tick>();
  (void)rt.shutdown(25s);
  record<boost::system::error_code> ends;
  orders.async_publish(tick{1}, asio::bind_executor(own.io, [&](auto ec, publish_result) { ends.add(ec); }));
  ends.wait_for(1);
  CHECK(ends.all().front() == std::error_code(errc::closed));
}

TEST_CASE("async_receive gives the events in order and closed at the end", "[S5]") {
  const time_limit limit;
  record<int> seen;
  record<boost::system::error_code> ends;
  service own;
  runtime rt;
  auto inbox = rt.bus().stream<tick>("inbox");
  auto body = [&]() -> asio::awaitable<void> {
    try {
      for (;;) {
        auto got = co_await inbox.async_receive(asio::use_awaitable);
        seen.add(got->value);
      }
    } catch (const boost::system::system_error& end) {
      ends.add(end.code());
    }
  };
  asio::co_spawn(own.io, body, asio::detached);
  for (int i = 1; i <= 20; ++i) rt.bus().publish(tick{i});
  seen.wait_for(20);
  inbox.close(close_mode::drain);
  ends.wait_for(1);
  std::vector<int> wanted;
  for (int i = 1; i <= 20; ++i) wanted.push_back(i);
  CHECK(seen.all() == wanted);
  CHECK(ends.all().front() == std::error_code(errc::closed));
  eventually([&] { return inbox.ledger().handled == 20; });
}

TEST_CASE("a completion that is destroyed unrun puts its event back at the head", "[S5]") {
  const time_limit limit;
  runtime rt;
  auto inbox = rt.bus().stream<note>("inbox");
  {
    asio::io_context never_run;
    inbox.async_receive(asio::bind_executor(never_run, [](auto, delivery<note>) {}));
    const note event{"kept"};
    rt.bus().publish(event);
    eventually([&] { return inbox.ledger().running == 1; });
  }
  CHECK(inbox.ledger().queued == 1);
  auto got = inbox.try_receive();
  REQUIRE(got);
  CHECK(got->text == "kept");
  CHECK(got.attempt() == 1);
  got.done();
  CHECK(inbox.ledger().balanced());
}

TEST_CASE("async_close and async_wait_idle complete with their results", "[S2][P1]") {
  const time_limit limit;
  runtime rt;
  gate held;
  record<int> seen;
  auto sub = rt.bus().subscribe<tick>("slow", [&](const tick& e) {
    seen.add(e.value);
    held.wait();
  });
  rt.bus().publish(tick{1});
  rt.bus().publish(tick{2});
  seen.wait_for(1);
  auto idle = rt.bus().async_wait_idle(asio::use_future);
  auto closed = sub.async_close(close_mode::drain, asio::use_future);
  CHECK(closed.wait_for(0s) == std::future_status::timeout);
  CHECK(idle.wait_for(0s) == std::future_status::timeout);
  held.open();
  CHECK(closed.get() == close_status::closed);
  CHECK(idle.get());
  CHECK(seen.all() == std::vector{1, 2});
}

// --- awaitable handlers ----------------------------------------------------------------------------------------------------

TEST_CASE("an awaitable handler occupies its lane until it has finished, and runs on it", "[H1][H2]") {
  const time_limit limit;
  std::atomic<int> inside{0}, most{0};
  record<int> seen;
  runtime rt;
  auto sub = rt.bus().subscribe<tick>("awaitable", [&](const tick& e) -> asio::awaitable<void> {
    const int now = ++inside;
    if (now > most) most = now;
    asio::steady_timer timer(co_await asio::this_coro::executor, 1ms);
    co_await timer.async_wait(asio::use_awaitable);
    seen.add(e.value);
    --inside;
  });
  for (int i = 1; i <= 10; ++i) rt.bus().publish(tick{i});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(most == 1);
  CHECK(seen.all() == std::vector{1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
}

TEST_CASE("close(cancel) emits terminal into an awaitable handler, and its failure is told", "[H3][F1]") {
  const time_limit limit;
  record<std::string> failures;
  record<int> begun;
  runtime rt(runtime_options().on_failure([&](const failure& f) { failures.add(f.exception.type_name); }));
  auto sub = rt.bus().subscribe<tick>("awaitable", [&](const tick&, const call& info) -> asio::awaitable<void> {
    asio::steady_timer timer(co_await asio::this_coro::executor, 24h);
    begun.add(1);
    (void)info;
    co_await timer.async_wait(asio::use_awaitable);
  });
  rt.bus().publish(tick{1});
  begun.wait_for(1);
  CHECK(sub.close(close_mode::cancel) == close_status::closed);
  CHECK(failures.size() == 1);
  CHECK(sub.ledger().failed == 1);
}

TEST_CASE("with every awaitable handler waiting in async_publish the consumers still run", "[P5]") {
  const time_limit limit;
  std::atomic<int> consumed{0};
  runtime rt(runtime_options().pool("default", worker_pool_options().threads(1)));
  auto sink = rt.bus().subscribe<note>("sink", subscribe_options().capacity(1), [&](const note&) { ++consumed; });
  auto out = rt.bus().publisher<note>();
  std::vector<subscription> stages;
  for (int i = 0; i < 4; ++i)
    stages.push_back(rt.bus().subscribe<tick>("stage", [&, out](const tick&) -> asio::awaitable<void> {
      for (int n = 0; n < 5; ++n) {
        const note event{"handed on"};
        co_await out.async_publish(event, asio::use_awaitable);
      }
    }));
  for (int i = 0; i < 10; ++i) rt.bus().publish(tick{i});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(consumed == 200);
}

// --- executors -------------------------------------------------------------------------------------------------------------

TEST_CASE("a subscription on a service's strand runs there, in order, with back-pressure and retries", "[X2]") {
  const time_limit limit;
  record<int> seen;
  record<std::thread::id> where;
  std::atomic<int> failed_once{0};
  service own;
  runtime rt(runtime_options().on_failure([](const failure&) {}));
  auto sub = rt.bus().subscribe<tick>(
      "strand", subscribe_options().capacity(1).on(asio::make_strand(own.io)).retry(retry_policy().attempts(2).backoff(1ms)),
      [&](const tick& e) {
        where.add(std::this_thread::get_id());
        if (e.value == 3 && failed_once++ == 0) throw std::runtime_error("once");
        seen.add(e.value);
      });
  for (int i = 1; i <= 50; ++i) rt.bus().publish(tick{i});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(sub.close() == close_status::closed);
  std::vector<int> wanted;
  for (int i = 1; i <= 50; ++i) wanted.push_back(i);
  CHECK(seen.all() == wanted);
  for (const auto& id : where.all()) CHECK(id == own.id());
  CHECK(sub.ledger().handled == 50);
}

namespace {

task<> sleeps_then(std::chrono::nanoseconds time, record<int>& told, int what) {
  co_await penstock::sleep_for(time);
  told.add(what);
}

}  // namespace

TEST_CASE("io.run() goes on while a handler, a delay, an output or a task waits on it, and returns when none does",
          "[X2]") {
  const time_limit limit;
  asio::io_context io;
  penstock::runtime rt(runtime_options().on_failure([](const penstock::failure&) {}));
  auto bus = rt.bus();
  record<int> told;
  const auto here = [&io] { return std::move(subscribe_options().on(io.get_executor())); };
  auto coroutine = bus.subscribe<int>("coroutine", here(), [&](const int&) { return sleeps_then(20ms, told, 1); });
  int tries = 0;
  auto retried =
      bus.subscribe<int>("retried", here().retry(penstock::retry_policy().attempts(2).backoff(20ms)), [&](const int&) {
        if (++tries == 1) throw std::runtime_error("not yet");
        told.add(2);
      });
  gate taken;
  auto slow = bus.subscribe<double>("slow", subscribe_options().capacity(1), [&](const double& each) {
    taken.wait();
    told.add(static_cast<int>(each));
  });
  auto parks = bus.subscribe<int>("parks", here(), [&](const int&) {
    for (const double each : {3.0, 4.0, 5.0}) bus.publish(each);
  });
  CHECK(io.run() == 0);  // nothing is pending: it returns at once
  io.restart();
  bus.publish(1);
  auto started = rt.tasks().spawn("task", penstock::spawn_options().on(penstock::on_executor(io.get_executor())),
                                  sleeps_then(20ms, told, 6));
  std::thread later([&] {
    told.wait_for(3);
    taken.open();
  });
  io.run();
  later.join();
  CHECK(started.wait() == penstock::task_status::completed);
  CHECK(coroutine.ledger().handled == 1);
  CHECK(retried.ledger().handled == 1);
  CHECK(parks.ledger().handled == 1);
  CHECK(bus.wait_idle(25s));
  CHECK(told.size() == 6);
  CHECK(io.stopped());
  static_cast<void>(rt.shutdown(25s));
}

TEST_CASE("a drain that the executor destroys unrun stops its subscription", "[X2]") {
  const time_limit limit;
  runtime rt;
  subscription sub;
  {
    asio::io_context never_run;
    sub = rt.bus().subscribe<tick>("lost", subscribe_options().on(never_run.get_executor()), [](const tick&) {});
    rt.bus().publish(tick{1});
  }
  CHECK(sub.state() == subscription_state::ended);
  CHECK(sub.ledger().discarded == 1);
  CHECK(rt.bus().publish(tick{2}).matched() == 0);
}

TEST_CASE("a pool's Asio executor runs work on the pool, its timers on the runtime's own io_context", "[X3]") {
  const time_limit limit;
  record<bool> on_pool;
  runtime rt;
  const pool_executor executor(rt.pool("default"));
  const auto own_thread = std::this_thread::get_id();
  asio::steady_timer timer(executor, 1ms);
  timer.async_wait([&](boost::system::error_code ec) { on_pool.add(!ec && std::this_thread::get_id() != own_thread); });
  asio::post(executor, [&] { on_pool.add(true); });
  on_pool.wait_for(2);
  CHECK(on_pool.all() == std::vector{true, true});
}

TEST_CASE("an Asio timer on a simulated pool fails the simulation and names the cure", "[X3]") {
  std::string text;
  try {
    penstock::testing::explore(1, [](penstock::testing::simulation& sim) {
      const pool_executor executor(sim.runtime().pool("default"));
      asio::steady_timer timer(executor, 1ms);
      timer.async_wait([](boost::system::error_code) {});
      (void)sim.runtime().pool("default")->post([] {});
      sim.run_until_idle();
    });
  } catch (const penstock::testing::simulation_failure& failed) {
    text = failed.what();
  }
  CHECK_THAT(text, contains_text("penstock::sleep_for"));
}

// --- tasks ----------------------------------------------------------------------------------------------------------------

TEST_CASE("async_run makes a task an Asio operation: its value, its exception, and its cancellation", "[async_run]") {
  const time_limit limit;
  record<int> values;
  record<std::string> errors;
  service own;
  auto body = [&]() -> asio::awaitable<void> {
    auto good = add(2, 3);
    values.add(co_await async_run(std::move(good), asio::use_awaitable));
    auto bad = throws();
    try {
      co_await async_run(std::move(bad), asio::use_awaitable);
    } catch (const std::runtime_error& failed) {
      errors.add(failed.what());
    }
  };
  asio::co_spawn(own.io, body, asio::detached);
  errors.wait_for(1);
  CHECK(values.all() == std::vector{5});
  CHECK(errors.all() == std::vector<std::string>{"the task failed"});

  record<bool> was_cancelled;
  asio::cancellation_signal signal;
  auto endless = sleeps_for_ever();
  async_run(std::move(endless),
            asio::bind_cancellation_slot(signal.slot(), asio::bind_executor(own.io, [&](std::exception_ptr error, int) {
                                           try {
                                             if (error) std::rethrow_exception(error);
                                             was_cancelled.add(false);
                                           } catch (const cancelled&) {
                                             was_cancelled.add(true);
                                           } catch (...) {
                                             was_cancelled.add(false);
                                           }
                                         })));
  asio::post(own.io, [&] { signal.emit(asio::cancellation_type::terminal); });
  was_cancelled.wait_for(1);
  CHECK(was_cancelled.all() == std::vector{true});
}

TEST_CASE("a task awaits Asio operations and awaitables on its own lane, and a stop reaches them as cancelled", "[task]") {
  const time_limit limit;
  record<int> steps;
  runtime rt;
  auto nested = [&]() -> asio::awaitable<int> {
    asio::steady_timer timer(co_await asio::this_coro::executor, 1ms);
    co_await timer.async_wait(asio::use_awaitable);
    co_return 7;
  };
  auto body = [&]() -> task<int> {
    const pool_executor executor(rt.pool("default"));
    asio::steady_timer timer(executor, 1ms);
    co_await timer.async_wait(asio::deferred);
    steps.add(1);
    const int seven = co_await nested();
    co_return seven;
  };
  auto work = body();
  CHECK(block_on(rt.pool("default"), std::move(work)) == 7);
  CHECK(steps.size() == 1);

  auto endless = [&]() -> task<void> {
    const pool_executor executor(rt.pool("default"));
    asio::steady_timer timer(executor, 24h);
    steps.add(2);
    co_await timer.async_wait(asio::deferred);
  };
  std::stop_source stop;
  auto waiting = endless();
  std::thread asker([&] {
    steps.wait_for(2);
    stop.request_stop();
  });
  CHECK_THROWS_AS(block_on(rt.pool("default"), std::move(waiting), stop.get_token()), cancelled);
  asker.join();
}
