// Systems with known faults, and made-up figures with known answers.
// Floor 9, bench.
#include "smoke.hpp"

#include "allocation_counter.hpp"
#include "event.hpp"
#include "faulty.hpp"
#include "report.hpp"
#include "run_system.hpp"
#include "series.hpp"

#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace bench {

namespace {

void check_faults(findings& found) {
  shape run;
  run.producers = 2;
  run.subscribers = 2;
  run.events = 1000;
  run.give_up = std::chrono::milliseconds(10'000);
  const auto noticed = [](const stream_outcome& outcome, const char* text) {
    return outcome.problem.find(text) != std::string::npos;
  };
  found.expect(run_stream<sound_system, 1>(run).problem.empty(), "a sound run is accepted");
  found.expect(noticed(run_stream<reordering_system, 1>(run), "out of order"), "two swapped events are noticed");
  found.expect(noticed(run_stream<tearing_system, 1>(run), "checksum"), "a torn event is noticed");
  found.expect(noticed(run_stream<untidy_system, 1>(run), "left something behind"), "a system's own complaint is kept");
  found.expect(noticed(run_stream<doubling_system, 1>(run), "1001 events"), "a doubled event is noticed");
  run.give_up = std::chrono::milliseconds(50);
  found.expect(noticed(run_stream<losing_system, 1>(run), "999 events"), "a lost event is noticed");
}

void check_states(findings& found) {
  series steady_one;
  series flickering;
  for (int i = 0; i < 5; ++i) steady_one.add(10 + i, core_state::far, core_state::far);
  steady_one.add(99, core_state::near, core_state::near);
  for (int i = 0; i < 9; ++i) flickering.add(50, core_state::near, core_state::near);
  for (int i = 0; i < 3; ++i) flickering.add(20, core_state::far, core_state::far);
  flickering.add(1000, core_state::near, core_state::far);
  found.expect(common_state({&steady_one, &flickering}) == core_state::far,
               "the state is the one where the least-measured system has most runs");
  found.expect(flickering.disagreed() == 1, "a run whose probes disagree does not count");
  found.expect(!common_state({&steady_one, &flickering, std::make_unique<series>().get()}),
               "there is no common state with a system that has no run");
  const auto summary = summarize({5, 1, 3, 9});
  found.expect(summary.median == 4 && summary.min == 1 && summary.max == 9,
               "the median of an even count is the middle");
  found.expect(state_of(near_limit_ns) == core_state::near && state_of(near_limit_ns + 1) == core_state::far,
               "near ends at 100 ns");
}

void check_goals(findings& found) {
  const auto made = [](const char* workload, const char* system, system_kind kind, double value, const char* state) {
    return made_row(workload, system, system == std::string("fast") ? "x" : default_mode, kind, value, state);
  };
  using enum system_kind;
  std::vector<row> rows{
      made("A", "penstock", subject, 30, "far"),
      made("A", "slow", bounded_parking, 5, "far"),
      made("A", "fast", bounded_parking, 12, "far"),
      made("A", "queue", unbounded, 80, "far"),
      made("A", "call", synchronous, 20, "far"),
      made("A", "bare", reference, 50, "far"),
      made("A", "penstock spans of 16", subject, 96, "far"),
      made("B", "penstock", subject, 30, "far"),
      made("B", "fast", bounded_parking, 20, "far"),
      made("B", "call", synchronous, 30, "far"),
      made("C", "penstock", subject, 30, "far"),
      made("C", "fast", bounded_parking, 2, "near"),
      made("I.event.1", "penstock", subject, 0, "any"),
      made("I.event.8", "penstock", subject, 0.001, "any"),
      made("I.text.1", "penstock", subject, 1, "any"),
      made("I.text.8", "penstock", subject, 1, "any"),
  };
  auto goals = judge(rows, {{"of a later version", "", "in no package", false}});
  const auto answer = [&](const std::string& id) {
    for (const auto& one : goals)
      if (one.id == id) return one;
    found.expect(false, "there is a goal " + id);
    return goal();
  };
  found.expect(answer("1A").measured == 2.5 && answer("1A").met == true,
               "1A compares with the best bounded peer, not the unbounded");
  found.expect(answer("1A.unbounded").measured == 0.375 && answer("1A.unbounded").met == false,
               "1A.unbounded compares with the faster of both kinds");
  found.expect(answer("1A.reference").measured == 0.6 && answer("1A.reference").met == true,
               "as much as the target is enough against a raw ring");
  found.expect(answer("1A.many").measured == 8.0 && answer("1A.many.unbounded").measured == 1.2 &&
                   answer("1A.many.unbounded").met == true,
               "spans are judged by rows of their own");
  found.expect(!answer("1B.many").met, "without spans there is no answer for them");
  found.expect(answer("1B").measured == 1.5 && answer("1B").met == false, "1B is honestly not met");
  found.expect(answer("1B.unbounded").measured == 1.0 && answer("1B.unbounded").met == false,
               "as fast as the unbounded is not ahead of them");
  found.expect(!answer("1C").measured && !answer("1C").met, "1C across two states is not measured");
  found.expect(!answer("1D").met && !answer("2").met, "a goal without runs is not measured");
  found.expect(answer("5a").met == false, "one allocation in a thousand publishes is not none");
  found.expect(answer("5b").met == true, "one allocation per publish meets 5b");

  measured result;
  result.rows = rows;
  result.left_out = left_out();
  auto document = to_json(describe_machine(result, effort::quick), result, goals);
  found.expect(check_shape(document).empty(), "a made-up document has the agreed shape: " + check_shape(document));
  found.expect(document["missing"].size() == left_out().size(), "the JSON names each missing peer");
  document["runs"][0].erase("unit");
  found.expect(!check_shape(document).empty(), "a missing key is noticed");

  goals = judge(rows, {{"queue", "libqueue-dev", "not installed"}});
  found.expect(!answer("1A").met && answer("5a").met == false, "1A is not measured while a peer is not installed");
  rows[2].figure.reset();
  goals = judge(rows, {});
  found.expect(!answer("1A").measured, "1A is not measured while a bounded peer has no figure");

  for (const auto& [workload, name, mode, value] :
       std::vector<std::tuple<const char*, const char*, const char*, double>>{
           {"H.functions", "penstock", default_mode, 6},
           {"H.functions", "Boost.Asio", "thread_pool", 4},
           {"H.functions.allocations", "penstock", default_mode, 1.1},
           {"K.A.cost", "penstock", default_mode, -0.5},
           {"K.A.cost", "penstock, features elsewhere", default_mode, 0.25},
           {"K.A.cost", "penstock + metadata", default_mode, 4},
           {"K.B.cost", "penstock", default_mode, 2},
           {"K.B.cost", "penstock + metadata", default_mode, 11},
           {"K.C.cost", "penstock", default_mode, -11},
           {"L.topics.rise", "penstock", default_mode, 1.2}})
    rows.push_back(made_row(workload, name, mode, system_kind::subject, value, "far"));
  const auto named = [&](const char* id) {
    for (const auto& one : judge(rows, {}))
      if (one.id == id) return one;
    return goal{};
  };
  found.expect(named("6a").measured == 1.5 && named("6a").met == false, "6a compares post with asio::post");
  found.expect(named("6b").measured == 1.1 && named("6b").met == false, "6b sees an allocation for every tenth task");
  found.expect(!named("6c").met, "6c is not measured without the coroutines' rows");
  found.expect(named("7a").measured == 0.25 && named("7a").met == true, "7a is what is on elsewhere costs here");
  found.expect(!named("7b").measured, "7b is not measured where penstock differs from itself by more than the target");
  for (auto& one : rows)
    if (one.workload == "K.C.cost") one.figure = summarize({3});
  found.expect(!named("7b").measured, "7b is not measured while a shape is missing");
  for (const char* workload : {"K.C.cost", "K.D.cost"})
    for (const char* name : {"penstock", "penstock + metadata"})
      rows.push_back(made_row(workload, name, default_mode, system_kind::subject, 5, "far"));
  found.expect(named("7b").measured == 11 && named("7b").met == false, "7b is the worst of the four shapes");
  found.expect(named("8b").met == true && !named("8a").met, "8b is met, 8a without its row is not measured");
}

/// Keeps the compiler from leaving out an allocation that nobody looks at.
void look_at(void* memory) { asm volatile("" : : "g"(memory) : "memory"); }

void check_allocations(findings& found) {
  if (!allocation_counter::available()) return;
  const auto before = allocation_counter::start();
  auto* text = new std::string(1000, 'x');
  look_at(text);
  void* aligned = std::aligned_alloc(64, 128);
  look_at(aligned);
  void* posix = nullptr;
  const int error = posix_memalign(&posix, 64, 128);
  look_at(posix);
  delete text;
  const auto after = allocation_counter::stop();
  std::free(aligned);
  std::free(posix);
  found.expect(error == 0 && after.calls - before.calls == 4,
               "two by new, one by aligned_alloc and one by posix_memalign are four allocations");
  const auto live = after.live_bytes - before.live_bytes;
  found.expect(live >= 256 && live < 1000, "what is given back is not live");
}

}  // namespace

row made_row(std::string workload, std::string system, std::string mode, system_kind kind, double value,
             std::string state) {
  row made;
  made.workload = std::move(workload);
  made.system.name = std::move(system);
  made.system.mode = std::move(mode);
  made.system.kind = kind;
  made.unit = "made up";
  made.figure = summarize({value});
  made.state = std::move(state);
  return made;
}

std::vector<std::string> check_the_checks() {
  findings found;
  check_faults(found);
  check_states(found);
  check_goals(found);
  check_allocations(found);
  check_further_runs(found);
  check_missing(found);
  return found.take();
}

}  // namespace bench
