// What a shutdown does next: every phase with every event, the shares of the budget, and force at each place.
// Floor 9, room tests.
#include "../support/catch.hpp"

#include "runtime/shutdown_machine.hpp"

#include <chrono>
#include <cstdint>
#include <ostream>
#include <random>
#include <set>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using penstock::no_deadline;
using penstock::shutdown_actions;
using penstock::shutdown_event;
using penstock::shutdown_machine;
using penstock::shutdown_phase;
using penstock::steady_time;

namespace penstock {
std::ostream& operator<<(std::ostream& out, shutdown_phase phase) { return out << to_string(phase); }
std::ostream& operator<<(std::ostream& out, const shutdown_actions& actions) {
  const auto say = [&](bool yes, const char* what) {
    if (yes) out << what << ' ';
  };
  say(actions.ask_first_tasks, "ask_first_tasks");
  say(actions.close_intake, "close_intake");
  say(actions.close_bus, "close_bus");
  say(actions.end_drained, "end_drained");
  say(actions.cancel_calls, "cancel_calls");
  say(actions.abandon_calls, "abandon_calls");
  say(actions.ask_kept_tasks, "ask_kept_tasks");
  say(actions.finish, "finish");
  return out;
}
}  // namespace penstock

namespace {

constexpr shutdown_phase all_phases[] = {
    shutdown_phase::open,    shutdown_phase::stopping_tasks, shutdown_phase::draining, shutdown_phase::closing,
    shutdown_phase::cancelling, shutdown_phase::stopping_kept,  shutdown_phase::done};
constexpr shutdown_event all_events[] = {shutdown_event::begin, shutdown_event::condition_holds,
                                         shutdown_event::time_passed, shutdown_event::force};

constexpr steady_time start{1000s};

/// A machine that has come to this phase, with ten seconds for all.
shutdown_machine in(shutdown_phase wanted, bool keeps_tasks = false, steady_time deadline = start + 10s) {
  shutdown_machine made;
  if (wanted == shutdown_phase::open) return made;
  made.begin(start, deadline, keeps_tasks);
  while (made.phase() != wanted) {
    const bool gives_up = made.phase() == shutdown_phase::draining && wanted == shutdown_phase::cancelling;
    made.on(gives_up ? shutdown_event::time_passed : shutdown_event::condition_holds, start);
  }
  return made;
}

shutdown_actions doing(bool shutdown_actions::*what) {
  shutdown_actions made;
  made.*what = true;
  return made;
}
shutdown_actions doing(bool shutdown_actions::*what, bool shutdown_actions::*and_what) {
  shutdown_actions made = doing(what);
  made.*and_what = true;
  return made;
}

struct row {
  shutdown_phase from;
  shutdown_event event;
  shutdown_phase to;
  shutdown_actions actions;
};

std::vector<row> table() {
  using a = shutdown_actions;
  using e = shutdown_event;
  using p = shutdown_phase;
  const shutdown_actions nothing;
  const auto to_draining = doing(&a::close_intake);
  const auto to_closing = doing(&a::close_bus, &a::end_drained);
  const auto to_cancelling = doing(&a::close_bus, &a::cancel_calls);
  const auto to_kept = doing(&a::ask_kept_tasks);
  return {
      {p::open, e::begin, p::stopping_tasks, doing(&a::ask_first_tasks)},
      {p::open, e::condition_holds, p::open, nothing},
      {p::open, e::time_passed, p::open, nothing},
      {p::open, e::force, p::open, nothing},
      {p::stopping_tasks, e::begin, p::stopping_tasks, nothing},
      {p::stopping_tasks, e::condition_holds, p::draining, to_draining},
      {p::stopping_tasks, e::time_passed, p::draining, to_draining},
      {p::stopping_tasks, e::force, p::stopping_tasks, nothing},
      {p::draining, e::begin, p::draining, nothing},
      {p::draining, e::condition_holds, p::closing, to_closing},
      {p::draining, e::time_passed, p::cancelling, to_cancelling},
      {p::draining, e::force, p::draining, nothing},
      {p::closing, e::begin, p::closing, nothing},
      {p::closing, e::condition_holds, p::stopping_kept, to_kept},
      {p::closing, e::time_passed, p::cancelling, to_cancelling},
      {p::closing, e::force, p::closing, nothing},
      {p::cancelling, e::begin, p::cancelling, nothing},
      {p::cancelling, e::condition_holds, p::stopping_kept, to_kept},
      {p::cancelling, e::time_passed, p::stopping_kept, doing(&a::ask_kept_tasks, &a::abandon_calls)},
      {p::cancelling, e::force, p::cancelling, nothing},
      {p::stopping_kept, e::begin, p::stopping_kept, nothing},
      {p::stopping_kept, e::condition_holds, p::done, doing(&a::finish)},
      {p::stopping_kept, e::time_passed, p::done, doing(&a::finish)},
      {p::stopping_kept, e::force, p::stopping_kept, nothing},
      {p::done, e::begin, p::done, nothing},
      {p::done, e::condition_holds, p::done, nothing},
      {p::done, e::time_passed, p::done, nothing},
      {p::done, e::force, p::done, nothing},
  };
}

}  // namespace

TEST_CASE("every phase of a shutdown answers every event with one next phase and its actions", "[shutdown]") {
  const auto rows = table();
  REQUIRE(rows.size() == std::size(all_phases) * std::size(all_events));
  for (const row& each : rows) {
    CAPTURE(each.from, static_cast<int>(each.event));
    shutdown_machine machine = in(each.from);
    REQUIRE(machine.phase() == each.from);
    CHECK(machine.on(each.event, start + 1s) == each.actions);
    CHECK(machine.phase() == each.to);
    CHECK(machine.begun() == (each.to != shutdown_phase::open));
    const bool forces =
        each.event == shutdown_event::force && each.from != shutdown_phase::open && each.from != shutdown_phase::done;
    CHECK(machine.forced() == forces);
    // Drained is what went through the closing phase to its end, and nothing else.
    const bool was_drained = each.from == shutdown_phase::stopping_kept || each.from == shutdown_phase::done;
    const bool becomes_drained =
        each.from == shutdown_phase::closing && each.event == shutdown_event::condition_holds;
    CHECK(machine.drained() == (was_drained || becomes_drained));
  }
}

TEST_CASE("every phase of a shutdown has a name of its own", "[shutdown]") {
  std::set<std::string> names;
  for (const shutdown_phase each : all_phases) names.insert(to_string(each));
  CHECK(names.size() == std::size(all_phases));
  CHECK(names.count("unknown") == 0);
  CHECK(std::string(to_string(static_cast<shutdown_phase>(99))) == "unknown");
}

TEST_CASE("without kept tasks the first tasks have three tenths, the drain ends at nine, the calls have the rest",
          "[shutdown]") {
  CHECK(in(shutdown_phase::open).phase_deadline() == no_deadline);
  CHECK(in(shutdown_phase::stopping_tasks).phase_deadline() == start + 3s);
  CHECK(in(shutdown_phase::draining).phase_deadline() == start + 9s);
  CHECK(in(shutdown_phase::draining).drain_until() == start + 9s);
  CHECK(in(shutdown_phase::closing).phase_deadline() == start + 10s);
  CHECK(in(shutdown_phase::cancelling).phase_deadline() == start + 10s);
  CHECK(in(shutdown_phase::stopping_kept).phase_deadline() == start + 10s);
  CHECK(in(shutdown_phase::done).phase_deadline() == no_deadline);
}

TEST_CASE("with kept tasks the drain ends at eight tenths, the calls at nine, and the kept tasks have the rest",
          "[shutdown]") {
  CHECK(in(shutdown_phase::stopping_tasks, true).phase_deadline() == start + 3s);
  CHECK(in(shutdown_phase::draining, true).phase_deadline() == start + 8s);
  CHECK(in(shutdown_phase::draining, true).drain_until() == start + 8s);
  CHECK(in(shutdown_phase::closing, true).phase_deadline() == start + 9s);
  CHECK(in(shutdown_phase::cancelling, true).phase_deadline() == start + 9s);
  CHECK(in(shutdown_phase::stopping_kept, true).phase_deadline() == start + 10s);
}

TEST_CASE("a shutdown without a deadline gives no phase one, and force gives it one at once", "[shutdown]") {
  for (const bool keeps : {false, true})
    for (const shutdown_phase each : all_phases) {
      CAPTURE(each, keeps);
      shutdown_machine machine = in(each, keeps, no_deadline);
      CHECK(machine.phase_deadline() == no_deadline);
      CHECK(machine.drain_until() == no_deadline);
      CHECK(machine.deadline() == no_deadline);
      if (each == shutdown_phase::open || each == shutdown_phase::done) continue;
      machine.on(shutdown_event::force, start + 5s);
      CHECK(machine.phase_deadline() <= start);
      CHECK(machine.deadline() == start + 5s);
    }
}

TEST_CASE("a budget of nothing or less ends every phase at the instant it began", "[shutdown]") {
  for (const auto budget : {0s, -1s, -100000s})
    for (const bool keeps : {false, true})
      for (const shutdown_phase each :
           {shutdown_phase::stopping_tasks, shutdown_phase::draining, shutdown_phase::closing,
            shutdown_phase::cancelling, shutdown_phase::stopping_kept}) {
        CAPTURE(each, keeps, budget.count());
        const shutdown_machine machine = in(each, keeps, start + budget);
        CHECK(machine.deadline() == start);
        CHECK(machine.phase_deadline() == start);
        CHECK(machine.drain_until() == start);
      }
}

TEST_CASE("the phases' deadlines never go back and never pass the whole budget", "[shutdown]") {
  for (const auto budget : {std::chrono::nanoseconds(1), std::chrono::nanoseconds(7), std::chrono::nanoseconds(1ms),
                            std::chrono::nanoseconds(24h * 365 * 100)})
    for (const bool keeps : {false, true}) {
      steady_time before = start;
      for (const shutdown_phase each : {shutdown_phase::stopping_tasks, shutdown_phase::draining,
                                        shutdown_phase::cancelling, shutdown_phase::stopping_kept}) {
        CAPTURE(each, keeps, budget.count());
        const shutdown_machine machine = in(each, keeps, start + budget);
        CHECK(machine.phase_deadline() >= before);
        CHECK(machine.phase_deadline() <= machine.deadline());
        before = machine.phase_deadline();
      }
      CHECK(before == start + budget);
    }
}

TEST_CASE("a second beginning changes neither the budget nor the phase nor who is waited for", "[shutdown]") {
  shutdown_machine machine;
  machine.begin(start, start + 10s, false);
  CHECK(machine.begin(start + 1s, start + 100s, true) == shutdown_actions());
  CHECK(machine.began() == start);
  CHECK(machine.deadline() == start + 10s);
  CHECK(machine.drain_until() == start + 9s);
  machine.on(shutdown_event::condition_holds, start + 1s);
  CHECK(machine.begin(start + 2s, no_deadline, true) == shutdown_actions());
  CHECK(machine.phase() == shutdown_phase::draining);
  CHECK(machine.phase_deadline() == start + 9s);
}

TEST_CASE("the bare event begins a shutdown without a deadline", "[shutdown]") {
  shutdown_machine machine;
  CHECK(machine.on(shutdown_event::begin, start) == doing(&shutdown_actions::ask_first_tasks));
  CHECK(machine.began() == start);
  CHECK(machine.deadline() == no_deadline);
}

TEST_CASE("force in any phase leaves no time to that phase and to those after it, and every action is still done",
          "[shutdown]") {
  for (const bool keeps : {false, true})
    for (const shutdown_phase each : {shutdown_phase::stopping_tasks, shutdown_phase::draining, shutdown_phase::closing,
                                      shutdown_phase::cancelling, shutdown_phase::stopping_kept}) {
      CAPTURE(each, keeps);
      shutdown_machine machine = in(each, keeps);
      CHECK(machine.on(shutdown_event::force, start + 2s) == shutdown_actions());
      CHECK(machine.phase() == each);
      CHECK(machine.deadline() == start + 2s);
      shutdown_actions all;
      int steps = 0;
      while (machine.phase() != shutdown_phase::done) {
        CHECK(machine.phase_deadline() < start);  // passed, whatever the clock says
        const shutdown_actions some = machine.on(shutdown_event::time_passed, start + 2s);
        all.close_intake |= some.close_intake;
        all.cancel_calls |= some.cancel_calls;
        all.abandon_calls |= some.abandon_calls;
        all.ask_kept_tasks |= some.ask_kept_tasks;
        all.finish |= some.finish;
        REQUIRE(++steps < 10);
      }
      CHECK(all.finish);
      CHECK(all.close_intake == (each == shutdown_phase::stopping_tasks));
      CHECK(all.cancel_calls == (each < shutdown_phase::cancelling));
      CHECK(all.abandon_calls == (each < shutdown_phase::stopping_kept));
      CHECK(all.ask_kept_tasks == (each < shutdown_phase::stopping_kept));
      CHECK(machine.forced());
      machine.on(shutdown_event::force, start + 9s);
      CHECK(machine.deadline() == start + 2s);  // it has ended
    }
}

TEST_CASE("force after the deadline does not give the time back", "[shutdown]") {
  shutdown_machine machine = in(shutdown_phase::cancelling);
  machine.on(shutdown_event::force, start + 60s);
  CHECK(machine.deadline() == start + 10s);
  machine.on(shutdown_event::force, start + 4s);
  CHECK(machine.deadline() == start + 4s);
}

TEST_CASE("whatever comes in whatever order, a shutdown goes forward only and does each thing once", "[shutdown]") {
  const std::uint64_t seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  for (int run = 0; run < 2000; ++run) {
    shutdown_machine machine;
    shutdown_phase before = machine.phase();
    int asked_first = 0, intake = 0, ended = 0, cancelled = 0, abandoned = 0, kept = 0, finished = 0;
    steady_time now = start;
    for (int i = 0; i < 40; ++i) {
      now += std::chrono::milliseconds(random() % 2000);
      const shutdown_event event = all_events[random() % std::size(all_events)];
      const shutdown_actions todo = event == shutdown_event::begin
                                        ? machine.begin(now, now + std::chrono::seconds(random() % 5), random() % 2 == 0)
                                        : machine.on(event, now);
      asked_first += todo.ask_first_tasks;
      intake += todo.close_intake;
      ended += todo.end_drained;
      cancelled += todo.cancel_calls;
      abandoned += todo.abandon_calls;
      kept += todo.ask_kept_tasks;
      finished += todo.finish;
      REQUIRE(machine.phase() >= before);
      REQUIRE((!todo.end_drained || todo.close_bus));
      REQUIRE((!todo.cancel_calls || todo.close_bus));
      before = machine.phase();
    }
    const int done = machine.phase() == shutdown_phase::done ? 1 : 0;
    REQUIRE(asked_first == (machine.begun() ? 1 : 0));
    REQUIRE(intake == (machine.phase() >= shutdown_phase::draining ? 1 : 0));
    REQUIRE(ended <= 1);
    REQUIRE(cancelled <= 1);
    REQUIRE(abandoned <= cancelled);
    REQUIRE(kept == (machine.phase() >= shutdown_phase::stopping_kept ? 1 : 0));
    REQUIRE(finished == done);
    REQUIRE(machine.drained() == (kept == 1 && cancelled == 0));
  }
}
