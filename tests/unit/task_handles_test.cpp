// Handles to background tasks: waiting, on_done, completion tokens, and after the task, the registry, the runtime, a fork.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/child.hpp"
#include "../support/gate.hpp"

#include <penstock/asio.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>

#include <algorithm>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace asio = boost::asio;
using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::errc;
using penstock::failure;
using penstock::runtime;
using penstock::runtime_options;
using penstock::spawn_options;
using penstock::task;
using penstock::task_handle;
using penstock::task_handle_of;
using penstock::task_info;
using penstock::task_registry;
using penstock::task_report;
using penstock::task_status;
using penstock::worker_pool_options;

namespace {

runtime_options quiet(record<failure>& failures) {
  return std::move(runtime_options().on_failure([&failures](const failure& told) { failures.add(told); }));
}

task<> nothing() { co_return; }
task<int> seven() { co_return 7; }
task<> sleeps_for_ever() { co_await penstock::sleep_for(std::chrono::nanoseconds::max()); }

task<> awaits(task_handle of, record<task_status>& seen) {
  const task_status how = co_await of.async_wait();
  seen.add(how);
}

void plain_function() {}

}  // namespace

TEST_CASE("a wait ends with the task or with its time, whatever the time", "[task][L4]") {
  const time_limit limit;
  runtime rt;
  const task_handle sleeps = rt.tasks().spawn("sleeps", sleeps_for_ever());
  CHECK(sleeps.wait_for(1ms) == task_status::running);
  CHECK(sleeps.wait_for(0s) == task_status::running);
  CHECK(sleeps.wait_for(-1h) == task_status::running);
  CHECK(sleeps.wait_for(std::chrono::nanoseconds::min()) == task_status::running);
  CHECK(sleeps.wait_until(rt.time().now()) == task_status::running);
  sleeps.request_cancel();
  CHECK(sleeps.wait_for(std::chrono::hours::max()) == task_status::cancelled);
  CHECK(sleeps.wait_for(0s) == task_status::cancelled);
  CHECK(sleeps.wait_until(penstock::no_deadline) == task_status::cancelled);
  CHECK(sleeps.done());
}

TEST_CASE("every thread and task that waits for one end is told of it, also those that come late", "[task]") {
  const time_limit limit;
  runtime rt;
  gate go;
  const task_handle handle = rt.tasks().spawn("held", [&] { go.wait(); });
  record<task_status> seen;
  std::vector<std::thread> threads;
  std::vector<task_handle> waiters;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] { seen.add(handle.wait()); });
    waiters.push_back(rt.tasks().spawn("waiter", awaits(handle, seen)));
  }
  const task_handle stopped = rt.tasks().spawn("stopped", awaits(handle, seen));
  stopped.request_cancel();
  CHECK(stopped.wait() == task_status::cancelled);
  CHECK(seen.size() == 0);
  CHECK_FALSE(handle.info().stop_requested);
  go.open();
  for (std::thread& each : threads) each.join();
  for (const task_handle& each : waiters) CHECK(each.wait() == task_status::completed);
  CHECK(rt.tasks().spawn("late", awaits(handle, seen)).wait() == task_status::completed);
  CHECK(seen.all() == std::vector<task_status>(7, task_status::completed));
}

TEST_CASE(
    "a coroutine whose own pool has no thread for it is reported as abandoned where it waits, not as inside its code",
    "[task][S6]") {
  const time_limit limit;
  gate release, busy;
  const auto own = penstock::worker_pool::start("own", worker_pool_options().threads(1));
  runtime rt;
  const task_handle waits = rt.tasks().spawn("waits", spawn_options().on(own), sleeps_for_ever());
  eventually([&] { return waits.info().suspended && waits.info().started; });
  REQUIRE(own->post([&] {
    busy.open();
    release.wait();
  }) == errc::none);
  busy.wait();
  const auto report = rt.shutdown(50ms);
  REQUIRE(report.tasks.tasks.size() == 1);
  CHECK(report.tasks.tasks[0].status == task_status::running);
  CHECK(report.tasks.tasks[0].suspended);
  CHECK(report.abandoned_workers == 0);
  CHECK_FALSE(report.clean());
  CHECK(to_string(report).find("  abandoned: task \"waits\": running, in it for ") != std::string::npos);
  CHECK(to_string(report).find(", suspended, spawned ") != std::string::npos);
  release.open();
  CHECK(waits.wait() == task_status::cancelled);
}

// --- on_done -------------------------------------------------------------------------------------------------------------

TEST_CASE("on_done is called once, on the task's pool, never on the caller's stack, before the end or after it", "[task]") {
  const time_limit limit;
  runtime rt(std::move(runtime_options().pool("blocking", worker_pool_options().threads(1))));
  gate go;
  record<std::string> order;
  record<std::thread::id> where;
  record<std::thread::id> worker;
  const task_handle handle = rt.tasks().spawn("held", [&] {
    worker.add(std::this_thread::get_id());
    go.wait();
  });
  for (const char* name : {"first", "second"})
    handle.on_done([&, name](const task_handle& ended) {
      where.add(std::this_thread::get_id());
      order.add(std::string(name) + " " + to_string(ended.status()) + " " + ended.name());
    });
  CHECK(order.size() == 0);
  go.open();
  handle.wait();
  order.wait_for(2);
  handle.on_done([&](const task_handle&) {
    where.add(std::this_thread::get_id());
    order.add("late");
  });
  order.wait_for(3);
  CHECK(order.all() == std::vector<std::string>{"first completed held", "second completed held", "late"});
  CHECK(where.all() == std::vector<std::thread::id>(3, worker.all()[0]));
}

TEST_CASE("what on_done throws goes to on_failure with the task's name, and the others are told", "[task][A6]") {
  const time_limit limit;
  record<failure> failures;
  runtime rt(quiet(failures));
  const task_handle handle = rt.tasks().spawn("short", plain_function);
  record<int> told;
  handle.on_done([](const task_handle&) { throw std::runtime_error("from on_done"); });
  handle.on_done([&](const task_handle&) { told.add(1); });
  told.wait_for(1);
  failures.wait_for(1);
  CHECK(failures.all()[0].task == "short");
  CHECK(failures.all()[0].exception.what == "from on_done");
  CHECK(handle.status() == task_status::completed);
}

TEST_CASE("what on_done holds is destroyed when it has been told, and an empty one is no error", "[task]") {
  const time_limit limit;
  runtime rt;
  const auto alive = std::make_shared<int>(0);
  const task_handle handle = rt.tasks().spawn("sleeps", sleeps_for_ever());
  handle.on_done({});
  handle.on_done([alive](const task_handle&) {});
  CHECK(alive.use_count() == 2);
  handle.request_cancel();
  eventually([&] { return alive.use_count() == 1; });
  CHECK(handle.done());
}

TEST_CASE("a task whose pool ends before it runs is closed, its work destroyed, and each who waits is told", "[task][S6]") {
  const time_limit limit;
  record<failure> failures;
  record<std::string> told;
  gate go, running;
  const auto alive = std::make_shared<int>(0);
  runtime rt(std::move(quiet(failures).pool("blocking", worker_pool_options().threads(1))));
  runtime other;
  const task_handle stuck = rt.tasks().spawn("stuck", [&] {
    running.open();
    go.wait();
  });
  running.wait();
  const task_handle behind = rt.tasks().spawn("behind", [alive] {});
  behind.on_done([&](const task_handle& ended) { told.add(to_string(ended.status())); });
  record<task_status> seen;
  const task_handle elsewhere = other.tasks().spawn("elsewhere", awaits(behind, seen));
  std::thread waits([&] { seen.add(behind.wait()); });
  const auto report = rt.shutdown(20ms);
  CHECK(report.abandoned_workers >= 1);
  CHECK(behind.status() == task_status::closed);
  CHECK(alive.use_count() == 1);
  CHECK(told.all() == std::vector<std::string>{"closed"});
  waits.join();
  elsewhere.wait();
  CHECK(seen.all() == std::vector<task_status>(2, task_status::closed));
  behind.on_done([&](const task_handle&) { told.add("on the caller's stack"); });
  CHECK(told.size() == 2);
  CHECK(behind.error() != nullptr);
  const auto counts = rt.tasks().counts();
  CHECK(counts.closed == 1);
  CHECK(counts.running == 1);
  CHECK(counts.balanced());
  CHECK_FALSE(stuck.done());
  record<int> late;
  stuck.on_done([&](const task_handle&) { late.add(1); });
  go.open();
  CHECK(stuck.wait() == task_status::completed);
  late.wait_for(1);
  CHECK(rt.tasks().counts().running == 0);
  CHECK(failures.size() == 0);
}

TEST_CASE("a task on a pool of one's own that has ended, or ends in a pause before a restart, is closed and told", "[task]") {
  const time_limit limit;
  record<failure> failures;
  runtime rt(quiet(failures));
  const auto pool = penstock::worker_pool::start("own", std::move(worker_pool_options().threads(1)));
  const auto alive = std::make_shared<int>(0);
  const auto policy = penstock::restart_policy().pauses(penstock::retry_policy().backoff(24h));
  const task_handle pauses = rt.tasks().spawn("pauses", spawn_options().on(pool).restart(policy), [alive] { throw 1; });
  const task_handle sleeps = rt.tasks().spawn("sleeps", spawn_options().on(pool), sleeps_for_ever());
  eventually([&] { return pauses.info().pausing && sleeps.info().started; });
  record<std::string> told;
  for (const task_handle& each : {pauses, sleeps})
    each.on_done([&](const task_handle& ended) { told.add(ended.name() + " " + to_string(ended.status())); });
  CHECK(pool->stop(penstock::no_deadline) == 0);
  CHECK(pauses.wait() == task_status::closed);
  CHECK(sleeps.wait() == task_status::closed);
  told.wait_for(2);
  const task_handle late = rt.tasks().spawn("late", spawn_options().on(pool), [alive] {});
  CHECK(late.status() == task_status::closed);  // at once, on this stack
  CHECK(alive.use_count() == 1);
  CHECK(rt.tasks().counts().closed == 3);
  CHECK(rt.tasks().counts().balanced());
  CHECK(rt.tasks().spawn("the runtime goes on", nothing()).wait() == task_status::completed);
  CHECK(failures.size() == 1);
}

TEST_CASE("a task may ask itself to stop: a coroutine's next wait throws, a function goes on to its end", "[task]") {
  const time_limit limit;
  runtime rt;
  const auto own = std::make_shared<task_handle>();
  gate filled;
  record<bool> seen;
  *own = rt.tasks().spawn("coroutine", spawn_options().on(rt.pool("blocking")), [&]() -> task<> {
    filled.wait();
    seen.add(own->request_cancel("myself"));
    co_await sleeps_for_ever();
    seen.add(false);
  });
  filled.open();
  CHECK(own->wait() == task_status::cancelled);
  gate again;
  *own = rt.tasks().spawn("function", [&](const std::stop_token& stop) {
    again.wait();
    seen.add(own->request_cancel("myself"));
    seen.add(stop.stop_requested());
  });
  again.open();
  CHECK(own->wait() == task_status::completed);
  CHECK(seen.all() == std::vector<bool>{true, true, true});
}

// --- completion tokens ---------------------------------------------------------------------------------------------------

TEST_CASE("async_wait with a token completes on the handler's executor with how the task ended", "[task]") {
  const time_limit limit;
  runtime rt;
  asio::io_context io;
  gate go;
  const task_handle handle = rt.tasks().spawn("held", [&] { go.wait(); });
  std::vector<std::string> seen;
  const auto note = [&](const char* name) {
    return [&seen, name](boost::system::error_code error, task_status status) {
      seen.push_back(std::string(name) + ": " + (error ? "error" : to_string(status)));
    };
  };
  handle.async_wait(asio::bind_executor(io, note("first")));
  auto future = handle.async_wait(asio::use_future);
  go.open();
  CHECK(future.get() == task_status::completed);
  handle.wait();
  handle.async_wait(asio::bind_executor(io, note("late")));
  CHECK(seen.empty());  // nobody has run the context yet
  io.run();
  std::sort(seen.begin(), seen.end());  // the first one is told a moment after the end: the late one may overtake it
  CHECK(seen == std::vector<std::string>{"first: completed", "late: completed"});
}

TEST_CASE("a cancelled async_wait with a token is operation_aborted, and the task goes on", "[task]") {
  const time_limit limit;
  runtime rt;
  asio::io_context io;
  asio::cancellation_signal stop;
  const task_handle handle = rt.tasks().spawn("sleeps", sleeps_for_ever());
  boost::system::error_code seen;
  handle.async_wait(asio::bind_cancellation_slot(
      stop.slot(), asio::bind_executor(io, [&](boost::system::error_code error, task_status) { seen = error; })));
  stop.emit(asio::cancellation_type::terminal);
  io.run();
  CHECK(seen == asio::error::operation_aborted);
  CHECK_FALSE(handle.done());
  CHECK_FALSE(handle.info().stop_requested);
}

TEST_CASE("async_close with a token gives the report at the end or the deadline, and a cancel leaves the closing", "[task]") {
  const time_limit limit;
  runtime rt;
  asio::io_context io;
  gate go, running;
  const auto group = rt.tasks().owner("group");
  const task_handle stuck = group.spawn("stuck", [&] {
    running.open();
    go.wait();
  });
  running.wait();
  auto late = group.async_close(5ms, asio::use_future);
  const task_report unclean = late.get();
  CHECK_FALSE(unclean.clean());
  REQUIRE(unclean.tasks.size() == 1);
  CHECK(unclean.tasks[0].name == "stuck");
  asio::cancellation_signal stop;
  boost::system::error_code seen;
  group.async_close(1h, asio::bind_cancellation_slot(stop.slot(), asio::bind_executor(io, [&](boost::system::error_code error,
                                                                                              const task_report&) {
                      seen = error;
                    })));
  stop.emit(asio::cancellation_type::terminal);
  io.run();
  CHECK(seen == asio::error::operation_aborted);
  CHECK(stuck.info().stop_requested);
  auto in_time = group.async_close(1h, asio::use_future);
  go.open();
  const task_report clean = in_time.get();
  CHECK(clean.clean());
  CHECK(clean.tasks.size() == 1);
}

// --- handles that outlive ------------------------------------------------------------------------------------------------

namespace {

/// What went wrong in a child, as its exit status; told by the parent.
class verdict {
 public:
  void expect(bool holds) {
    ++asked_;
    if (!holds && first_ == 0) first_ = asked_;
  }
  int first() const { return first_; }

 private:
  int asked_ = 0;
  int first_ = 0;
};

errc code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::system_error& thrown) {
    return static_cast<errc>(thrown.code().value());
  }
  return errc::none;
}

}  // namespace

TEST_CASE("an empty handle and a moved-from registry answer closed, and wait for nobody", "[task][S6]") {
  const time_limit limit;
  const task_handle none;
  CHECK_FALSE(none);
  CHECK(none.name().empty());
  CHECK(none.id() == 0);
  CHECK(none.status() == task_status::closed);
  CHECK(none.done());
  CHECK(none.info().status == task_status::closed);
  CHECK(none.error() == nullptr);
  CHECK_FALSE(none.request_cancel("nobody"));
  CHECK(none.wait() == task_status::closed);
  CHECK(none.wait_for(1h) == task_status::closed);
  int told = 0;
  none.on_done([&](const task_handle&) { ++told; });
  CHECK(told == 0);
  runtime rt;
  record<task_status> seen;
  CHECK(rt.tasks().spawn("awaits", awaits(none, seen)).wait() == task_status::completed);
  CHECK(seen.all() == std::vector<task_status>{task_status::closed});
  task_registry source = rt.tasks();
  const task_registry moved = std::move(source);
  CHECK(source.counts().spawned == 0);  // NOLINT: what is left of it
  CHECK(source.snapshot().empty());
  CHECK(source.close(1h).clean());
  source.cancel_all("nobody");
  CHECK(code_of([&] { source.spawn("x", plain_function); }) == errc::closed);
  CHECK(code_of([&] { source.every("x", 1ms, plain_function); }) == errc::closed);
  CHECK(moved.counts().spawned == 1);
}

TEST_CASE("handles to tasks and registries may outlive the runtime, and then answer what was, or closed", "[task][S6]") {
  const time_limit limit;
  task_handle completed, failed, stopped;
  task_handle_of<int> value;
  std::optional<task_registry> tasks, group;
  std::vector<std::string> told;
  record<failure> failures;
  {
    runtime rt(quiet(failures));
    tasks.emplace(rt.tasks());
    group.emplace(rt.tasks().owner("group"));
    completed = rt.tasks().spawn("completed", plain_function);
    failed = group->spawn("failed", [] { throw std::runtime_error("why"); });
    stopped = rt.tasks().spawn("stopped", sleeps_for_ever());
    value = rt.tasks().spawn("value", seven());
    completed.wait();
    failed.wait();
    value.wait();
  }
  CHECK(completed.status() == task_status::completed);
  CHECK(failed.status() == task_status::failed);
  CHECK(stopped.status() == task_status::cancelled);
  CHECK(stopped.info().stop_kind == penstock::cancel_kind::shutdown);
  CHECK(stopped.info().name == "stopped");
  CHECK(failed.info().owner == "group");
  CHECK(failed.info().last_failure == "std::runtime_error: why");
  REQUIRE(value.value() != nullptr);
  CHECK(*value.value() == 7);
  CHECK(stopped.wait() == task_status::cancelled);
  CHECK(stopped.wait_for(1h) == task_status::cancelled);
  CHECK_FALSE(stopped.request_cancel("late"));
  stopped.on_done([&](const task_handle& ended) { told.push_back(ended.name()); });
  CHECK(told == std::vector<std::string>{"stopped"});
  CHECK(tasks->counts().spawned == 4);
  CHECK(tasks->counts().balanced());
  CHECK(tasks->snapshot().empty());
  CHECK(group->snapshot().empty());
  CHECK(tasks->close(1h).clean());
  tasks->cancel_all("nobody");
  const auto alive = std::make_shared<int>(0);
  for (const task_registry& each : {*tasks, *group}) {
    CHECK(code_of([&] { each.spawn("late", [alive] {}); }) == errc::closed);
    CHECK(code_of([&] { each.spawn("late", nothing()); }) == errc::closed);
    CHECK(code_of([&] { each.every("late", 1ms, [alive] {}); }) == errc::closed);
  }
  CHECK(alive.use_count() == 1);
  CHECK(tasks->counts().refused == 6);
  runtime other;
  record<task_status> seen;
  CHECK(other.tasks().spawn("awaits", awaits(stopped, seen)).wait() == task_status::completed);
  CHECK(seen.all() == std::vector<task_status>{task_status::cancelled});
  asio::io_context io;
  bool came = false;
  stopped.async_wait(asio::bind_executor(io, [&](boost::system::error_code error, task_status status) {
    came = !error && status == task_status::cancelled;
  }));
  io.run();
  CHECK(came);
}

TEST_CASE("after fork tasks answer closed or forked in the child, and the parent's go on", "[task][S6]") {
  const time_limit limit;
  runtime rt;
  gate go, running;
  const task_handle held = rt.tasks().spawn("held", [&] {
    running.open();
    go.wait();
  });
  const task_handle sleeps = rt.tasks().spawn("sleeps", sleeps_for_ever());
  running.wait();
  // Its timer stands, the threads are at rest: a sanitizer's locks are held by nobody when the child is made.
  eventually([&] { return sleeps.info().started; });
  CHECK(rt.tasks().spawn("in between", nothing()).wait() == task_status::completed);
  const auto alive = std::make_shared<int>(0);
  const auto group = rt.tasks().owner("group");
  const std::string status = in_child([&] {
    verdict seen;
    seen.expect(held.status() == task_status::closed && held.done());
    seen.expect(held.wait() == task_status::closed);
    seen.expect(held.wait_for(1h) == task_status::closed);
    seen.expect(!held.request_cancel("from the child"));
    seen.expect(held.name() == "held" && held.info().name == "held");
    seen.expect(held.error() == nullptr);
    int told = 0;
    held.on_done([&](const task_handle&) { ++told; });
    seen.expect(told == 0);
    seen.expect(rt.tasks().counts().spawned == 0 && rt.tasks().counts().balanced());
    seen.expect(rt.tasks().snapshot().empty());
    seen.expect(rt.tasks().close(1h).tasks.empty());
    rt.tasks().cancel_all("from the child");
    seen.expect(code_of([&] { group.spawn("late", [alive] {}); }) == errc::forked);
    seen.expect(code_of([&] { rt.tasks().spawn("late", nothing()); }) == errc::forked);
    seen.expect(code_of([&] { rt.tasks().every("late", 1ms, [alive] {}); }) == errc::forked);
    seen.expect(alive.use_count() == 1);
    return seen.first();
  });
  CHECK(status == "exit 0");
  CHECK_FALSE(held.info().stop_requested);
  go.open();
  CHECK(held.wait() == task_status::completed);
  CHECK_FALSE(sleeps.done());
  CHECK(rt.tasks().counts().spawned == 3);
}
