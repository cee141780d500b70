// The self-checks of the runs beyond the plain stream.
// Floor 9, bench.
#include "allocation_counter.hpp"
#include "further.hpp"
#include "histogram.hpp"
#include "report.hpp"
#include "smoke.hpp"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace bench {

namespace {

using namespace std::chrono_literals;

void hold_for(std::chrono::nanoseconds time) {
  for (const auto until = steady::now() + time; steady::now() < until;) {
  }
}

/// Holds each event back before it calls the sink.
template <class Sink>
class holding {
 public:
  using E = typename Sink::event_type;
  holding(const shape&, std::span<Sink> sinks) : sinks_(sinks) {}
  void publish(unsigned, E&& event) {
    hold_for(200us);
    for (auto& sink : sinks_) sink.take(event);
  }
  std::string finish() { return {}; }

 private:
  std::span<Sink> sinks_;
};

/// Keeps a page for each event.
template <class Sink>
class hoarding {
 public:
  using E = typename Sink::event_type;
  static constexpr std::size_t page = 4096;
  hoarding(const shape&, std::span<Sink> sinks) : sinks_(sinks) {}
  void publish(unsigned, E&& event) {
    hoard_.emplace_back(page, 'x');
    for (auto& sink : sinks_) sink.take(event);
  }
  std::string finish() { return {}; }

 private:
  std::span<Sink> sinks_;
  std::vector<std::string> hoard_;
};

/// Has a thread that is never at rest.
template <class Sink>
class restless {
 public:
  using E = typename Sink::event_type;
  restless(const shape&, std::span<Sink>)
      : thread_([this] {
          while (!stopping_) hold_for(100us);
        }) {}
  void publish(unsigned, E&&) {}
  std::string finish() {
    stopping_ = true;
    thread_.join();
    return {};
  }

 private:
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

/// Calls a subscriber that nobody published to.
template <class Sink>
class talkative : public faulty<Sink, fault::none> {
 public:
  talkative(const shape& run, std::span<Sink> sinks) : faulty<Sink, fault::none>(run, sinks) {
    sinks.back().take(small_event::make(0, 0, 0));
  }
};

/// Calls the other side directly, and spoils the hundredth reply.
template <class Sink, fault Fault>
class faulty_pair {
 public:
  using E = typename Sink::event_type;
  faulty_pair(const shape&, Sink& answering, Sink& asking) : answering_(answering), asking_(asking) {}
  void request(E&& event) { answering_.take(event); }
  void reply(E&& event) {
    if (event.sequence == 100) {
      if (Fault == fault::loses) return;
      if (Fault == fault::doubles) asking_.take(event);
      if (Fault == fault::tears) event.seal ^= 1;
    }
    asking_.take(event);
  }
  std::string finish() { return Fault == fault::untidy ? "left something behind" : std::string(); }

 private:
  Sink& answering_;
  Sink& asking_;
};

template <class Sink>
using sound_pair = faulty_pair<Sink, fault::none>;
template <class Sink>
using losing_pair = faulty_pair<Sink, fault::loses>;
template <class Sink>
using doubling_pair = faulty_pair<Sink, fault::doubles>;
template <class Sink>
using tearing_pair = faulty_pair<Sink, fault::tears>;
template <class Sink>
using untidy_pair = faulty_pair<Sink, fault::untidy>;

template <class Outcome>
bool noticed(const Outcome& outcome, const char* text) {
  return outcome.problem.find(text) != std::string::npos;
}

shape run_of(std::uint64_t events, std::chrono::milliseconds give_up = 10s) {
  shape run = shaped(1, 1, events);
  run.capacity = 64;
  run.give_up = give_up;
  return run;
}

void check_paced(findings& found) {
  const latency_outcome sound = run_paced<sound_system>(run_of(500), 10us);
  found.expect(sound.problem.empty() && sound.ns.size() == 500, "a sound paced run is accepted: " + sound.problem);
  found.expect(noticed(run_paced<reordering_system>(run_of(500), 1us), "out of order"),
               "paced, two swapped events are noticed");
  found.expect(noticed(run_paced<tearing_system>(run_of(500), 1us), "checksum"), "paced, a torn event is noticed");
  found.expect(noticed(run_paced<doubling_system>(run_of(500), 1us), "501 events"),
               "paced, a doubled event is noticed");
  found.expect(noticed(run_paced<losing_system>(run_of(500, 50ms), 1us), "499 events"),
               "paced, a lost event is noticed");
  const latency_outcome held = run_paced<holding>(run_of(20), 1us);
  found.expect(held.problem.empty() && percentiles_of(held.ns).p50 >= 200'000 && held.publish_ns >= 200'000,
               "an event that is held for 200 us has been on its way so long");
}

void check_ping_pong(findings& found) {
  const shape run = run_of(200);
  const latency_outcome sound = run_ping_pong<sound_pair>(run);
  found.expect(sound.problem.empty() && sound.ns.size() == 200, "a sound ping-pong is accepted: " + sound.problem);
  found.expect(noticed(run_ping_pong<doubling_pair>(run), "201 events"), "a doubled reply is noticed");
  found.expect(noticed(run_ping_pong<tearing_pair>(run), "replies, producer 0: the checksum"),
               "a torn reply is noticed");
  found.expect(noticed(run_ping_pong<untidy_pair>(run), "left something behind"), "a pair's own complaint is kept");
  const latency_outcome lost = run_ping_pong<losing_pair>(run_of(200, 50ms));
  found.expect(noticed(lost, "did not come") && !lost.stuck, "a lost reply is noticed, and leaves nobody behind");
}

void check_back_pressure(findings& found) {
  const shape run = run_of(2000);
  const back_pressure_outcome sound = run_back_pressure<sound_system>(run);
  found.expect(sound.problem.empty() && sound.part > 0,
               "a sound run with a slow handler is accepted: " + sound.problem);
  found.expect(noticed(run_back_pressure<tearing_system>(run), "checksum"),
               "a torn event is noticed by a slow handler");
  found.expect(noticed(run_back_pressure<losing_system>(run_of(2000, 200ms)), "1999 events"),
               "a lost event is noticed by a slow handler");
  found.expect(run_back_pressure<holding>(run_of(200)).part < 0.5,
               "who holds events for 200 us leaves the handler idle");
  const back_pressure_outcome hoard = run_back_pressure<hoarding>(run);
  // All but those that came before the first look, and generously fewer: the allocator may reuse what it still had.
  found.expect(hoard.resident_growth >= 1000 * static_cast<double>(hoarding<working_sink>::page),
               "memory that grows by a page for each event is seen to grow");
}

void check_texts(findings& found) {
  shape run = run_of(500);
  run.count_allocations = true;
  const stream_outcome sound = run_stream<sound_system, 1, text_event>(run);
  found.expect(sound.problem.empty(), "a sound run with texts is accepted: " + sound.problem);
  found.expect(!allocation_counter::available() || sound.allocations == 500,
               "a direct call allocates the text of each event and nothing else");
  found.expect(noticed(run_stream<losing_system, 1, text_event>(run_of(500, 50ms)), "499 events"),
               "a lost text is noticed");
}

void check_rest(findings& found) {
  shape run = run_of(0);
  run.subscribers = 3;
  found.expect(run_rest<sound_system>(run, 1ms).problem.empty(), "subscribers at rest are accepted");
  found.expect(noticed(run_rest<talkative>(run, 1ms), "an idle subscription was called"),
               "a call of an idle subscription is noticed");
  found.expect(run_rest<restless>(run, 200ms).cpu > 0.05, "a thread that never rests is seen in the processor time");
}

void check_histogram(findings& found) {
  std::vector<std::int64_t> values;
  for (std::int64_t value = 1000; value >= 1; --value) values.push_back(value);
  const percentiles of = percentiles_of(values);
  found.expect(of.p50 == 500 && of.p99 == 990 && of.p999 == 999 && of.max == 1000, "the ranks of 1 to 1000 are known");
  found.expect(percentiles_of({7}).p50 == 7 && percentiles_of({7}).p999 == 7, "one value is each percentile");
  bool close = true;
  for (std::int64_t ns = 0; ns < 1'000'000; ns += 1 + ns / 50) {
    const std::int64_t bound = histogram::lower_bound(ns);
    close = close && bound <= ns && (ns - bound) * 16 <= ns && histogram::lower_bound(bound) == bound;
  }
  found.expect(close, "a bucket begins at most 1/16 below each of its values");
  found.expect(histogram::lower_bound(-5) == 0, "a negative time counts as none");
}

/// A workload with two figures and a distribution, in and out again.
void check_figures(findings& found) {
  workload what;
  what.id = std::string(1, 'X');
  what.what = "made up";
  what.figures = {{"first", "us"}, {"second", "CPU %", better::higher, across_runs::maximum}};
  what.depends_on = dependence::none;
  what.applies = [](const system_entry&) { return true; };
  double run = 0;
  what.run = [&run](const system_entry&) {
    measurement done;
    ++run;
    done.values = {run, 10 * run};
    done.distribution.add(100);
    return done;
  };
  system_entry system;
  system.name = "made up";
  system.mode = "x";
  measure_options how;
  how.runs = 3;
  measured result = measure({what}, {system}, how, [](const std::string&) {});
  const row* first = find_row(result.rows, "X.first", "made up", "x");
  const row* second = find_row(result.rows, "X.second", "made up", "x");
  found.expect(result.rows.size() == 2 && first != nullptr && second != nullptr, "each figure has a row");
  if (first == nullptr || second == nullptr || !first->figure || !second->figure) return;
  found.expect(first->figure->median == 2 && second->figure->max == 30 && second->unit == "CPU %",
               "each row has its own values and unit");
  found.expect(first->distribution.buckets().at(histogram::lower_bound(100)) == 3 && second->distribution.empty(),
               "the distribution of all counted runs is at the first figure");
  auto document = to_json(describe_machine(result, effort::quick), result, judge(result.rows, missing_peers()));
  found.expect(check_shape(document).empty(), "a run with a histogram has the agreed shape: " + check_shape(document));
  document["runs"][0]["histogram"][0] = {96};
  found.expect(!check_shape(document).empty(), "a bucket without a count is noticed");
}

/// A stream whose count is fitted: each event takes 200 us at least.
void check_fit(findings& found) {
  system_entry system;
  system.name = "made up";
  system.mode = "x";
  system.stream = run_stream<tearing_system, 1>;
  shape torn = run_of(101);
  found.expect(noticed(fit(system, torn, 1ms), "checksum"), "a wrong run is noticed while the count is fitted");
  system.stream = run_stream<holding, 1>;
  workload what;
  what.id = std::string(1, 'X');
  what.depends_on = dependence::none;
  what.applies = [](const system_entry&) { return true; };
  what.to_fit = {run_of(1), run_of(2)};
  what.fitted_time = 40ms;
  what.run_fitted = [](const system_entry& system, const std::vector<shape>& shapes) {
    return throughput(system, shapes.front());
  };
  measure_options how;
  how.runs = 1;
  const measured result = measure({what}, {system}, how, [](const std::string&) {});
  const row* made = find_row(result.rows, "X", "made up", "x");
  found.expect(made != nullptr && made->figure && made->figure->median <= 0.005, "a fitted run gives a figure");
  // 200 on each shape; fewer where the machine was busy with other things, and rounded up.
  found.expect(made != nullptr && made->events >= 20 && made->events <= 440,
               "so many events are given as fit into the time");
}

void check_their_goals(findings& found) {
  const auto peer = system_kind::bounded_parking;
  const auto mine = system_kind::subject;
  std::vector<row> rows{
      made_row("E.paced.p50", "penstock", "park", mine, 27, "far"),
      made_row("E.paced.p50", "penstock", "adaptive", mine, 2, "far"),
      made_row("E.paced.p50", "penstock", "spin_then_park 100 us", mine, 0.9, "far"),
      made_row("E.paced.p50", "futex", "bare wake", system_kind::reference, 25, "far"),
      made_row("E.paced.p50", "slow", "x", peer, 40, "far"),
      made_row("E.paced.p50", "fast", "x", peer, 20, "far"),
      made_row("E.paced.p99", "penstock", "park", mine, 60, "far"),
      made_row("E.paced.p99", "futex", "bare wake", system_kind::reference, 50, "near"),
      made_row("E.rare.cpu", "penstock", "park", mine, 1, "far"),
      made_row("E.rare.cpu", "penstock", "adaptive", mine, 1.2, "far"),
      made_row("E.idle", "penstock", "adaptive", mine, 0.005, "any"),
      made_row("E.idle", "fast", "x", peer, 0.001, "any"),
      made_row("E.pingpong.pool.p50", "penstock", default_mode, mine, 1, "far"),
      made_row("F.part", "penstock", default_mode, mine, 0.96, "far"),
      made_row("F.growth", "penstock", default_mode, mine, 100, "far"),
      made_row("J", "penstock", "park", mine, 0.01, "any"),
      made_row("J", "penstock", "other", mine, 0.2, "any"),
  };
  rows[2].one_way_ns = 200;
  const auto goals = judge(rows, {});
  const auto answer = [&](const char* id) {
    for (const auto& one : goals)
      if (one.id == id) return one.met;
    found.expect(false, std::string("there is a goal ") + id);
    return std::optional<bool>();
  };
  found.expect(answer("3a") == true, "27 is within 1.1 of 25");
  found.expect(!answer("3b"), "a futex in another state is not compared with");
  found.expect(answer("3c") == true, "0.9 us is within three trips of 400 ns");
  found.expect(answer("3d") == true, "2 us is better than the best parking peer's 20");
  found.expect(answer("3e") == true, "0.004 points more are what measuring takes");
  found.expect(answer("3f") == false, "a fifth more CPU is not within a tenth");
  found.expect(answer("3g") == false, "1 us is not below 1 us");
  found.expect(!answer("3h"), "without runs there is no answer");
  found.expect(answer("4a") == true && answer("4b") == false, "F is judged by both of its figures");
  found.expect(answer("5d") == false, "J is judged by the mode that takes most");
  rows[4].figure.reset();
  for (const auto& one : judge(rows, {}))
    if (one.id == "3d") found.expect(!one.met, "3d has no answer while a parking peer has no figure");
}

}  // namespace

void check_further_runs(findings& found) {
  check_paced(found);
  check_ping_pong(found);
  check_back_pressure(found);
  check_texts(found);
  check_rest(found);
  check_histogram(found);
  check_figures(found);
  check_fit(found);
  check_their_goals(found);
}

}  // namespace bench
