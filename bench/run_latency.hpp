// One event at a time: paced from a producer, and to and fro between two subscribers.
// Floor 9, bench.
#pragma once

#include "resources.hpp"
#include "roles.hpp"
#include "run_system.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace bench {

/// Reads the clock first thing, and keeps how long ago each event was published.
class stamping_sink {
 public:
  using event_type = small_event;

  void expect(unsigned producers, std::uint64_t expected, finish_line& line) {
    ns_.assign(expected, 0);
    checked_.expect(producers, expected, line);
  }
  void take(const small_event& event) {
    const std::int64_t now = steady::now().time_since_epoch().count();
    if (event.sequence < ns_.size()) ns_[event.sequence] = now - event.published_ns;
    checked_.take(event);
  }
  std::string verdict() const { return checked_.verdict(); }
  const std::vector<std::int64_t>& ns() const noexcept { return ns_; }

 private:
  std::vector<std::int64_t> ns_;
  checked_sink<small_event> checked_;
};

/// One producer, one subscriber, an event each time the schedule says so. The schedule is absolute: a publish that took
/// long delays no later one. The producer spins on the clock until then and burns its core, so that it is never late by
/// a wake-up of its own; its processor time is not the system's.
template <template <class> class System>
latency_outcome run_paced(const shape& run, std::chrono::nanoseconds interval) {
  struct account {
    steady::time_point begin, end;
    double process_begin = 0, process_end = 0;
    double pacing = 0;
    steady::duration publishing{0};
  };
  using run_type = run_state<System, small_event, stamping_sink>;
  // The producer writes into it; a stuck run leaves both behind.
  struct paced_state : run_type {
    using run_type::run_type;
    account spent;
  };
  latency_outcome outcome;
  auto state = std::make_unique<paced_state>(run);
  auto& now = *state;
  auto& spent = now.spent;
  const auto pacing = [&now, &spent, interval, events = run.events](unsigned producer) {
    spent.process_begin = process_cpu_seconds();
    const double own = thread_cpu_seconds();
    spent.begin = steady::now();
    auto due = spent.begin;
    for (std::uint64_t sequence = 0; sequence < events; ++sequence) {
      due += interval;
      auto at = steady::now();
      while (at < due) at = steady::now();
      now.system->publish(producer, small_event::make(producer, sequence, at.time_since_epoch().count()));
      spent.publishing += steady::now() - at;
    }
    spent.pacing = thread_cpu_seconds() - own;
  };
  const auto awaiting = [&] {
    now.ready.arrive_and_wait();
    const bool complete = now.line.wait(run.give_up);
    spent.end = steady::now();
    spent.process_end = process_cpu_seconds();
    return complete;
  };
  drive(state, run, pacing, awaiting, outcome);
  if (!outcome.problem.empty()) return outcome;
  const double seconds = std::chrono::duration<double>(spent.end - spent.begin).count();
  outcome.ns = now.sinks[0].ns();
  outcome.pacing_cpu = spent.pacing / seconds;
  outcome.cpu = std::max(0.0, spent.process_end - spent.process_begin - spent.pacing) / seconds;
  outcome.publish_ns =
      std::chrono::duration<double, std::nano>(spent.publishing).count() / static_cast<double>(run.events);
  return outcome;
}

// What a ping-pong runs on is a class template over the sink, too:
//
//   template <class Sink> class some_pair {
//    public:
//     using E = typename Sink::event_type;
//     some_pair(const shape& run, Sink& answering, Sink& asking);  // starts its consumers
//     void request(E&& event);  // goes to `answering`
//     void reply(E&& event);    // goes to `asking`
//     std::string finish();     // no message is on the way any more
//   };

/// Two of a system: one carries the requests, the other the replies, each to a consumer thread of its own.
template <template <class> class System>
struct two_of {
  template <class Sink>
  class pair {
   public:
    using E = typename Sink::event_type;

    pair(const shape& run, Sink& answering, Sink& asking)
        : replies_(run, std::span(&asking, 1)), requests_(run, std::span(&answering, 1)) {}
    void request(E&& event) { requests_.publish(0, std::move(event)); }
    void reply(E&& event) { replies_.publish(0, std::move(event)); }
    std::string finish() {
      std::string untidy = requests_.finish();
      const std::string also = replies_.finish();
      return untidy.empty() ? also : untidy;
    }

   private:
    // The consumer of requests publishes replies, so it ends first.
    System<Sink> replies_;
    System<Sink> requests_;
  };
};

/// `run.events` round trips with one message on the way. Who asks sends the next request from the handler of the last
/// reply, so that no thread but the consumers is in it.
template <template <class> class Pair>
class ping_pong_state {
 public:
  class sink {
   public:
    using event_type = small_event;
    void take(const small_event& event) { asking_ ? game_->replied(event) : game_->requested(event); }

   private:
    friend class ping_pong_state;
    ping_pong_state* game_ = nullptr;
    bool asking_ = false;
    std::atomic<int> inside_{0};  // calls inside a publish; a word each, not one that goes to and fro as well
    checked_sink<small_event> checked_;
  };

  explicit ping_pong_state(const shape& run) : line_(2), ns_(run.events, 0) {
    for (sink* one : {&answering_, &asking_}) {
      one->game_ = this;
      one->checked_.expect(1, run.events, line_);
    }
    asking_.asking_ = true;
    const threads_named as("consumer");
    pair_ = std::make_unique<Pair<sink>>(run, answering_, asking_);
  }

  bool play(std::chrono::milliseconds limit) {
    ask(steady::now().time_since_epoch().count());
    return line_.wait(limit);
  }
  /// False when somebody is still inside a publish; else no further one begins.
  bool stop(std::chrono::milliseconds limit) {
    stopping_ = true;
    const auto until = steady::now() + limit;
    const auto quiet = [&] { return asking_.inside_ == 0 && answering_.inside_ == 0; };
    while (!quiet() && steady::now() < until) std::this_thread::yield();
    return quiet();
  }
  /// Ends the pair; the complaint of it or of a sink, or nothing.
  std::string finish() {
    const std::string untidy = pair_->finish();
    pair_.reset();
    if (const auto wrong = answering_.checked_.verdict(); !wrong.empty()) return "requests, " + wrong;
    if (const auto wrong = asking_.checked_.verdict(); !wrong.empty()) return "replies, " + wrong;
    return untidy;
  }
  std::vector<std::int64_t> take_ns() { return std::move(ns_); }

 private:
  void ask(std::int64_t now_ns) {
    ++asking_.inside_;
    if (!stopping_) pair_->request(small_event::make(0, asked_, now_ns));
    --asking_.inside_;
  }
  void requested(const small_event& event) {
    answering_.checked_.take(event);
    ++answering_.inside_;
    if (!stopping_) pair_->reply(small_event(event));
    --answering_.inside_;
  }
  void replied(const small_event& event) {
    const std::int64_t now = steady::now().time_since_epoch().count();
    const bool in_turn = event.sequence == asked_ && asked_ < ns_.size();
    if (in_turn) ns_[asked_++] = now - event.published_ns;
    const bool more = in_turn && asked_ < ns_.size();
    asking_.checked_.take(event);
    if (more) ask(now);
  }

  finish_line line_;
  std::vector<std::int64_t> ns_;  // of the asking sink, after the first request
  std::uint64_t asked_ = 0;       // likewise
  alignas(64) std::atomic<bool> stopping_{false};
  sink answering_;
  sink asking_;
  std::unique_ptr<Pair<sink>> pair_;
};

template <template <class> class Pair>
latency_outcome run_ping_pong(const shape& run) {
  latency_outcome outcome;
  auto state = std::make_unique<ping_pong_state<Pair>>(run);
  const auto begin = steady::now();
  const double before = process_cpu_seconds();
  if (!state->play(run.give_up)) {
    outcome.problem = "the last reply did not come within " + std::to_string(run.give_up.count()) + " ms";
    if (!state->stop(std::chrono::milliseconds(1000))) {
      outcome.problem += "; a subscriber is still inside publish";
      outcome.stuck = true;
      (void)state.release();
      return outcome;
    }
  }
  const double seconds = std::chrono::duration<double>(steady::now() - begin).count();
  outcome.cpu = (process_cpu_seconds() - before) / seconds;
  const std::string wrong = state->finish();
  if (outcome.problem.empty())
    outcome.problem = wrong;
  else if (!wrong.empty())
    outcome.problem += ": " + wrong;
  outcome.ns = state->take_ns();
  return outcome;
}

template <template <class> class System>
latency_outcome run_ping_pong_between(const shape& run) {
  return run_ping_pong<two_of<System>::template pair>(run);
}

}  // namespace bench
