// The watchdog's decisions alone: what was seen and when, and what it says.
// Floor 9, room tests.
#include "../support/catch.hpp"

#include "runtime/watchdog_machine.hpp"

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using penstock::no_deadline;
using penstock::steady_time;
using penstock::watchdog_machine;
using penstock::watchdog_report;
using penstock::watchdog_view;
using what = penstock::watchdog_report::what;

namespace {

steady_time at(std::chrono::seconds since_start) { return steady_time(1h + since_start); }

/// Runnables are compared, never followed.
const penstock::runnable* runs(std::uintptr_t number) { return reinterpret_cast<const penstock::runnable*>(number); }

penstock::detail::watched_call call(std::uint64_t owner, std::uint64_t sequence, std::uintptr_t runnable = 0) {
  penstock::detail::watched_call made;
  made.owner = owner;
  made.sequence = sequence;
  made.runs = runs(runnable);
  made.name = "s" + std::to_string(owner);
  made.event = "order";
  made.file = "shop.cpp";
  made.line = 7;
  return made;
}

penstock::detail::watched_wait wait(std::uint64_t from, std::uint64_t to, std::uint64_t progress = 1) {
  penstock::detail::watched_wait made;
  made.from = from;
  made.to = to;
  made.progress = progress;
  made.from_name = "s" + std::to_string(from);
  made.to_name = "s" + std::to_string(to);
  return made;
}

/// What it says, as "kind name elapsed-in-seconds" each.
std::string said(watchdog_machine& machine, const watchdog_view& view, std::chrono::seconds when) {
  std::string all;
  for (const auto& found : machine.look(view, at(when))) {
    const watchdog_report& r = found.report;
    std::string who = r.of == what::starved_pool ? r.pool : r.of == what::stuck_task ? r.task : r.subscription;
    if (r.of == what::wait_chain) {
      who.clear();
      for (const std::string& each : r.chain) who += (who.empty() ? "" : ">") + each;
    }
    all += (all.empty() ? "" : ", ") + std::string(to_string(r.kind)) + " " + who + " " +
           std::to_string(std::chrono::duration_cast<std::chrono::seconds>(r.elapsed).count());
  }
  return all;
}

watchdog_view calls(std::vector<penstock::detail::watched_call> all) { return {std::move(all), {}, {}}; }
watchdog_view waits(std::vector<penstock::detail::watched_wait> all) { return {{}, std::move(all), {}}; }

}  // namespace

TEST_CASE("a call that goes on is told at the limit, at twice and four times it, and once when it is over", "[watchdog]") {
  watchdog_machine machine(5s);
  CHECK(machine.due() == no_deadline);
  struct row {
    std::chrono::seconds when;
    bool running;
    const char* told;
    std::chrono::seconds due;  // 0: never
  };
  const std::vector<row> table = {
      {0s, true, "", 5s},
      {4s, true, "", 5s},
      {5s, true, "stuck call s1 5", 10s},
      {9s, true, "", 10s},
      {11s, true, "stuck call s1 11", 20s},
      {12s, true, "", 20s},
      {50s, true, "stuck call s1 50", 80s},  // steps that were slept through are not made up for
      {51s, false, "recovered s1 50", 0s},
      {52s, false, "", 0s},
  };
  for (const row& each : table) {
    INFO("at " << each.when.count() << " s");
    CHECK(said(machine, each.running ? calls({call(1, 7)}) : watchdog_view{}, each.when) == each.told);
    CHECK(machine.due() == (each.due == 0s ? no_deadline : at(each.due)));
  }
}

TEST_CASE("calls that end in time are never told, however long their subscription goes on working", "[watchdog]") {
  watchdog_machine machine(5s);
  for (int second = 0; second < 100; second += 4)
    CHECK(said(machine, calls({call(1, static_cast<std::uint64_t>(second))}), std::chrono::seconds(second)).empty());
}

TEST_CASE("what its source knows of a call's age counts, and a coroutine is suspended only if no worker has it", "[watchdog]") {
  watchdog_machine machine(5s);
  auto waiting = call(1, 7, 0x10);
  waiting.suspended = true;
  waiting.at_least = 20s;
  auto found = machine.look(calls({waiting}), at(0s));
  REQUIRE(found.size() == 1);
  CHECK(found[0].report.suspended);
  CHECK(found[0].report.elapsed == 20s);
  CHECK(found[0].report.thread.empty());
  CHECK(machine.due() == at(20s));  // 40 s old
  watchdog_view resumed = calls({waiting});
  resumed.calls[0].at_least = 45s;
  resumed.pools.push_back({"default", 4, 0, {{2, 99, runs(0x20)}, {3, 100, runs(0x10)}}});
  found = machine.look(resumed, at(25s));
  REQUIRE(found.size() == 1);
  CHECK_FALSE(found[0].report.suspended);
  CHECK(found[0].report.thread == "default-4");
  CHECK(found[0].pool == 0);
  CHECK(found[0].worker.turn == 100);
}

TEST_CASE("tasks and calls of the same number are different, and each is told under its own kind", "[watchdog]") {
  watchdog_machine machine(5s);
  auto task = call(1, 7);
  task.task = true;
  CHECK(said(machine, calls({call(1, 7), task}), 0s).empty());
  CHECK(said(machine, calls({call(1, 7), task}), 5s) == "stuck call s1 5, stuck task s1 5");
  CHECK(said(machine, calls({call(1, 7)}), 6s) == "recovered s1 5");
}

TEST_CASE("a pool is starved when each worker is inside one call for the limit and work waits", "[watchdog]") {
  const auto view = [](std::size_t ready, std::vector<penstock::detail::working_look> working,
                       std::vector<penstock::detail::watched_call> running = {}) {
    watchdog_view made;
    made.calls = std::move(running);
    made.pools.push_back({"narrow", 2, ready, std::move(working)});
    return made;
  };
  const penstock::detail::working_look one{0, 11, nullptr};
  const penstock::detail::working_look two{1, 12, nullptr};
  const penstock::detail::working_look three{1, 13, nullptr};
  SECTION("told, told again, over") {
    watchdog_machine machine(5s);
    CHECK(said(machine, view(3, {one, two}), 0s).empty());
    CHECK(said(machine, view(3, {one, two}), 5s) == "starved pool narrow 5");
    CHECK(said(machine, view(3, {one, two}), 10s) == "starved pool narrow 10");
    CHECK(said(machine, view(2, {one, three}), 11s) == "recovered narrow 10");
    CHECK(said(machine, view(2, {one}), 99s).empty());
  }
  SECTION("not with a free worker, not without waiting work, not while one of them goes on") {
    watchdog_machine machine(5s);
    CHECK(said(machine, view(3, {one}), 0s).empty());
    CHECK(said(machine, view(3, {one}), 9s).empty());
    CHECK(said(machine, view(0, {one, two}), 10s).empty());
    CHECK(said(machine, view(0, {one, two}), 20s).empty());
    CHECK(said(machine, view(1, {one, three}), 21s).empty());
    CHECK(said(machine, view(1, {one, three}), 25s).empty());
  }
  SECTION("a long turn of short calls is no starvation") {
    watchdog_machine machine(5s);
    const penstock::detail::working_look lane{1, 12, runs(0x10)};
    for (std::uint64_t second = 0; second < 20; second += 4)
      CHECK(said(machine, view(1, {one, lane}, {call(1, second, 0x10)}), std::chrono::seconds(second)).empty());
  }
  SECTION("work that comes when all have long been stuck is told at once") {
    watchdog_machine machine(5s);
    CHECK(said(machine, view(0, {one, two}), 0s).empty());
    CHECK(said(machine, view(0, {one, two}), 8s).empty());
    CHECK(said(machine, view(1, {one, two}), 9s) == "starved pool narrow 9");
  }
}

TEST_CASE("a chain is told from who waits first to where it ends, once for all that end there", "[watchdog]") {
  watchdog_machine machine(5s);
  const auto all = {wait(3, 4), wait(1, 2), wait(2, 4)};
  CHECK(said(machine, waits(all), 0s).empty());
  CHECK(machine.due() == at(5s));
  CHECK(said(machine, waits(all), 5s) == "wait chain s1>s2>s4 5");
  CHECK(machine.due() == at(10s));
  CHECK(said(machine, waits(all), 10s) == "wait chain s1>s2>s4 10");
  CHECK(said(machine, waits({wait(3, 4, 2)}), 11s) == "recovered s1>s2>s4 10");
  CHECK(said(machine, waits({wait(3, 4, 2)}), 16s) == "wait chain s3>s4 5");
}

TEST_CASE("a chain in which an event moves is not told", "[watchdog]") {
  watchdog_machine machine(5s);
  for (std::uint64_t second = 0; second < 40; second += 4)
    CHECK(said(machine, waits({wait(1, 2, second)}), std::chrono::seconds(second)).empty());
}

TEST_CASE("a ring is told once, and ends with the name it begins with", "[watchdog]") {
  watchdog_machine machine(5s);
  const auto ring = {wait(1, 2), wait(2, 3), wait(3, 1)};
  CHECK(said(machine, waits(ring), 0s).empty());
  CHECK(said(machine, waits(ring), 6s) == "wait chain s1>s2>s3>s1 6");
}

TEST_CASE("what counts in one turn is told while a worker has it in hand, and anew in the next turn", "[watchdog]") {
  watchdog_machine machine(5s);
  auto task = call(1, 1, 7);
  task.task = true;
  task.counts = penstock::detail::watched_call::span::one_turn;
  const auto in_turn = [&](std::uint64_t turn) { return watchdog_view{{task}, {}, {{"p", 2, 0, {{0, turn, runs(7)}}}}}; };
  CHECK(said(machine, calls({task}), 0s).empty());
  CHECK(machine.due() == no_deadline);
  CHECK(said(machine, in_turn(1), 1s).empty());
  CHECK(said(machine, in_turn(2), 5s).empty());
  CHECK(said(machine, in_turn(2), 9s).empty());
  CHECK(said(machine, in_turn(2), 10s) == "stuck task s1 5");
  CHECK(said(machine, in_turn(3), 11s) == "recovered s1 5");
  CHECK(said(machine, in_turn(3), 16s) == "stuck task s1 5");
  CHECK(said(machine, calls({task}), 17s) == "recovered s1 5");
  task.counts = penstock::detail::watched_call::span::none;
  CHECK(said(machine, in_turn(4), 18s).empty());
  CHECK(said(machine, in_turn(4), 30s).empty());
}

TEST_CASE("a task that waits is named by what runs it, and is none of the bus's numbers", "[watchdog]") {
  watchdog_machine machine(5s);
  auto task = call(1, 1, 7);
  task.task = true;
  task.counts = penstock::detail::watched_call::span::none;
  auto first = wait(2, 2);
  first.task = runs(7);
  auto unknown = wait(2, 2);
  unknown.task = runs(8);
  const watchdog_view view{{task}, {first, unknown, wait(2, 1)}, {}};
  CHECK(said(machine, view, 0s).empty());
  CHECK(said(machine, view, 5s) == "wait chain s1>s2>s1 5");  // the task s1, and the subscription s1
  const auto found = machine.look(view, at(10s));
  REQUIRE(found.size() == 1);
  CHECK(found[0].report.task == "s1");
  CHECK(found[0].report.subscription.empty());
}

TEST_CASE("a limit that never comes is never due, and nothing overflows", "[watchdog]") {
  watchdog_machine machine(std::chrono::nanoseconds::max());
  auto old = call(1, 7);
  old.at_least = std::chrono::nanoseconds::max();
  CHECK(said(machine, calls({old}), 0s).empty());
  CHECK(machine.due() == no_deadline);
}

TEST_CASE("a report's record names who, what, where, and on which thread", "[watchdog]") {
  watchdog_report r;
  r.subscription = "mail";
  r.event = "order";
  r.sequence = 17;
  r.elapsed = 5003ms;
  r.file = "shop.cpp";
  r.line = 12;
  r.thread = "default-2";
  r.stack = {"send()", "main"};
  CHECK(to_string(r) ==
        "a call is stuck subscription=mail event=order sequence=17 thread=default-2 at_least=5.003s file=shop.cpp line=12 "
        "in=send() in=main");
  CHECK(r.record().level() == penstock::log_level::warning);
  CHECK(r.record().component() == "penstock.watchdog");
  r.kind = what::recovered;
  CHECK(to_string(r).rfind("a stuck call has gone on subscription=mail", 0) == 0);
  CHECK(r.record().level() == penstock::log_level::info);
}

TEST_CASE("a report is one line whatever its names are", "[watchdog]") {
  watchdog_report r;
  r.kind = r.of = what::stuck_task;
  r.task = "evil\nname";
  CHECK(to_string(r).find('\n') == std::string::npos);
  CHECK(to_string(r).find("name") != std::string::npos);
}
