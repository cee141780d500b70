// The life of a background task from inside: every state against every event, restarts within a window, the next tick.
// Floor 9, room tests.
#include "../support/catch.hpp"

#include "task/periodic.hpp"
#include "task/task_machine.hpp"

#include <array>
#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using penstock::missed_ticks;
using penstock::restart_policy;
using penstock::retry_policy;
using penstock::steady_time;
using penstock::detail::after_tick;
using penstock::detail::next_tick;
using penstock::detail::task_actions;
using penstock::detail::task_event;
using penstock::detail::task_fate;
using penstock::detail::task_machine;
using penstock::detail::task_phase;

namespace {

constexpr steady_time start{1h};

restart_policy twice() {
  return restart_policy().attempts(2).within(10s).pauses(retry_policy().backoff(1s).factor(3).jitter(0));
}

/// The actions in words, in the order in which they are done.
std::string words(const task_actions& actions) {
  std::string text;
  const auto add = [&text](bool yes, const char* word) {
    if (yes) text += (text.empty() ? "" : " ") + std::string(word);
  };
  add(actions.report, "report");
  add(actions.disarm, "disarm");
  add(actions.ask, "ask");
  add(actions.start, "start");
  add(actions.pause, "pause");
  add(actions.escalate, "escalate");
  add(actions.end, "end");
  return text;
}

const char* name(task_phase phase) {
  switch (phase) {
    case task_phase::starting: return "starting";
    case task_phase::running: return "running";
    case task_phase::pausing: return "pausing";
    case task_phase::ended: return "ended";
  }
  return "?";
}
const char* name(task_fate fate) {
  switch (fate) {
    case task_fate::none: return "none";
    case task_fate::completed: return "completed";
    case task_fate::failed: return "failed";
    case task_fate::cancelled: return "cancelled";
    case task_fate::dropped: return "dropped";
  }
  return "?";
}

std::string state(const task_machine& machine) {
  return std::string(name(machine.phase())) + "/" + name(machine.fate()) + (machine.stop_requested() ? "/asked" : "");
}

/// What leads to a state, and what each event makes of it.
struct row {
  std::vector<task_event> before;
  task_event event;
  const char* state_after;
  const char* actions;
};

void check(const std::optional<restart_policy>& policy, const std::vector<row>& table) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    INFO("row " << i);
    task_machine machine(policy);
    for (const task_event each : table[i].before) machine.on(each, start, 0);
    INFO("from " << state(machine));
    const task_actions done = machine.on(table[i].event, start, 0);
    CHECK(state(machine) == table[i].state_after);
    CHECK(words(done) == table[i].actions);
  }
}

constexpr auto begun = task_event::begun;
constexpr auto completed = task_event::completed;
constexpr auto failed = task_event::failed;
constexpr auto cancelled = task_event::cancelled;
constexpr auto dropped = task_event::dropped;
constexpr auto stop = task_event::stop_requested;
constexpr auto pause_over = task_event::pause_over;
constexpr std::array all_events{begun, completed, failed, cancelled, dropped, stop, pause_over};

/// The n-th failure of a machine that is in its body: begun, failed, and the pause over if there is one.
task_actions fail(task_machine& machine, steady_time when) {
  machine.on(begun, when, 0);
  const task_actions done = machine.on(failed, when, 0);
  machine.on(pause_over, when, 0);
  return done;
}

}  // namespace

TEST_CASE("a task without a policy ends by whatever happens to it, once", "[task]") {
  check({}, {
                {{}, begun, "running/none", ""},
                {{}, completed, "ended/completed", "end"},
                {{}, failed, "ended/failed", "report end"},
                {{}, cancelled, "ended/cancelled", "end"},
                {{}, dropped, "ended/dropped", "end"},
                {{}, stop, "starting/none/asked", "ask"},
                {{}, pause_over, "starting/none", ""},
                {{stop}, begun, "running/none/asked", ""},
                {{stop}, completed, "ended/completed/asked", "end"},
                {{stop}, failed, "ended/failed/asked", "report end"},
                {{stop}, cancelled, "ended/cancelled/asked", "end"},
                {{stop}, dropped, "ended/dropped/asked", "end"},
                {{stop}, stop, "starting/none/asked", ""},
                {{stop}, pause_over, "starting/none/asked", ""},
                {{begun}, begun, "running/none", ""},
                {{begun}, completed, "ended/completed", "end"},
                {{begun}, failed, "ended/failed", "report end"},
                {{begun}, cancelled, "ended/cancelled", "end"},
                {{begun}, dropped, "ended/dropped", "end"},
                {{begun}, stop, "running/none/asked", "ask"},
                {{begun}, pause_over, "running/none", ""},
                {{begun, stop}, begun, "running/none/asked", ""},
                {{begun, stop}, completed, "ended/completed/asked", "end"},
                {{begun, stop}, failed, "ended/failed/asked", "report end"},
                {{begun, stop}, cancelled, "ended/cancelled/asked", "end"},
                {{begun, stop}, dropped, "ended/dropped/asked", "end"},
                {{begun, stop}, stop, "running/none/asked", ""},
                {{begun, stop}, pause_over, "running/none/asked", ""},
            });
}

TEST_CASE("a task with a policy pauses after a failure, and a stop in the pause is its end", "[task]") {
  check(twice(), {
                     {{}, failed, "pausing/none", "report pause"},
                     {{begun}, failed, "pausing/none", "report pause"},
                     {{begun}, completed, "ended/completed", "end"},
                     {{begun}, cancelled, "ended/cancelled", "end"},
                     {{begun}, dropped, "ended/dropped", "end"},
                     {{begun}, stop, "running/none/asked", "ask"},
                     {{begun, stop}, failed, "ended/failed/asked", "report end"},
                     {{stop}, failed, "ended/failed/asked", "report end"},
                     {{begun, failed}, begun, "pausing/none", ""},
                     {{begun, failed}, completed, "ended/completed", "disarm end"},
                     {{begun, failed}, cancelled, "ended/cancelled", "disarm end"},
                     {{begun, failed}, dropped, "ended/dropped", "disarm end"},
                     {{begun, failed}, stop, "ended/cancelled/asked", "disarm end"},
                     {{begun, failed}, pause_over, "starting/none", "start"},
                     {{begun, failed, pause_over}, begun, "running/none", ""},
                     {{begun, failed, pause_over}, stop, "starting/none/asked", "ask"},
                     {{begun, failed, pause_over}, cancelled, "ended/cancelled", "end"},
                     {{begun, failed, pause_over}, dropped, "ended/dropped", "end"},
                     {{begun, failed, pause_over}, pause_over, "starting/none", ""},
                     {{begun, failed, pause_over, begun}, completed, "ended/completed", "end"},
                     {{begun, failed, pause_over, begun}, failed, "pausing/none", "report pause"},
                     {{begun, failed, pause_over, begun, failed, pause_over, begun}, failed, "ended/failed", "report end"},
                 });
  check(twice().escalate(),
        {
            {{begun, failed, pause_over, begun}, failed, "pausing/none", "report pause"},
            {{begun, failed, pause_over, begun, failed, pause_over, begun}, failed, "ended/failed", "report escalate end"},
            {{begun, failed, pause_over, begun, failed, pause_over, begun, stop}, failed, "ended/failed/asked", "report end"},
        });
}

TEST_CASE("nothing happens to a task that has ended", "[task]") {
  for (const auto& policy : {std::optional<restart_policy>(), std::optional<restart_policy>(twice())}) {
    for (const task_event end : {completed, cancelled, dropped}) {
      task_machine machine(policy);
      machine.on(begun, start, 0);
      machine.on(end, start, 0);
      const std::string before = state(machine);
      for (const task_event late : all_events) CHECK(words(machine.on(late, start, 0)).empty());
      CHECK(state(machine) == before);
      CHECK(machine.runs() == 1);
      CHECK(machine.failures() == 0);
      CHECK_FALSE(machine.stop_requested());
    }
  }
}

TEST_CASE("runs are counted when they begin, failures when they are told", "[task]") {
  task_machine machine(twice());
  CHECK_FALSE(machine.ever_begun());
  for (std::uint64_t i = 1; i <= 3; ++i) {
    machine.on(begun, start, 0);
    machine.on(begun, start, 0);
    CHECK(machine.runs() == i);
    CHECK(machine.failures() == i - 1);
    machine.on(failed, start, 0);
    CHECK(machine.failures() == i);
    machine.on(pause_over, start, 0);
  }
  CHECK(machine.ever_begun());
  CHECK(machine.runs() == 3);
  CHECK(machine.fate() == task_fate::failed);
}

TEST_CASE("only failures within the window count against the attempts, the oldest leave it one by one", "[task]") {
  task_machine machine(twice());
  CHECK(fail(machine, start).pause_for == 1s);
  CHECK(fail(machine, start + 4s).pause_for == 3s);
  // The first one is just within 10 s at +10 s, and just outside after it.
  SECTION("at the edge of the window it still counts") {
    CHECK(words(fail(machine, start + 10s)) == "report end");
    CHECK(machine.fate() == task_fate::failed);
  }
  SECTION("beyond it the pauses get shorter again") {
    CHECK(fail(machine, start + 10s + 1ns).pause_for == 3s);
    CHECK(fail(machine, start + 30s).pause_for == 1s);
    CHECK(fail(machine, start + 31s).pause_for == 3s);
    CHECK(words(fail(machine, start + 32s)) == "report end");
    CHECK(machine.failures() == 6);
  }
  SECTION("a thousand failures, each alone in the window, never end it") {
    for (int i = 1; i <= 1000; ++i) REQUIRE(fail(machine, start + i * 20s).pause_for == 1s);
    CHECK(machine.phase() == task_phase::starting);
  }
}

TEST_CASE("one attempt means one restart, and jitter lengthens its pause", "[task]") {
  task_machine machine(restart_policy().attempts(1).within(1h).pauses(retry_policy().backoff(1s).jitter(1)));
  machine.on(begun, start, 0);
  const task_actions first = machine.on(failed, start, std::numeric_limits<std::uint64_t>::max());
  CHECK(words(first) == "report pause");
  CHECK(first.pause_for > 1s);
  CHECK(first.pause_for <= 2s);
  machine.on(pause_over, start, 0);
  machine.on(begun, start, 0);
  CHECK(words(machine.on(failed, start, 0)) == "report end");
}

// --- ticks -------------------------------------------------------------------------------------------------------------

namespace {

void check_tick(missed_ticks policy, std::chrono::nanoseconds now, std::chrono::nanoseconds due_then, std::uint64_t missed) {
  const next_tick next = after_tick(start, start + now, 10s, policy);
  INFO(now.count() << " ns after it was due");
  CHECK(next.due - start == due_then);
  CHECK(next.missed == missed);
}

}  // namespace

TEST_CASE("skip takes the next multiple of the period after the tick has ended, and counts those between", "[task]") {
  check_tick(missed_ticks::skip, 0s, 10s, 0);
  check_tick(missed_ticks::skip, 10s - 1ns, 10s, 0);
  check_tick(missed_ticks::skip, 10s, 20s, 1);
  check_tick(missed_ticks::skip, 19s, 20s, 1);
  check_tick(missed_ticks::skip, 35s, 40s, 3);
  check_tick(missed_ticks::skip, 10'000'000s, 10'000'010s, 1'000'000);
  check_tick(missed_ticks::skip, -5s, 10s, 0);  // a clock that is read early
}

TEST_CASE("delay waits a whole period from the end of the tick, and misses nothing", "[task]") {
  check_tick(missed_ticks::delay, 0s, 10s, 0);
  check_tick(missed_ticks::delay, 3s, 13s, 0);
  check_tick(missed_ticks::delay, 35s, 45s, 0);
}

TEST_CASE("burst keeps every multiple of the period, however late it is, and misses nothing", "[task]") {
  check_tick(missed_ticks::burst, 0s, 10s, 0);
  check_tick(missed_ticks::burst, 35s, 10s, 0);
  check_tick(missed_ticks::burst, 10'000'000s, 10s, 0);
}

TEST_CASE("a next tick beyond the clock's range never comes, and does not overflow", "[task]") {
  constexpr auto longest = std::chrono::nanoseconds::max();
  for (const missed_ticks policy : {missed_ticks::skip, missed_ticks::delay, missed_ticks::burst})
    CHECK(after_tick(start, start, longest, policy).due == penstock::no_deadline);
  const steady_time late = penstock::no_deadline - 1s;
  CHECK(after_tick(late, late, 10s, missed_ticks::skip).due == penstock::no_deadline);
  CHECK(after_tick(late, late, 10s, missed_ticks::burst).due == penstock::no_deadline);
  // A period of a nanosecond, late by 250 years: no multiple is lost on the way.
  constexpr std::chrono::nanoseconds ages = 24h * 365 * 250;
  const next_tick next = after_tick(steady_time(0ns), steady_time(ages), 1ns, missed_ticks::skip);
  CHECK(next.due == steady_time(ages + 1ns));
  CHECK(next.missed == static_cast<std::uint64_t>(ages.count()));
}
