// Background tasks: what may be spawned, how it ends, fails, is stopped, started again, repeated, closed and accounted for.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"

#include <penstock/penstock.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <pthread.h>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::errc;
using penstock::failure;
using penstock::missed_ticks;
using penstock::restart_policy;
using penstock::retry_policy;
using penstock::runtime;
using penstock::runtime_options;
using penstock::spawn_options;
using penstock::stop_order;
using penstock::task;
using penstock::task_counts;
using penstock::task_handle;
using penstock::task_handle_of;
using penstock::task_info;
using penstock::task_registry;
using penstock::task_report;
using penstock::task_status;
using penstock::worker_pool_options;

namespace {

/// A runtime whose failures are kept, with the text of the exception that was current in the hook.
struct world {
  explicit world(runtime_options options = {})
      : rt(std::move(options.on_failure([this](const failure& told) {
          failures.add(told);
          current.add(current_text());
        }))),
        tasks(rt.tasks()) {}
  static std::string current_text() {
    const std::exception_ptr error = std::current_exception();
    if (!error) return "no current exception";
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& thrown) {
      return thrown.what();
    } catch (const int& thrown) {
      return std::to_string(thrown);
    } catch (...) {
      return "something else";
    }
  }
  record<failure> failures;
  record<std::string> current;
  runtime rt;
  task_registry tasks;
};

/// One thread for functions, so that a gate holds everything behind it.
runtime_options one_thread() {
  runtime_options options;
  options.pool("blocking", worker_pool_options().threads(1));
  options.pool("default", worker_pool_options().threads(1));
  return options;
}

std::string text_of(const std::function<void()>& refused, errc expected) {
  try {
    refused();
  } catch (const std::system_error& thrown) {
    return thrown.code() == expected ? thrown.what() : "another code: " + std::string(thrown.what());
  }
  return "no exception";
}

/// A value that can only be made from one, and moved.
struct ticket {
  explicit ticket(int given) : number(std::make_unique<int>(given)) {}
  std::unique_ptr<int> number;
};

task<> nothing() { co_return; }
task<int> seven() {
  co_await penstock::yield();
  co_return 7;
}
task<ticket> one_ticket(int number) { co_return ticket(number); }
task<> sleeps_for_ever() { co_await penstock::sleep_for(std::chrono::nanoseconds::max()); }
task<> throws(std::string text) {
  co_await penstock::yield();
  throw std::runtime_error(text);
}
task<> empty_task() { return {}; }

void plain_function() {}

template <class T>
struct throws_when_moved {
  explicit throws_when_moved(T given) : value(given) {}
  throws_when_moved(throws_when_moved&& other) : value(other.value) { throw std::runtime_error("moved"); }
  T value;
};
task<throws_when_moved<int>> bad_value() { co_return 1; }

bool balanced(const task_registry& tasks) { return tasks.counts().balanced(); }

std::string words_of(const std::exception_ptr& error) {
  if (!error) return "none";
  try {
    std::rethrow_exception(error);
  } catch (const penstock::cancelled& thrown) {
    return std::string("cancelled: ") + to_string(thrown.why().kind) + ", " + thrown.why().who + ", " + thrown.why().reason;
  } catch (const std::exception& thrown) {
    return thrown.what();
  } catch (...) {
    return "something else";
  }
}

task<> counts_one_run(std::shared_ptr<int>, std::atomic<int>& runs) {
  ++runs;
  co_return;
}

}  // namespace

// --- what may be spawned -------------------------------------------------------------------------------------------------

TEST_CASE("spawn takes a function with or without a stop token, a task, and a function that makes one", "[task]") {
  const time_limit limit;
  world w;
  std::atomic<int> runs{0};
  auto owned = std::make_unique<int>(1);
  std::vector<task_handle> all;
  all.push_back(w.tasks.spawn("plain", [&] { ++runs; }));
  all.push_back(w.tasks.spawn("pointer", &plain_function));
  all.push_back(w.tasks.spawn("reference", plain_function));
  all.push_back(w.tasks.spawn("token", [&](std::stop_token stop) { runs += stop.stop_possible() ? 1 : 100; }));
  all.push_back(w.tasks.spawn("token by reference", [&](const std::stop_token&) { ++runs; }));
  all.push_back(w.tasks.spawn("move-only", [&, own = std::move(owned)]() mutable { runs += *own; }));
  const auto kept = [&] { ++runs; };
  all.push_back(w.tasks.spawn("an lvalue", kept));
  all.push_back(w.tasks.spawn("std::function", std::function<void()>(kept)));
  all.push_back(w.tasks.spawn("a task", nothing()));
  all.push_back(w.tasks.spawn("a factory", [] { return nothing(); }));
  all.push_back(w.tasks.spawn("a factory by pointer", &nothing));
  all.push_back(w.tasks.spawn("with options", spawn_options().on(w.rt.pool("default")), kept));
  for (const task_handle& each : all) {
    INFO(each.name());
    CHECK(each.wait() == task_status::completed);
    CHECK(each.error() == nullptr);
  }
  CHECK(runs == 7);
  CHECK(w.failures.size() == 0);
  CHECK(w.tasks.counts().completed == all.size());
  CHECK(balanced(w.tasks));
}

TEST_CASE("a coroutine's value is behind its handle, of any type that moves, and gone with the last one", "[task]") {
  const time_limit limit;
  world w;
  task_handle_of<int> number = w.tasks.spawn("seven", seven());
  static_assert(std::is_same_v<decltype(w.tasks.spawn("x", nothing())), task_handle>);
  static_assert(std::is_same_v<decltype(w.tasks.spawn("x", &seven)), task_handle_of<int>>);
  number.wait();
  REQUIRE(number.value() != nullptr);
  CHECK(*number.value() == 7);
  auto made = w.tasks.spawn("ticket", [] { return one_ticket(12); });
  const task_handle_of<ticket> copy = made;
  made.wait();
  CHECK(made.value() == copy.value());
  made = {};
  REQUIRE(copy.value() != nullptr);
  CHECK(*copy.value()->number == 12);
  const auto shared = std::make_shared<int>(3);
  {
    const auto pointer = w.tasks.spawn("pointer", [&shared]() -> task<std::shared_ptr<int>> { co_return shared; });
    pointer.wait();
    CHECK(**pointer.value() == 3);
    eventually([&] { return shared.use_count() == 2; });  // the test's, and the value
  }
  eventually([&] { return shared.use_count() == 1; });  // its worker may be on the way out
  const task_handle_of<int> nobody;
  CHECK(nobody.value() == nullptr);
}

TEST_CASE("there is no value before the end, nor when the task did not complete", "[task]") {
  const time_limit limit;
  world w;
  gate go;
  const auto waits = w.tasks.spawn("waits", spawn_options().on(w.rt.pool("blocking")), [&]() -> task<int> {
    go.wait();
    throw std::runtime_error("no value");
    co_return 1;
  });
  CHECK(waits.value() == nullptr);
  go.open();
  CHECK(waits.wait() == task_status::failed);
  CHECK(waits.value() == nullptr);
  const auto bad = w.tasks.spawn("moves badly", [] { return bad_value(); });
  CHECK(bad.wait() == task_status::failed);
  CHECK(bad.value() == nullptr);
  CHECK(words_of(bad.error()) == "moved");
}

TEST_CASE("a function runs on blocking, where it may wait for a task; a coroutine on default, where it may not", "[task]") {
  const time_limit limit;
  world w;
  gate go;
  const task_handle first = w.tasks.spawn("first", [&](const std::stop_token&) { go.wait(); });
  CHECK(first.info().pool == "blocking");
  record<task_status> seen;
  const task_handle second = w.tasks.spawn("second", [&] { seen.add(first.wait()); });
  const task_handle third = w.tasks.spawn("third", [&first]() -> task<> {
    first.wait();
    co_return;
  });
  const task_handle fourth = w.tasks.spawn("fourth", spawn_options().on(w.rt.pool("default")), [&] { first.wait(); });
  CHECK(third.info().pool == "default");
  CHECK(fourth.info().pool == "default");
  for (const task_handle& each : {third, fourth}) {
    CHECK(each.wait() == task_status::failed);
    CHECK(words_of(each.error()).find("waiting for task \"first\": a handler, a hook, a task or posted work may not wait; "
                                      "co_await async_wait()") != std::string::npos);
  }
  go.open();
  CHECK(second.wait() == task_status::completed);
  CHECK(seen.all() == std::vector<task_status>{task_status::completed});
}

TEST_CASE("a task never runs on the stack of spawn", "[task]") {
  const time_limit limit;
  world w;
  record<std::thread::id> where;
  const task_handle function = w.tasks.spawn("function", [&] { where.add(std::this_thread::get_id()); });
  const task_handle coroutine = w.tasks.spawn("coroutine", [&]() -> task<> {
    where.add(std::this_thread::get_id());
    co_return;
  });
  function.wait();
  coroutine.wait();
  for (const auto& each : where.all()) CHECK(each != std::this_thread::get_id());
}

TEST_CASE("a task's info says its name, owner, pool, place and what it is doing", "[task]") {
  const time_limit limit;
  world w(one_thread());
  gate go;
  record<int> began;
  const auto group = w.tasks.owner("group");
  const unsigned line = __LINE__ + 1;
  const task_handle first = group.spawn("a name", spawn_options().keep_until_drained(), [&] {
    began.add(1);
    go.wait();
  });
  const task_handle second = w.tasks.spawn("behind it", [&] { began.add(2); });
  began.wait_for(1);
  const task_info busy = first.info();
  CHECK(busy.name == "a name");
  CHECK(busy.owner == "group");
  CHECK(busy.pool == "blocking");
  CHECK(busy.file.find("task_registry_test.cpp") != std::string::npos);
  CHECK(busy.line == line);
  CHECK(busy.order == stop_order::keep_until_drained);
  CHECK(busy.status == task_status::running);
  CHECK(busy.started);
  CHECK_FALSE(busy.pausing);
  CHECK_FALSE(busy.stop_requested);
  CHECK(busy.runs == 1);
  CHECK(busy.failures == 0);
  CHECK(busy.age >= busy.running);
  CHECK(busy.id == first.id());
  const task_info waits = second.info();
  CHECK(waits.id != busy.id);
  CHECK(waits.owner.empty());
  CHECK_FALSE(waits.started);
  CHECK(waits.runs == 0);
  CHECK(waits.running == 0ns);
  CHECK(waits.order == stop_order::stop_first);
  CHECK_THAT(to_string(waits), contains_text("task \"behind it\": running, not begun"));
  CHECK_THAT(to_string(busy), contains_text("task \"a name\" of \"group\": running, in it for "));
  const auto seen = w.tasks.snapshot();
  REQUIRE(seen.size() == 2);
  CHECK(seen[0].name == "a name");
  CHECK(seen[1].name == "behind it");
  REQUIRE(group.snapshot().size() == 1);
  CHECK(group.snapshot()[0].name == "a name");
  go.open();
  second.wait();
  first.wait();
  CHECK(w.tasks.snapshot().empty());
  CHECK(first.info().status == task_status::completed);
  CHECK(first.info().running == 0ns);
}

// --- failures ------------------------------------------------------------------------------------------------------------

TEST_CASE("what a task throws is told to on_failure once, with its name and place, the exception still current", "[task]") {
  const time_limit limit;
  world w;
  const unsigned line = __LINE__ + 1;
  const task_handle function = w.tasks.spawn("function", [] { throw std::runtime_error("from a function"); });
  CHECK(function.wait() == task_status::failed);
  CHECK(w.failures.size() == 1);  // before the end is told
  const failure told = w.failures.all().front();
  CHECK(told.task == "function");
  CHECK(told.subscription.empty());
  CHECK(told.attempt == 1);
  CHECK(told.line == line);
  CHECK(told.file.find("task_registry_test.cpp") != std::string::npos);
  CHECK(told.exception.type_name == "std::runtime_error");
  CHECK(told.exception.what == "from a function");
  CHECK(words_of(function.error()) == "from a function");
  CHECK(function.info().failures == 1);
  CHECK(function.info().last_failure == "std::runtime_error: from a function");
  const task_handle number = w.tasks.spawn("number", [] { throw 5; });
  CHECK(number.wait() == task_status::failed);
  CHECK(number.info().last_failure == "int");
  const task_handle coroutine = w.tasks.spawn("coroutine", throws("from a coroutine"));
  CHECK(coroutine.wait() == task_status::failed);
  const task_handle factory = w.tasks.spawn("factory", []() -> task<> { throw std::runtime_error("from a factory"); });
  CHECK(factory.wait() == task_status::failed);
  const task_handle nobody = w.tasks.spawn("nobody", [] { return empty_task(); });
  CHECK(nobody.wait() == task_status::failed);
  const auto texts = w.current.all();
  REQUIRE(texts.size() == 5);
  CHECK(std::vector<std::string>(texts.begin(), texts.begin() + 4) ==
        std::vector<std::string>{"from a function", "5", "from a coroutine", "from a factory"});
  CHECK_THAT(texts[4], contains_text("empty task"));
  CHECK(w.tasks.counts().failed == 5);
  CHECK(balanced(w.tasks));
}

TEST_CASE("a failure hook that throws harms neither the task's end nor the next failure", "[task]") {
  const time_limit limit;
  std::atomic<int> told{0};
  runtime rt(runtime_options().on_failure([&](const failure&) {
    ++told;
    throw std::runtime_error("from the hook");
  }));
  for (int i = 1; i <= 2; ++i) {
    CHECK(rt.tasks().spawn("fails", [] { throw 1; }).wait() == task_status::failed);
    CHECK(told == i);
  }
}

TEST_CASE("somebody else's cancelled that a body lets through is its failure, and told", "[task]") {
  const time_limit limit;
  world w;
  const task_handle other = w.tasks.spawn("other", sleeps_for_ever());
  CHECK(other.request_cancel("not you"));
  CHECK(other.wait() == task_status::cancelled);
  const auto lets_through = [&other] { std::rethrow_exception(other.error()); };
  const task_handle function = w.tasks.spawn("function", lets_through);
  CHECK(function.wait() == task_status::failed);
  const task_handle coroutine = w.tasks.spawn("coroutine", [&]() -> task<> {
    lets_through();
    co_return;
  });
  CHECK(coroutine.wait() == task_status::failed);
  std::atomic<int> runs{0};
  const task_handle again = w.tasks.spawn(
      "again", spawn_options().restart(restart_policy().pauses(retry_policy().backoff(0ms))), [&] {
        if (++runs == 1) lets_through();
      });
  CHECK(again.wait() == task_status::completed);
  CHECK(runs == 2);
  record<int> ticks;
  const task_handle periodic = w.tasks.every("ticks", 1ms, [&]() -> task<> {
    ticks.add(1);
    lets_through();
    co_return;
  });
  ticks.wait_for(3);
  CHECK_FALSE(periodic.done());
  w.failures.wait_for(5);
  periodic.request_cancel();
  CHECK(periodic.wait() == task_status::cancelled);
  const auto told = w.failures.all();
  CHECK(told[0].exception.type_name == "penstock::cancelled");
  CHECK(told[4].task == "ticks");
}

TEST_CASE("a function, a tick or an on_done that ends its thread costs a failure at most, and its pool goes on",
          "[task][D12]") {
  const time_limit limit;
  record<failure> lost;
  runtime_options options;
  options.pool("blocking",
               worker_pool_options().threads(1).on_failure([&](const failure& told) { lost.add(told); }));
  world w(std::move(options));
  const auto alive = std::make_shared<int>(0);
  const task_handle function = w.tasks.spawn("function", [alive] { pthread_exit(nullptr); });
  CHECK(function.wait() == task_status::failed);
  CHECK_THAT(words_of(function.error()), contains_text("its thread was cancelled"));
  CHECK(alive.use_count() == 1);
  lost.wait_for(1);
  record<int> ticks;
  const task_handle periodic = w.tasks.every("tick", 1ms, [&] {
    ticks.add(1);
    if (ticks.size() == 1) pthread_exit(nullptr);
  });
  ticks.wait_for(3);
  lost.wait_for(2);
  periodic.request_cancel();
  CHECK(periodic.wait() == task_status::cancelled);
  const task_handle last = w.tasks.spawn("last", plain_function);
  last.on_done([alive](const task_handle&) { pthread_exit(nullptr); });
  CHECK(last.wait() == task_status::completed);
  lost.wait_for(3);
  eventually([&] { return alive.use_count() == 1; });
  CHECK(w.tasks.spawn("after all", plain_function).wait() == task_status::completed);
  const auto told = w.failures.all();
  REQUIRE(told.size() == 2);
  CHECK(told[0].task == "function");
  CHECK(told[1].task == "tick");
  CHECK(balanced(w.tasks));
}

// --- stopping ------------------------------------------------------------------------------------------------------------

TEST_CASE("a task that is asked to stop before it begins never runs its body, and its end says who and why", "[task][T6]") {
  const time_limit limit;
  world w(one_thread());
  gate go;
  record<int> began;
  const task_handle first = w.tasks.spawn("first", [&] {
    began.add(1);
    go.wait();
  });
  const task_handle coroutine_first = w.tasks.spawn("first", spawn_options().on(w.rt.pool("default")), [&] {
    began.add(1);
    go.wait();
  });
  began.wait_for(2);
  const auto alive = std::make_shared<int>(0);
  const task_handle function = w.tasks.spawn("function", [alive, &began] { began.add(2); });
  const task_handle coroutine = w.tasks.spawn("coroutine", [alive, &began]() -> task<> {
    began.add(3);
    co_return;
  });
  for (const task_handle& each : {function, coroutine}) {
    CHECK(each.request_cancel("changed my mind", "the test"));
    CHECK_FALSE(each.request_cancel("again"));
    CHECK_FALSE(each.done());
  }
  go.open();
  for (const task_handle& each : {function, coroutine}) {
    CHECK(each.wait() == task_status::cancelled);
    CHECK(words_of(each.error()) == "cancelled: requested, the test, changed my mind");
    const task_info info = each.info();
    CHECK_FALSE(info.started);
    CHECK(info.runs == 0);
    CHECK(info.stop_requested);
    CHECK(info.stop_by == "the test");
    CHECK(info.stop_reason == "changed my mind");
    CHECK_THAT(to_string(info), contains_text("asked to stop (requested by the test: changed my mind)"));
  }
  CHECK(began.size() == 2);
  CHECK(alive.use_count() == 1);
  CHECK(w.failures.size() == 0);
  CHECK(w.tasks.counts().cancelled == 2);
}

TEST_CASE("a running function's token is set on the caller's stack; one that returns has completed all the same", "[task]") {
  const time_limit limit;
  world w;
  record<std::thread::id> where;
  gate running, stopped;
  const task_handle handle = w.tasks.spawn("looks", [&](const std::stop_token& stop) {
    const std::stop_callback told(stop, [&] {
      where.add(std::this_thread::get_id());
      stopped.open();
    });
    running.open();
    stopped.wait();
  });
  running.wait();
  CHECK(handle.request_cancel());
  CHECK(where.all() == std::vector<std::thread::id>{std::this_thread::get_id()});
  CHECK(handle.wait() == task_status::completed);
  CHECK(handle.info().stop_requested);
}

TEST_CASE("a coroutine that is asked to stop gets cancelled from its next await; a value or an error after it stands",
          "[task][A2]") {
  const time_limit limit;
  world w;
  const task_handle sleeps = w.tasks.spawn("sleeps", sleeps_for_ever());
  CHECK(sleeps.request_cancel("enough", "me"));
  CHECK(sleeps.wait() == task_status::cancelled);
  CHECK(words_of(sleeps.error()) == "cancelled: requested, me, enough");
  CHECK(w.failures.size() == 0);
  gate inside, go;
  const auto options = spawn_options().on(w.rt.pool("blocking"));
  const auto value = w.tasks.spawn("value", options, [&]() -> task<int> {
    try {
      inside.open();
      co_await sleeps_for_ever();
    } catch (const penstock::cancelled&) {
    }
    co_return 5;
  });
  inside.wait();
  value.request_cancel();
  CHECK(value.wait() == task_status::completed);
  CHECK(*value.value() == 5);
  const task_handle fails = w.tasks.spawn("fails", [&]() -> task<> {
    try {
      co_await sleeps_for_ever();
    } catch (const penstock::cancelled&) {
      throw std::runtime_error("while it stopped");
    }
  });
  fails.request_cancel();
  const task_status how = fails.wait();
  const bool told = how == task_status::failed && w.failures.size() == 1;
  CHECK((told || fails.info().runs == 0));  // unless it never began
}

TEST_CASE("a request to a task that has ended is refused and changes nothing", "[task][T6]") {
  const time_limit limit;
  world w;
  const task_handle handle = w.tasks.spawn("short", plain_function);
  handle.wait();
  CHECK_FALSE(handle.request_cancel("late", "me"));
  CHECK(handle.status() == task_status::completed);
  CHECK_FALSE(handle.info().stop_requested);
  CHECK(handle.info().stop_by.empty());
}

TEST_CASE("the closure and the frames of a task are destroyed before its end is told", "[task]") {
  const time_limit limit;
  world w;
  for (int kind = 0; kind < 6; ++kind) {
    INFO("kind " << kind);
    const auto alive = std::make_shared<int>(0);
    record<long> at_the_end;
    gate go;
    task_handle handle;
    const auto blocking = spawn_options().on(w.rt.pool("blocking"));
    switch (kind) {
      case 0: handle = w.tasks.spawn("function", [alive, &go] { go.wait(); }); break;
      case 1:
        handle = w.tasks.spawn("throws", [alive, &go] {
          go.wait();
          throw 1;
        });
        break;
      case 2:
        handle = w.tasks.spawn("coroutine", blocking, [alive, &go]() -> task<> {
          const auto inner = alive;
          go.wait();
          co_await penstock::yield();
        });
        break;
      case 3:
        handle = w.tasks.spawn("stopped", blocking, [alive, &go]() -> task<> {
          const auto inner = alive;
          go.wait();
          co_await sleeps_for_ever();
        });
        break;
      case 4:
        handle = w.tasks.spawn("throws", blocking, [alive, &go]() -> task<> {
          const auto inner = alive;
          go.wait();
          throw 1;
          co_return;
        });
        break;
      default: handle = w.tasks.every("ticks", 1h, [alive] {}); break;
    }
    handle.on_done([&, watch = std::weak_ptr<int>(alive)](const task_handle&) { at_the_end.add(watch.use_count()); });
    if (kind == 3 || kind == 5) handle.request_cancel();
    go.open();
    handle.wait();
    CHECK(alive.use_count() == 1);
    at_the_end.wait_for(1);
    CHECK(at_the_end.all() == std::vector<long>{1});
  }
}

TEST_CASE("cancel_all asks every task, of a group or of all, and refuses nothing", "[task]") {
  const time_limit limit;
  world w;
  const auto group = w.tasks.owner("group");
  const task_handle inside = group.spawn("inside", sleeps_for_ever());
  const task_handle outside = w.tasks.spawn("outside", sleeps_for_ever());
  group.cancel_all("only these");
  CHECK(inside.wait() == task_status::cancelled);
  CHECK(inside.info().stop_reason == "only these");
  CHECK_FALSE(outside.info().stop_requested);
  const task_handle later = group.spawn("later", sleeps_for_ever());
  w.tasks.cancel_all("all");
  CHECK(later.wait() == task_status::cancelled);
  CHECK(outside.wait() == task_status::cancelled);
  CHECK(w.tasks.spawn("still taken", plain_function).wait() == task_status::completed);
}

// --- restarts ------------------------------------------------------------------------------------------------------------

TEST_CASE("a task that fails is started again as often as its policy says, each failure told with its run", "[task][T18]") {
  const time_limit limit;
  world w;
  std::atomic<int> runs{0};
  const auto policy = restart_policy().attempts(3).within(1h).pauses(retry_policy().backoff(1ms).factor(1));
  const task_handle loops = w.tasks.spawn("loops", spawn_options().restart(policy), [&] {
    throw std::runtime_error("run " + std::to_string(++runs));
  });
  CHECK(loops.wait() == task_status::failed);
  CHECK(runs == 4);
  CHECK(loops.info().runs == 4);
  CHECK(loops.info().failures == 4);
  CHECK(words_of(loops.error()) == "run 4");
  const auto told = w.failures.all();
  REQUIRE(told.size() == 4);
  for (unsigned i = 0; i < 4; ++i) {
    CHECK(told[i].attempt == i + 1);
    CHECK(told[i].exception.what == "run " + std::to_string(i + 1));
  }
  CHECK_FALSE(w.rt.shutdown_requested());
  runs = 0;
  const auto recovers = w.tasks.spawn("recovers", spawn_options().restart(policy), [&]() -> task<int> {
    co_await penstock::yield();
    if (++runs < 3) throw std::runtime_error("not yet");
    co_return runs.load();
  });
  CHECK(recovers.wait() == task_status::completed);
  CHECK(*recovers.value() == 3);
  CHECK(recovers.error() == nullptr);
  CHECK(w.tasks.counts().failed == 1);
  CHECK(w.tasks.counts().completed == 1);
  CHECK(balanced(w.tasks));
}

TEST_CASE("a crash loop without pauses ends after its attempts", "[task][T18]") {
  const time_limit limit;
  world w;
  std::atomic<int> runs{0};
  const auto policy = restart_policy().attempts(1000).within(1h).pauses(retry_policy().backoff(0s));
  const task_handle loops = w.tasks.spawn("loops", spawn_options().restart(policy), [&] {
    ++runs;
    throw 1;
  });
  CHECK(loops.wait() == task_status::failed);
  CHECK(runs == 1001);
  CHECK(w.failures.size() == 1001);
}

TEST_CASE("a stop in the pause before a restart ends the task at once", "[task]") {
  const time_limit limit;
  world w;
  const auto alive = std::make_shared<int>(0);
  const auto policy = restart_policy().pauses(retry_policy().backoff(24h));
  const task_handle pauses = w.tasks.spawn("pauses", spawn_options().restart(policy), [alive] { throw 1; });
  eventually([&] { return pauses.info().pausing; });
  CHECK_FALSE(pauses.done());
  CHECK_THAT(to_string(pauses.info()), contains_text("running, pausing after a failure"));
  CHECK(pauses.request_cancel("no more"));
  CHECK(pauses.status() == task_status::cancelled);
  CHECK(alive.use_count() == 1);
  CHECK(words_of(pauses.error()) == "cancelled: requested, , no more");
  CHECK(pauses.info().failures == 1);
  CHECK_FALSE(pauses.info().pausing);
  CHECK(w.failures.size() == 1);
}

TEST_CASE("a task that fails for good and escalates tells on_escalate once and asks the runtime to end", "[task]") {
  const time_limit limit;
  record<failure> escalated, failures;
  record<bool> requested;
  runtime* at = nullptr;
  gate made;
  runtime rt(runtime_options()
                 .on_failure([&](const failure& told) { failures.add(told); })
                 .on_escalate([&](const failure& told) {
                   escalated.add(told);
                   made.wait();
                   requested.add(at->shutdown_requested());
                 }));
  at = &rt;
  made.open();
  const auto policy = restart_policy().attempts(1).pauses(retry_policy().backoff(0s)).escalate();
  const task_handle other = rt.tasks().spawn("other", sleeps_for_ever());
  const task_handle vital = rt.tasks().spawn("vital", spawn_options().restart(policy), [] { throw std::runtime_error("dead"); });
  CHECK(vital.wait() == task_status::failed);
  REQUIRE(escalated.size() == 1);
  CHECK(escalated.all()[0].task == "vital");
  CHECK(escalated.all()[0].attempt == 2);
  CHECK(requested.all() == std::vector<bool>{true});
  CHECK(failures.size() == 2);
  const auto report = rt.wait_for_shutdown();
  CHECK(report.reason == "escalated by vital");
  CHECK(other.status() == task_status::cancelled);
  CHECK(escalated.size() == 1);
}

// --- ticks ---------------------------------------------------------------------------------------------------------------

TEST_CASE("a periodic function may wait, its ticks never overlap, and the first comes after one period", "[task]") {
  const time_limit limit;
  world w;
  const auto began = w.rt.time().now();
  record<penstock::steady_time> ticks;
  std::atomic<int> inside{0}, most{0};
  const task_handle handle = w.tasks.every("ticks", 2ms, [&] {
    const int here = ++inside;
    if (here > most) most = here;
    w.tasks.spawn("waited for", plain_function).wait();
    ticks.add(w.rt.time().now());
    --inside;
  });
  ticks.wait_for(4);
  CHECK(handle.request_cancel());
  CHECK(handle.wait() == task_status::cancelled);
  const auto seen = ticks.all();
  CHECK(seen[0] - began >= 2ms);
  CHECK(seen[3] - began >= 8ms);
  CHECK(most == 1);
  const task_info info = handle.info();
  CHECK(info.ticks == seen.size());
  CHECK(info.runs == 1);
  CHECK(info.pool == "default");
  CHECK(w.failures.size() == 0);
}

TEST_CASE("ticks that come due in an overrun do not pile up: skip counts them, delay forgets them, burst makes up for them",
          "[task][T17]") {
  const time_limit limit;
  world w;
  for (const missed_ticks policy : {missed_ticks::skip, missed_ticks::delay, missed_ticks::burst}) {
    INFO("policy " << static_cast<int>(policy));
    record<penstock::steady_time> ticks;
    gate go;
    constexpr auto period = 2ms;
    const task_handle handle = w.tasks.every(
        "ticks", period,
        [&] {
          ticks.add(w.rt.time().now());
          go.wait();  // the first one only: then it is open
        },
        policy);
    ticks.wait_for(1);
    const auto first = ticks.all()[0];
    eventually([&] { return w.rt.time().now() >= first + 10 * period; });
    CHECK(ticks.size() == 1);  // none beside the one that still runs
    const auto opened = w.rt.time().now();
    go.open();
    ticks.wait_for(6);
    handle.request_cancel();
    handle.wait();
    const auto seen = ticks.all();
    const task_info info = handle.info();
    CHECK(info.ticks == seen.size());
    if (policy == missed_ticks::skip) CHECK(info.missed >= 9);
    if (policy != missed_ticks::skip) CHECK(info.missed == 0);
    if (policy == missed_ticks::delay) CHECK(seen[1] >= opened + period);
    if (policy == missed_ticks::delay) CHECK(seen[5] >= opened + 5 * period);
  }
}

TEST_CASE("a tick that throws is told with its number, and the next one comes all the same", "[task]") {
  const time_limit limit;
  world w;
  std::atomic<int> count{0};
  const task_handle function = w.tasks.every("function", 1ms, [&] {
    if (const int now = ++count; now <= 2) throw std::runtime_error("tick " + std::to_string(now));
  });
  eventually([&] { return count >= 4; });
  REQUIRE(w.failures.size() == 2);
  auto told = w.failures.all();
  CHECK(told[0].task == "function");
  CHECK(told[0].attempt == 1);
  CHECK(told[1].attempt == 2);
  CHECK(w.current.all() == std::vector<std::string>{"tick 1", "tick 2"});
  CHECK(function.info().last_failure == "std::runtime_error: tick 2");
  CHECK(function.status() == task_status::running);
  function.request_cancel();
  CHECK(function.wait() == task_status::cancelled);
  count = 0;
  const task_handle coroutine = w.tasks.every("coroutine", 1ms, [&]() -> task<> {
    co_await penstock::yield();
    if (++count == 1) throw std::runtime_error("from a coroutine");
  });
  eventually([&] { return count >= 3; });
  CHECK(w.failures.size() == 3);
  CHECK(w.failures.all()[2].task == "coroutine");
  coroutine.request_cancel();
  CHECK(coroutine.wait() == task_status::cancelled);
  const task_handle nobody = w.tasks.every("nobody", 1ms, [] { return empty_task(); });
  w.failures.wait_for(5);
  CHECK(nobody.status() == task_status::running);
}

TEST_CASE("a stop reaches a tick that runs: a function's token is set, a coroutine's await throws", "[task]") {
  const time_limit limit;
  world w;
  gate running, stopped;
  const task_handle function = w.tasks.every("function", 1ms, [&](const std::stop_token& stop) {
    const std::stop_callback told(stop, [&] { stopped.open(); });
    running.open();
    stopped.wait();
  });
  running.wait();
  CHECK(function.request_cancel("enough"));
  CHECK(function.wait() == task_status::cancelled);
  CHECK(function.info().ticks == 1);
  record<int> ticks;
  const task_handle coroutine = w.tasks.every("coroutine", 1ms, [&]() -> task<> {
    ticks.add(1);
    co_await sleeps_for_ever();
  });
  ticks.wait_for(1);
  CHECK(coroutine.request_cancel("enough"));
  CHECK(coroutine.wait() == task_status::cancelled);
  CHECK(words_of(coroutine.error()) == "cancelled: requested, , enough");
  CHECK(ticks.size() == 1);
  CHECK(w.failures.size() == 0);
}

TEST_CASE("a periodic function runs where its options say, and the waiting holds no thread of it", "[task]") {
  const time_limit limit;
  world w(one_thread());
  record<int> ticks;
  std::vector<task_handle> all;
  for (int i = 0; i < 5; ++i)
    all.push_back(w.tasks.every("ticks", 1ms, spawn_options().on(w.rt.pool("default")), [&, i] { ticks.add(i); }));
  const task_handle hourly = w.tasks.every("hourly", 1h, [] {});
  CHECK(w.tasks.spawn("the only thread is free", plain_function).wait() == task_status::completed);
  ticks.wait_for(20);
  for (const task_handle& each : all) each.request_cancel();
  for (const task_handle& each : all) CHECK(each.wait() == task_status::cancelled);
  CHECK(hourly.info().ticks == 0);
}

// --- the end of all ------------------------------------------------------------------------------------------------------

TEST_CASE("close stops all, waits for them, and says what became of each; who is stuck at the deadline is named", "[task]") {
  const time_limit limit;
  world w;
  gate go, running;
  const task_handle ended = w.tasks.spawn("ended before", plain_function);
  ended.wait();
  const task_handle sleeps = w.tasks.spawn("sleeps", sleeps_for_ever());
  const task_handle stuck = w.tasks.spawn("stuck", [&] {
    running.open();
    go.wait();
  });
  running.wait();
  const task_report report = w.tasks.close(20ms, "the test closes");
  CHECK_FALSE(report.clean());
  CHECK(report.left() == 1);
  CHECK(report.elapsed >= 20ms);
  REQUIRE(report.tasks.size() == 2);
  CHECK(report.tasks[0].name == "sleeps");
  CHECK(report.tasks[0].status == task_status::cancelled);
  CHECK(report.tasks[0].stop_kind == penstock::cancel_kind::closed);
  CHECK(report.tasks[1].name == "stuck");
  CHECK(report.tasks[1].status == task_status::running);
  CHECK(report.tasks[1].stop_reason == "the test closes");
  CHECK(report.counts.spawned == 3);
  CHECK(report.counts.running == 1);
  CHECK(report.counts.balanced());
  const std::string text = to_string(report);
  CHECK(text.find("task \"stuck\": running, in it for ") < text.find("task \"sleeps\": cancelled"));
  CHECK_THAT(text, contains_text("task_registry_test.cpp:"));
  CHECK_THAT(text, contains_text("asked to stop (closed by task registry: the test closes)"));
  CHECK_THAT(text, contains_text("spawned 3 = completed 1 + failed 0 + cancelled 1 + closed 0 + running 1; refused 0"));
  CHECK_FALSE(w.tasks.close(0s).clean());
  go.open();
  const task_report again = w.tasks.close(1h);
  CHECK(again.clean());
  CHECK(stuck.status() == task_status::completed);
  CHECK(w.tasks.close(1h).tasks.empty());
  CHECK(w.tasks.counts().running == 0);
}

TEST_CASE("after close a spawn is refused with a clear text, counted, and its work destroyed unrun", "[task][T1]") {
  const time_limit limit;
  world w;
  const auto group = w.tasks.owner("group");
  const auto alive = std::make_shared<int>(0);
  std::atomic<int> runs{0};
  const auto try_all = [&](const task_registry& tasks) {
    const std::vector<std::function<void()>> ways{
        [&] { tasks.spawn("late", [alive, &runs] { ++runs; }); },
        [&] { tasks.spawn("late", [alive, &runs] { return counts_one_run(alive, runs); }); },
        [&] { tasks.spawn("late", counts_one_run(alive, runs)); },
        [&] { tasks.every("late", 1ms, [alive, &runs] { ++runs; }); },
    };
    for (const auto& each : ways)
      CHECK(text_of(each, errc::closed).find("task \"late\": the registry is closing; it takes no new tasks") == 0);
    CHECK(alive.use_count() == 1);
  };
  CHECK(group.close(1h).clean());
  try_all(group);
  CHECK(w.tasks.counts().refused == 4);
  CHECK(w.tasks.spawn("others go on", plain_function).wait() == task_status::completed);
  CHECK(w.tasks.close(1h).clean());
  try_all(w.tasks);
  try_all(w.tasks.owner("another group"));
  CHECK(w.tasks.counts().refused == 12);
  CHECK(w.tasks.counts().spawned == 1);
  CHECK(runs == 0);
  const auto result = w.tasks.try_spawn("late", spawn_options(), seven());
  static_assert(std::is_same_v<decltype(result.handle), task_handle_of<int>>);
  CHECK_FALSE(result);
  CHECK_FALSE(result.handle);
  CHECK(result.error == errc::closed);
  CHECK_THAT(result.text, contains_text("task \"late\": the registry is closing"));
}

TEST_CASE("the tasks of a group are closed alone, and groups of the same name are one", "[task]") {
  const time_limit limit;
  world w;
  const task_handle one = w.tasks.owner("a").spawn("one", sleeps_for_ever());
  const task_handle two = w.tasks.owner("a").spawn("two", sleeps_for_ever());
  const task_handle three = w.tasks.owner("b").spawn("three", sleeps_for_ever());
  const task_handle four = w.tasks.spawn("four", sleeps_for_ever());
  const task_report report = w.tasks.owner("a").close(1h);
  REQUIRE(report.tasks.size() == 2);
  CHECK(report.clean());
  CHECK(one.status() == task_status::cancelled);
  CHECK(two.status() == task_status::cancelled);
  CHECK_FALSE(three.info().stop_requested);
  CHECK_FALSE(four.info().stop_requested);
  CHECK(w.tasks.snapshot().size() == 2);
  CHECK(w.tasks.owner("b").snapshot().size() == 1);
  CHECK(w.tasks.owner("nobody's").close(1h).tasks.empty());
}

TEST_CASE("where waiting is not allowed close asks all and returns at once", "[task]") {
  const time_limit limit;
  world w;
  const auto group = w.tasks.owner("group");
  const task_handle sleeps = group.spawn("sleeps", sleeps_for_ever());
  record<std::size_t> named;
  gate go, running;
  const task_handle stuck = group.spawn("stuck", [&] {
    running.open();
    go.wait();
  });
  running.wait();
  const task_handle closes = w.tasks.spawn("closes", [&]() -> task<> {
    const task_report report = group.close(1h);
    named.add(report.tasks.size());
    co_return;
  });
  CHECK(closes.wait() == task_status::completed);
  CHECK(named.all() == std::vector<std::size_t>{2});
  CHECK(sleeps.wait() == task_status::cancelled);
  CHECK(stuck.info().stop_requested);
  CHECK_FALSE(stuck.done());
  go.open();
  stuck.wait();
}

TEST_CASE("a function that waits for its own end is refused, whatever the deadline, and goes on", "[task]") {
  const time_limit limit;
  world w;
  for (const auto deadline : {penstock::no_deadline, w.rt.time().now() + 1h}) {
    record<std::string> refused;
    record<task_handle> self;
    const task_handle own = w.tasks.spawn("own", [&] {
      self.wait_for(1);
      refused.add(text_of([&] { self.all()[0].wait_until(deadline); }, errc::would_deadlock));
      w.tasks.spawn("another", nothing()).wait();
    });
    self.add(own);
    CHECK(own.wait() == task_status::completed);
    CHECK(refused.all() ==
          std::vector<std::string>{"waiting for task \"own\": this code is that task's own: it would wait for "
                                   "itself"});
  }
}

TEST_CASE("a tick that waits for the end of its periodic task is refused", "[task]") {
  const time_limit limit;
  world w;
  record<std::string> refused;
  record<task_handle> self;
  const task_handle ticks = w.tasks.every("ticks", 1ms, [&] {
    self.wait_for(1);
    refused.add(text_of([&] { self.all()[0].wait(); }, errc::would_deadlock));
  });
  self.add(ticks);
  refused.wait_for(2);
  ticks.request_cancel();
  CHECK(ticks.wait() == task_status::cancelled);
  CHECK(refused.all()[0].find("this code is that task's own") != std::string::npos);
}

TEST_CASE("of functions that wait for each other in a ring one is refused, and all end", "[task]") {
  const time_limit limit;
  constexpr std::size_t size = 3;
  world w(std::move(runtime_options().pool("blocking", worker_pool_options().threads(size))));
  record<std::string> refused;
  record<task_handle> ring;
  std::vector<task_handle> all;
  for (std::size_t i = 0; i < size; ++i)
    all.push_back(w.tasks.spawn("ring", [&, i] {
      ring.wait_for(size);
      const std::string text = text_of([&] { ring.all()[(i + 1) % size].wait(); }, errc::would_deadlock);
      if (text != "no exception") refused.add(text);
    }));
  for (const task_handle& each : all) ring.add(each);
  for (const task_handle& each : all) CHECK(each.wait() == task_status::completed);
  REQUIRE(refused.size() == 1);
  CHECK(refused.all()[0].find("that task waits for this one, itself or through others") != std::string::npos);
}

TEST_CASE("functions that wait for each other with a deadline are not refused", "[task]") {
  const time_limit limit;
  world w;
  record<task_status> seen;
  record<task_handle> pair;
  gate waiting;
  const task_handle hasty = w.tasks.spawn("hasty", [&] {
    pair.wait_for(2);
    waiting.open();
    seen.add(pair.all()[1].wait_for(1ms));
  });
  const task_handle patient = w.tasks.spawn("patient", [&] {
    pair.wait_for(2);
    waiting.wait();
    seen.add(pair.all()[0].wait());
  });
  pair.add(hasty);
  pair.add(patient);
  CHECK(patient.wait() == task_status::completed);
  CHECK(seen.all() == std::vector<task_status>{task_status::running, task_status::completed});
}

TEST_CASE("a function or a tick that closes the registry or the group it belongs to asks all and does not wait",
          "[task]") {
  const time_limit limit;
  world w;
  const auto group = w.tasks.owner("group");
  record<task_report> reports;
  const task_handle sleeps = group.spawn("sleeps", sleeps_for_ever());
  const task_handle closes = group.spawn("closes", [&](const std::stop_token& stop) {
    reports.add(group.close(1h));
    if (!stop.stop_requested()) throw std::runtime_error("it has not asked itself");
  });
  CHECK(closes.wait() == task_status::completed);
  CHECK(sleeps.wait() == task_status::cancelled);
  REQUIRE(reports.size() == 1);
  CHECK(reports.all()[0].tasks.at(1).name == "closes");
  CHECK(reports.all()[0].tasks.at(1).status == task_status::running);

  const task_handle ticks = w.tasks.every("ticks", 1ms, [&] { reports.add(w.tasks.close(1h)); });
  CHECK(ticks.wait() == task_status::cancelled);
  CHECK(reports.size() == 2);
  CHECK(text_of([&] { w.tasks.spawn("late", nothing()); }, errc::closed).find("closing") != std::string::npos);
}

namespace {

task<> closes_in_time(task_registry tasks, std::chrono::nanoseconds limit, record<task_report>& reports) {
  task_report report = co_await tasks.async_close(limit);
  reports.add(std::move(report));
}

}  // namespace

TEST_CASE("async_close in a task gives the report of its group, at its end or at its deadline, without a thread", "[task]") {
  const time_limit limit;
  world w(one_thread());
  gate go, running;
  record<task_report> reports;
  const auto group = w.tasks.owner("group");
  const task_handle stuck = group.spawn("stuck", [&] {
    running.open();
    go.wait();
  });
  running.wait();
  const task_handle first = w.tasks.spawn("first", closes_in_time(group, 10ms, reports));
  CHECK(first.wait() == task_status::completed);
  REQUIRE(reports.size() == 1);
  CHECK_FALSE(reports.all()[0].clean());
  CHECK(reports.all()[0].tasks.at(0).name == "stuck");
  const task_handle patient = w.tasks.spawn("patient", closes_in_time(group, std::chrono::nanoseconds::max(), reports));
  const task_handle hasty = w.tasks.spawn("hasty", closes_in_time(group, -1s, reports));
  CHECK(hasty.wait() == task_status::completed);
  CHECK_FALSE(reports.all()[1].clean());
  const task_handle stopped = w.tasks.spawn("stopped", closes_in_time(group, 1h, reports));
  CHECK(w.tasks.spawn("default is free", nothing()).wait() == task_status::completed);
  stopped.request_cancel();
  CHECK(stopped.wait() == task_status::cancelled);
  go.open();
  CHECK(patient.wait() == task_status::completed);
  REQUIRE(reports.size() == 3);
  CHECK(reports.all()[2].clean());
  CHECK(reports.all()[2].tasks.at(0).status == task_status::completed);
  const task_handle empty = w.tasks.spawn("empty", closes_in_time(group, 1h, reports));
  CHECK(empty.wait() == task_status::completed);
  CHECK(reports.all()[3].tasks.empty());
}

TEST_CASE("one of a registry's own tasks that awaits its close is stopped by it, and the closing goes on", "[task]") {
  const time_limit limit;
  world w;
  record<task_report> reports;
  const task_handle other = w.tasks.spawn("other", sleeps_for_ever());
  const task_handle own = w.tasks.spawn("own", closes_in_time(w.tasks, 1h, reports));
  CHECK(own.wait() == task_status::cancelled);
  CHECK(other.wait() == task_status::cancelled);
  CHECK(reports.size() == 0);
  CHECK(text_of([&] { w.tasks.spawn("late", nothing()); }, errc::closed).find("closing") != std::string::npos);
  CHECK(w.tasks.counts().running == 0);
}

// --- misuse, nesting, the account ----------------------------------------------------------------------------------------

TEST_CASE("misuse of spawn and every is a typed error whose text names the task and the cure", "[task]") {
  const time_limit limit;
  world w;
  const auto& tasks = w.tasks;
  const auto refused = [](const std::function<void()>& call) { return text_of(call, errc::invalid_argument); };
  const auto with = [](const restart_policy& policy) { return spawn_options().restart(policy); };
  void (*no_function)() = nullptr;
  struct row {
    std::function<void()> call;
    std::string text;
  };
  const std::vector<row> rows{
      {[&] { tasks.spawn("", plain_function); }, "task \"\": a task needs a name"},
      {[&] { tasks.every("", 1ms, plain_function); }, "task \"\": a task needs a name"},
      {[&] { tasks.spawn("a\nb", with(restart_policy().attempts(0)), plain_function); }, "task \"a\\x0ab\": "},
      {[&] { tasks.spawn("x", with(restart_policy().attempts(0)), plain_function); },
       "task \"x\": restart_policy::attempts needs 1 to 10,000"},
      {[&] { tasks.spawn("x", with(restart_policy().attempts(10'001)), plain_function); },
       "task \"x\": restart_policy::attempts needs 1 to 10,000"},
      {[&] { tasks.spawn("x", with(restart_policy().within(0s)), plain_function); },
       "task \"x\": restart_policy::within needs a time above zero"},
      {[&] { tasks.spawn("x", with(restart_policy().pauses(retry_policy().backoff(-1s))), plain_function); },
       "task \"x\": a negative backoff"},
      {[&] { tasks.spawn("x", with(restart_policy()), nothing()); },
       "task \"x\": a coroutine that is there already cannot be started again; give a function that makes it"},
      {[&] { tasks.spawn("x", task<>()); }, "task \"x\": its function, or its coroutine, is empty"},
      {[&] { tasks.spawn("x", no_function); }, "task \"x\": its function, or its coroutine, is empty"},
      {[&] { tasks.spawn("x", std::function<void()>()); }, "task \"x\": its function, or its coroutine, is empty"},
      {[&] { tasks.spawn("x", std::function<void(std::stop_token)>()); },
       "task \"x\": its function, or its coroutine, is empty"},
      {[&] { tasks.spawn("x", std::function<task<>()>()); }, "task \"x\": its function, or its coroutine, is empty"},
      {[&] { tasks.spawn("x", penstock::unique_function<void()>()); },
       "task \"x\": its function, or its coroutine, is empty"},
      {[&] { tasks.every("x", 1ms, std::function<void()>()); }, "task \"x\": its function, or its coroutine, is empty"},
      {[&] { tasks.every("x", 1ms, penstock::unique_function<task<>()>()); },
       "task \"x\": its function, or its coroutine, is empty"},
      {[&] { tasks.every("x", 0ms, plain_function); }, "task \"x\": a period must be above zero"},
      {[&] { tasks.every("x", -1h, plain_function); }, "task \"x\": a period must be above zero"},
      {[&] { tasks.every("x", 1ms, with(restart_policy()), plain_function); },
       "task \"x\": a periodic task goes on after a failed tick; it takes no restart policy"},
      {[&] { static_cast<void>(tasks.owner("")); }, "task_registry::owner: a group needs a name"},
  };
  for (const row& each : rows) {
    const std::string text = refused(each.call);
    INFO(text);
    CHECK(text.find(each.text) == 0);
  }
  CHECK(tasks.counts().spawned == 0);
  CHECK(tasks.counts().refused == 0);
  const auto result = tasks.try_spawn("", spawn_options(), plain_function);
  CHECK(result.error == errc::invalid_argument);
}

TEST_CASE("a task may spawn tasks, wait for them, and close a group of its own", "[task]") {
  const time_limit limit;
  world w;
  std::atomic<int> sum{0};
  const task_handle outer = w.tasks.spawn("outer", [&] {
    const auto group = w.tasks.owner("children");
    for (int i = 1; i <= 4; ++i) group.spawn("child", [&, i] { sum += i; }).wait();
    const task_handle sleeps = group.spawn("sleeps", sleeps_for_ever());
    sum += group.close(1h).clean() ? 100 : 1000;
  });
  CHECK(outer.wait() == task_status::completed);
  CHECK(sum == 110);
  const task_handle coroutine = w.tasks.spawn("coroutine", [&]() -> task<> {
    const auto made = w.tasks.spawn("seven", seven());
    const task_status how = co_await made.async_wait();
    if (how == task_status::completed) sum += *made.value();
  });
  CHECK(coroutine.wait() == task_status::completed);
  CHECK(sum == 117);
  CHECK(w.tasks.counts().spawned == 8);
  CHECK(balanced(w.tasks));
}

TEST_CASE("a task may hold the last handle to itself, drop it while it runs, or keep it in its closure", "[task]") {
  const time_limit limit;
  world w;
  const auto alive = std::make_shared<int>(0);
  gate filled, kept;
  record<task_status> seen;
  auto own = std::make_shared<task_handle>();
  *own = w.tasks.spawn("drops it", [alive, own, &filled, &seen] {
    filled.wait();
    seen.add(own->status());
    *own = task_handle();
  });
  own.reset();
  filled.open();
  auto cycle = std::make_shared<task_handle>();
  *cycle = w.tasks.spawn("keeps it", [alive, cycle, &kept] { kept.wait(); });
  cycle.reset();
  kept.open();
  eventually([&] { return w.tasks.counts().completed == 2; });
  eventually([&] { return alive.use_count() == 1; });
  CHECK(seen.all() == std::vector<task_status>{task_status::running});
}

TEST_CASE("a task whose handles are all dropped runs to its end, and a failure of it is told", "[task][A6]") {
  const time_limit limit;
  world w;
  gate go;
  static_cast<void>(w.tasks.spawn("nobody's", [&] {
    go.wait();
    throw std::runtime_error("all the same");
  }));
  go.open();
  w.failures.wait_for(1);
  CHECK(w.failures.all()[0].task == "nobody's");
  eventually([&] { return w.tasks.counts().failed == 1; });
  CHECK(balanced(w.tasks));
}

TEST_CASE("a closure may use the registry while it is destroyed", "[task]") {
  const time_limit limit;
  world w;
  record<task_handle> made;
  struct parting {
    const task_registry* tasks;
    record<task_handle>* made;
    void operator()() const {
      made->add(tasks->spawn("last words", plain_function));
      static_cast<void>(tasks->snapshot());
    }
  };
  {
    const std::shared_ptr<int> at_death(new int(0), [act = parting{&w.tasks, &made}](const int* dead) {
      delete dead;
      act();
    });
    w.tasks.spawn("short", [at_death] {});
  }
  made.wait_for(1);
  CHECK(made.all()[0].wait() == task_status::completed);
}

TEST_CASE("the account balances at every look while tasks of all fates come and go", "[task]") {
  const time_limit limit;
  world w;
  std::atomic<bool> over{false};
  std::atomic<int> unbalanced{0};
  std::thread looker([&] {
    eventually([&] {
      if (!balanced(w.tasks)) ++unbalanced;
      return over.load();
    });
  });
  std::vector<task_handle> all;
  for (int i = 0; i < 300; ++i) {
    switch (i % 4) {
      case 0: all.push_back(w.tasks.spawn("completes", plain_function)); break;
      case 1: all.push_back(w.tasks.spawn("fails", [] { throw 1; })); break;
      case 2: all.push_back(w.tasks.spawn("sleeps", sleeps_for_ever())); break;
      default: all.push_back(w.tasks.every("ticks", 1h, plain_function)); break;
    }
    if (i % 4 >= 2) all.back().request_cancel();
  }
  for (const task_handle& each : all) each.wait();
  over = true;
  looker.join();
  CHECK(unbalanced == 0);
  const task_counts counts = w.tasks.counts();
  CHECK(counts.spawned == 300);
  CHECK(counts.completed == 75);
  CHECK(counts.failed == 75);
  CHECK(counts.cancelled == 150);
  CHECK(counts.running == 0);
  CHECK(w.failures.size() == 75);
}
