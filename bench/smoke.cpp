// Systems with known faults, and made-up figures with known answers.
// Floor 9, bench.
#include "smoke.hpp"

#include "allocation_counter.hpp"
#include "event.hpp"
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

enum class fault { none, loses, doubles, reorders, tears, untidy };

/// Calls the sinks directly and spoils what producer 1 sends as its hundredth event.
template <class Sink, fault Fault>
class faulty {
 public:
  using E = typename Sink::event_type;
  faulty(const shape&, std::span<Sink> sinks) : sinks_(sinks) {}

  void publish(unsigned producer, E&& event) {
    std::lock_guard lock(mutex_);
    if (producer == 1 && event.sequence == 100) {
      if (Fault == fault::loses) return;
      if (Fault == fault::doubles) give(event);
      if (Fault == fault::tears) event.seal ^= 1;
      if (Fault == fault::reorders) {
        held_ = event;
        return;
      }
    }
    give(event);
    if (producer == 1 && held_) give(*std::exchange(held_, std::nullopt));
  }
  std::string finish() { return Fault == fault::untidy ? "left something behind" : std::string(); }

 private:
  void give(const E& event) {
    for (auto& sink : sinks_) sink.take(event);
  }
  std::mutex mutex_;
  std::span<Sink> sinks_;
  std::optional<E> held_;
};

template <class Sink>
using sound_system = faulty<Sink, fault::none>;
template <class Sink>
using losing_system = faulty<Sink, fault::loses>;
template <class Sink>
using doubling_system = faulty<Sink, fault::doubles>;
template <class Sink>
using reordering_system = faulty<Sink, fault::reorders>;
template <class Sink>
using tearing_system = faulty<Sink, fault::tears>;
template <class Sink>
using untidy_system = faulty<Sink, fault::untidy>;

class findings {
 public:
  void expect(bool holds, const std::string& statement) {
    if (!holds) failed_.push_back("does not hold: " + statement);
  }
  std::vector<std::string> take() { return std::move(failed_); }

 private:
  std::vector<std::string> failed_;
};

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

void check_goals(findings& found) {
  std::vector<row> rows{
      made_row("A", "penstock", "park", system_kind::subject, 30, "far"),
      made_row("A", "slow", "x", system_kind::bounded_parking, 5, "far"),
      made_row("A", "fast", "x", system_kind::bounded_parking, 12, "far"),
      made_row("A", "queue", "x", system_kind::unbounded, 80, "far"),
      made_row("B", "penstock", "park", system_kind::subject, 30, "far"),
      made_row("B", "fast", "x", system_kind::bounded_parking, 20, "far"),
      made_row("C", "penstock", "park", system_kind::subject, 30, "far"),
      made_row("C", "fast", "x", system_kind::bounded_parking, 2, "near"),
      made_row("I.event.1", "penstock", "park", system_kind::subject, 0, "any"),
      made_row("I.event.8", "penstock", "park", system_kind::subject, 0.001, "any"),
      made_row("I.text.1", "penstock", "park", system_kind::subject, 1, "any"),
      made_row("I.text.8", "penstock", "park", system_kind::subject, 1, "any"),
  };
  const auto goals = judge(rows);
  found.expect(goals.size() == 16, "there are sixteen goals");
  if (goals.size() != 16) return;
  found.expect(goals[0].measured == 2.5 && goals[0].met == true,
               "1A compares with the best bounded peer, not the unbounded");
  found.expect(goals[1].measured == 1.5 && goals[1].met == false, "1B is honestly not met");
  found.expect(!goals[2].measured && !goals[2].met, "1C across two states is not measured");
  found.expect(!goals[4].met, "a goal without runs is not measured");
  found.expect(goals[5].met == false, "one allocation in a thousand publishes is not none");
  found.expect(goals[6].met == true, "one allocation per publish meets 5b");
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
    for (const auto& one : judge(rows))
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
  rows[2].figure.reset();
  found.expect(!judge(rows)[0].measured, "1A is not measured while a bounded peer has no figure");

  measured result;
  result.rows = rows;
  auto document = to_json(describe_machine(result, effort::quick), result, goals);
  found.expect(check_shape(document).empty(), "a made-up document has the agreed shape: " + check_shape(document));
  document["runs"][0].erase("unit");
  found.expect(!check_shape(document).empty(), "a missing key is noticed");
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

std::vector<std::string> check_the_checks() {
  findings found;
  check_faults(found);
  check_states(found);
  check_goals(found);
  check_allocations(found);
  return found.take();
}

}  // namespace bench
