// Background tasks under ten thousand schedules each: stops, ends, closes, restarts, periods, the order of a shutdown.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/deaths.hpp"
#include "schedules.hpp"

#include <penstock/exec/run.hpp>
#include <penstock/exec/sleep.hpp>
#include <penstock/exec/task.hpp>
#include <penstock/task/task_registry.hpp>
#include <penstock/testing/simulation.hpp>

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using penstock::errc;
using penstock::missed_ticks;
using penstock::restart_policy;
using penstock::retry_policy;
using penstock::spawn_options;
using penstock::stop_order;
using penstock::subscribe_options;
using penstock::task;
using penstock::task_counts;
using penstock::task_handle;
using penstock::task_info;
using penstock::task_registry;
using penstock::task_report;
using penstock::task_status;
using penstock::testing::simulation;
using penstock_test::all_seeds_ran;
using penstock_test::dawdle;
using penstock_test::in_all_schedules;
using penstock_test::witness;

namespace {

std::chrono::milliseconds some_ms(simulation& sim, std::uint64_t most) {
  return std::chrono::milliseconds(static_cast<std::chrono::milliseconds::rep>(sim.random(most + 1)));
}

/// The tasks of a simulated runtime, whose failures are counted.
task_registry& tasks_of(simulation& sim, int& failures) {
  penstock::runtime_options options;
  options.on_failure([&failures](const penstock::failure&) { ++failures; });
  options.on_escalate([](const penstock::failure&) {});
  return sim.runtime(std::move(options)).tasks();
}

void require_account(simulation& sim, const task_counts& counts, std::uint64_t spawned) {
  sim.require(counts.balanced(), "not balanced: " + to_string(counts));
  sim.require(counts.running == 0, "not at rest: " + to_string(counts));
  sim.require(counts.spawned == spawned, "another number was spawned: " + to_string(counts));
}

/// What one task did, for the test's own account.
struct body_log {
  int inside = 0;
  int began = 0;
  int returned = 0;
  int threw = 0;
  int interrupted = 0;  ///< left by `cancelled`
  int deaths = 0;       ///< of its closure
};

void run_function(simulation& sim, body_log& log, const std::stop_token& stop, bool fails) {
  ++log.began;
  ++log.inside;
  for (int i = 0; i < 3 && !stop.stop_requested(); ++i) {
    sim.sleep_for(some_ms(sim, 3));
    dawdle(sim);
  }
  --log.inside;
  if (fails) {
    ++log.threw;
    throw std::runtime_error("as planned");
  }
  ++log.returned;
}

task<> run_coroutine(simulation& sim, body_log& log, bool fails) {
  ++log.began;
  ++log.inside;
  try {
    for (int i = 0; i < 3; ++i) co_await penstock::sleep_for(some_ms(sim, 3));
  } catch (const penstock::cancelled&) {
    --log.inside;
    ++log.interrupted;
    throw;
  }
  --log.inside;
  if (fails) {
    ++log.threw;
    throw std::runtime_error("as planned");
  }
  ++log.returned;
}

task_handle spawn_some(simulation& sim, const task_registry& tasks, body_log& log, const spawn_options& options,
                       bool is_function, bool fails) {
  witness closure(log.deaths);
  if (is_function) {
    auto body = [&sim, &log, fails, own = std::move(closure)](const std::stop_token& stop) {
      run_function(sim, log, stop, fails);
    };
    return tasks.spawn("some", options, std::move(body));
  }
  auto body = [&sim, &log, fails, own = std::move(closure)] { return run_coroutine(sim, log, fails); };
  return tasks.spawn("some", options, std::move(body));
}

bool is_cancelled_with(const std::exception_ptr& error, const std::string& reason, const std::string& who) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const penstock::cancelled& thrown) {
    return thrown.why().reason == reason && thrown.why().who == who;
  } catch (...) {
  }
  return false;
}

task<> await_end(simulation& sim, task_handle of, body_log& log, int& told) {
  const task_status how = co_await of.async_wait();
  sim.require(how != task_status::running && of.done(), "an await came back before the end");
  sim.require(log.inside == 0 && log.deaths == 1, "an await came back while code of the task was there");
  ++told;
}

}  // namespace

TEST_CASE("a task that is asked to stop at any instant ends once, and says truly how") {
  int before_start = 0, stopped = 0, completed = 0, failed = 0, too_late = 0;
  in_all_schedules([&](simulation& sim) {
    int failures = 0, told = 0, awaited = 0, waited = 0;
    body_log log;
    const auto& tasks = tasks_of(sim, failures);
    const bool is_function = sim.random(2) == 0;
    const bool fails = sim.random(3) == 0;
    const task_handle handle = spawn_some(sim, tasks, log, spawn_options(), is_function, fails);
    bool asked = false;
    sim.thread("canceller", [&] {
      if (sim.random(2) == 0) sim.sleep_for(some_ms(sim, 9));
      dawdle(sim);
      asked = handle.request_cancel("enough", "tester");
      sim.require(!handle.request_cancel("again", "somebody else"), "a second request was taken");
    });
    sim.thread("waiter", [&] {
      dawdle(sim);
      sim.require(handle.wait() != task_status::running, "a wait without a limit came back too early");
      sim.require(log.inside == 0 && log.deaths == 1, "a wait came back while code of the task was there");
      ++waited;
    });
    handle.on_done([&](const task_handle& ended) {
      sim.require(ended.done() && log.inside == 0 && log.deaths == 1, "on_done was told too early");
      ++told;
    });
    const task_handle observer = tasks.spawn("observer", [&] { return await_end(sim, handle, log, awaited); });
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(told == 1 && awaited == 1 && waited == 1, "an end was told twice, or not at all");
    sim.require(log.began <= 1 && log.deaths == 1, "it ran twice, or its closure is still there");
    const task_info info = handle.info();
    sim.require(info.stop_requested == asked, "what request_cancel said and what the task remembers differ");
    sim.require(failures == log.threw, "a failure was told twice, or not at all");
    switch (handle.status()) {
      case task_status::completed:
        sim.require(log.returned == 1 && handle.error() == nullptr, "completed, and did not return");
        ++(asked ? too_late : completed);
        break;
      case task_status::failed: sim.require(log.threw == 1, "failed, and did not throw"); ++failed; break;
      case task_status::cancelled:
        sim.require(asked && log.returned + log.threw == 0, "cancelled, and was not");
        sim.require(is_cancelled_with(handle.error(), "enough", "tester"), "the cause is lost");
        sim.require(info.stop_by == "tester" && info.stop_reason == "enough", "the cause is not shown");
        ++(log.began == 0 ? before_start : stopped);
        break;
      default: sim.require(false, "it ended by nothing it could end by: " + to_string(info));
    }
    require_account(sim, tasks.counts(), 2);
  });
  if (!all_seeds_ran()) return;
  CHECK(before_start > 0);
  CHECK(stopped > 0);
  CHECK(completed > 0);
  CHECK(failed > 0);
  CHECK(too_late > 0);
}

TEST_CASE("each spawn that meets a close is refused and destroyed, or has ended when the close returns") {
  int refused = 0, taken = 0, both = 0;
  in_all_schedules([&](simulation& sim) {
    int failures = 0;
    const auto& all = tasks_of(sim, failures);
    const bool of_group = sim.random(2) == 0;
    const task_registry tasks = of_group ? all.owner("group") : all;
    std::vector<std::unique_ptr<body_log>> logs;
    std::vector<task_handle> handles;
    body_log other;
    task_handle outside;
    if (of_group) outside = spawn_some(sim, all, other, spawn_options(), false, false);
    int here_refused = 0;
    bool closed = false;
    for (int spawner = 0; spawner < 2; ++spawner) {
      sim.thread("spawner", [&] {
        for (int i = 0; i < 3; ++i) {
          body_log& log = *logs.emplace_back(std::make_unique<body_log>());
          try {
            handles.push_back(spawn_some(sim, tasks, log, spawn_options(), sim.random(2) == 0, false));
            sim.require(!closed, "a spawn was taken after a close had returned");
          } catch (const std::system_error& error) {
            sim.require(error.code() == errc::closed, error.what());
            sim.require(log.deaths == 1 && log.began == 0, "refused work was run, or is still there");
            ++here_refused;
          }
          dawdle(sim);
        }
      });
    }
    sim.thread("closer", [&] {
      if (sim.random(2) == 0) sim.sleep_for(some_ms(sim, 4));
      dawdle(sim);
      const task_report report = tasks.close(std::chrono::hours(1), "the test closes");
      closed = true;
      sim.require(report.clean(), "left, after an hour: " + to_string(report));
      for (const task_info& each : report.tasks) sim.require(each.status != task_status::running, to_string(each));
      for (const task_handle& each : handles) sim.require(each.done(), "a close returned before " + to_string(each.info()));
      for (const auto& each : logs)
        sim.require(each->inside == 0, "a close returned while code of a task ran");
      sim.require(tasks.snapshot().empty(), "a task is left in the list");
      if (!of_group) sim.require(tasks.counts().running == 0, "closed, and one is running: " + to_string(tasks.counts()));
    });
    sim.run_until_idle();
    sim.require_all_done();
    std::uint64_t deaths = 0;
    for (const auto& each : logs) deaths += static_cast<std::uint64_t>(each->deaths);
    sim.require(deaths == logs.size(), "a closure was destroyed twice, or not at all");
    sim.require(all.counts().refused == static_cast<std::uint64_t>(here_refused), "a refusal was not counted");
    if (of_group) sim.require(outside.status() == task_status::completed, "a group's close reached a task outside");
    require_account(sim, all.counts(), handles.size() + (of_group ? 1 : 0));
    refused += here_refused;
    taken += static_cast<int>(handles.size());
    if (here_refused > 0 && !handles.empty()) ++both;
  });
  if (!all_seeds_ran()) return;
  CHECK(refused > 0);
  CHECK(taken > 0);
  CHECK(both > 0);
}

namespace {

task<> close_and_look(simulation& sim, task_registry tasks, std::chrono::milliseconds limit, bool& was_clean, int& told) {
  const auto began = sim.elapsed();
  const task_report report = co_await tasks.async_close(limit);
  ++told;
  was_clean = report.clean();
  if (!was_clean) sim.require(sim.elapsed() - began == limit, "a close gave up before its deadline, or after it");
  sim.require(report.tasks.size() <= 3, "a report names who is not of the group");
  for (const task_info& each : report.tasks) {
    sim.require(each.stop_requested && each.stop_kind == penstock::cancel_kind::closed, "it was not asked: " + to_string(each));
    if (each.name == "stuck") continue;
    sim.require(!was_clean || each.status != task_status::running, to_string(each));
  }
}

}  // namespace

TEST_CASE("async_close ends with the last task or at its deadline, and a cancel leaves the closing as it is") {
  int clean = 0, late = 0, left = 0;
  in_all_schedules([&](simulation& sim) {
    int failures = 0, told = 0;
    const auto& all = tasks_of(sim, failures);
    const task_registry group = all.owner("group");
    std::vector<std::unique_ptr<body_log>> logs;
    std::vector<task_handle> handles;
    for (int i = 0; i < 2; ++i) {
      body_log& log = *logs.emplace_back(std::make_unique<body_log>());
      handles.push_back(spawn_some(sim, group, log, spawn_options(), sim.random(2) == 0, sim.random(4) == 0));
    }
    const auto stuck_for = some_ms(sim, 20);
    handles.push_back(group.spawn("stuck", [&sim, stuck_for] { sim.sleep_for(stuck_for); }));
    bool was_clean = false;
    std::vector<task_handle> closers;
    const auto limit = some_ms(sim, 20);
    for (int i = 0; i < 2; ++i)
      closers.push_back(all.spawn("closer", [&] { return close_and_look(sim, group, limit, was_clean, told); }));
    const bool cancels = sim.random(3) == 0;
    if (cancels)
      sim.thread("canceller", [&] {
        sim.sleep_for(some_ms(sim, 20));
        closers[0].request_cancel();
      });
    sim.run_until_idle();
    sim.require_all_done();
    int ended = 0, cancelled = 0;
    for (const task_handle& each : closers) {
      ended += each.status() == task_status::completed ? 1 : 0;
      cancelled += each.status() == task_status::cancelled ? 1 : 0;
    }
    sim.require(ended + cancelled == 2 && told == ended, "a close was told twice, or not at all");
    for (const task_handle& each : handles) sim.require(each.done(), "a task of a closed group goes on");
    require_account(sim, all.counts(), 5);
    if (cancelled > 0)
      ++left;
    else
      ++(was_clean ? clean : late);
  });
  if (!all_seeds_ran()) return;
  CHECK(clean > 0);
  CHECK(late > 0);
  CHECK(left > 0);
}

TEST_CASE("a task that fails is started again after exactly its pauses, until it fails too often within the window") {
  int gave_up = 0, recovered = 0;
  in_all_schedules([&](simulation& sim) {
    int failures = 0;
    const auto& tasks = tasks_of(sim, failures);
    const auto attempts = static_cast<unsigned>(1 + sim.random(4));
    const std::chrono::milliseconds window(50 + static_cast<std::int64_t>(sim.random(2000)));
    const std::chrono::milliseconds first(static_cast<std::int64_t>(sim.random(200)));
    const auto policy =
        restart_policy().attempts(attempts).within(window).pauses(retry_policy().backoff(first).factor(2).jitter(0));
    const int needed = 1 + static_cast<int>(sim.random(8));  // it succeeds at this run
    std::vector<std::chrono::nanoseconds> began;
    const auto body = [&] {
      began.push_back(sim.elapsed());
      if (static_cast<int>(began.size()) < needed) throw std::runtime_error("not yet");
    };
    const bool is_function = sim.random(2) == 0;
    task_handle handle;
    if (is_function)
      handle = tasks.spawn("again", spawn_options().restart(policy), body);
    else
      handle = tasks.spawn("again", spawn_options().restart(policy), [&body]() -> task<> {
        body();
        co_return;
      });
    // What it should do, told from the words of the contract.
    std::vector<std::chrono::nanoseconds> expected, failed;
    std::chrono::nanoseconds now = sim.elapsed();
    bool for_good = false;
    for (;;) {
      expected.push_back(now);
      if (static_cast<int>(expected.size()) == needed) break;
      failed.push_back(now);
      unsigned within = 0;
      for (const auto& each : failed) within += now - each <= window ? 1 : 0;
      if (within > attempts) {
        for_good = true;
        break;
      }
      now += first * (1 << (within - 1));
    }
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(began == expected, "it was started at other instants than its policy says");
    sim.require(failures == static_cast<int>(failed.size()), "a failure was told twice, or not at all");
    const task_info info = handle.info();
    sim.require(info.status == (for_good ? task_status::failed : task_status::completed), to_string(info));
    sim.require(info.runs == expected.size() && info.failures == failed.size(), to_string(info));
    require_account(sim, tasks.counts(), 1);
    ++(for_good ? gave_up : recovered);
  });
  if (!all_seeds_ran()) return;
  CHECK(gave_up > 0);
  CHECK(recovered > 0);
}

TEST_CASE("a stop that meets a failure, a pause or a restart is the end, and nothing starts after it") {
  int paused = 0, escalations = 0, cancelled = 0;
  in_all_schedules([&](simulation& sim) {
    int failures = 0, escalated = 0, told = 0, runs = 0;
    penstock::runtime_options options;
    options.on_failure([&failures](const penstock::failure&) { ++failures; });
    options.on_escalate([&escalated](const penstock::failure& record) { escalated += record.task == "restless" ? 1 : 100; });
    auto& rt = sim.runtime(std::move(options));
    auto& tasks = rt.tasks();
    const auto policy = restart_policy().attempts(3).within(1h).escalate().pauses(
        retry_policy().backoff(some_ms(sim, 2)).factor(1).jitter(0));
    bool stopped = false;
    int deaths = 0;
    witness closure(deaths);
    auto body = [&, own = std::move(closure)] {
      sim.require(!stopped, "it was started after its end");
      ++runs;
      dawdle(sim);
      throw std::runtime_error("again");
    };
    const task_handle handle = tasks.spawn("restless", spawn_options().restart(policy), std::move(body));
    handle.on_done([&](const task_handle&) { ++told; });
    bool asked = false;
    sim.thread("canceller", [&] {
      sim.sleep_for(some_ms(sim, 8));
      dawdle(sim);
      const bool was_paused = handle.info().pausing;
      asked = handle.request_cancel("enough");
      handle.wait();
      sim.require(deaths == 1, "its closure is still there");
      stopped = true;
      if (was_paused && asked) ++paused;
    });
    sim.run_until_idle();
    sim.require_all_done();
    const task_info info = handle.info();
    sim.require(told == 1 && failures == runs && static_cast<std::uint64_t>(runs) == info.runs, "miscounted: " + to_string(info));
    sim.require(info.status == task_status::cancelled || info.status == task_status::failed, to_string(info));
    sim.require(escalated == (info.status == task_status::failed && !asked ? 1 : 0), "an escalation was lost, or too many");
    sim.require(rt.shutdown_requested() == (escalated == 1), "an escalation did not ask for the end, or something else did");
    require_account(sim, tasks.counts(), 1);
    escalations += escalated;
    cancelled += info.status == task_status::cancelled ? 1 : 0;
  });
  if (!all_seeds_ran()) return;
  CHECK(paused > 0);
  CHECK(escalations > 0);
  CHECK(cancelled > 0);
}

TEST_CASE("a periodic task keeps its instants over virtual hours, whatever its ticks take, and counts what it leaves out") {
  std::uint64_t overran = 0;
  in_all_schedules([&](simulation& sim) {
    int failures = 0;
    const auto& tasks = tasks_of(sim, failures);
    const std::chrono::minutes period(10 + static_cast<std::int64_t>(sim.random(50)));
    const auto policy = static_cast<missed_ticks>(sim.random(3));
    std::vector<std::chrono::nanoseconds> lengths;
    std::vector<bool> throws;
    for (int i = 0; i < 60; ++i) {
      lengths.push_back(sim.random(2) == 0 ? 0min : std::chrono::minutes(sim.random(100)));
      throws.push_back(sim.random(8) == 0);
    }
    std::vector<std::chrono::nanoseconds> began;
    bool inside = false;
    const auto enter = [&] {
      sim.require(!inside, "two ticks overlap");
      inside = true;
      began.push_back(sim.elapsed());
      return began.size() - 1;
    };
    const auto leave = [&](std::size_t index) {
      inside = false;
      if (throws[index]) throw std::runtime_error("a tick failed");
    };
    const auto start = sim.elapsed();
    const auto as_coroutine = [&]() -> task<> {
      const std::size_t index = enter();
      try {
        co_await penstock::sleep_for(lengths[index]);
      } catch (const penstock::cancelled&) {
        inside = false;
        throw;
      }
      leave(index);
    };
    const auto as_function = [&] {
      const std::size_t index = enter();
      sim.sleep_for(lengths[index]);
      leave(index);
    };
    const bool is_function = sim.random(2) == 0;
    const task_handle handle = is_function ? tasks.every("ticks", period, as_function, policy)
                                           : tasks.every("ticks", period, as_coroutine, policy);
    constexpr std::chrono::nanoseconds span = 8h;
    sim.run_for(span);
    const task_info info = handle.info();
    // What it should have done, told from the words of the contract.
    std::vector<std::chrono::nanoseconds> expected;
    std::uint64_t missed = 0;
    int threw = 0;
    std::chrono::nanoseconds due = start + period, now = start;
    for (std::size_t i = 0;; ++i) {
      if (due > now) now = due;
      if (now > start + span) break;
      expected.push_back(now);
      now += lengths[i];
      if (now > start + span) break;
      threw += throws[i] ? 1 : 0;
      if (policy == missed_ticks::delay) {
        due = now + period;
      } else {
        due += period;
        for (; policy == missed_ticks::skip && due <= now; due += period) ++missed;
      }
    }
    sim.require(began == expected, "its ticks came at other instants");
    sim.require(info.ticks == expected.size() && info.missed == missed, "miscounted: " + to_string(info));
    sim.require(failures == threw && info.failures == 0, "a failed tick was told twice, not at all, or as the task's failure");
    sim.require(info.status == task_status::running && info.runs == 1, to_string(info));
    handle.request_cancel();
    sim.run_until_idle();
    sim.require(handle.status() == task_status::cancelled && began.size() == expected.size(), to_string(handle.info()));
    require_account(sim, tasks.counts(), 1);
    overran += missed;
  });
  if (all_seeds_ran()) CHECK(overran > 0);
}

namespace {

struct item {
  int number = 0;
};
struct derived {
  int number = 0;
};

/// Publishes until it is asked to stop, and then once more.
task<> source(simulation& sim, penstock::publisher<item> out, int& published, int& refused) {
  try {
    for (;;) {
      co_await penstock::sleep_for(some_ms(sim, 3));
      const auto sent = co_await out.async_emplace(published);
      if (sent.accepted() == 1)
        ++published;
      else
        ++refused;
    }
  } catch (const penstock::cancelled&) {
    // Its last word; from here it may not wait.
    const auto last = out.try_publish(item{published});
    if (last.accepted() == 1)
      ++published;
    else
      ++refused;
    throw;
  }
}

task<> keeps(bool& open, int& asked) {
  open = true;
  try {
    co_await penstock::sleep_for(std::chrono::hours::max());
  } catch (const penstock::cancelled&) {
    ++asked;
    open = false;
    throw;
  }
}

}  // namespace

TEST_CASE("in a shutdown the first tasks publish until they end, and the kept ones last until the last handler is done") {
  int worked = 0;
  in_all_schedules([&](simulation& sim) {
    int failures = 0, published = 0, refused = 0, handled = 0, derived_handled = 0, asked = 0;
    const auto& tasks = tasks_of(sim, failures);
    auto& bus = sim.runtime().bus();
    bool store_open = false;
    const auto second = bus.subscribe<derived>("second", subscribe_options().capacity(1000), [&](const derived&) {
      sim.require(store_open, "a handler ran after what it depends on had ended");
      ++derived_handled;
    });
    const auto out = bus.publisher<derived>();
    const auto first = bus.subscribe<item>("first", subscribe_options().capacity(1000), [&](const item& event) {
      sim.require(store_open, "a handler ran after what it depends on had ended");
      dawdle(sim);
      ++handled;
      sim.require(out.emplace(event.number).accepted() == 1, "what a handler publishes was refused in the drain");
    });
    const task_handle store =
        tasks.spawn("store", spawn_options().keep_until_drained(), [&] { return keeps(store_open, asked); });
    sim.run_until([&] { return store_open; });
    const auto items = bus.publisher<item>();
    const task_handle made = tasks.spawn("source", [&] { return source(sim, items, published, refused); });
    sim.thread("ender", [&] {
      sim.sleep_for(some_ms(sim, 20));
      dawdle(sim);
      const auto report = sim.runtime().shutdown(1h, "the test ends");
      sim.require(report.clean() && report.drained, to_string(report));
      sim.require(report.tasks.tasks.size() == 2 && report.tasks.clean(), to_string(report.tasks));
      for (const task_info& each : report.tasks.tasks)
        sim.require(each.status == task_status::cancelled && each.stop_kind == penstock::cancel_kind::shutdown,
                    to_string(each));
      sim.require(report.tasks.counts.balanced() && report.tasks.counts.running == 0, to_string(report.tasks.counts));
    });
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(store.done() && made.done() && asked == 1, "a task outlived the shutdown");
    sim.require(refused == 0, "a task that stops first had an event refused");
    sim.require(handled == published && derived_handled == published, "an event was lost in the drain");
    worked += published > 1 ? 1 : 0;
  });
  if (all_seeds_ran()) CHECK(worked > 0);
}

TEST_CASE("each who waits for a task's end is told once, and one that is stopped leaves the others waiting") {
  int left = 0, told_all = 0;
  in_all_schedules([&](simulation& sim) {
    int failures = 0, told = 0;
    body_log log;
    const auto& tasks = tasks_of(sim, failures);
    const task_handle handle = spawn_some(sim, tasks, log, spawn_options(), sim.random(2) == 0, false);
    std::vector<task_handle> waiters;
    for (int i = 0; i < 4; ++i)
      waiters.push_back(tasks.spawn("waiter", [&] { return await_end(sim, handle, log, told); }));
    int timed_out = 0, in_time = 0;
    for (int i = 0; i < 2; ++i)
      sim.thread("thread", [&] {
        const auto limit = some_ms(sim, 9);
        const auto began = sim.elapsed();
        if (handle.wait_for(limit) != task_status::running) {
          sim.require(log.deaths == 1 && log.inside == 0, "a wait came back while code of the task was there");
          ++in_time;
        } else {
          sim.require(sim.elapsed() - began >= limit, "a wait gave up before its time");
          ++timed_out;
        }
      });
    std::size_t stopped = 0;
    sim.thread("canceller", [&] {
      sim.sleep_for(some_ms(sim, 9));
      dawdle(sim);
      for (const std::size_t each : {1U, 2U}) stopped += waiters[each].request_cancel() ? 1 : 0;
    });
    sim.run_until_idle();
    sim.require_all_done();
    int completed = 0, cancelled = 0;
    for (const task_handle& each : waiters) {
      completed += each.status() == task_status::completed ? 1 : 0;
      cancelled += each.status() == task_status::cancelled ? 1 : 0;
    }
    sim.require(completed == told && completed + cancelled == 4, "a wait was told twice, or not at all");
    sim.require(waiters[0].status() == task_status::completed && waiters[3].status() == task_status::completed,
                "who was not stopped did not see the end");
    sim.require(static_cast<std::size_t>(cancelled) <= stopped, "cancelled, and not asked");
    sim.require(in_time + timed_out == 2, "a thread's wait did not end");
    sim.require(handle.status() == task_status::completed, "the waited-for task was touched");
    require_account(sim, tasks.counts(), 5);
    ++(cancelled > 0 ? left : told_all);
  });
  if (!all_seeds_ran()) return;
  CHECK(left > 0);
  CHECK(told_all > 0);
}

TEST_CASE("on_done is told once of each end, also when it meets the end, the end of its pool or a shutdown") {
  int by_pool = 0, by_end = 0;
  in_all_schedules([&](simulation& sim) {
    int failures = 0;
    auto& tasks = tasks_of(sim, failures);
    std::vector<std::unique_ptr<body_log>> logs;
    std::vector<task_handle> handles;
    std::vector<int> told(6);
    for (int i = 0; i < 3; ++i) {
      body_log& log = *logs.emplace_back(std::make_unique<body_log>());
      handles.push_back(spawn_some(sim, tasks, log, spawn_options(), sim.random(2) == 0, false));
    }
    const bool throws = sim.random(4) == 0;
    const auto listen = [&](std::size_t index) {
      handles[index % 3].on_done([&, index](const task_handle& ended) {
        ++told[index];
        sim.require(ended.done() && ended.id() == handles[index % 3].id(), "told of another end, or too early");
        sim.require(logs[index % 3]->deaths == 1, "told before the closure was destroyed");
        if (throws) throw std::runtime_error("from on_done");
      });
    };
    for (std::size_t i = 0; i < 3; ++i) listen(i);
    sim.thread("listener", [&] {
      for (std::size_t i = 3; i < 6; ++i) {
        sim.sleep_for(some_ms(sim, 4));
        dawdle(sim);
        listen(i);
      }
    });
    sim.thread("ender", [&] {
      sim.sleep_for(some_ms(sim, 9));
      dawdle(sim);
      const auto report = sim.runtime().shutdown(some_ms(sim, 2));
      sim.require(report.tasks.counts.balanced(), to_string(report.tasks.counts));
    });
    sim.run_until_idle();
    sim.require_all_done();
    for (std::size_t i = 0; i < 6; ++i)
      sim.require(told[i] == 1, "on_done was told " + std::to_string(told[i]) + " times");
    sim.require(failures == (throws ? 6 : 0), "what on_done threw was lost, or told twice");
    for (const task_handle& each : handles) ++(each.status() == task_status::closed ? by_pool : by_end);
    require_account(sim, tasks.counts(), 3);
  });
  if (!all_seeds_ran()) return;
  CHECK(by_pool > 0);
  CHECK(by_end > 0);
}

TEST_CASE("tasks that spawn tasks, in groups that close meanwhile, leave an account that balances") {
  int nested = 0, refused = 0;
  in_all_schedules([&](simulation& sim) {
    int failures = 0, ran = 0, here_refused = 0;
    std::uint64_t taken = 2;
    auto& tasks = tasks_of(sim, failures);
    const auto child = [&sim, &ran] {
      dawdle(sim);
      ++ran;
    };
    const auto parent = [&](const task_registry& group) {
      for (int i = 0; i < 3; ++i) {
        sim.sleep_for(some_ms(sim, 2));
        const auto made = group.try_spawn("child", spawn_options(), child);
        if (made) {
          ++taken;
        } else {
          sim.require(made.error == errc::closed && !made.handle, made.text);
          ++here_refused;
        }
      }
    };
    const task_registry one = tasks.owner("one"), two = tasks.owner("two");
    const task_handle a = tasks.spawn("parent", [&] { parent(one); });
    const task_handle b = tasks.spawn("parent", [&] { parent(two); });
    sim.thread("closer", [&] {
      sim.sleep_for(some_ms(sim, 6));
      sim.require(one.close(1h).clean(), "a group did not close");
      sim.require(one.snapshot().empty(), "a closed group has a task");
      sim.require(tasks.counts().balanced(), "not balanced: " + to_string(tasks.counts()));
    });
    sim.run_until_idle();
    sim.require_all_done();
    const task_counts counts = tasks.counts();
    require_account(sim, counts, taken);
    sim.require(counts.refused == static_cast<std::uint64_t>(here_refused), to_string(counts));
    sim.require(counts.completed + counts.cancelled == taken, "a child got lost: " + to_string(counts));
    sim.require(static_cast<std::uint64_t>(ran) + 2 <= taken, "a child ran twice");
    nested += ran;
    refused += here_refused;
  });
  if (!all_seeds_ran()) return;
  CHECK(nested > 0);
  CHECK(refused > 0);
}
