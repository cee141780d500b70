// The end of a runtime as a user sees it: its phases in order, who may ask for it and from where, what it tells, signals.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/child.hpp"
#include "../support/gate.hpp"
#include "../support/sanitizers.hpp"
#include "../support/signal_storm.hpp"

#include <penstock/penstock.hpp>
#include <penstock/runtime/signal_watcher.hpp>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <latch>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::close_status;
using penstock::errc;
using penstock::event_bus;
using penstock::failure;
using penstock::failure_policy;
using penstock::restart_policy;
using penstock::retry_policy;
using penstock::runtime_options;
using penstock::shutdown_report;
using penstock::signal_watcher;
using penstock::spawn_options;
using penstock::subscribe_options;
using penstock::task;
using penstock::task_handle;
using penstock::task_status;
using penstock::worker_pool_options;

namespace {

struct job {
  int value = 0;
};
struct done {
  int value = 0;
};

runtime_options workers(unsigned count = 2) {
  return runtime_options()
      .pool("default", worker_pool_options().threads(count))
      .pool("blocking", worker_pool_options().threads(3))
      .on_failure([](const failure&) {});
}

bool balanced(const shutdown_report& report) {
  for (const auto& each : report.subscriptions)
    if (!each.ledger.balanced()) return false;
  return report.tasks.counts.balanced();
}

template <class Call>
std::pair<std::error_code, std::string> refusal_of(Call call) {
  try {
    call();
  } catch (const std::system_error& refused) {
    return {refused.code(), refused.what()};
  }
  return {errc::none, "nothing was thrown"};
}

/// Until the token is asked; the gate is opened by the asking.
void wait_for_stop(const std::stop_token& stop) {
  gate asked;
  std::stop_callback wake(stop, [&] { asked.open(); });
  asked.wait();
}

task<void> sleeps_for_ever(gate& begun) {
  begun.open();
  co_await penstock::sleep_for(24h);
}

std::size_t threads_of_process() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator("/proc/self/task")) ++count;
  return count;
}

/// What is written to the standard error stream meanwhile.
template <class Body>
std::string errors_written_in(Body body) {
  std::fflush(stderr);
  std::FILE* file = std::tmpfile();
  const int before = dup(STDERR_FILENO);
  dup2(fileno(file), STDERR_FILENO);
  body();
  std::fflush(stderr);
  dup2(before, STDERR_FILENO);
  close(before);
  std::rewind(file);
  std::string text;
  char part[512];
  while (const std::size_t got = std::fread(part, 1, sizeof part, file)) text.append(part, got);
  std::fclose(file);
  return text;
}

}  // namespace

// --- the order of the phases -------------------------------------------------------------------------------------------

TEST_CASE("a task that stops first may publish until it has ended, and what it publishes is handled", "[shutdown]") {
  const time_limit limit;
  penstock::runtime rt(workers());
  std::atomic<int> handled{0}, accepted{0};
  gate begun;
  auto sub = rt.bus().subscribe<job>("counted", [&](const job&) { ++handled; });
  auto farewell = rt.tasks().spawn("farewell", [&](const std::stop_token& stop) {
    begun.open();
    wait_for_stop(stop);
    for (int i = 0; i < 100; ++i) accepted += static_cast<int>(rt.bus().publish(job{i}).accepted());
  });
  begun.wait();
  const auto report = rt.shutdown(25s);
  CHECK(accepted == 100);
  CHECK(handled == 100);
  CHECK(report.clean());
  CHECK(farewell.status() == task_status::completed);
  CHECK(balanced(report));
}

TEST_CASE("while the first tasks end everybody may publish; afterwards only what deliveries cause is taken",
          "[shutdown]") {
  const time_limit limit;
  penstock::runtime rt(workers());
  gate task_may_end, handler_may_end;
  record<int> begun, first_seen, second_seen;
  auto second = rt.bus().subscribe<done>("second", [&](const done& e) { second_seen.add(e.value); });
  auto first = rt.bus().subscribe<job>("first", [&](const job& e) {
    begun.add(1);
    if (e.value == 1) handler_may_end.wait();
    first_seen.add(static_cast<int>(rt.bus().publish(done{e.value}).accepted()));
  });
  auto slow = rt.tasks().spawn("slow to end", [&] { task_may_end.wait(); });
  rt.request_shutdown("from main");
  CHECK(rt.shutdown_requested());
  CHECK(rt.bus().publish(job{1}).accepted() == 1);  // still
  begun.wait_for(1);
  const auto late = rt.tasks().try_spawn("late", spawn_options(), [] {});
  CHECK(late.error == errc::closed);
  shutdown_report report;
  std::thread stopping([&] { report = rt.wait_for_shutdown(); });
  task_may_end.open();
  eventually([&] { return rt.bus().publish(job{2}).error() == errc::closed; });
  CHECK(rt.bus().try_subscribe<job>("late", subscribe_options(), [](const job&) {}).error == errc::closed);
  CHECK(second_seen.size() == 0);
  handler_may_end.open();
  stopping.join();
  CHECK(report.clean());
  for (const int taken : first_seen.all()) CHECK(taken == 1);
  CHECK(second_seen.size() == first_seen.size());
  CHECK(report.reason == "from main");
}

TEST_CASE("a kept task lives while handlers run, and is asked when the last event has been handled", "[shutdown]") {
  const time_limit limit;
  penstock::runtime rt(workers());
  record<std::string> seen;
  record<bool> kept_lives;
  gate first_up, kept_up, handling, go_on;
  auto kept = rt.tasks().spawn("cache", spawn_options().keep_until_drained(), [&](const std::stop_token& stop) {
    kept_up.open();
    wait_for_stop(stop);
    seen.add("kept asked");
  });
  auto sub = rt.bus().subscribe<job>("reader", [&](const job&) {
    handling.open();
    go_on.wait();
    kept_lives.add(kept.status() == task_status::running && !kept.info().stop_requested);
    seen.add("handled");
  });
  auto first = rt.tasks().spawn("feed", [&](const std::stop_token& stop) {
    first_up.open();
    wait_for_stop(stop);
    seen.add("first asked");
  });
  first_up.wait();
  kept_up.wait();
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  handling.wait();
  shutdown_report report;
  std::thread stopping([&] { report = rt.shutdown(25s); });
  CHECK(first.wait() == task_status::completed);
  CHECK(kept.status() == task_status::running);
  go_on.open();
  stopping.join();
  CHECK(report.clean());
  CHECK(seen.all() == std::vector<std::string>{"first asked", "handled", "handled", "handled", "kept asked"});
  CHECK(kept_lives.all() == std::vector(3, true));
  REQUIRE(report.tasks.tasks.size() == 2);
  CHECK(report.tasks.tasks[0].name == "cache");
  CHECK(report.tasks.tasks[0].status == task_status::completed);
}

TEST_CASE("a first task that ignores its request uses its share only: events are handled, and it is named",
          "[shutdown][S6]") {
  const time_limit limit;
  penstock::runtime rt(workers());
  gate begun, release, over;
  std::atomic<int> handled{0};
  auto sub = rt.bus().subscribe<job>("counted", [&](const job&) { ++handled; });
  auto deaf = rt.tasks().spawn("deaf", [&] {
    begun.open();
    release.wait();
    over.open();
  });
  begun.wait();
  for (int i = 0; i < 10; ++i) rt.bus().publish(job{i});
  const auto report = rt.shutdown(200ms);
  CHECK(handled == 10);
  CHECK(report.drained);
  CHECK_FALSE(report.clean());
  CHECK(report.stuck.empty());
  CHECK(report.abandoned_workers == 1);
  CHECK(report.elapsed < 10s);
  REQUIRE(report.tasks.left() == 1);
  const auto& left = report.tasks.tasks.front();
  CHECK(left.name == "deaf");
  CHECK_THAT(left.file, contains_text("shutdown_test.cpp"));
  CHECK(left.stop_requested);
  CHECK(left.stop_kind == penstock::cancel_kind::shutdown);
  CHECK(left.running > 0s);
  CHECK(balanced(report));
  for (const char* part : {"left: ", "deaf", "abandoned: 1"}) CHECK_THAT(to_string(report), contains_text(part));
  release.open();
  over.wait();
  eventually([&] { return deaf.done(); });
  CHECK(deaf.status() == task_status::completed);
}

TEST_CASE("a first task that needs more than its share has what the drain leaves, and is not named as left",
          "[shutdown]") {
  const time_limit limit;
  penstock::runtime rt(workers());
  gate begun, kept_begun, kept_asked;
  auto slow = rt.tasks().spawn("slow", [&] {
    begun.open();
    kept_asked.wait();  // which is after its share of the budget
  });
  auto kept = rt.tasks().spawn("kept", spawn_options().keep_until_drained(), [&](const std::stop_token& stop) {
    kept_begun.open();
    wait_for_stop(stop);
    kept_asked.open();
  });
  begun.wait();
  kept_begun.wait();
  const auto report = rt.shutdown(sanitized ? 10s : 2s);
  CHECK(report.tasks.left() == 0);
  CHECK(report.clean());
  CHECK(slow.status() == task_status::completed);
}

TEST_CASE("a report calls left who is inside its code, and cut off who waited when its pool ended", "[shutdown][S6]") {
  const time_limit limit;
  gate release, suspended, over, tick_over;
  record<int> inside;
  {
    penstock::runtime rt(workers(1));
    rt.tasks().spawn("suspended", sleeps_for_ever(suspended));
    suspended.wait();
    rt.tasks().every("ticks", 1us, [&] {
      inside.add(1);
      release.wait();
      tick_over.open();
    });
    inside.wait_for(1);
    const auto sub = rt.bus().subscribe<job>("holds the only worker", [&](const job&) {
      inside.add(2);
      release.wait();
      over.open();
    });
    rt.bus().publish(job{1});
    inside.wait_for(2);
    for (const auto& each : rt.tasks().snapshot()) CHECK(each.suspended == (each.name == "suspended"));
    const auto report = rt.shutdown(0s);
    REQUIRE(report.tasks.tasks.size() == 2);
    CHECK(report.tasks.tasks[0].status == task_status::closed);
    CHECK(report.tasks.tasks[1].status == task_status::running);
    CHECK_FALSE(report.tasks.tasks[1].suspended);
    CHECK(report.tasks.left() == 1);
    CHECK(report.tasks.cut_off() == 1);
    CHECK(report.abandoned_workers == 2);
    CHECK_THAT(to_string(report), contains_text("  cut off: task \"suspended\": closed") &&
                                      contains_text("  left: task \"ticks\": running, in it for "));
    CHECK(balanced(report));
    release.open();
    over.wait();
    tick_over.wait();
  }
}

TEST_CASE("a shutdown with no time discards what is queued, names what runs, and balances", "[shutdown]") {
  const time_limit limit;
  const auto budget = GENERATE(0s, -1s, -100000h);
  penstock::runtime rt(workers());
  gate release, over;
  record<int> begun;
  auto sub = rt.bus().subscribe<job>("endless", [&](const job&) {
    begun.add(1);
    release.wait();
    over.open();
  });
  for (int i = 0; i < 5; ++i) rt.bus().publish(job{i});
  begun.wait_for(1);
  const auto report = rt.shutdown(budget);
  CHECK_FALSE(report.drained);
  CHECK(report.elapsed < 10s);
  CHECK(report.undelivered() == 4);
  REQUIRE(report.stuck.size() == 1);
  CHECK(report.stuck[0].sequence == 1);
  CHECK(balanced(report));
  release.open();
  over.wait();
}

TEST_CASE("workers that are in no call are never counted as left, whatever is stuck in the pools before theirs",
          "[shutdown][S6]") {
  const time_limit limit;
  for (int i = 0; i < 20; ++i) {
    auto rt = std::make_unique<penstock::runtime>(
        workers(4).pool("a", worker_pool_options().threads(1)).pool("z", worker_pool_options().threads(8)));
    gate begun, release, over;
    REQUIRE(rt->pool("a")->post([&] {
      begun.open();
      release.wait();
      over.open();
    }) == errc::none);
    begun.wait();
    CHECK(rt->shutdown(1ms).abandoned_workers == 1);
    rt.reset();
    release.open();
    over.wait();
  }
}

// --- who asks, and from where ------------------------------------------------------------------------------------------

TEST_CASE("the first reason and the first budget of a shutdown stay", "[shutdown][T11]") {
  const time_limit limit;
  penstock::runtime rt(workers().shutdown_within(50ms));
  gate release, over;
  record<int> begun;
  auto sub = rt.bus().subscribe<job>("endless", [&](const job&) {
    begun.add(1);
    release.wait();
    over.open();
  });
  rt.bus().publish(job{1});
  begun.wait_for(1);
  rt.request_shutdown("the first");
  rt.request_shutdown("the second");
  const auto report = rt.shutdown(1h, "the third");  // 50 ms, not an hour
  CHECK(report.reason == "the first");
  CHECK(report.stuck.size() == 1);
  const auto again = rt.wait_for_shutdown();
  CHECK(again.reason == "the first");
  CHECK(again.elapsed == report.elapsed);
  release.open();
  over.wait();
}

TEST_CASE("a shutdown inside a task of the runtime only requests it, whatever kind of task it is", "[shutdown][T11]") {
  const time_limit limit;
  const std::string kind = GENERATE("function", "coroutine", "tick", "kept function");
  penstock::runtime rt(workers());
  record<shutdown_report> moments;
  const auto quits = [&] { moments.add(rt.shutdown(1h, "from a task")); };
  if (kind == "function") {
    rt.tasks().spawn("quitter", quits);
  } else if (kind == "kept function") {
    rt.tasks().spawn("quitter", spawn_options().keep_until_drained(), quits);
  } else if (kind == "tick") {
    rt.tasks().every("quitter", 1ms, quits);
  } else {
    rt.tasks().spawn("quitter", [&]() -> task<void> {
      co_await penstock::yield();
      quits();
    });
  }
  CAPTURE(kind);
  moments.wait_for(1);
  const auto report = rt.wait_for_shutdown();
  CHECK(moments.all().front().reason == "from a task");
  CHECK_FALSE(moments.all().front().tasks.tasks.empty());  // itself
  CHECK(report.reason == "from a task");
  CHECK(report.clean());
  CHECK(report.tasks.left() == 0);
}

TEST_CASE("a shutdown inside the failure hook only requests it", "[shutdown][T11]") {
  const time_limit limit;
  std::unique_ptr<penstock::runtime> rt;
  record<bool> moments;
  rt = std::make_unique<penstock::runtime>(workers().on_failure([&](const failure&) {
    moments.add(rt->shutdown(1h, "from the hook").reason == "from the hook");
  }));
  auto sub = rt->bus().subscribe<job>("thrower", [](const job&) { throw 1; });
  rt->bus().publish(job{1});
  moments.wait_for(1);
  const auto report = rt->wait_for_shutdown();
  CHECK(moments.all() == std::vector{true});
  CHECK(report.reason == "from the hook");
  CHECK(report.clean());
}

TEST_CASE("a stop callback that asks for the shutdown which calls it does not wait for itself", "[shutdown][T11]") {
  const time_limit limit;
  SECTION("of a task") {
    penstock::runtime rt(workers());
    gate begun;
    record<std::string> reasons;
    auto handle = rt.tasks().spawn("echo", [&](const std::stop_token& stop) {
      gate asked;
      std::stop_callback wake(stop, [&] {
        reasons.add(rt.shutdown(1h, "again").reason);
        asked.open();
      });
      begun.open();
      asked.wait();
    });
    begun.wait();
    const auto report = rt.shutdown(25s, "once");
    CHECK(report.clean());
    CHECK(reasons.all() == std::vector<std::string>{"once"});
  }
  SECTION("of a handler") {
    penstock::runtime rt(workers());
    gate begun;
    record<std::string> reasons;
    auto sub = rt.bus().subscribe<job>("echo", [&](const job&, const penstock::call& info) {
      gate asked;
      std::stop_callback wake(info.stop_token(), [&] {
        reasons.add(rt.shutdown(1h, "again").reason);
        asked.open();
      });
      begun.open();
      asked.wait();
    });
    rt.bus().publish(job{1});
    begun.wait();
    const auto report = rt.shutdown(sanitized ? 3s : 1s, "once");
    CHECK(report.stuck.empty());
    CHECK(reasons.all() == std::vector<std::string>{"once"});
  }
}

TEST_CASE("waiting for the shutdown is refused in a handler, in a hook, and in a task of either kind",
          "[shutdown][T11]") {
  const time_limit limit;
  std::unique_ptr<penstock::runtime> rt;
  record<std::error_code> refused;
  const auto waits = [&] { refused.add(refusal_of([&] { (void)rt->wait_for_shutdown(); }).first); };
  rt = std::make_unique<penstock::runtime>(workers().on_failure([&](const failure&) { waits(); }));
  auto sub = rt->bus().subscribe<job>("waits", [&](const job&) {
    waits();
    throw 1;
  });
  rt->bus().publish(job{1});
  rt->tasks().spawn("waits", [&] { waits(); });
  rt->tasks().spawn("waits too", [&]() -> task<void> {
    waits();
    co_return;
  });
  refused.wait_for(4);
  CHECK(refused.all() == std::vector<std::error_code>(4, errc::would_deadlock));
  CHECK_FALSE(rt->shutdown_requested());
  CHECK(rt->shutdown(25s).drained);
}

TEST_CASE("wait_for_shutdown waits until somebody asks, from a handler as from another thread", "[shutdown][T13]") {
  const time_limit limit;
  for (int i = 0; i < (sanitized ? 20 : 100); ++i) {
    penstock::runtime rt(workers());
    auto sub = rt.bus().subscribe<job>("quitter", [&](const job&) { rt.request_shutdown("from a handler"); });
    CHECK_FALSE(rt.shutdown_requested());
    std::thread asking([&, i] {
      if (i % 2 == 0)
        rt.request_shutdown("from a thread");
      else
        rt.bus().publish(job{1});
    });
    const auto report = rt.wait_for_shutdown();
    asking.join();
    CHECK(report.clean());
    CHECK(report.reason == (i % 2 == 0 ? "from a thread" : "from a handler"));
  }
}

TEST_CASE("shutdown from many threads with force among them gives all the same report", "[shutdown][T11]") {
  const time_limit limit;
  for (int round = 0; round < (sanitized ? 10 : 50); ++round) {
    penstock::runtime rt(workers());
    auto sub = rt.bus().subscribe<job>("counted", [](const job&) {});
    for (int i = 0; i < 100; ++i) rt.bus().publish(job{i});
    record<shutdown_report> reports;
    std::latch together(5);
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i)
      callers.emplace_back([&, i] {
        together.arrive_and_wait();
        if (i == 0) rt.request_shutdown("caller 0");
        reports.add(i == 0 ? rt.wait_for_shutdown() : rt.shutdown(25s, "caller " + std::to_string(i)));
      });
    callers.emplace_back([&] {
      together.arrive_and_wait();
      for (int i = 0; i < round; ++i) rt.force_shutdown();
    });
    for (auto& each : callers) each.join();
    const auto all = reports.all();
    REQUIRE(all.size() == 4);
    for (const auto& each : all) {
      CHECK(each.reason == all.front().reason);
      CHECK(each.elapsed == all.front().elapsed);
      CHECK(each.forced == all.front().forced);
      CHECK((each.forced || each.clean()));
      CHECK(balanced(each));
      REQUIRE(each.subscriptions.size() == 1);
      const auto& ledger = each.subscriptions[0].ledger;
      CHECK(ledger.accepted == 100);
      CHECK(ledger.handled + ledger.discarded + ledger.running == 100);
    }
  }
}

TEST_CASE("force before a shutdown has begun does nothing", "[shutdown]") {
  const time_limit limit;
  penstock::runtime rt(workers());
  std::atomic<int> handled{0};
  auto sub = rt.bus().subscribe<job>("counted", [&](const job&) { ++handled; });
  rt.force_shutdown();
  CHECK_FALSE(rt.shutdown_requested());
  CHECK(rt.bus().publish(job{1}).accepted() == 1);
  const auto report = rt.shutdown(25s);
  CHECK_FALSE(report.forced);
  CHECK(report.clean());
  CHECK(handled == 1);
  rt.force_shutdown();  // nor afterwards
  CHECK_FALSE(rt.shutdown(1s).forced);
}

TEST_CASE("force while a handler is stuck ends the shutdown at once and names it", "[shutdown][T10][S6]") {
  const time_limit limit;
  const bool deaf_task_too = GENERATE(false, true);
  penstock::runtime rt(workers());
  gate release;
  record<int> begun, over;
  auto sub = rt.bus().subscribe<job>("endless", [&](const job&) {
    begun.add(1);
    release.wait();
    over.add(1);
  });
  const unsigned line = __LINE__ - 5;
  if (deaf_task_too)
    rt.tasks().spawn("deaf", [&] {
      begun.add(2);
      release.wait();
      over.add(2);
    });
  for (int i = 0; i < 4; ++i) rt.bus().publish(job{i});
  begun.wait_for(deaf_task_too ? 2 : 1);
  shutdown_report report;
  std::thread stopping([&] { report = rt.shutdown(24h, "for long"); });
  eventually([&] { return rt.shutdown_requested(); });
  const auto began = std::chrono::steady_clock::now();
  rt.force_shutdown();
  stopping.join();
  CHECK(std::chrono::steady_clock::now() - began < 10s);
  CHECK(report.forced);
  CHECK_FALSE(report.clean());
  REQUIRE(report.stuck.size() == 1);
  CHECK(report.stuck[0].subscription == "endless");
  CHECK_THAT(report.stuck[0].event, contains_text("job"));
  CHECK(report.stuck[0].sequence == 1);
  CHECK_THAT(report.stuck[0].file, contains_text("shutdown_test.cpp"));
  CHECK(report.stuck[0].line >= line);
  CHECK(report.stuck[0].line <= line + 4);
  CHECK(report.tasks.left() == (deaf_task_too ? 1 : 0));
  CHECK(report.undelivered() == 3);
  CHECK(balanced(report));
  CHECK_THAT(to_string(report), contains_text(", forced"));
  release.open();
  over.wait_for(deaf_task_too ? 2 : 1);
  eventually([&] { return sub.close() == close_status::closed; });
}

TEST_CASE("a subscription that escalates requests the shutdown, and then the hook is told", "[shutdown][F3]") {
  const time_limit limit;
  record<std::string> told;
  record<bool> requested;
  std::unique_ptr<penstock::runtime> rt;
  rt = std::make_unique<penstock::runtime>(workers().on_escalate([&](const failure& why) {
    told.add(why.subscription);
    requested.add(rt->shutdown_requested());
  }));
  auto sub = rt->bus().subscribe<job>("brittle", subscribe_options().on_failure(failure_policy::escalate(2)),
                                      [](const job&) { throw std::runtime_error("broken"); });
  for (int i = 0; i < 2; ++i) rt->bus().publish(job{i});
  const auto report = rt->wait_for_shutdown();
  CHECK(report.reason == "escalated by brittle");
  CHECK(report.drained);
  told.wait_for(1);
  CHECK(told.all().front() == "brittle");
  for (const bool each : requested.all()) CHECK(each);
}

TEST_CASE("a task that may not be restarted any more and escalates requests the shutdown", "[shutdown][T18]") {
  const time_limit limit;
  record<std::string> told;
  penstock::runtime rt(workers().on_escalate([&](const failure& why) { told.add(why.task); }));
  auto handle = rt.tasks().spawn(
      "crasher",
      spawn_options().restart(
          restart_policy().attempts(2).within(1h).pauses(retry_policy().backoff(1ms).jitter(0.0)).escalate()),
      [] { throw std::runtime_error("again"); });
  const auto report = rt.wait_for_shutdown();
  CHECK(report.reason == "escalated by crasher");
  told.wait_for(1);
  CHECK(told.all() == std::vector<std::string>{"crasher"});
  CHECK(handle.wait() == task_status::failed);
  CHECK(handle.info().runs == 3);
  CHECK(report.tasks.left() == 0);
}

// --- what it tells -----------------------------------------------------------------------------------------------------

TEST_CASE("a clean stop logs nothing, by shutdown as by the destructor, with tasks and signals", "[shutdown][T16]") {
  const time_limit limit;
  const bool by_destructor = GENERATE(false, true);
  bool clean = true;
  const std::string text = errors_written_in([&] {
    auto rt = std::make_unique<penstock::runtime>(workers().stop_on_signals({SIGUSR1}));
    gate begun, slept;
    auto sub = rt->bus().subscribe<job>("counted", [](const job&) {});
    auto sleeper = rt->tasks().spawn("sleeper", sleeps_for_ever(slept));
    auto kept = rt->tasks().spawn("kept", spawn_options().keep_until_drained(), [&](const std::stop_token& stop) {
      begun.open();
      wait_for_stop(stop);
    });
    rt->tasks().every("ticker", 1ms, [] {});
    begun.wait();
    slept.wait();
    for (int i = 0; i < 100; ++i) rt->bus().publish(job{i});
    if (!by_destructor) clean = rt->shutdown(25s).clean();
    rt.reset();
    clean = clean && sleeper.status() == task_status::cancelled && kept.status() == task_status::completed;
  });
  CHECK(clean);
  CHECK(text.empty());
  CAPTURE(text);
}

TEST_CASE("a destructor whose shutdown is not clean logs the report once", "[shutdown][T19]") {
  const time_limit limit;
  gate release, over, begun;
  const std::string text = errors_written_in([&] {
    penstock::runtime rt(workers().shutdown_within(50ms));
    rt.tasks().spawn("deaf", [&] {
      begun.open();
      release.wait();
      over.open();
    });
    begun.wait();
  });
  CHECK_THAT(text, contains_text("warning"));
  CHECK_THAT(text, contains_text("deaf"));
  CHECK(text.find("deaf") == text.rfind("deaf"));
  release.open();
  over.wait();
}

TEST_CASE("a report names every delivery that is still held, and no age that it cannot know", "[shutdown][S5]") {
  const time_limit limit;
  penstock::runtime rt(workers());
  auto in = rt.bus().stream<job>("held");
  rt.bus().publish(job{1});
  rt.bus().publish(job{2});
  auto one = in.receive();
  const auto report = rt.shutdown(50ms);
  REQUIRE(report.stuck.size() == 1);
  CHECK(report.stuck[0].subscription == "held");
  CHECK(report.stuck[0].at_least == 0s);
  CHECK_FALSE(report.drained);
  CHECK(report.undelivered() == 1);
  CHECK(balanced(report));
  one.done();
  CHECK(in.ledger().handled == 1);
  CHECK(in.ledger().balanced());
}

// --- the end of the object ---------------------------------------------------------------------------------------------

TEST_CASE("a runtime destroyed while its tasks run asks them all and waits for them", "[shutdown]") {
  const time_limit limit;
  task_handle function, coroutine, kept, ticker;
  {
    penstock::runtime rt(workers().shutdown_within(25s));
    gate a, b, c;
    function = rt.tasks().spawn("function", [&](const std::stop_token& stop) { a.open(), wait_for_stop(stop); });
    coroutine = rt.tasks().spawn("coroutine", sleeps_for_ever(b));
    kept = rt.tasks().spawn("kept", spawn_options().keep_until_drained(),
                            [&](const std::stop_token& stop) { c.open(), wait_for_stop(stop); });
    ticker = rt.tasks().every("ticker", 1h, [] {});
    a.wait(), b.wait(), c.wait();
  }
  CHECK(function.status() == task_status::completed);
  CHECK(coroutine.status() == task_status::cancelled);
  CHECK(kept.status() == task_status::completed);
  CHECK(ticker.status() == task_status::cancelled);
}

TEST_CASE("a runtime may be destroyed inside one of its own tasks, and the others are asked to end", "[shutdown][D6]") {
  const time_limit limit;
  const bool coroutine = GENERATE(false, true);
  CAPTURE(coroutine);
  auto rt = std::make_shared<std::unique_ptr<penstock::runtime>>(std::make_unique<penstock::runtime>(workers()));
  const event_bus bus = (*rt)->bus();
  gate kept_begun, gone;
  auto kept = (*rt)->tasks().spawn("kept", spawn_options().keep_until_drained(), [&](const std::stop_token& stop) {
    kept_begun.open();
    wait_for_stop(stop);
  });
  kept_begun.wait();
  task_handle destroyer;
  if (coroutine)
    destroyer = (*rt)->tasks().spawn("destroyer", [&, rt]() -> task<void> {
      rt->reset();
      gone.open();
      co_return;
    });
  else
    destroyer = (*rt)->tasks().spawn("destroyer", [&, rt] {
      rt->reset();
      gone.open();
    });
  const auto began = std::chrono::steady_clock::now();
  gone.wait();
  CHECK(std::chrono::steady_clock::now() - began < 4s);  // less than the budget: it has not waited for itself
  CHECK(bus.publish(job{1}).error() == errc::closed);
  CHECK(kept.wait() == task_status::completed);
  CHECK(destroyer.wait() != task_status::running);
}

TEST_CASE("a closure that holds the last reference to its runtime ends it when it is destroyed by the shutdown",
          "[shutdown][D6]") {
  const time_limit limit;
  auto rt = std::make_shared<penstock::runtime>(workers());
  penstock::runtime* raw = rt.get();
  const std::weak_ptr<penstock::runtime> alive = rt;
  const event_bus bus = rt->bus();
  std::atomic<int> handled{0};
  auto holder = bus.subscribe<job>("holder", [&handled, rt](const job&) { ++handled; });
  auto other = bus.subscribe<job>("other", [&handled](const job&) { ++handled; });
  for (int i = 0; i < 50; ++i) bus.publish(job{i});
  rt.reset();
  const auto report = raw->shutdown(25s);
  CHECK(alive.expired());
  CHECK(report.clean());
  CHECK(handled == 100);
  CHECK(holder.close() == close_status::closed);
  CHECK(other.close() == close_status::closed);
}

TEST_CASE("a task of one runtime may wait for the end of another, whose handlers and tasks go on until then",
          "[shutdown]") {
  const time_limit limit;
  penstock::runtime one(workers()), two(workers());
  record<shutdown_report> reports;
  gate begun;
  auto sub = two.bus().subscribe<job>("counted", [](const job&) {});
  auto sleeper = two.tasks().spawn("sleeper", sleeps_for_ever(begun));
  begun.wait();
  for (int i = 0; i < 10; ++i) two.bus().publish(job{i});
  one.tasks().spawn("supervisor", [&] { reports.add(two.shutdown(25s, "by the other")); });
  reports.wait_for(1);
  CHECK(reports.all().front().clean());
  CHECK(reports.all().front().subscriptions.at(0).ledger.handled == 10);
  CHECK(sleeper.status() == task_status::cancelled);
  CHECK_FALSE(one.shutdown_requested());
  CHECK(one.shutdown(25s).clean());
}

TEST_CASE("a runtime whose constructor throws leaves no thread and no signal action behind", "[shutdown][X1]") {
  const time_limit limit;
  struct sigaction before {}, after {};
  sigaction(SIGUSR1, nullptr, &before);
  const std::size_t threads = threads_of_process();
  const auto refused = refusal_of([] { penstock::runtime rt(workers().stop_on_signals({SIGUSR1, SIGKILL})); });
  CHECK(refused.first == errc::invalid_argument);
  CHECK_THAT(refused.second, contains_text("signal 9"));
  sigaction(SIGUSR1, nullptr, &after);
  CHECK(before.sa_handler == after.sa_handler);
  CHECK(threads_of_process() <= threads);
  penstock::runtime again(workers().stop_on_signals({SIGUSR1}));  // nothing stands in its way
}

TEST_CASE("after fork the child's shutdown answers at once, whatever it asks, and the parent goes on", "[S6][P13]") {
  const time_limit limit;
  penstock::runtime rt(workers());
  gate begun;
  auto sleeper = rt.tasks().spawn("sleeper", sleeps_for_ever(begun));
  begun.wait();
  const auto in_fork = [](auto body) { return in_child([&] { return body() ? 0 : 1; }); };
  CHECK(in_fork([&] {
          rt.request_shutdown("child");
          rt.force_shutdown();
          return !rt.shutdown_requested();
        }) == "exit 0");
  CHECK(in_fork([&] { return rt.shutdown(1h).reason.find("forked") != std::string::npos; }) == "exit 0");
  CHECK(in_fork([&] { return rt.wait_for_shutdown().reason.find("forked") != std::string::npos; }) == "exit 0");
  CHECK(in_fork([&] { return rt.tasks().try_spawn("child's", spawn_options(), [] {}).error == errc::forked; }) ==
        "exit 0");
  CHECK(in_fork([&] {
          rt.~runtime();
          return true;
        }) == "exit 0");
  CHECK_FALSE(rt.shutdown_requested());
  CHECK(sleeper.status() == task_status::running);
  CHECK(rt.shutdown(25s).clean());
}

#if !defined(TEST_THREAD_SANITIZED)  // which does not allow a child of a program with threads to start some
TEST_CASE("a runtime with tasks that ends in a static destructor ends them, and late handles answer closed",
          "[S6][P11]") {
  const time_limit limit;
  CHECK(in_child([]() -> int {
          struct last {
            std::unique_ptr<penstock::runtime> rt;
            task_handle sleeper, function;
            ~last() {
              if (!rt) return;
              const event_bus bus = rt->bus();
              const penstock::task_registry tasks = rt->tasks();
              rt.reset();
              const bool ended = sleeper.status() == task_status::cancelled && function.done();
              const bool closed = bus.publish(job{1}).error() == errc::closed &&
                                  tasks.try_spawn("late", spawn_options(), [] {}).error == errc::closed;
              _exit(ended && closed ? 42 : 43);
            }
          };
          static last user;
          static gate begun, function_begun;
          user.rt = std::make_unique<penstock::runtime>(workers());
          user.sleeper = user.rt->tasks().spawn("sleeper", sleeps_for_ever(begun));
          user.function = user.rt->tasks().spawn("function", [](const std::stop_token& stop) {
            function_begun.open();
            wait_for_stop(stop);
          });
          begun.wait();
          function_begun.wait();
          std::exit(0);
        }) == "exit 42");
}
#endif

// --- signals -----------------------------------------------------------------------------------------------------------

namespace {

/// The actions of all signals.
std::vector<struct sigaction> actions_now() {
  std::vector<struct sigaction> all;
  for (int each = 1; each <= SIGRTMAX; ++each) {
    struct sigaction action {};
    sigaction(each, nullptr, &action);
    all.push_back(action);
  }
  return all;
}
/// Set by the C library's own sigaction, whatever it is given (SA_RESTORER).
constexpr int kernels_own = 0x04000000;
bool same_actions(const std::vector<struct sigaction>& a, const std::vector<struct sigaction>& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i].sa_handler != b[i].sa_handler || ((a[i].sa_flags ^ b[i].sa_flags) & ~kernels_own) != 0) return false;
  return a.size() == b.size();
}

}  // namespace

TEST_CASE("a runtime that was not asked to touches no signal's action and no mask, SIGPIPE among them", "[P14][P15]") {
  const time_limit limit;
  const auto before = actions_now();
  sigset_t mask_before, mask_after;
  pthread_sigmask(SIG_BLOCK, nullptr, &mask_before);
  {
    penstock::runtime rt(workers());
    CHECK(same_actions(before, actions_now()));
    (void)rt.shutdown(25s);
    CHECK(same_actions(before, actions_now()));
  }
  pthread_sigmask(SIG_BLOCK, nullptr, &mask_after);
  CHECK(same_actions(before, actions_now()));
  for (int each = 1; each <= SIGRTMAX; ++each)
    CHECK(sigismember(&mask_before, each) == sigismember(&mask_after, each));
}

TEST_CASE("a runtime that watches signals touches only those, and restores their actions, one given twice too",
          "[P14]") {
  const time_limit limit;
  struct sigaction own {};
  own.sa_handler = SIG_IGN;
  struct sigaction first {};
  sigaction(SIGUSR2, &own, &first);
  const auto before = actions_now();
  {
    penstock::runtime rt(workers().stop_on_signals({SIGUSR1, SIGUSR2, SIGUSR1}));
    const auto during = actions_now();
    for (int each = 1; each <= SIGRTMAX; ++each) {
      const auto at = static_cast<std::size_t>(each - 1);
      CAPTURE(each);
      CHECK((before[at].sa_handler == during[at].sa_handler) == (each != SIGUSR1 && each != SIGUSR2));
    }
  }
  CHECK(same_actions(before, actions_now()));
  sigaction(SIGUSR2, &first, nullptr);
}

TEST_CASE("a signal requests the shutdown, with its name as the reason", "[P14][T11]") {
  const time_limit limit;
  const int number = GENERATE(as<int>(), SIGUSR1, SIGRTMIN + 3);
  penstock::runtime rt(workers().stop_on_signals({number}));
  std::atomic<int> handled{0};
  auto sub = rt.bus().subscribe<job>("counted", [&](const job&) { ++handled; });
  for (int i = 0; i < 10; ++i) rt.bus().publish(job{i});
  kill(getpid(), number);
  const auto report = rt.wait_for_shutdown();
  CHECK(report.clean());
  CHECK(handled == 10);
  CHECK(report.reason == (number == SIGUSR1 ? "signal USR1" : "signal " + std::to_string(number)));
}

TEST_CASE("the second signal forces the shutdown, be it the same one or another", "[P14][T11]") {
  const time_limit limit;
  const int second = GENERATE(SIGUSR1, SIGUSR2);
  penstock::runtime rt(workers().stop_on_signals({SIGUSR1, SIGUSR2}).shutdown_within(24h));
  gate release, over;
  record<int> begun;
  auto sub = rt.bus().subscribe<job>("endless", [&](const job&) {
    begun.add(1);
    release.wait();
    over.open();
  });
  rt.bus().publish(job{1});
  begun.wait_for(1);
  kill(getpid(), SIGUSR1);
  eventually([&] { return rt.shutdown_requested(); });
  kill(getpid(), second);
  const auto report = rt.wait_for_shutdown();
  CHECK(report.forced);
  CHECK(report.reason == "signal USR1");
  REQUIRE(report.stuck.size() == 1);
  CHECK(report.stuck[0].subscription == "endless");
  release.open();
  over.wait();
}

TEST_CASE("while a destructor waits a second signal forces its end, and the actions come back only then",
          "[P14][T11]") {
  const time_limit limit;
  const auto before = actions_now();
  record<penstock::log_record> said;
  gate release, over, begun, waits, asked;
  std::optional<penstock::runtime> rt(
      std::in_place,
      workers().stop_on_signals({SIGUSR1, SIGUSR2}).shutdown_within(24h).log_to([&](const penstock::log_record& line) {
        said.add(line);
      }));
  auto sub = rt->bus().subscribe<job>("endless", [&](const job&) {
    begun.open();
    release.wait();
    over.open();
  });
  rt->bus().publish(job{1});
  rt->tasks().spawn("is asked", [&](const std::stop_token& stop) {
    waits.open();
    wait_for_stop(stop);
    asked.open();
  });
  begun.wait();
  waits.wait();
  std::thread ends([&] { rt.reset(); });
  asked.wait();  // the destructor's shutdown has begun
  CHECK_FALSE(same_actions(before, actions_now()));
  kill(getpid(), SIGUSR1);  // asks for what is on its way
  kill(getpid(), SIGUSR2);
  ends.join();
  CHECK_FALSE(over.is_open());
  CHECK(same_actions(before, actions_now()));
  REQUIRE(said.size() >= 1);
  CHECK_THAT(to_string(said.all()[0]), contains_text("reason=\"runtime destroyed\"") && contains_text("forced=true"));
  release.open();
  over.wait();
}

TEST_CASE("a runtime may be destroyed on the thread of its signals, by a callback of what the signal stops",
          "[P14][D6]") {
  const time_limit limit;
  const std::size_t threads = threads_of_process();
  std::unique_ptr<penstock::runtime> rt = std::make_unique<penstock::runtime>(
      workers().stop_on_signals({SIGUSR1}).log_to([](const penstock::log_record&) {}));
  gate begun, over, destroyed;
  rt->tasks().spawn("ends its runtime", [&](const std::stop_token& stop) {
    gate asked;
    std::stop_callback on_stop(stop, [&] {
      rt.reset();
      destroyed.open();
      asked.open();
    });
    begun.open();
    asked.wait();
    over.open();
  });
  begun.wait();
  kill(getpid(), SIGUSR1);
  destroyed.wait();
  over.wait();
  eventually([&] { return threads_of_process() <= threads; });  // the watcher's thread has ended too; an earlier one may have, as well
}

TEST_CASE("there is one watcher in a process at a time, and the next may come when it has gone", "[P14]") {
  const time_limit limit;
  const std::size_t threads = threads_of_process();
  {
    penstock::runtime first(workers().stop_on_signals({SIGUSR1}));
    struct sigaction during {}, after {};
    sigaction(SIGUSR1, nullptr, &during);
    const auto refused = refusal_of([] { penstock::runtime second(workers().stop_on_signals({SIGUSR1})); });
    CHECK(refused.first == errc::already_exists);
    CHECK_THAT(refused.second, contains_text("signal"));
    sigaction(SIGUSR1, nullptr, &after);
    CHECK(during.sa_handler == after.sa_handler);
    penstock::runtime quiet(workers());  // one without signals is free to be
    kill(getpid(), SIGUSR1);
    CHECK(first.wait_for_shutdown().reason == "signal USR1");
    CHECK_FALSE(quiet.shutdown_requested());
  }
  CHECK(threads_of_process() <= threads);
  penstock::runtime next(workers().stop_on_signals({SIGUSR1}));
  kill(getpid(), SIGUSR1);
  CHECK(next.wait_for_shutdown().reason == "signal USR1");
}

TEST_CASE("a watcher of signals without a file to be had is refused, and leaves each signal's action", "[P14]") {
  CHECK(in_child([] {
          struct rlimit files {};
          getrlimit(RLIMIT_NOFILE, &files);
          struct rlimit none = files;
          none.rlim_cur = 0;
          setrlimit(RLIMIT_NOFILE, &none);
          std::error_code said;
          try {
            const signal_watcher watcher({SIGUSR1}, [](int, unsigned) {});
          } catch (const std::system_error& refused) {
            said = refused.code();
          }
          setrlimit(RLIMIT_NOFILE, &files);  // before it is looked at: a sanitizer takes a file to look at an object
          struct sigaction action {};
          sigaction(SIGUSR1, nullptr, &action);
          if (said != std::errc::too_many_files_open) return 1;
          return action.sa_handler == SIG_DFL ? 0 : 2;
        }) == "exit 0");
}

TEST_CASE("a watcher of signals tells each once, in a thread that may wait, and swallows what is thrown", "[P14]") {
  const time_limit limit;
  record<std::pair<int, unsigned>> told;
  {
    signal_watcher watcher({SIGUSR1, SIGUSR2}, [&](int signal, unsigned times) {
      told.add({signal, times});
      throw std::runtime_error("dropped");
    });
    for (const int each : {SIGUSR1, SIGUSR2, SIGUSR2}) {
      const std::size_t before = told.size();
      kill(getpid(), each);
      told.wait_for(before + 1);
    }
  }
  CHECK(told.all() ==
        std::vector<std::pair<int, unsigned>>{{SIGUSR1, 1U}, {SIGUSR2, 2U}, {SIGUSR2, 3U}});
}

TEST_CASE("errno is what it was after a signal has come", "[P14]") {
  const time_limit limit;
  record<int> told;
  const signal_watcher watcher({SIGUSR1}, [&](int signal, unsigned) { told.add(signal); });
  errno = ENOTTY;
  raise(SIGUSR1);  // its handler runs on this very thread
  const int after = errno;
  told.wait_for(1);
  CHECK(after == ENOTTY);
}

#if !defined(TEST_THREAD_SANITIZED)  // which does not allow a child of a program with threads to start some
TEST_CASE("the third signal has its default effect, also when the three come at once", "[P14]") {
  const time_limit limit;
  const bool at_once = GENERATE(false, true);
  const int third = GENERATE(SIGTERM, SIGINT);
  CHECK(in_child([&] {
          std::signal(SIGINT, SIG_DFL);
          penstock::runtime rt(workers().stop_on_signals({SIGTERM, SIGINT}).shutdown_within(24h));
          gate begun, never;
          auto sub = rt.bus().subscribe<job>("endless", [&](const job&) {
            begun.open();
            never.wait();
          });
          rt.bus().publish(job{1});
          begun.wait();
          kill(getpid(), SIGTERM);
          if (!at_once) {
            eventually([&] { return rt.shutdown_requested(); });
            kill(getpid(), SIGTERM);
            if (!rt.wait_for_shutdown().forced) return 1;
            // The default is back when the watcher's thread has come to it.
            eventually([&] {
              struct sigaction now {};
              sigaction(third, nullptr, &now);
              return now.sa_handler == SIG_DFL;
            });
          } else {
            kill(getpid(), SIGTERM);
          }
          kill(getpid(), third);
          never.wait();
          return 2;
        }) == "signal " + std::to_string(third));
}

TEST_CASE("a child after fork has the default effect of a watched signal, and the parent is not told", "[P14][P13]") {
  const time_limit limit;
  std::atomic<int> told{0};
  record<int> told_in_parent;
  const signal_watcher watcher({SIGUSR1}, [&](int signal, unsigned) { told_in_parent.add(signal); });
  CHECK(in_child([] {
          raise(SIGUSR1);
          return 1;
        }) == "signal " + std::to_string(SIGUSR1));
  kill(getpid(), SIGUSR1);
  told_in_parent.wait_for(1);
  CHECK(told_in_parent.size() == 1);
}

TEST_CASE("a child after fork may watch signals of its own, and its copy of the parent's watcher harms neither",
          "[P14][P13]") {
  const time_limit limit;
  record<int> told_in_parent;
  auto watcher =
      std::make_unique<signal_watcher>(std::vector{SIGUSR1}, [&](int signal, unsigned) { told_in_parent.add(signal); });
  CHECK(in_child([&] {
          record<int> told;
          signal_watcher own({SIGUSR1}, [&](int signal, unsigned) { told.add(signal); });
          watcher.reset();
          raise(SIGUSR1);
          told.wait_for(1);
          return told.size() == 1 ? 0 : 1;
        }) == "exit 0");
  kill(getpid(), SIGUSR1);
  told_in_parent.wait_for(1);
  CHECK(told_in_parent.size() == 1);
}
#endif

TEST_CASE("a storm of signals that interrupt every wait does not disturb a shutdown", "[P14][T13]") {
  const time_limit limit;
  const signal_storm storm;
  {
    penstock::runtime rt(workers().stop_on_signals({SIGUSR1}));
    gate begun, slept;
    std::atomic<int> handled{0};
    auto sub = rt.bus().subscribe<job>("slow", subscribe_options().capacity(4), [&](const job&) -> task<void> {
      co_await penstock::sleep_for(5ms);
      ++handled;
    });
    auto sleeper = rt.tasks().spawn("sleeper", sleeps_for_ever(slept));
    auto function = rt.tasks().spawn("function", [&](const std::stop_token& stop) { begun.open(), wait_for_stop(stop); });
    begun.wait();
    slept.wait();
    for (int i = 0; i < 20; ++i) CHECK(rt.bus().publish(job{i}).accepted() == 1);
    kill(getpid(), SIGUSR1);
    const auto report = rt.wait_for_shutdown();
    CHECK(report.clean());
    CHECK(handled == 20);
    // And one that gives up at its deadline, not before.
    penstock::runtime stuck(workers());
    gate in_call, release, over;
    auto endless = stuck.bus().subscribe<job>("endless", [&](const job&) {
      in_call.open();
      release.wait();
      over.open();
    });
    stuck.bus().publish(job{1});
    in_call.wait();
    const auto gave_up = stuck.shutdown(100ms);
    CHECK(gave_up.elapsed >= 100ms);
    CHECK(gave_up.stuck.size() == 1);
    release.open();
    over.wait();
  }
  CHECK(storm.signals() > 10);
}
