// Background tasks against stops, closes, failures and the end of their pool, preempted at every atomic operation and lock.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/deaths.hpp"
#include "coverage.hpp"

#include <penstock/exec/run.hpp>
#include <penstock/exec/sleep.hpp>
#include <penstock/exec/task.hpp>
#include <penstock/task/task_registry.hpp>
#include <penstock/testing/simulation.hpp>

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using penstock::errc;
using penstock::restart_policy;
using penstock::retry_policy;
using penstock::spawn_options;
using penstock::task;
using penstock::task_handle;
using penstock::task_info;
using penstock::task_registry;
using penstock::task_report;
using penstock::task_status;
using penstock::testing::explore;
using penstock::testing::simulation;
using penstock_test::witness;

namespace {

task_registry& tasks_of(simulation& sim, int& failures) {
  penstock::runtime_options options;
  options.on_failure([&failures](const penstock::failure&) { ++failures; });
  return sim.runtime(std::move(options)).tasks();
}

void pause_a_little(simulation& sim) {
  for (auto pause = sim.random(4); pause > 0; --pause) sim.yield();
}

/// What one task did.
struct body_log {
  int began = 0;
  int returned = 0;
  int deaths = 0;
  bool inside = false;
};

task<> two_turns(body_log& log) {
  ++log.began;
  log.inside = true;
  try {
    co_await penstock::yield();
    co_await penstock::yield();
  } catch (const penstock::cancelled&) {
    log.inside = false;
    throw;
  }
  log.inside = false;
  ++log.returned;
}

task_handle spawn_short(simulation& sim, const task_registry& tasks, body_log& log, bool is_function) {
  witness closure(log.deaths);
  if (!is_function) {
    auto factory = [&log, own = std::move(closure)] { return two_turns(log); };
    return tasks.spawn("short", std::move(factory));
  }
  auto body = [&sim, &log, own = std::move(closure)](const std::stop_token& stop) {
    ++log.began;
    log.inside = true;
    if (!stop.stop_requested()) pause_a_little(sim);
    log.inside = false;
    ++log.returned;
  };
  return tasks.spawn("short", std::move(body));
}

void require_account(simulation& sim, const task_registry& tasks, std::uint64_t spawned) {
  const penstock::task_counts counts = tasks.counts();
  sim.require(counts.balanced() && counts.running == 0 && counts.spawned == spawned, to_string(counts));
}

task<> await_end(simulation& sim, task_handle of, body_log& log, int& told) {
  const task_status how = co_await of.async_wait();
  sim.require(how != task_status::running && log.deaths == 1, "told before the end");
  ++told;
}

task<> close_group(simulation& sim, task_registry group, std::chrono::nanoseconds limit, int& told, int& clean) {
  const task_report report = co_await group.async_close(limit);
  ++told;
  clean += report.clean() ? 1 : 0;
  if (limit == std::chrono::nanoseconds::max()) sim.require(report.clean(), "closed, and left: " + to_string(report));
}

}  // namespace

TEST_CASE("a stop that meets the start, the body or the end of a task leaves exactly one end, told once to each") {
  int cancelled = 0, completed = 0, asked_too_late = 0;
  explore(10'000, [&](simulation& sim) {
    int failures = 0, told = 0, awaited = 0, listened = 0;
    body_log log;
    const auto& tasks = tasks_of(sim, failures);
    const task_handle handle = spawn_short(sim, tasks, log, sim.random(2) == 0);
    bool asked = false;
    sim.thread("canceller", [&] {
      pause_a_little(sim);
      asked = handle.request_cancel("enough", "tester");
    });
    sim.thread("waiter", [&] {
      sim.require(handle.wait() != task_status::running && log.deaths == 1 && !log.inside, "a wait came back too early");
      sim.require(tasks.counts().running <= 1, "ended, and still counted as running");
      ++told;
    });
    sim.thread("listener", [&] {
      pause_a_little(sim);
      handle.on_done([&](const task_handle& ended) {
        sim.require(ended.done() && log.deaths == 1, "on_done came too early");
        ++listened;
      });
    });
    const task_handle observer = tasks.spawn("observer", [&] { return await_end(sim, handle, log, awaited); });
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(told == 1 && awaited == 1 && listened == 1, "an end was told twice, or not at all");
    sim.require(log.began <= 1 && log.deaths == 1 && failures == 0, "it ran twice, or its closure is still there");
    const bool stopped = handle.status() == task_status::cancelled;
    sim.require(stopped ? asked && log.returned == 0 : handle.status() == task_status::completed && log.returned == 1,
                "it does not say truly how it ended: " + to_string(handle.info()));
    sim.require(handle.info().stop_requested == asked, "what request_cancel said is not what the task remembers");
    require_account(sim, tasks, 2);
    cancelled += stopped ? 1 : 0;
    completed += stopped ? 0 : 1;
    asked_too_late += asked ? 0 : 1;
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(cancelled > 0);
  CHECK(completed > 0);
  CHECK(asked_too_late > 0);
}

TEST_CASE("a close that meets spawns and ends reports no task as running that has ended, and leaves none behind") {
  int refused = 0, taken = 0;
  explore(10'000, [&](simulation& sim) {
    int failures = 0, here_refused = 0;
    const auto& all = tasks_of(sim, failures);
    const task_registry tasks = sim.random(2) == 0 ? all : all.owner("group");
    std::array<body_log, 3> logs;
    std::vector<task_handle> handles;
    handles.push_back(spawn_short(sim, tasks, logs[0], sim.random(2) == 0));
    for (const std::size_t i : {1U, 2U})
      sim.thread("spawner", [&, i] {
        pause_a_little(sim);
        try {
          handles.push_back(spawn_short(sim, tasks, logs[i], i == 1));
        } catch (const std::system_error& error) {
          sim.require(error.code() == errc::closed && logs[i].deaths == 1 && logs[i].began == 0, error.what());
          ++here_refused;
        }
      });
    for (int i = 0; i < 2; ++i)
      sim.thread("closer", [&] {
        pause_a_little(sim);
        const task_report report = tasks.close(1h);
        sim.require(report.clean(), "closed, and left: " + to_string(report));
        for (const task_handle& each : handles) sim.require(each.done(), "closed before " + to_string(each.info()));
        for (const body_log& each : logs) sim.require(!each.inside, "closed while code of a task ran");
      });
    sim.run_until_idle();
    sim.require_all_done();
    for (const body_log& each : logs) sim.require(each.deaths == 1 && each.began <= 1, "a closure is left, or ran twice");
    sim.require(handles.size() + static_cast<std::size_t>(here_refused) == 3, "a spawn was neither taken nor refused");
    sim.require(all.counts().refused == static_cast<std::uint64_t>(here_refused), to_string(all.counts()));
    require_account(sim, all, handles.size());
    refused += here_refused;
    taken += static_cast<int>(handles.size()) - 1;
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(refused > 0);
  CHECK(taken > 0);
}

TEST_CASE("an async_close whose last end meets its deadline or its own stop is told once, and truly") {
  int late = 0, in_time = 0, stopped = 0;
  explore(10'000, [&](simulation& sim) {
    int failures = 0, told = 0, clean = 0;
    const auto& all = tasks_of(sim, failures);
    const task_registry group = all.owner("group");
    body_log log;
    const task_handle member = group.spawn("member", [&] {
      sim.sleep_for(1ms);
      pause_a_little(sim);
      log.returned = 1;
    });
    const std::array<std::chrono::nanoseconds, 3> limits{1ms, 1ms + 1ns, std::chrono::nanoseconds::max()};
    std::vector<task_handle> closers;
    for (int i = 0; i < 2; ++i) {
      const auto limit = limits[sim.random(3)];
      closers.push_back(all.spawn("closer", [&, limit] { return close_group(sim, group, limit, told, clean); }));
    }
    if (sim.random(2) == 0)
      sim.thread("canceller", [&] {
        sim.sleep_for(1ms);
        pause_a_little(sim);
        closers[0].request_cancel();
      });
    sim.run_until_idle();
    sim.require_all_done();
    int ended = 0;
    for (const task_handle& each : closers) ended += each.status() == task_status::completed ? 1 : 0;
    sim.require(told == ended && closers[1].status() == task_status::completed, "a close was told twice, or not at all");
    sim.require(member.status() == (log.returned == 1 ? task_status::completed : task_status::cancelled),
                "the member did not end, or says untruly how: " + to_string(member.info()));
    require_account(sim, all, 3);
    stopped += 2 - ended;
    in_time += clean;
    late += told - clean;
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(late > 0);
  CHECK(in_time > 0);
  CHECK(stopped > 0);
}

TEST_CASE("a task that fails again and again without a pause is started each time, until it ends or is stopped") {
  int stopped = 0, recovered = 0;
  explore(10'000, [&](simulation& sim) {
    int failures = 0, runs = 0, inside = 0, told = 0, deaths = 0;
    const auto& tasks = tasks_of(sim, failures);
    const auto policy =
        restart_policy().attempts(20).within(1h).pauses(retry_policy().backoff(std::chrono::nanoseconds(sim.random(2))));
    const bool stops = sim.random(2) == 0;
    witness closure(deaths);
    auto body = [&, own = std::move(closure)] {
      sim.require(++inside == 1, "two runs of one task overlap");
      pause_a_little(sim);
      --inside;
      if (++runs < 4) throw std::runtime_error("again");
    };
    const task_handle handle = tasks.spawn("again", spawn_options().restart(policy), std::move(body));
    handle.on_done([&](const task_handle&) { ++told; });
    bool asked = false;
    if (stops)
      sim.thread("canceller", [&] {
        for (auto pause = sim.random(30); pause > 0; --pause) sim.yield();
        asked = handle.request_cancel();
        handle.wait();
        sim.require(deaths == 1 && inside == 0, "it ended, and its code is still there");
      });
    sim.run_until_idle();
    sim.require_all_done();
    const task_info info = handle.info();
    sim.require(handle.done(), "it was not started again, and has not ended: " + to_string(info));
    sim.require(told == 1 && deaths == 1, "its end was told twice, or not at all");
    sim.require(info.runs == static_cast<std::uint64_t>(runs) && failures == static_cast<int>(info.failures), to_string(info));
    if (!asked) sim.require(info.status == task_status::completed && runs == 4, to_string(info));
    require_account(sim, tasks, 1);
    ++(info.status == task_status::completed ? recovered : stopped);
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(stopped > 0);
  CHECK(recovered > 0);
}

TEST_CASE("a shutdown that meets the ends of tasks calls none of them left, and tells on_done of each once") {
  int by_themselves = 0, by_shutdown = 0;
  explore(10'000, [&](simulation& sim) {
    int failures = 0;
    const auto& tasks = tasks_of(sim, failures);
    std::array<body_log, 3> logs;
    std::array<int, 3> told{};
    std::vector<task_handle> handles;
    for (std::size_t i = 0; i < 3; ++i) {
      handles.push_back(spawn_short(sim, tasks, logs[i], sim.random(2) == 0));
      handles[i].on_done([&, i](const task_handle& ended) {
        sim.require(ended.done(), "on_done came too early");
        ++told[i];
      });
    }
    sim.thread("ender", [&] {
      pause_a_little(sim);
      const auto report = sim.runtime().shutdown(1h);
      sim.require(report.clean() && report.tasks.left() == 0, to_string(report));
      for (const task_handle& each : handles) sim.require(each.done(), "a task outlived the shutdown");
    });
    sim.run_until_idle();
    sim.require_all_done();
    for (std::size_t i = 0; i < 3; ++i)
      sim.require(told[i] == 1 && logs[i].deaths == 1, "on_done was lost, or told twice");
    for (const task_handle& each : handles) ++(each.status() == task_status::completed ? by_themselves : by_shutdown);
    require_account(sim, tasks, 3);
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(by_themselves > 0);
  CHECK(by_shutdown > 0);
}

TEST_CASE("a waiter that is stopped while the task ends is told of the end or of its stop, once") {
  int ended = 0, stopped = 0;
  explore(10'000, [&](simulation& sim) {
    int failures = 0, told = 0;
    body_log log;
    const auto& tasks = tasks_of(sim, failures);
    const task_handle handle = spawn_short(sim, tasks, log, true);
    std::array<task_handle, 3> waiters;
    for (task_handle& each : waiters) each = tasks.spawn("waiter", [&] { return await_end(sim, handle, log, told); });
    sim.thread("canceller", [&] {
      pause_a_little(sim);
      waiters[1].request_cancel();
    });
    sim.run_until_idle();
    sim.require_all_done();
    const bool left = waiters[1].status() == task_status::cancelled;
    for (const task_handle& each : waiters) sim.require(each.done(), "a waiter was lost");
    sim.require(waiters[0].status() == task_status::completed && waiters[2].status() == task_status::completed,
                "a waiter that nobody stopped did not see the end");
    sim.require(told == (left ? 2 : 3), "a wait was told twice, or not at all");
    require_account(sim, tasks, 4);
    ++(left ? stopped : ended);
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(ended > 0);
  CHECK(stopped > 0);
}
