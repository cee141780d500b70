// The simulation itself: its choices, its time, what it finds and what it reports.
// Floor 9, room tests.
#include "../support/catch.hpp"

#include <penstock/base/agent.hpp>
#include <penstock/testing/simulation.hpp>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

using namespace std::chrono_literals;
using penstock::errc;
using penstock::no_deadline;
using penstock::this_thread_slot;
using penstock::testing::exploration;
using penstock::testing::explore;
using penstock::testing::explore_options;
using penstock::testing::simulation;
using penstock::testing::simulation_failure;
using penstock::testing::simulation_options;
using penstock::testing::strategy;
using penstock_test::contains_text;

namespace {

/// A condition as a library would write it on the parking seam. `window`: what happens between look and wait.
struct condition {
  bool holds = false;
  void wait() {
    while (!holds) this_thread_slot().simulated_by->wait(this, no_deadline);
  }
  void set() {
    holds = true;
    this_thread_slot().simulated_by->wake_all(this);
  }
};

/// A lock as the library's own in the model build.
struct model_lock {
  bool held = false;
  void lock() {
    auto* agent = this_thread_slot().simulated_by;
    agent->preempt();
    while (held) agent->wait(this, no_deadline);
    held = true;
  }
  void unlock() {
    held = false;
    this_thread_slot().simulated_by->wake_one(this);
  }
};

/// The text of the failure that an exploration ends with; empty when it passes.
template <class Scenario>
std::string failure_of(const explore_options& options, Scenario scenario) {
  try {
    explore(options, scenario);
    return "";
  } catch (const simulation_failure& failed) {
    return failed.what();
  }
}

template <class Scenario>
std::string failure_of(std::uint64_t seeds, Scenario scenario) {
  return failure_of(explore_options().seeds(seeds), scenario);
}

/// Keeps an outer PENSTOCK_SEED or PENSTOCK_SEEDS from a case that counts on its own seeds.
class own_seeds {
 public:
  own_seeds() {
    for (const char* name : names) {
      const char* value = std::getenv(name);
      if (value != nullptr) before_[name] = value;
      unsetenv(name);
    }
  }
  ~own_seeds() {
    for (const char* name : names) unsetenv(name);
    for (const auto& [name, value] : before_) setenv(name.c_str(), value.c_str(), 1);
  }
  own_seeds(const own_seeds&) = delete;
  own_seeds& operator=(const own_seeds&) = delete;

 private:
  static constexpr std::array<const char*, 2> names{"PENSTOCK_SEED", "PENSTOCK_SEEDS"};
  std::map<std::string, std::string> before_;
};

/// Three threads that take turns; the order they went in.
std::string order_of_three(simulation& sim, int rounds) {
  std::string order;
  for (const char* name : {"a", "b", "c"}) {
    sim.thread(name, [&order, &sim, name, rounds] {
      for (int i = 0; i < rounds; ++i) {
        order += name;
        sim.yield();
      }
    });
  }
  sim.run_until_idle();
  sim.require_all_done();
  return order;
}

std::string output_of(const std::string& command) {
  std::string text;
  std::FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return text;
  char buffer[4096];
  for (std::size_t got = 0; (got = std::fread(buffer, 1, sizeof buffer, pipe)) != 0;) text.append(buffer, got);
  pclose(pipe);
  return text;
}

std::string own_program() {
  std::array<char, 4096> path{};
  const auto length = readlink("/proc/self/exe", path.data(), path.size() - 1);
  return length > 0 ? std::string(path.data(), static_cast<std::size_t>(length)) : std::string();
}

}  // namespace

TEST_CASE("the same seed gives the same order and the same trace hash") {
  for (const auto chosen : {strategy::random, strategy::fifo, strategy::starve_one, strategy::priority_change}) {
    std::string orders[2];
    std::uint64_t hashes[2] = {};
    for (int run = 0; run < 2; ++run) {
      simulation sim(simulation_options().seed(77).strategy(chosen));
      orders[run] = order_of_three(sim, 5);
      hashes[run] = sim.trace_hash();
      sim.finish();
    }
    CHECK(orders[0] == orders[1]);
    CHECK(hashes[0] == hashes[1]);
  }
}

TEST_CASE("different seeds try all orders of three threads") {
  std::set<std::string> orders;
  std::set<std::uint64_t> hashes;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    simulation sim(simulation_options().seed(seed));
    orders.insert(order_of_three(sim, 1));
    hashes.insert(sim.trace_hash());
    sim.finish();
  }
  CHECK(orders.size() == 6);
  CHECK(hashes.size() >= 6);
}

TEST_CASE("the fifo strategy runs threads in the order they became ready") {
  simulation sim(simulation_options().strategy(strategy::fifo));
  CHECK(order_of_three(sim, 3) == "abcabcabc");
  sim.finish();
}

TEST_CASE("the starving strategy runs its victim only when nothing else is ready") {
  std::set<char> last;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    simulation sim(simulation_options().seed(seed).strategy(strategy::starve_one));
    const std::string order = order_of_three(sim, 6);
    sim.finish();
    // A starved thread does all its rounds after the other two have done theirs.
    const std::string tail = order.substr(order.size() - 6);
    if (tail.find_first_not_of(tail[0]) == std::string::npos && order.find(tail[0]) == order.size() - 6)
      last.insert(tail[0]);
  }
  CHECK(last == std::set<char>{'a', 'b', 'c'});
}

TEST_CASE("the priority strategy changes its mind at most twice between threads that are always ready") {
  int switches_seen = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    simulation sim(simulation_options().seed(seed).strategy(strategy::priority_change));
    const std::string order = order_of_three(sim, 20);
    sim.finish();
    int switches = 0;
    for (std::size_t i = 1; i < order.size(); ++i) switches += order[i] != order[i - 1] ? 1 : 0;
    CHECK(switches >= 2);
    CHECK(switches <= 6);  // two of them by running out of rounds; a change moves away and, at the end, back
    switches_seen += switches > 2 ? 1 : 0;
  }
  CHECK(switches_seen > 20);
}

TEST_CASE("virtual time jumps to the next deadline, and only when nothing is ready") {
  simulation sim;
  std::vector<std::string> seen;
  sim.thread("late", [&] {
    sim.sleep_for(10h);
    seen.push_back("late");
  });
  sim.thread("early", [&] {
    sim.sleep_for(1h);
    seen.push_back("early");
    for (int i = 0; i < 100; ++i) sim.yield();
    seen.push_back(sim.elapsed() == 1h ? "still one hour" : "time moved while something was ready");
  });
  sim.run_until_idle();
  CHECK(seen == std::vector<std::string>{"early", "still one hour", "late"});
  CHECK(sim.elapsed() == 10h);
  sim.finish();
}

TEST_CASE("run_for runs what is due within it and then exactly that much time has passed") {
  simulation sim;
  int done = 0;
  for (int i = 1; i <= 4; ++i) {
    sim.thread("sleeper", [&sim, &done, i] {
      sim.sleep_for(std::chrono::seconds(i));
      ++done;
    });
  }
  sim.run_for(2500ms);
  CHECK(done == 2);
  CHECK(sim.elapsed() == 2500ms);
  CHECK(sim.run_until([&] { return done == 3; }));
  CHECK(sim.elapsed() == 3s);
  CHECK(sim.step());
  sim.run_until_idle();
  CHECK_FALSE(sim.step());
  CHECK(done == 4);
  sim.finish();
}

TEST_CASE("timers fire in the order of their due times, and a disarmed one does not fire") {
  struct probe : penstock::timer_node {
    std::vector<int>* fired = nullptr;
    int number = 0;
  };
  simulation sim;
  auto pool = sim.environment()->make_pool("timed", {});
  std::vector<int> fired;
  std::array<probe, 6> probes;
  for (int i = 0; i < 6; ++i) {
    probe& each = probes[static_cast<std::size_t>(i)];
    each.number = i;
    each.fired = &fired;
    each.due = sim.now() + std::chrono::seconds((i * 7) % 6 + 1);  // 0 1 2 3 4 5 in another order
    each.fire = [](penstock::timer_node& node) noexcept {
      auto& self = static_cast<probe&>(node);
      self.fired->push_back(self.number);
    };
    CHECK(pool->timers().arm(each) == errc::none);
  }
  CHECK(pool->timers().disarm(probes[2]));
  CHECK_FALSE(pool->timers().disarm(probes[2]));
  sim.run_until_idle();
  CHECK(fired == std::vector<int>{0, 1, 3, 4, 5});
  CHECK(sim.elapsed() == 6s);
  CHECK_FALSE(pool->timers().disarm(probes[0]));
  sim.finish();
}

TEST_CASE("a planted lost wake-up is found and named") {
  own_seeds own;
  const std::string text = failure_of(10'000, [](simulation& sim) {
    condition ready;
    auto waiter = sim.thread("the sleeper", [&] {
      if (ready.holds) return;
      sim.yield();  // the planted window: the wake-up may come between the look and the wait
      this_thread_slot().simulated_by->wait(&ready, no_deadline);
    });
    sim.thread("the waker", [&] { ready.set(); });
    waiter.join();
  });
  CHECK_THAT(text, contains_text("deadlock"));
  CHECK_THAT(text, contains_text("'the sleeper' (waits inside the library)"));
  CHECK(failure_of(10'000, [](simulation& sim) {
          condition ready;
          auto waiter = sim.thread("the sleeper", [&] { ready.wait(); });
          sim.thread("the waker", [&] { ready.set(); });
          waiter.join();
        }) == "");
}

TEST_CASE("two locks taken in opposite order deadlock under some seed, and both threads are named") {
  own_seeds own;
  const std::string text = failure_of(10'000, [](simulation& sim) {
    model_lock first;
    model_lock second;
    auto forwards = sim.thread("forwards", [&] {
      first.lock();
      sim.yield();
      second.lock();
      second.unlock();
      first.unlock();
    });
    auto backwards = sim.thread("backwards", [&] {
      second.lock();
      sim.yield();
      first.lock();
      first.unlock();
      second.unlock();
    });
    forwards.join();
    backwards.join();
  });
  CHECK_THAT(text, contains_text("deadlock"));
  CHECK_THAT(text, contains_text("'forwards' (waits inside the library)"));
  CHECK_THAT(text, contains_text("'backwards' (waits inside the library)"));
}

TEST_CASE("a scenario stuck for ever in a noexcept library call fails its exploration and not the program") {
  own_seeds own;
  struct library {
    condition never;
    void close() noexcept { never.wait(); }
  };
  const std::string text = failure_of(1, [](simulation& sim) {
    library stuck;
    sim.thread("bystander", [&] { stuck.never.wait(); });
    stuck.close();
  });
  CHECK_THAT(text, contains_text("deadlock: the scenario waits inside the library for ever"));
  CHECK_THAT(text, contains_text("'bystander'"));
  CHECK(this_thread_slot().simulated_by == nullptr);
  CHECK(explore(10, [](simulation& sim) { order_of_three(sim, 1); }).schedules == 11);  // and the next one is well
}

TEST_CASE("threads that pass the turn to each other for ever are a livelock") {
  own_seeds own;
  const auto options = explore_options().seeds(16).each(simulation_options().livelock_after(2'000));
  const auto scenario = [](simulation& sim) {
    for (const char* name : {"after you", "no, after you"}) {
      sim.thread(name, [&] {
        for (;;) sim.yield();
      });
    }
    sim.run_until_idle();
  };
  CHECK_THAT(failure_of(options, scenario), contains_text("livelock"));
}

TEST_CASE("a timer that arms itself again for ever is a livelock, also while the scenario waits in the library") {
  own_seeds own;
  struct metronome : penstock::timer_node {
    penstock::timer_service* timers = nullptr;
    simulation* sim = nullptr;
  };
  const auto options = explore_options().seeds(16).each(simulation_options().livelock_after(2'000));
  const auto scenario = [](simulation& sim) {
    auto pool = sim.environment()->make_pool("timed", {});
    metronome node;
    node.timers = &pool->timers();
    node.sim = &sim;
    node.due = sim.now() + 1s;
    node.fire = [](penstock::timer_node& fired) noexcept {
      auto& self = static_cast<metronome&>(fired);
      self.due = self.sim->now() + 1s;
      static_cast<void>(self.timers->arm(self));
    };
    static_cast<void>(pool->timers().arm(node));
    condition never;
    never.wait();
  };
  CHECK_THAT(failure_of(options, scenario), contains_text("livelock"));
}

TEST_CASE("progress keeps a long scenario from being called a livelock, and the step limit ends it") {
  own_seeds own;
  const auto options = explore_options().seeds(1).each(simulation_options().livelock_after(100).step_limit(5'000));
  CHECK(failure_of(options, [](simulation& sim) {
          sim.thread("busy", [&] {
            for (int i = 0; i < 1'000; ++i) {
              sim.progress();
              sim.yield();
            }
          });
          sim.run_until_idle();
        }) == "");
  CHECK_THAT(failure_of(options,
                        [](simulation& sim) {
                          sim.thread("endless", [&] {
                            for (;;) {
                              sim.progress();
                              sim.yield();
                            }
                          });
                          sim.run_until_idle();
                        }),
             contains_text("step limit"));
}

TEST_CASE("what a scenario fails with unwinds its stack and the stacks of threads at gates") {
  own_seeds own;
  struct witness {
    int& count;
    explicit witness(int& counter) : count(counter) {}
    ~witness() { ++count; }
    witness(const witness&) = delete;
    witness& operator=(const witness&) = delete;
  };
  int unwound = 0;
  const std::string text = failure_of(1, [&](simulation& sim) {
    witness outer(unwound);
    auto gate = sim.gate("never opened");
    sim.thread("at the gate", [&unwound, gate] {
      witness inner(unwound);
      gate.wait();
    });
    sim.thread("asleep", [&unwound, &sim] {
      witness inner(unwound);
      sim.sleep_for(1h);
    });
    while (gate.waiting() == 0 || sim.steps() < 2) sim.step();
    sim.require(false, "as planned");
  });
  CHECK(unwound == 3);
  CHECK_THAT(text, contains_text("require failed at"));
  CHECK_THAT(text, contains_text("as planned"));
  CHECK_THAT(text, contains_text("simulation_test.cpp"));
}

TEST_CASE("any exception of a scenario or of a simulated thread is a failure with its type and text") {
  own_seeds own;
  CHECK_THAT(failure_of(1, [](simulation&) { throw std::out_of_range("too far"); }),
             contains_text("the scenario threw std::out_of_range: too far"));
  CHECK_THAT(failure_of(1,
                        [](simulation& sim) {
                          sim.thread("thrower", [] { throw 7; });
                          sim.run_until_idle();
                        }),
             contains_text("simulated thread 'thrower' threw int"));
}

TEST_CASE("a failed require inside a simulated thread reaches the scenario") {
  simulation sim;
  sim.thread("checker", [&] { sim.require(1 + 1 == 3, "arithmetic"); });
  try {
    sim.run_until_idle();
    FAIL("run_until_idle returned");
  } catch (const simulation_failure& failed) {
    CHECK_THAT(failed.what(), contains_text("arithmetic"));
    CHECK_THAT(failed.what(), contains_text("seed 1, strategy random"));
    CHECK_THAT(failed.what(), contains_text("'checker' runs"));
  }
  CHECK_THROWS_AS(sim.step(), simulation_failure);
}

TEST_CASE("a handler at a gate keeps its worker and the other workers go on") {
  simulation sim;
  auto pool = sim.environment()->make_pool("two", penstock::worker_pool_options().threads(2));
  auto gate = sim.gate("door");
  int inside = 0;
  int passed = 0;
  const auto at_the_gate = [&, gate] {
    ++inside;
    gate.wait();
    ++passed;
  };
  int others = 0;
  REQUIRE(pool->post(at_the_gate) == errc::none);
  sim.run_until_idle();
  for (int i = 0; i < 3; ++i) REQUIRE(pool->post([&] { ++others; }) == errc::none);
  sim.run_until_idle();
  CHECK(inside == 1);
  CHECK(others == 3);  // by the second worker
  REQUIRE(pool->post(at_the_gate) == errc::none);
  REQUIRE(pool->post(at_the_gate) == errc::none);
  REQUIRE(pool->post([&] { ++others; }) == errc::none);
  sim.run_until_idle();
  CHECK(inside == 2);  // both workers stand at the gate; nobody is left for the third
  CHECK(gate.waiting() == 2);
  CHECK(passed == 0);
  gate.open();
  sim.run_until_idle();
  CHECK(inside == 3);
  CHECK(passed == 3);
  CHECK(others == 4);
  gate.wait();  // open: returns at once, also in the scenario
  sim.finish();
}

TEST_CASE("a wait of the scenario itself drives the simulation until it is woken or its deadline passes") {
  simulation sim;
  condition ready;
  sim.thread("worker", [&] {
    sim.sleep_for(3s);
    ready.set();
  });
  ready.wait();
  CHECK(sim.elapsed() == 3s);
  condition never;
  this_thread_slot().simulated_by->wait(&never, sim.now() + 2s);
  CHECK(sim.elapsed() == 5s);
  sim.finish();
}

TEST_CASE("a thread that has not ended with its scenario is a failure that names it, unless that is allowed") {
  own_seeds own;
  const auto scenario = [](simulation& sim) {
    auto gate = sim.gate("shut");
    sim.thread("left behind", [gate] { gate.wait(); });
    sim.thread("never started", [] {});
    while (gate.waiting() == 0) sim.step();
  };
  const auto fifo = explore_options().seeds(1).strategy(strategy::fifo);
  CHECK_THAT(failure_of(fifo, scenario),
             contains_text("'left behind' (waits at gate 'shut'), 'never started' (never ran)"));
  CHECK(failure_of(explore_options(fifo).each(simulation_options().allow_unfinished()), scenario) == "");
}

TEST_CASE("each simulated thread keeps its own exceptions and its own execution context") {
  own_seeds own;
  explore(200, [](simulation& sim) {
    for (int i = 0; i < 3; ++i) {
      sim.thread("catcher", [&sim, i] {
        int marker = 0;
        this_thread_slot().context = &marker;
        for (int round = 0; round < 3; ++round) {
          try {
            throw i;
          } catch (int) {
            sim.yield();
            try {
              throw std::string("inner");
            } catch (const std::string&) {
              sim.yield();
            }
            try {
              throw;  // what this thread is handling, not what another one caught meanwhile
            } catch (int own_number) {
              sim.require(own_number == i);
            }
          }
          struct looks_while_unwinding {
            simulation& sim;
            ~looks_while_unwinding() {
              sim.require(std::uncaught_exceptions() == 1);
              sim.yield();
              sim.require(std::uncaught_exceptions() == 1);
            }
          };
          try {
            looks_while_unwinding guard{sim};
            throw 1;
          } catch (int) {
          }
          sim.require(std::uncaught_exceptions() == 0);
          sim.require(this_thread_slot().context == &marker);
        }
        this_thread_slot().context = nullptr;
      });
    }
    sim.run_until_idle();
    sim.require(this_thread_slot().context == nullptr);
    sim.require_all_done();
  });
}

TEST_CASE("a preemption inside library code is found when it is needed, and never happens beyond its budget") {
  own_seeds own;
  const auto scenario = [](simulation& sim) {
    int counter = 0;
    for (int i = 0; i < 2; ++i) {
      sim.thread("adder", [&counter] {
        auto* agent = this_thread_slot().simulated_by;
        agent->preempt();
        const int seen = counter;
        agent->preempt();
        counter = seen + 1;
      });
    }
    sim.run_until_idle();
    sim.require(counter == 2, "an increment was lost");
  };
  CHECK_THAT(failure_of(10'000, scenario), contains_text("an increment was lost"));
  CHECK_THAT(failure_of(10'000, scenario), contains_text("is preempted inside the library"));
  CHECK(failure_of(explore_options().seeds(1'000).each(simulation_options().preemptions(0)), scenario) == "");
}

TEST_CASE("library code that goes round without waiting is a livelock that names its thread") {
  own_seeds own;
  const auto options = explore_options().seeds(4);
  CHECK_THAT(failure_of(options,
                        [](simulation& sim) {
                          sim.thread("spinner", [] {
                            for (;;) this_thread_slot().simulated_by->preempt();
                          });
                          sim.run_until_idle();
                        }),
             contains_text("'spinner' goes round inside the library"));
  bool flag = false;
  CHECK(failure_of(options, [&](simulation& sim) {  // a bounded wait for another thread is none
          flag = false;
          sim.thread("spinner", [&] {
            while (!flag) this_thread_slot().simulated_by->preempt();
          });
          sim.thread("setter", [&] { flag = true; });
          sim.run_until_idle();
        }) == "");
}

TEST_CASE("a scenario that depends on something else than its seed is found out by the second run") {
  own_seeds own;
  int runs = 0;
  const std::string text = failure_of(10, [&runs](simulation& sim) {
    ++runs;
    if (runs == 2) sim.thread("only the second time", [] {});
    order_of_three(sim, 2);
  });
  CHECK_THAT(text, contains_text("two runs of this seed differ"));
}

TEST_CASE("an exploration tells how many schedules it ran, and obeys the environment") {
  own_seeds own;
  const auto scenario = [](simulation& sim) { order_of_three(sim, 2); };
  const exploration all = explore(1'000, scenario);
  CHECK(all.schedules == 1'010);
  CHECK(all.replays == 10);
  CHECK(all.steps > 6'000);
  setenv("PENSTOCK_SEEDS", "20", 1);
  CHECK(explore(1'000, scenario).schedules == 21);
  setenv("PENSTOCK_SEED", "5", 1);
  std::set<std::uint64_t> seeds;
  CHECK(explore(1'000, [&](simulation& sim) { seeds.insert(sim.seed()); }).schedules == 2);
  CHECK(seeds == std::set<std::uint64_t>{5});
  setenv("PENSTOCK_SEED", "five", 1);
  CHECK_THROWS_WITH(explore(1, scenario), contains_text("PENSTOCK_SEED=five is not a number"));
}

TEST_CASE("the portfolio uses every strategy") {
  own_seeds own;
  std::set<strategy> used;
  explore(32, [&](simulation& sim) { used.insert(sim.strategy()); });
  CHECK(used.size() == 4);
}

TEST_CASE("a scenario's own choices are seeded and independent of the order of things") {
  own_seeds own;
  std::map<std::uint64_t, std::vector<std::uint64_t>> drawn;
  for (const auto chosen : {strategy::random, strategy::priority_change}) {
    explore(explore_options().seeds(50).strategy(chosen), [&](simulation& sim) {
      order_of_three(sim, 1);
      std::vector<std::uint64_t> numbers;
      for (int i = 0; i < 10; ++i) numbers.push_back(sim.random(6));
      for (const auto number : numbers) sim.require(number < 6);
      auto [known, first_time] = drawn.try_emplace(sim.seed(), numbers);
      sim.require(known->second == numbers, "the same seed drew other numbers");
    });
  }
  CHECK(drawn.size() == 50);
  CHECK(drawn[1] != drawn[2]);
}

TEST_CASE("stopping the pools of an environment drops what is queued and waits for running calls in virtual time") {
  simulation sim;
  auto environment = sim.environment();
  auto pool = environment->make_pool("stopping", penstock::worker_pool_options().threads(1));
  auto gate = sim.gate("held");
  bool second_ran = false;
  auto alive = std::make_shared<int>(1);
  std::weak_ptr<int> closure = alive;
  REQUIRE(pool->post([gate] { gate.wait(); }) == errc::none);
  sim.run_until_idle();
  REQUIRE(pool->post([&second_ran, alive = std::move(alive)] { second_ran = true; }) == errc::none);
  CHECK(environment->stop_pools(sim.now() + 5s) == 1);
  CHECK(sim.elapsed() == 5s);
  CHECK(closure.expired());
  CHECK(pool->post([] {}) == errc::closed);
  gate.open();
  sim.run_until_idle();
  CHECK_FALSE(second_ran);
  CHECK(environment->stop_pools(no_deadline) == 0);
  sim.finish();
}

TEST_CASE("a pool without workers, without budget or without a name is refused") {
  simulation sim;
  auto environment = sim.environment();
  CHECK_THROWS_WITH(environment->make_pool("p", penstock::worker_pool_options().threads(0)),
                    contains_text("threads(0)"));
  CHECK_THROWS_WITH(environment->make_pool("p", penstock::worker_pool_options().budget(0)), contains_text("budget(0)"));
  CHECK_THROWS_WITH(environment->make_pool("", {}), contains_text("needs a name"));
  sim.finish();
}

TEST_CASE("a lock that is handed on wakes one of those who wait for it, and no increment under it is lost") {
  own_seeds own;
  std::set<std::string> orders;
  explore(200, [&](simulation& sim) {
    model_lock lock;
    int counter = 0;
    std::string order;
    for (const char name : {'a', 'b', 'c'}) {
      sim.thread(std::string(1, name), [&, name] {
        lock.lock();
        const int seen = counter;
        sim.yield();
        counter = seen + 1;
        order += name;
        lock.unlock();
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(counter == 3, "an increment was lost");
    orders.insert(order);
  });
  CHECK(orders.size() == 6);
}

TEST_CASE("a trace shows notes, waits, wakes, lanes, posted work and jumps of time, each by its name") {
  simulation sim(simulation_options().strategy(strategy::fifo));
  auto gate = sim.gate("the gate");
  auto sub = sim.runtime().bus().subscribe<int>("sub", [](const int&) {});
  sim.thread("waiter", [&] { gate.wait(); });
  sim.thread("sleeper", [&] { sim.sleep_for(1500ms); });
  const auto before = sim.trace_hash();
  sim.note("here it begins");
  CHECK(sim.trace_hash() != before);
  sim.runtime().bus().publish(1);
  REQUIRE(sim.runtime().pool("blocking")->post([] {}) == errc::none);
  sim.run_until_idle();
  gate.open();
  sim.run_until_idle();
  for (const char* part : {"'the scenario' notes: here it begins", "'waiter' waits", "'waiter' is woken",
                           "'waiter' ends", "a worker begins lane 0 of pool 'default'",
                           "a worker begins posted work 0 of pool 'blocking'", "time jumps", "+1.5 s  'sleeper' ends"})
    CHECK_THAT(sim.trace(), contains_text(part));
  sim.finish();
}

TEST_CASE("in half of the seeds a lane that has nothing left lets a moment pass and looks again before it rests") {
  const auto times = [](const std::string& text, const std::string& part) {
    int found = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
    return found;
  };
  int looked = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    simulation sim(simulation_options().seed(seed).strategy(strategy::fifo));
    auto& runtime =
        sim.runtime(penstock::runtime_options().pool("default", penstock::worker_pool_options().threads(1)));
    int handled = 0;
    auto sub = runtime.bus().subscribe<int>("sub", [&](const int&) { ++handled; });
    auto other = runtime.bus().subscribe<long>("other", [&](const long&) { ++handled; });
    sim.thread("publisher", [&] {
      for (int i = 0; i < 2; ++i) {
        runtime.bus().publish(i);
        sim.yield();
      }
    });
    sim.run_until_idle();
    CHECK(handled == 2);
    const bool looks = times(sim.trace(), "lane 0 of pool 'default' lets a moment pass") > 0;
    // What comes in the look is met in the same turn, and wakes nobody.
    CHECK(times(sim.trace(), "a worker begins lane 0") == (looks ? 1 : 2));
    looked += looks ? 1 : 0;
    // Where another lane waits for the worker nobody looks.
    sim.thread("publisher of both", [&] {
      runtime.bus().publish(2);
      runtime.bus().publish(3L);
      sim.note("both are ready");
      for (int i = 0; i < 4; ++i) sim.yield();
    });
    sim.run_until_idle();
    CHECK(handled == 4);
    const std::string trace = sim.trace();
    const std::string both = trace.substr(trace.find("both are ready"));
    CHECK(both.substr(0, both.find("begins lane 1")).find("lets a moment pass") == std::string::npos);
    CHECK(times(both, "a worker begins lane 0") == (looks ? 2 : 1));
    sim.finish();
  }
  CHECK(looked > 70);
  CHECK(looked < 130);
}

TEST_CASE("the words for the strategies are those of the source") {
  std::string words;
  for (int each = 0; each < 5; ++each) words += std::string(to_string(static_cast<strategy>(each))) + " ";
  CHECK(words == "random fifo starve_one priority_change unknown ");
}

TEST_CASE("misuse of the simulation is an exception that names it") {
  own_seeds own;
  CHECK_THROWS_WITH(simulation(simulation_options().step_limit(0)), contains_text("step_limit"));
  CHECK_THROWS_WITH(simulation(simulation_options().livelock_after(0)), contains_text("livelock_after"));
  CHECK_THROWS_AS(explore(1, {}), std::invalid_argument);
  CHECK_THROWS_WITH(explore(explore_options().seeds(1).each(simulation_options().step_limit(0)), [](simulation&) {}),
                    contains_text("step_limit"));
  for (const char* count : {"-1", "1x", "99999999999999999999"}) {
    setenv("PENSTOCK_SEEDS", count, 1);
    CHECK_THROWS_WITH(explore(1, [](simulation&) {}), contains_text("is not a number"));
  }
  setenv("PENSTOCK_SEEDS", "", 1);
  CHECK(explore(2, [](simulation&) {}).schedules == 3);
  simulation sim;
  CHECK_THROWS_WITH(sim.random(0), contains_text("nothing to choose from"));
  CHECK_THROWS_AS(sim.thread("empty", {}), std::invalid_argument);
  sim.runtime();
  CHECK_THROWS_WITH(sim.runtime({}), contains_text("has a runtime already"));
  CHECK(sim.environment()->make_pool("p", penstock::worker_pool_options())->post({}) == errc::invalid_argument);
  std::string refused;
  sim.thread("driver", [&] {
    try {
      sim.run_until_idle();
    } catch (const std::logic_error& error) {
      refused = error.what();
    }
  });
  sim.run_until_idle();
  CHECK_THAT(refused, contains_text("for the scenario itself"));
  sim.finish();
}

TEST_CASE("a simulated pool starts its workers by their hook, counts its work, and reports what work throws") {
  simulation sim;
  std::vector<unsigned> started;
  std::vector<std::string> failures;
  const auto made =
      sim.environment()->make_pool("pool", penstock::worker_pool_options()
                                               .threads(2)
                                               .on_thread_start([&](unsigned index) { started.push_back(index); })
                                               .on_failure([&](const penstock::failure& told) {
                                                 failures.push_back(told.subscription + ": " + told.exception.what);
                                               }));
  const auto pool = std::dynamic_pointer_cast<penstock::worker_pool>(made);
  REQUIRE(pool);
  CHECK(started == std::vector<unsigned>{0, 1});
  auto gate = sim.gate();
  for (int i = 0; i < 3; ++i) REQUIRE(pool->post([gate] { gate.wait(); }) == errc::none);
  CHECK(pool->ready_approx() == 3);
  CHECK(pool->parked_approx() == 2);
  sim.run_until_idle();
  CHECK(pool->ready_approx() == 1);
  CHECK(pool->parked_approx() == 0);
  REQUIRE(pool->post([] { throw std::runtime_error("thrown"); }) == errc::none);
  gate.open();
  sim.run_until_idle();
  CHECK(failures == std::vector<std::string>{"pool: thrown"});
  CHECK(pool->parked_approx() == 2);
  CHECK(pool->stop(no_deadline) == 0);
  CHECK(pool->post([] {}) == errc::closed);
  sim.finish();
}

TEST_CASE("a second simulation on the same thread is refused while the first one exists") {
  simulation sim;
  CHECK_THROWS_AS(simulation(), std::logic_error);
  CHECK_THROWS_AS(explore(1, [](simulation&) {}), std::logic_error);
  sim.finish();
  simulation next;
  next.finish();
}

TEST_CASE("a canary that fails under few seeds", "[.canary]") {
  explore(10'000, [](simulation& sim) { sim.require(order_of_three(sim, 3) != "cabbaccba", "the rare order"); });
}

TEST_CASE("a canary that crashes under few seeds", "[.crash]") {
  explore(10'000, [](simulation& sim) {
    if (order_of_three(sim, 3) == "cabbaccba") std::abort();
  });
}

TEST_CASE("a scenario that crashes tells the command that replays it before it goes down") {
  own_seeds own;
  const std::string first = output_of("'" + own_program() + "' '[.crash]'");
  REQUIRE_THAT(first, contains_text("penstock: a fatal signal in the scenario with seed"));
  const auto command_at = first.find("PENSTOCK_SEED=");
  REQUIRE(command_at != std::string::npos);
  const std::string second = output_of(first.substr(command_at, first.find('\n', command_at) - command_at));
  CHECK_THAT(second, contains_text(first.substr(first.find("with seed"), 20)));
}

TEST_CASE("the command in a failure's text replays that failure") {
  own_seeds own;
  const std::string first = output_of("'" + own_program() + "' '[.canary]'");
  REQUIRE_THAT(first, contains_text("the rare order"));
  const auto seed_at = first.find("PENSTOCK_SEED=");
  REQUIRE(seed_at != std::string::npos);
  const std::string command = first.substr(seed_at, first.find('\n', seed_at) - seed_at);
  REQUIRE_THAT(command, contains_text(".canary"));
  const std::string second = output_of(command);
  const auto report_of = [](const std::string& text) {
    const auto begin = text.find("strategy ");
    const auto end = text.find("replay it with", begin);
    return begin == std::string::npos || end == std::string::npos ? "no report" : text.substr(begin, end - begin);
  };
  CHECK(report_of(second) != "no report");
  CHECK(report_of(first) == report_of(second));
  CHECK_THAT(output_of("PENSTOCK_SEEDS=3 '" + own_program() + "' '[.canary]'"), contains_text("passed"));
}
