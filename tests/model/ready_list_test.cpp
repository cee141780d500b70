// The ready list of a pool with simulated workers: nothing is run twice, nothing is left while a worker sleeps.
// Floor 9, room tests.
#include "../support/catch.hpp"

#include "exec/ready_list.hpp"

#include <penstock/testing/simulation.hpp>

#include <chrono>
#include <cstdlib>
#include <deque>
#include <optional>
#include <vector>

using namespace std::chrono_literals;
using penstock::exec::ready_list;
using penstock::exec::spin_gauge;
using penstock::testing::explore;
using penstock::testing::gate;
using penstock::testing::simulation;

namespace {

/// Goes on by a microsecond at each look; others may run before. The library reads it without its mutex held.
class looking_time final : public penstock::clock {
 public:
  explicit looking_time(simulation& sim) : sim_(sim) {}
  penstock::steady_time now() const noexcept override {
    sim_.yield();
    return now_ += 1us;
  }

 private:
  simulation& sim_;
  mutable penstock::steady_time now_{};
};

constexpr std::chrono::nanoseconds looks = 4us;

/// Workers that sleep at once, look, or look while that pays off.
spin_gauge maybe_looks(simulation& sim) {
  const auto chosen = sim.random(3);
  return chosen == 0 ? spin_gauge(0ns) : chosen == 1 ? spin_gauge(looks) : spin_gauge::adaptive(looks);
}

/// Something to run. `repeats`: how often it lists itself again, as a lane does whose budget is used up.
class item final : public penstock::runnable {
 public:
  item(simulation& sim, ready_list& list) : sim_(sim), list_(list) {}
  void run(unsigned) override {
    sim_.require(listed_, "something was run that is in no list");
    sim_.require(!running_, "one lane was run by two workers at once");
    listed_ = false;
    running_ = true;
    ++runs;
    sim_.yield();
    if (lists != nullptr) lists->list_within();
    if (stays_at) stays_at->wait();
    running_ = false;
    if (repeats > 0) {
      --repeats;
      listed_ = true;
      ++listings;
      list_.push_again(*this);
    }
  }
  void dropped() noexcept override {}
  void list() {
    listed_ = true;
    ++listings;
    list_.push(*this);
  }

  /// As a worker does in the middle of a turn.
  void list_within() {
    listed_ = true;
    ++listings;
    list_.push_within(*this);
  }

  int runs = 0;
  int listings = 0;
  item* lists = nullptr;  ///< listed in each turn
  int repeats = 0;
  std::optional<gate> stays_at;

 private:
  simulation& sim_;
  ready_list& list_;
  bool listed_ = false;
  bool running_ = false;
};

/// The threads of a pool, and what is posted to them.
class workers {
 public:
  workers(simulation& sim, ready_list& list, std::size_t count) : sim_(sim), list_(list) {
    for (std::size_t i = 0; i < count; ++i) {
      ready_list::sleeper& self = sleepers_.emplace_back();
      sim.thread("worker", [this, &self] { work(self); });
    }
  }
  void post() { sim_.require(try_post(), "an open list refused posted work"); }
  bool try_post() {
    ++promised_;
    return list_.push_posted();
  }
  /// Everything was run and every worker sleeps; then all end.
  void end_at_rest() {
    sim_.run_until_idle();
    sim_.require(posted == promised_, "posted work was lost");
    sim_.require(list_.size() == 0, "something is ready, and every worker sleeps");
    sim_.require(list_.sleeping() == sleepers_.size(), "a worker is neither asleep nor at work");
    list_.stop();
    sim_.run_until_idle();
    sim_.require_all_done();
  }

  int posted = 0;             ///< run so far
  std::size_t long_ones = 0;  ///< so many posted items stay at the gate
  std::optional<gate> stays_at;

 private:
  void work(ready_list::sleeper& self) {
    for (;;) {
      const ready_list::ready found = list_.next(self);
      if (found.kind == ready_list::what::stopped) return;
      if (found.kind == ready_list::what::lane) {
        found.lane->run(1);
        continue;
      }
      do {
        ++posted;
        sim_.require(posted <= promised_, "posted work was handed out that nobody posted");
        if (long_ones > 0) {
          --long_ones;
          stays_at->wait();
        }
      } while (list_.next_posted(self));
    }
  }

  simulation& sim_;
  ready_list& list_;
  std::deque<ready_list::sleeper> sleepers_;
  int promised_ = 0;
};

/// Lets others go on first, by a few steps.
void dawdle(simulation& sim) {
  for (auto steps = sim.random(12); steps > 0; --steps) sim.yield();
}

}  // namespace

TEST_CASE("two workers run what two threads push, each once for each push, and sleep only when nothing is ready") {
  explore(10'000, [](simulation& sim) {
    const looking_time time(sim);
    ready_list list(maybe_looks(sim), time);
    std::deque<item> items;
    for (int i = 0; i < 4; ++i) {
      items.emplace_back(sim, list);
      items.back().repeats = static_cast<int>(sim.random(2));
    }
    workers crew(sim, list, 2);
    for (std::size_t pusher = 0; pusher < 2; ++pusher) {
      sim.thread("pusher", [&, pusher] {
        for (std::size_t i = 0; i < 2; ++i) {
          items[pusher * 2 + i].list();
          if (sim.random(2) == 0) crew.post();
        }
      });
    }
    crew.end_at_rest();
    for (const item& each : items) sim.require(each.runs == each.listings, "a push was lost, or counted twice");
  });
}

TEST_CASE("no ready lane stays behind a worker that is held by its handler while another worker sleeps") {
  explore(10'000, [](simulation& sim) {
    const looking_time time(sim);
    ready_list list(maybe_looks(sim), time);
    const gate held = sim.gate("a long call");
    const std::size_t long_ones = 1 + sim.random(3);
    std::deque<item> items;
    for (std::size_t i = 0; i < 4; ++i) {
      items.emplace_back(sim, list);
      if (i < long_ones) items.back().stays_at = held;
    }
    workers crew(sim, list, 3);
    for (std::size_t pusher = 0; pusher < 2; ++pusher) {
      sim.thread("pusher", [&, pusher] {
        for (std::size_t i = 0; i < 2; ++i) items[i * 2 + pusher].list();
      });
    }
    sim.run_until_idle();
    // The workers that are not held must have run all else: with three held ones the last may wait for a worker.
    sim.require(list.size() == 0 || list.sleeping() == 0, "a lane is ready and a worker sleeps");
    if (long_ones < 3)
      for (const item& each : items) sim.require(each.runs == 1, "a lane waits although a worker is free");
    held.open();
    crew.end_at_rest();
    for (const item& each : items) sim.require(each.runs == 1, "a lane was not run once");
  });
}

TEST_CASE("no posted item stays behind a worker that is held by another one while a worker sleeps") {
  explore(10'000, [](simulation& sim) {
    const looking_time time(sim);
    ready_list list(maybe_looks(sim), time);
    workers crew(sim, list, 3);
    crew.long_ones = 1 + sim.random(3);
    crew.stays_at = sim.gate("a long call");
    const bool all_held = crew.long_ones == 3;
    item lane(sim, list);
    for (std::size_t poster = 0; poster < 2; ++poster) {
      sim.thread("poster", [&, poster] {
        for (int i = 0; i < 3; ++i) {
          crew.post();
          if (poster == 0 && i == 1) lane.list();
        }
      });
    }
    sim.run_until_idle();
    sim.require(list.size() == 0 || list.sleeping() == 0, "something is ready and a worker sleeps");
    if (!all_held) {
      sim.require(crew.posted == 6, "a posted item waits although a worker is free");
      sim.require(lane.runs == 1, "a lane waits although a worker is free");
    }
    crew.stays_at->open();
    crew.end_at_rest();
    sim.require(lane.runs == 1, "a lane was not run once");
  });
}

TEST_CASE("a stop against pushes ends every worker, and what is left is handed out once") {
  explore(10'000, [](simulation& sim) {
    const looking_time time(sim);
    ready_list list(maybe_looks(sim), time);
    std::deque<item> items;
    for (int i = 0; i < 4; ++i) items.emplace_back(sim, list);
    workers crew(sim, list, 2);
    int refused = 0;
    for (std::size_t pusher = 0; pusher < 2; ++pusher) {
      sim.thread("pusher", [&, pusher] {
        for (std::size_t i = 0; i < 2; ++i) items[pusher * 2 + i].list();
        for (int i = 0; i < 2; ++i)
          if (!crew.try_post()) ++refused;
      });
    }
    sim.thread("stopper", [&] { list.stop(); });
    sim.run_until_idle();
    sim.require_all_done();
    int left = 0;
    while (list.take_left() != nullptr) ++left;
    int runs = 0;
    for (const item& each : items) runs += each.runs;
    sim.require(runs + left == 4, "a lane was neither run nor left");
    const int left_posted = static_cast<int>(list.size());  // the lanes are out
    sim.require(crew.posted + left_posted + refused == 4, "posted work was neither run, left nor refused");
  });
}

TEST_CASE("what is given to a worker as its look ends is run once, and every worker sleeps in the end") {
  explore(10'000, [](simulation& sim) {
    const looking_time time(sim);
    ready_list list(looks, time);
    std::deque<item> items;
    for (int i = 0; i < 6; ++i) items.emplace_back(sim, list);
    workers crew(sim, list, 2);
    for (std::size_t pusher = 0; pusher < 2; ++pusher) {
      sim.thread("pusher", [&, pusher] {
        for (std::size_t i = 0; i < 3; ++i) {
          dawdle(sim);
          items[i * 2 + pusher].list();
          if (sim.random(3) == 0) crew.post();
        }
      });
    }
    crew.end_at_rest();
    for (const item& each : items) sim.require(each.runs == 1, "what was pushed was not run once");
  });
}

TEST_CASE("what a turn lists is run while that turn lasts, by a worker that looks or one that is woken") {
  explore(10'000, [](simulation& sim) {
    const looking_time time(sim);
    ready_list list(maybe_looks(sim), time);
    const gate held = sim.gate("a long turn");
    std::deque<item> items;
    for (int i = 0; i < 2; ++i) items.emplace_back(sim, list);
    items[0].lists = &items[1];
    items[0].stays_at = held;
    workers crew(sim, list, 2);
    sim.thread("pusher", [&] {
      dawdle(sim);
      items[0].list();
    });
    sim.run_until_idle();
    sim.require(items[1].runs == 1, "what a turn listed waits for its end, although a worker is free");
    held.open();
    crew.end_at_rest();
  });
}

TEST_CASE("nothing that is given to a worker that looks overtakes what was listed before") {
  explore(10'000, [](simulation& sim) {
    const looking_time time(sim);
    ready_list list(looks, time);
    std::deque<item> items;
    for (int i = 0; i < 3; ++i) items.emplace_back(sim, list);
    std::vector<const item*> order;
    ready_list::sleeper self;
    sim.thread("worker", [&] {
      for (;;) {
        const ready_list::ready found = list.next(self);
        if (found.kind == ready_list::what::stopped) return;
        found.lane->run(1);
        order.push_back(static_cast<const item*>(found.lane));
      }
    });
    sim.thread("pusher", [&] {
      dawdle(sim);
      items[0].list_within();
      items[1].list();
      items[2].list();
    });
    sim.run_until_idle();
    sim.require(order == std::vector<const item*>{&items[0], &items[1], &items[2]}, "not first in, first out");
    list.stop();
    sim.run_until_idle();
    sim.require_all_done();
  });
}
