// Coroutines on the bus under ten thousand schedules each: handlers that wait, cycles, failures, streams, leaving.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "schedules.hpp"

#include <penstock/bus/dead_letter.hpp>
#include <penstock/exec/run.hpp>
#include <penstock/exec/sleep.hpp>
#include <penstock/exec/task.hpp>
#include <penstock/exec/timer.hpp>
#include <penstock/testing/simulation.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using penstock::close_mode;
using penstock::close_status;
using penstock::drop_reason;
using penstock::errc;
using penstock::failure_policy;
using penstock::ledger;
using penstock::publish_result;
using penstock::publisher;
using penstock::retry_policy;
using penstock::stream_options;
using penstock::subscribe_options;
using penstock::subscription;
using penstock::task;
using penstock::testing::simulation;
using penstock_test::all_seeds_ran;
using penstock_test::dawdle;
using penstock_test::in_all_schedules;

namespace {

struct item {
  int producer = 0;
  int number = 0;
};
struct raw {
  int number = 0;
};
struct cut {
  int number = 0;
};
struct polished {
  int number = 0;
};

/// One step of a ring: how far this event still has to go.
template <int Place>
struct token {
  int hops = 0;
};

/// Some steps of the others, so that what follows comes at any instant.
void let_go_on(simulation& sim, std::uint64_t most) {
  for (auto steps = sim.random(most); steps != 0 && sim.step(); --steps) {
  }
}

std::chrono::hours some_hours(simulation& sim) {
  return std::chrono::hours(static_cast<std::chrono::hours::rep>(1 + sim.random(5)));
}

std::chrono::milliseconds some_ms(simulation& sim, std::uint64_t most) {
  return std::chrono::milliseconds(static_cast<std::chrono::milliseconds::rep>(sim.random(most + 1)));
}

void require_balanced(simulation& sim, std::initializer_list<ledger> ledgers) {
  for (const ledger& each : ledgers) {
    sim.require(each.balanced(), "not balanced: " + to_string(each));
    sim.require(each.quiescent(), "not at rest: " + to_string(each));
  }
}

/// The tests' own account of what they published.
struct account {
  std::uint64_t matched = 0;
  std::uint64_t accepted = 0;
  std::uint64_t parked = 0;
  std::uint64_t rejected = 0;
  void book(simulation& sim, const publish_result& result) {
    sim.require(result.matched() == result.accepted() + result.parked() + result.dropped() + result.rejected(),
                "the counts of one publish do not add up: " + to_string(result));
    matched += result.matched();
    accepted += result.accepted();
    parked += result.parked();
    rejected += result.rejected();
  }
};

/// The tasks of one scenario: starts them and counts their ends.
class crew {
 public:
  explicit crew(simulation& sim) : sim_(sim) {}

  void start(task<> work, std::stop_token stop = {}) {
    ++started_;
    auto told = [this](penstock::outcome<void>&& came) noexcept { end(came); };
    penstock::start_task(sim_.runtime().pool("default"), std::move(work), told, std::move(stop));
  }
  void require_ended(int most_left_by_pool = 0) {
    sim_.require(started_ == ended_, "a task has not ended, or was told twice of its end");
    sim_.require(left_by_pool_ <= most_left_by_pool, "the pool ended before a task");
    sim_.require(wrong_.empty(), "a task ended by " + wrong_);
  }
  bool all_ended() const { return started_ == ended_; }
  int cancelled() const { return cancelled_; }

 private:
  void end(const penstock::outcome<void>& came) noexcept {
    ++ended_;
    if (came) return;
    try {
      std::rethrow_exception(came.error());
    } catch (const penstock::cancelled&) {
      ++cancelled_;
    } catch (const std::system_error& error) {
      if (error.code() == errc::closed)
        ++left_by_pool_;  // the runtime had ended before its next turn
      else
        wrong_ = error.what();
    } catch (const std::exception& error) {
      wrong_ = error.what();
    } catch (...) {
      wrong_ = "something unknown";
    }
  }
  simulation& sim_;
  int started_ = 0;
  int ended_ = 0;
  int cancelled_ = 0;
  int left_by_pool_ = 0;
  std::string wrong_;
};

/// One publish: when it began, when it returned, in the order of the scenario's own count of moments.
struct publish_record {
  int producer = 0;
  int number = 0;
  int began = 0;
  int returned = 0;
};

void require_linear(simulation& sim, const std::vector<publish_record>& published, const std::vector<item>& seen) {
  std::map<std::pair<int, int>, std::size_t> place;
  for (std::size_t i = 0; i < seen.size(); ++i)
    sim.require(place.emplace(std::make_pair(seen[i].producer, seen[i].number), i).second, "handled twice");
  sim.require(seen.size() == published.size(), "published and handled are not as many");
  for (const publish_record& a : published)
    for (const publish_record& b : published)
      if (a.returned < b.began)
        sim.require(place.at({a.producer, a.number}) < place.at({b.producer, b.number}),
                    "an event was handled before one whose publish had returned before it began");
}

task<> publish_numbers(simulation& sim, publisher<item> out, int producer, int count, int& moment, account& books,
                       std::vector<publish_record>& published) {
  for (int number = 0; number < count; ++number) {
    publish_record mine;
    mine.producer = producer;
    mine.number = number;
    mine.began = ++moment;
    const publish_result result = co_await out.async_emplace(producer, number);
    mine.returned = ++moment;
    books.book(sim, result);
    sim.require(result.accepted() == 1 && result.error() == errc::none, "an open subscription refused an event");
    published.push_back(mine);
    if (sim.random(3) == 0) co_await penstock::yield();
  }
}

struct cancel_log {
  std::set<int> accepted;
  std::set<int> cancelled;
  std::uint64_t undecided = 0;  ///< accepted by one of two and cancelled at the other
};

task<> publish_until_cancelled(simulation& sim, publisher<item> out, int producer, int count, cancel_log& log,
                               account& books) {
  for (int number = 0; number < count; ++number) {
    const int name = producer * 100 + number;
    bool taken = false;
    try {
      const publish_result result = co_await out.async_emplace(producer, number);
      books.book(sim, result);
      sim.require(result.accepted() >= 1, "an await that came to nothing did not throw: " + to_string(result));
      sim.require(result.rejected() == 0 ? result.error() == errc::none : result.error() == errc::cancelled,
                  to_string(result));
      log.undecided += result.rejected();
      taken = true;
    } catch (const penstock::cancelled&) {
      log.cancelled.insert(name);
      throw;
    }
    if (taken) log.accepted.insert(name);
    if (sim.random(3) == 0) co_await penstock::sleep_for(some_ms(sim, 10));
  }
}

/// Reads until the stream has ended, and gives each event a random fate.
struct fates {
  std::map<int, int> handled;
  std::map<int, int> failed;
  std::map<int, int> requeued;
  std::map<int, int> held;  ///< in somebody's hands now
};

/// What becomes of one delivery; the same for threads and tasks.
void decide(simulation& sim, penstock::delivery<item>& one, fates& log) {
  const int number = one->number;
  --log.held[number];
  switch (sim.random(4)) {
    case 0:
      ++log.failed[number];
      one.fail("as planned");
      break;
    case 1:
      ++log.requeued[number];
      sim.require(one.requeue() == errc::none, "an event was not taken back");
      break;
    case 2:
      ++log.handled[number];
      one.done();
      break;
    default: ++log.handled[number]; break;  // by its death
  }
}

void seize(simulation& sim, const penstock::delivery<item>& one, fates& log) {
  sim.require(++log.held[one->number] == 1, "an event is in two hands");
  sim.require(log.handled[one->number] + log.failed[one->number] == 0, "an event with a fate was delivered again");
}

task<> read_all(simulation& sim, penstock::stream<item>& in, fates& log) {
  for (;;) {
    auto one = co_await in.next();
    if (!one) co_return;
    seize(sim, one, log);
    if (sim.random(2) == 0) {
      try {
        co_await penstock::sleep_for(some_ms(sim, 20));
      } catch (const penstock::cancelled&) {
        --log.held[one->number];
        ++log.failed[one->number];  // by its death in the unwinding
        throw;
      }
    }
    decide(sim, one, log);
  }
}

void read_all_here(simulation& sim, penstock::stream<item>& in, fates& log) {
  for (;;) {
    auto one = in.receive();
    if (!one) return;
    seize(sim, one, log);
    if (sim.random(2) == 0) sim.sleep_for(some_ms(sim, 20));
    decide(sim, one, log);
  }
}

/// What a ring made and what came of it.
struct ring_log {
  std::uint64_t made = 0;      ///< outputs of its handlers
  std::uint64_t refused = 0;   ///< with an error in the result
  std::uint64_t cycles = 0;    ///< told to on_drop
  std::uint64_t told = 0;      ///< told to on_failure
  std::uint64_t calls = 0;
  account books;
  void book(simulation& sim, const publish_result& result) {
    ++made;
    books.book(sim, result);
    refused += result.rejected();
    sim.require(result.rejected() == 0 ? result.error() == errc::none : result.error() == errc::backpressure_cycle,
                "refused for another reason than a cycle: " + to_string(result));
  }
};

/// A runtime that books each failure it is told of; nothing else may fail in a ring.
penstock::event_bus& bus_of_ring(simulation& sim, ring_log& log) {
  penstock::runtime_options options;
  options.on_failure([&sim, &log](const penstock::failure& told) {
    ++log.told;
    const std::string& text = told.exception.what;
    sim.require(text.find("waits for \"ring") != std::string::npos, "the chain is not in the record: " + text);
  });
  return sim.runtime(std::move(options)).bus();
}

template <int Place>
subscribe_options ring_options(simulation& sim, ring_log& log) {
  subscribe_options options;
  options.capacity(1 + sim.random(2)).concurrency(1 + static_cast<unsigned>(sim.random(8) == 0));
  options.template on_drop<token<Place>>([&log](const token<Place>&, drop_reason reason) noexcept {
    if (reason == drop_reason::cycle) ++log.cycles;
  });
  return options;
}

/// A stage of a ring: sends what it gets on to the next, with one hop less, sometimes twice.
template <int Place, int Next>
subscription ring_stage(simulation& sim, penstock::event_bus& bus, ring_log& log) {
  if (sim.random(2) == 0) {
    return bus.subscribe<token<Place>>(
        "ring", ring_options<Place>(sim, log), [&sim, &bus, &log](const token<Place>& each) {
          ++log.calls;
          dawdle(sim);
          if (each.hops == 0) return;
          const auto out = bus.publisher<token<Next>>();
          for (auto copies = 1 + sim.random(2); copies > 0; --copies) log.book(sim, out.emplace(each.hops - 1));
        });
  }
  return bus.subscribe<token<Place>>(
      "ring", ring_options<Place>(sim, log), [&sim, &bus, &log](const token<Place>& each) -> task<> {
        ++log.calls;
        if (each.hops == 0) co_return;
        const auto out = bus.publisher<token<Next>>();
        for (auto copies = 1 + sim.random(2); copies > 0; --copies) {
          if (sim.random(3) == 0) co_await penstock::sleep_for(some_ms(sim, 3));
          if (sim.random(2) == 0) {
            const publish_result result = co_await out.async_emplace(each.hops - 1);
            log.book(sim, result);
          } else {
            log.book(sim, out.emplace(each.hops - 1));
          }
        }
      });
}

void require_ring(simulation& sim, const ring_log& log, std::uint64_t fed, std::initializer_list<ledger> ledgers) {
  require_balanced(sim, ledgers);
  std::uint64_t cycles = 0;
  std::uint64_t handled = 0;
  std::uint64_t offered = 0;
  for (const ledger& each : ledgers) {
    sim.require(each.rejected.total() == each.rejected.cycle, "refused for another reason: " + to_string(each));
    sim.require(each.handled == each.accepted && each.failed == 0 && each.discarded == 0, to_string(each));
    cycles += each.rejected.cycle;
    handled += each.handled;
    offered += each.offered;
  }
  sim.require(cycles == log.refused, "refusals in results and in ledgers differ");
  sim.require(cycles == log.cycles, "a refused cycle was not told to on_drop once");
  sim.require(cycles == log.told, "a refused cycle was not told to on_failure once");
  sim.require(offered == log.made + fed, "an output was not offered");
  sim.require(handled == log.calls && handled == log.made + fed - cycles, "an event was neither handled nor refused");
}

}  // namespace

TEST_CASE("a coroutine handler that sleeps for hours keeps its lane and no worker") {
  in_all_schedules([](simulation& sim) {
    penstock::runtime_options options;
    options.pool("default", penstock::worker_pool_options().threads(1));
    auto bus = sim.runtime(std::move(options)).bus();
    account books;
    std::vector<int> slow_seen;
    std::vector<int> quick_seen;
    int inside = 0;
    std::chrono::nanoseconds slept{};
    auto slow = bus.subscribe<item>("slow", subscribe_options().capacity(1 + sim.random(2)),
                                    [&](const item& each) -> task<> {
                                      sim.require(++inside == 1, "two calls of one lane overlap");
                                      const auto wait = some_hours(sim);
                                      const auto begun = sim.elapsed();
                                      const int number = each.number;
                                      co_await penstock::sleep_for(wait);
                                      sim.require(sim.elapsed() - begun >= wait, "woken too early");
                                      sim.require(each.number == number, "the event did not live as long as its call");
                                      slept += wait;
                                      slow_seen.push_back(number);
                                      --inside;
                                    });
    auto quick = bus.subscribe<raw>("quick", subscribe_options().capacity(1), [&](const raw& each) {
      sim.require(sim.elapsed() == 0s, "a coroutine that sleeps held the only worker");
      quick_seen.push_back(each.number);
    });
    sim.thread("publisher", [&] {
      for (int number = 0; number < 5; ++number) books.book(sim, bus.publish(item{0, number}));
    });
    sim.thread("other publisher", [&] {
      for (int number = 0; number < 5; ++number) books.book(sim, bus.publish(raw{number}));
    });
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(slow_seen == std::vector<int>{0, 1, 2, 3, 4}, "lost, doubled or out of order");
    sim.require(quick_seen == slow_seen, "lost, doubled or out of order");
    sim.require(sim.elapsed() == slept, "the lane slept longer than its calls");
    require_balanced(sim, {slow.ledger(), quick.ledger()});
    sim.require(books.matched == 10 && slow.ledger().handled == 5 && slow.ledger().offered == 5);
  });
}

TEST_CASE("async_publish from several tasks to a full channel loses nothing and keeps the order of publishes") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books;
    crew tasks(sim);
    std::vector<item> seen;
    std::vector<publish_record> published;
    int moment = 0;
    auto slow = bus.subscribe<item>("slow", subscribe_options().capacity(1 + sim.random(2)),
                                    [&](const item& each) -> task<> {
                                      seen.push_back(each);
                                      if (sim.random(2) == 0) co_await penstock::sleep_for(some_ms(sim, 5));
                                    });
    for (int producer = 0; producer < 3; ++producer)
      tasks.start(publish_numbers(sim, bus.publisher<item>(), producer, 3, moment, books, published));
    sim.thread("a thread among them", [&] {
      for (int number = 0; number < 3; ++number) {
        publish_record mine{3, number, ++moment, 0};
        books.book(sim, bus.publish(item{3, number}));
        mine.returned = ++moment;
        published.push_back(mine);
      }
    });
    sim.run_until_idle();
    sim.require_all_done();
    tasks.require_ended();
    require_linear(sim, published, seen);
    require_balanced(sim, {slow.ledger()});
    sim.require(seen.size() == 12 && books.accepted == 12 && slow.ledger().handled == 12);
  });
}

TEST_CASE("an async_publish that is cancelled at any instant is accepted or cancelled, and never delivered later") {
  std::uint64_t cancelled_in_line = 0;
  in_all_schedules([&](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books;
    crew tasks(sim);
    cancel_log log;
    std::set<int> seen;
    std::array<std::stop_source, 3> stops;
    auto slow = bus.subscribe<item>("slow", subscribe_options().capacity(1 + sim.random(2)),
                                    [&](const item& each) -> task<> {
                                      const int name = each.producer * 100 + each.number;
                                      sim.require(seen.insert(name).second, "delivered twice");
                                      co_await penstock::sleep_for(some_ms(sim, 10));
                                    });
    for (std::size_t i = 0; i < stops.size(); ++i)
      tasks.start(publish_until_cancelled(sim, bus.publisher<item>(), static_cast<int>(i), 4, log, books),
                  stops[i].get_token());
    for (std::size_t i = 0; i < 2; ++i) {
      sim.thread("canceller", [&, i] {
        sim.sleep_for(some_ms(sim, 40));
        dawdle(sim);
        stops[i].request_stop();
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    tasks.require_ended();
    sim.require(seen == log.accepted, "accepted and delivered are not the same");
    const ledger end = slow.ledger();
    require_balanced(sim, {end});
    sim.require(end.handled == log.accepted.size() && end.accepted == books.accepted, to_string(end));
    sim.require(end.rejected.total() == end.rejected.cancelled, to_string(end));
    // A request in force refuses the await before anything is offered.
    sim.require(end.rejected.cancelled <= log.cancelled.size() && log.cancelled.size() <= 2);
    for (int number = 0; number < 4; ++number) sim.require(seen.count(200 + number) == 1, "another task was cancelled");
    cancelled_in_line += end.rejected.cancelled;
  });
  if (all_seeds_ran()) CHECK(cancelled_in_line > 1000);
}

TEST_CASE("an async_publish to two subscriptions that is cancelled stands for those who have accepted") {
  std::uint64_t partial = 0;
  in_all_schedules([&](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books;
    crew tasks(sim);
    cancel_log log;
    std::array<std::multiset<int>, 2> seen;
    std::array<std::stop_source, 2> stops;
    auto first = bus.subscribe<item>("first", subscribe_options().capacity(1), [&](const item& each) -> task<> {
      seen[0].insert(each.producer * 100 + each.number);
      co_await penstock::sleep_for(some_ms(sim, 10));
    });
    auto second = bus.subscribe<item>("second", subscribe_options().capacity(1), [&](const item& each) -> task<> {
      seen[1].insert(each.producer * 100 + each.number);
      co_await penstock::sleep_for(some_ms(sim, 10));
    });
    for (std::size_t i = 0; i < stops.size(); ++i)
      tasks.start(publish_until_cancelled(sim, bus.publisher<item>(), static_cast<int>(i), 4, log, books),
                  stops[i].get_token());
    sim.thread("canceller", [&] {
      sim.sleep_for(some_ms(sim, 40));
      dawdle(sim);
      stops[0].request_stop();
    });
    sim.run_until_idle();
    sim.require_all_done();
    tasks.require_ended();
    require_balanced(sim, {first.ledger(), second.ledger()});
    std::size_t delivered = 0;
    for (const auto& each : seen) {
      delivered += each.size();
      for (const int name : each) {
        sim.require(each.count(name) == 1, "delivered twice");
        sim.require(log.accepted.count(name) == 1, "a cancelled event was delivered");
      }
    }
    sim.require(delivered == books.accepted, "accepted and delivered are not the same");
    sim.require(first.ledger().accepted + second.ledger().accepted == books.accepted, "results and ledgers differ");
    sim.require(first.ledger().handled == seen[0].size() && second.ledger().handled == seen[1].size());
    sim.require(delivered + log.undecided == 2 * log.accepted.size(), "an event has a fate that nobody counted");
    partial += log.undecided;
  });
  if (all_seeds_ran()) CHECK(partial > 100);
}

TEST_CASE("a pipeline of coroutine handlers on one worker hands over everything, in order") {
  std::uint64_t parked = 0;
  in_all_schedules([&](simulation& sim) {
    penstock::runtime_options options;
    options.pool("default", penstock::worker_pool_options().threads(1));
    auto bus = sim.runtime(std::move(options)).bus();
    account books;
    std::vector<int> ends;
    auto third = bus.subscribe<polished>("third", subscribe_options().capacity(1), [&](const polished& each) -> task<> {
      co_await penstock::sleep_for(some_ms(sim, 5));
      ends.push_back(each.number);
    });
    auto second = bus.subscribe<cut>("second", subscribe_options().capacity(1), [&](const cut& each) -> task<> {
      const auto out = bus.publisher<polished>();
      const publish_result one = co_await out.async_emplace(each.number * 3);
      books.book(sim, one);
      if (sim.random(2) == 0) co_await penstock::sleep_for(some_ms(sim, 5));
      books.book(sim, out.emplace(each.number * 3 + 1));  // parked, and the coroutine goes on
      const publish_result three = co_await out.async_emplace(each.number * 3 + 2);
      books.book(sim, three);
    });
    auto first = bus.subscribe<raw>("first", subscribe_options().capacity(1), [&](const raw& each) -> task<> {
      books.book(sim, bus.publish(cut{each.number}));
      if (sim.random(2) == 0) co_await penstock::yield();
    });
    sim.thread("source", [&] {
      for (int number = 0; number < 4; ++number) books.book(sim, bus.publish(raw{number}));
    });
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(ends.size() == 12 && std::is_sorted(ends.begin(), ends.end()), "lost, doubled or out of order");
    require_balanced(sim, {first.ledger(), second.ledger(), third.ledger()});
    sim.require(books.rejected == 0 && books.matched == 20, "an output was refused");
    sim.require(third.ledger().handled == 12 && second.ledger().handled == 4 && first.ledger().handled == 4);
    parked += books.parked;
  });
  CHECK(parked > 0);
}

TEST_CASE("a ring of two handlers never hangs: what is refused is a cycle and counted, all else is handled") {
  std::uint64_t cycles = 0;
  in_all_schedules([&](simulation& sim) {
    ring_log log;
    auto bus = bus_of_ring(sim, log);
    auto one = ring_stage<0, 1>(sim, bus, log);
    auto two = ring_stage<1, 0>(sim, bus, log);
    for (int source = 0; source < 2; ++source) {
      sim.thread("source", [&] {
        for (int i = 0; i < 2; ++i)
          sim.require(bus.publish(token<0>{3}).accepted() == 1, "a thread was refused");
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    require_ring(sim, log, 4, {one.ledger(), two.ledger()});
    cycles += log.cycles;
  });
  if (all_seeds_ran()) CHECK(cycles > 0);
}

TEST_CASE("a ring of three handlers never hangs: what is refused is a cycle and counted, all else is handled") {
  std::uint64_t cycles = 0;
  in_all_schedules([&](simulation& sim) {
    ring_log log;
    auto bus = bus_of_ring(sim, log);
    auto one = ring_stage<0, 1>(sim, bus, log);
    auto two = ring_stage<1, 2>(sim, bus, log);
    auto three = ring_stage<2, 0>(sim, bus, log);
    sim.thread("source", [&] {
      for (int i = 0; i < 3; ++i) sim.require(bus.publish(token<0>{4}).accepted() == 1, "a thread was refused");
    });
    sim.thread("other source", [&] {
      for (int i = 0; i < 2; ++i) sim.require(bus.publish(token<1>{3}).accepted() == 1, "a thread was refused");
    });
    sim.run_until_idle();
    sim.require_all_done();
    require_ring(sim, log, 5, {one.ledger(), two.ledger(), three.ledger()});
    cycles += log.cycles;
  });
  if (all_seeds_ran()) CHECK(cycles > 0);
}

TEST_CASE("a diamond is no cycle: nothing of it is ever refused") {
  std::uint64_t parked = 0;
  in_all_schedules([&](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books;
    std::uint64_t joined = 0;
    auto join = bus.subscribe<polished>("join", subscribe_options().capacity(1), [&](const polished&) -> task<> {
      ++joined;
      if (sim.random(2) == 0) co_await penstock::sleep_for(some_ms(sim, 3));
    });
    auto left = bus.subscribe<cut>("left", subscribe_options().capacity(1), [&](const cut& each) -> task<> {
      const auto out = bus.publisher<polished>();
      const publish_result result = co_await out.async_emplace(each.number);
      books.book(sim, result);
    });
    auto right = bus.subscribe<cut>("right", subscribe_options().capacity(1), [&](const cut& each) {
      dawdle(sim);
      for (int i = 0; i < 2; ++i) books.book(sim, bus.publish(polished{each.number}));
    });
    auto top = bus.subscribe<raw>("top", subscribe_options().capacity(1), [&](const raw& each) -> task<> {
      books.book(sim, bus.publish(cut{each.number}));
      if (sim.random(2) == 0) co_await penstock::yield();
      books.book(sim, bus.publish(polished{each.number}));  // also the short way
    });
    sim.thread("source", [&] {
      for (int number = 0; number < 4; ++number) books.book(sim, bus.publish(raw{number}));
    });
    sim.run_until_idle();
    sim.require_all_done();
    require_balanced(sim, {top.ledger(), left.ledger(), right.ledger(), join.ledger()});
    sim.require(books.rejected == 0, "an output of a diamond was refused");
    sim.require(joined == 16 && join.ledger().handled == 16 && books.matched == 4 + 8 + 16, "an event was lost");
    parked += books.parked;
  });
  CHECK(parked > 0);
}

TEST_CASE("with retries and a close at any instant, each event is handled, failed, discarded or refused once") {
  in_all_schedules([](simulation& sim) {
    std::uint64_t told = 0;
    penstock::runtime_options options;
    options.on_failure([&](const penstock::failure&) { ++told; });
    auto& rt = sim.runtime(std::move(options));
    auto bus = rt.bus();
    account books;
    std::map<int, int> good;
    std::map<int, int> bad;
    bool closed = false;
    const unsigned attempts = 1 + static_cast<unsigned>(sim.random(3));
    int inside = 0;
    subscribe_options how;
    how.capacity(1 + sim.random(3)).retry(retry_policy().attempts(attempts).backoff(10ms).jitter(0.5));
    subscription sub;
    const auto outcome_of = [&](const item& each) {
      if (sim.random(2) != 0) {
        sim.require(++good[each.number] == 1, "handled twice");
        return;
      }
      ++bad[each.number];
      throw std::runtime_error("as planned");
    };
    if (sim.random(2) == 0) {
      sub = bus.subscribe<item>("retried", std::move(how), [&](const item& each, const penstock::call& call) -> task<> {
        sim.require(!closed, "a call began after close");
        sim.require(++inside == 1, "two calls of one lane overlap");
        sim.require(call.attempt() == static_cast<unsigned>(bad[each.number]) + 1, "attempts are miscounted");
        try {
          co_await penstock::sleep_for(some_ms(sim, 5));
        } catch (...) {
          --inside;
          ++bad[each.number];
          throw;
        }
        --inside;
        outcome_of(each);
      });
    } else {
      sub = bus.subscribe<item>("retried", std::move(how), [&](const item& each, const penstock::call& call) {
        sim.require(!closed, "a call began after close");
        sim.require(call.attempt() == static_cast<unsigned>(bad[each.number]) + 1, "attempts are miscounted");
        dawdle(sim);
        outcome_of(each);
      });
    }
    for (int producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (int i = 0; i < 3; ++i) {
          const auto result = bus.publish(item{producer, producer * 10 + i});
          books.book(sim, result);
          sim.require(result.rejected() == 0 || result.error() == errc::closed, to_string(result));
        }
      });
    }
    if (sim.random(4) != 0) sim.run_for(some_ms(sim, 60));
    let_go_on(sim, 20);
    switch (sim.random(4)) {
      case 0: sim.require(sub.close() == close_status::closed); break;
      case 1: sim.require(sub.close(close_mode::drain) == close_status::closed); break;
      case 2: sim.require(sub.close(close_mode::cancel) == close_status::closed); break;
      default: {
        const auto report = rt.shutdown(1s);
        sim.require(report.stuck.empty() && report.abandoned_workers == 0, to_string(report));
        for (const auto& each : report.subscriptions) sim.require(each.ledger.balanced(), to_string(each.ledger));
        break;
      }
    }
    closed = true;
    sim.require(inside == 0, "a call is running after close");
    sim.run_until_idle();
    sim.require_all_done();
    const ledger end = sub.ledger();
    require_balanced(sim, {end});
    sim.require(end.offered == books.matched && end.accepted == books.accepted, to_string(end));
    sim.require(end.handled == good.size(), "a success was not counted: " + to_string(end));
    std::uint64_t failed = 0;
    std::uint64_t thrown = 0;
    for (const auto& [number, count] : bad) {
      thrown += static_cast<std::uint64_t>(count);
      failed += count > 0 && good.count(number) == 0 ? 1U : 0U;
      sim.require(static_cast<unsigned>(count) <= attempts, "tried too often");
    }
    sim.require(end.failed == failed, "a failure for good was not counted once: " + to_string(end));
    sim.require(told == thrown, "a failed attempt was not told once");
  });
}

TEST_CASE("close(drain) keeps the delays of retries: no event ends before its last attempt") {
  in_all_schedules([](simulation& sim) {
    penstock::runtime_options options;
    options.on_failure([](const penstock::failure&) {});
    auto bus = sim.runtime(std::move(options)).bus();
    std::map<int, int> tries;
    std::uint64_t good = 0;
    auto sub = bus.subscribe<item>("retried",
                                   subscribe_options().capacity(4).retry(retry_policy().attempts(3).backoff(1h)),
                                   [&](const item& each) {
                                     ++tries[each.number];
                                     if (sim.random(2) == 0) throw std::runtime_error("as planned");
                                     tries[each.number] = 3;
                                     ++good;
                                   });
    std::uint64_t taken = 0;
    for (int number = 0; number < 4; ++number) taken += bus.publish(item{0, number}).accepted();
    let_go_on(sim, 12);
    sim.require(sub.close(close_mode::drain) == close_status::closed);
    const ledger end = sub.ledger();
    require_balanced(sim, {end});
    sim.require(taken == 4 && tries.size() == 4, "an event was not begun");
    for (const auto& [number, count] : tries) sim.require(count == 3, "an event ended before its last attempt");
    sim.require(end.handled == good && end.handled + end.failed == 4, to_string(end));
  });
}

TEST_CASE("a breaker lets through one probe at a time, and everything after the first success") {
  in_all_schedules([](simulation& sim) {
    penstock::runtime_options options;
    options.on_failure([](const penstock::failure&) {});
    auto bus = sim.runtime(std::move(options)).bus();
    account books;
    const unsigned after = 1 + static_cast<unsigned>(sim.random(3));
    const auto repaired = std::chrono::seconds(sim.random(60));
    std::vector<std::chrono::nanoseconds> failures;
    std::vector<int> seen;
    const bool slow = sim.random(2) == 0;
    auto sub = bus.subscribe<item>(
        "guarded", subscribe_options().capacity(12).on_failure(failure_policy::pause(after, 10s)),
        [&](const item& each) -> task<> {
          seen.push_back(each.number);
          const auto begun = sim.elapsed();
          if (failures.size() >= after && begun < repaired)
            sim.require(begun - failures.back() >= 10s, "a call began in the pause");
          if (slow) co_await penstock::sleep_for(some_ms(sim, 500));
          if (begun < repaired) {
            failures.push_back(sim.elapsed());
            throw std::runtime_error("broken");
          }
        });
    for (int number = 0; number < 12; ++number) books.book(sim, bus.publish(item{0, number}));
    sim.run_until_idle();
    sim.require(sub.state() == penstock::subscription_state::open, "the breaker stays tripped after a success");
    const ledger end = sub.ledger();
    require_balanced(sim, {end});
    sim.require(seen.size() == 12 && std::is_sorted(seen.begin(), seen.end()), "lost, doubled or out of order");
    sim.require(end.failed == failures.size() && end.handled == 12 - failures.size() && books.accepted == 12);
  });
}

TEST_CASE("a paused subscription that is closed or whose runtime ends discards what waits, and holds up nobody") {
  in_all_schedules([](simulation& sim) {
    penstock::runtime_options options;
    options.on_failure([](const penstock::failure&) {});
    auto& rt = sim.runtime(std::move(options));
    auto bus = rt.bus();
    std::uint64_t calls = 0;
    auto sub = bus.subscribe<item>("broken", subscribe_options().capacity(8).on_failure(failure_policy::pause(2, 1h)),
                                   [&](const item&) {
                                     ++calls;
                                     throw std::runtime_error("broken");
                                   });
    for (int number = 0; number < 6; ++number) sim.require(bus.publish(item{0, number}).accepted() == 1);
    if (sim.random(2) == 0)
      let_go_on(sim, 12);
    else
      sim.run_for(some_hours(sim) - 30min);
    const auto begun = sim.elapsed();
    switch (sim.random(4)) {
      case 0: sim.require(sub.close() == close_status::closed); break;
      case 1: sim.require(sub.close(close_mode::drain) == close_status::closed); break;
      case 2: sim.require(sub.close(close_mode::cancel) == close_status::closed); break;
      default: {
        const auto report = rt.shutdown(5s);
        sim.require(report.stuck.empty() && report.abandoned_workers == 0, to_string(report));
        break;
      }
    }
    sim.require(sim.elapsed() == begun, "a pause was waited for");
    sim.run_until_idle();
    const ledger end = sub.ledger();
    require_balanced(sim, {end});
    sim.require(end.failed == calls && end.failed + end.discarded == 6, to_string(end));
  });
}

/// For the case below: with linkage across files, so that its topic goes by its name alone.
struct coroutine_scenarios_order {
  int producer = 0;
  int number = 0;
};

namespace {

template <class E>
void require_one_letter_each() {
  in_all_schedules([](simulation& sim) {
    std::uint64_t told = 0;
    penstock::runtime_options options;
    options.on_failure([&](const penstock::failure&) { ++told; });
    auto bus = sim.runtime(std::move(options)).bus();
    account books;
    std::set<int> bad;
    std::map<int, int> letters;
    std::uint64_t letter_failures = 0;
    auto graves = bus.subscribe<penstock::dead_letter<E>>(
        "graves", subscribe_options().capacity(1), [&](const penstock::dead_letter<E>& letter) -> task<> {
          ++letters[letter.event().number];
          sim.require(letter.reason() == "failed" && letter.subscription() == "failing", letter.reason());
          sim.require(letter.attempts() == 2, "the attempts in the letter are wrong");
          sim.require(letter.text().find("as planned") != std::string::npos, letter.text());
          co_await penstock::sleep_for(some_ms(sim, 5));
          if (sim.random(4) == 0) {
            ++letter_failures;
            throw std::runtime_error("a bad letter");
          }
        });
    std::uint64_t good = 0;
    std::uint64_t thrown = 0;
    auto failing = bus.subscribe<E>("failing", subscribe_options().capacity(1).retry(retry_policy().attempts(2)),
                                       [&](const E& each, const penstock::call& call) -> task<> {
                                         if (sim.random(2) == 0) co_await penstock::yield();
                                         if (sim.random(2) == 0) {
                                           ++good;
                                           co_return;
                                         }
                                         ++thrown;
                                         if (call.attempt() == 2) bad.insert(each.number);
                                         throw std::runtime_error("as planned");
                                       });
    for (int producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (int i = 0; i < 4; ++i) books.book(sim, bus.publish(E{producer, producer * 10 + i}));
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    require_balanced(sim, {failing.ledger(), graves.ledger()});
    sim.require(failing.ledger().failed == bad.size() && failing.ledger().handled == good && books.accepted == 8);
    sim.require(letters.size() == bad.size(), "a dead letter is missing, or one too many");
    for (const auto& [number, count] : letters)
      sim.require(count == 1 && bad.count(number) == 1, "a dead letter was delivered twice or without a failure");
    sim.require(graves.ledger().offered == bad.size() && graves.ledger().failed == letter_failures);
    sim.require(told == thrown + letter_failures, "a failure was not told once");
  });
}

}  // namespace

TEST_CASE("each event that fails for good makes one dead letter, and a dead letter makes none") {
  require_one_letter_each<coroutine_scenarios_order>();
}

TEST_CASE("an event of a type that is private to its file makes its dead letter like any other") {
  require_one_letter_each<item>();
}

TEST_CASE("several readers of a stream, threads and tasks: each event has exactly one fate") {
  in_all_schedules([](simulation& sim) {
    penstock::runtime_options options;
    options.on_failure([](const penstock::failure&) {});
    auto bus = sim.runtime(std::move(options)).bus();
    account books;
    crew tasks(sim);
    fates log;
    std::stop_source stop;
    stream_options how;
    how.capacity(1 + sim.random(3));
    if (sim.random(2) == 0) how.max_in_flight(1 + sim.random(2));
    auto in = bus.stream<item>("read", std::move(how));
    tasks.start(read_all(sim, in, log), stop.get_token());
    tasks.start(read_all(sim, in, log));
    sim.thread("reader", [&] { read_all_here(sim, in, log); });
    std::set<int> taken;
    for (int producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (int i = 0; i < 4; ++i) {
          const int number = producer * 10 + i;
          const auto result = bus.publish(item{producer, number});
          books.book(sim, result);
          if (result.accepted() == 1) taken.insert(number);
          if (sim.random(4) == 0) sim.sleep_for(some_ms(sim, 10));
        }
      });
    }
    sim.thread("canceller", [&] {
      sim.sleep_for(some_ms(sim, 60));
      stop.request_stop();
    });
    const bool drains = sim.random(2) == 0;
    sim.run_for(some_ms(sim, 120));
    let_go_on(sim, 10);
    in.close(drains ? close_mode::drain : close_mode::stop_now);
    sim.run_until_idle();
    sim.require_all_done();
    tasks.require_ended();
    const ledger end = in.ledger();
    require_balanced(sim, {end});
    sim.require(end.offered == books.matched && end.accepted == taken.size(), to_string(end));
    std::uint64_t fated = 0;
    std::uint64_t failed = 0;
    for (const int number : taken) {
      const int count = log.handled[number] + log.failed[number];
      sim.require(count <= 1, "an event has two fates");
      fated += static_cast<std::uint64_t>(count);
      failed += static_cast<std::uint64_t>(log.failed[number]);
    }
    for (const auto& [number, count] : log.held) sim.require(count == 0, "an event is still in somebody's hands");
    // A requeue in a drain fails the event, one after a close discards it: the ledger counts them there.
    sim.require(end.handled == fated - failed, "handled and counted differ: " + to_string(end));
    sim.require(end.failed >= failed && end.handled + end.failed + end.discarded == taken.size(), to_string(end));
    if (drains) sim.require(end.discarded == 0, "a drain discarded an event: " + to_string(end));
    if (!drains) sim.require(end.failed == failed, "a failure that nobody decided: " + to_string(end));
  });
}

TEST_CASE("handlers that async_close each other and themselves finish, and nobody waits for ever") {
  in_all_schedules([](simulation& sim) {
    penstock::runtime_options options;
    options.on_failure([](const penstock::failure&) {});
    auto bus = sim.runtime(std::move(options)).bus();
    crew tasks(sim);
    std::array<subscription, 2> both;
    std::array<int, 2> calls{};
    std::array<int, 2> ended{};
    std::uint64_t deadlocks = 0;
    const std::array modes{close_mode::stop_now, close_mode::drain, close_mode::cancel};
    const auto make = [&](std::size_t own) {
      return bus.subscribe<item>("closer", subscribe_options().capacity(2), [&, own](const item&) -> task<> {
        ++calls[own];
        const std::size_t target = sim.random(4) == 0 ? own : 1 - own;
        if (sim.random(2) == 0) {
          try {
            co_await penstock::sleep_for(some_ms(sim, 3));
          } catch (const penstock::cancelled&) {
            ++ended[own];
            throw;
          }
        }
        const close_mode mode = modes[sim.random(3)];
        try {
          const close_status status = co_await both[target].async_close(mode);
          sim.require(status == close_status::closed || status == close_status::would_deadlock, to_string(status));
          sim.require(target != own || status == close_status::would_deadlock, "a call waited for its own end");
          if (status == close_status::would_deadlock) ++deadlocks;
          if (status == close_status::closed)
            sim.require(calls[target] == ended[target], "closed while a call is running");
        } catch (const penstock::cancelled&) {
          ++ended[own];
          throw;
        }
        ++ended[own];
      });
    };
    both[0] = make(0);
    both[1] = make(1);
    std::uint64_t offered = 0;
    sim.thread("publisher", [&] {
      for (int number = 0; number < 3; ++number) offered += bus.publish(item{0, number}).matched();
    });
    if (sim.random(2) == 0) {
      sim.thread("closer from outside", [&] {
        sim.sleep_for(some_ms(sim, 3));
        dawdle(sim);
        sim.require(both[sim.random(2)].close() == close_status::closed, "a close from a thread did not close");
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    for (std::size_t i = 0; i < 2; ++i) {
      sim.require(calls[i] == ended[i], "a call never ended");
      sim.require(both[i].close() == close_status::closed);
    }
    require_balanced(sim, {both[0].ledger(), both[1].ledger()});
    sim.require(both[0].ledger().offered + both[1].ledger().offered == offered);
  });
}

namespace {

task<> close_and_check(simulation& sim, subscription& target, close_mode mode, const int& running, const bool& over) {
  const close_status status = co_await target.async_close(mode);
  sim.require(status == close_status::closed, to_string(status));
  sim.require(running == 0 && !over, "async_close completed while a call was running");
}

task<> close_within(simulation& sim, subscription& target, std::chrono::milliseconds limit, int& in_time) {
  const auto begun = sim.elapsed();
  const close_status status = co_await target.async_close_for(limit);
  sim.require(status == close_status::closed || status == close_status::timed_out, to_string(status));
  sim.require(status == close_status::closed || sim.elapsed() - begun >= limit, "gave up too early");
  sim.require(sim.elapsed() - begun <= limit, "gave up too late");
  in_time += status == close_status::closed;
}

task<> wait_until_idle(simulation& sim, penstock::event_bus& bus, const int& open, int& found) {
  const bool idle = co_await bus.async_wait_idle();
  sim.require(idle, "it came back without the bus being idle");
  sim.require(open == 0, "idle while a call is running");
  ++found;
}

task<> wait_a_while(simulation& sim, penstock::event_bus& bus, std::chrono::milliseconds limit) {
  const auto begun = sim.elapsed();
  const bool idle = co_await bus.async_wait_idle_for(limit);
  sim.require(sim.elapsed() - begun <= limit, "it came back after its deadline");
  sim.require(idle || sim.elapsed() - begun == limit, "it gave up before its deadline");
}

}  // namespace

TEST_CASE("async_close from several tasks at any instant completes for each when the last call has ended") {
  in_all_schedules([](simulation& sim) {
    penstock::runtime_options options;
    options.on_failure([](const penstock::failure&) {});
    auto bus = sim.runtime(std::move(options)).bus();
    account books;
    crew tasks(sim);
    int running = 0;
    bool over = false;
    std::stop_source stop;
    const bool drains = sim.random(2) == 0;
    const auto lanes = static_cast<unsigned>(1 + sim.random(2));
    auto sub = bus.subscribe<item>("leaving", subscribe_options().capacity(2).concurrency(lanes),
                                   [&](const item&) -> task<> {
                                     ++running;
                                     try {
                                       co_await penstock::sleep_for(some_ms(sim, 10));
                                     } catch (const penstock::cancelled&) {
                                       --running;
                                       throw;
                                     }
                                     --running;
                                   });
    for (int producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (int number = 0; number < 3; ++number) {
          const auto result = bus.publish(item{producer, number});
          books.book(sim, result);
          sim.require(result.rejected() == 0 || result.error() == errc::closed, to_string(result));
        }
      });
    }
    sim.run_for(some_ms(sim, 20));
    let_go_on(sim, 10);
    const std::array modes{drains ? close_mode::drain : close_mode::stop_now,
                           drains ? close_mode::drain : close_mode::cancel};
    tasks.start(close_and_check(sim, sub, modes[0], running, over));
    tasks.start(close_and_check(sim, sub, modes[1], running, over));
    tasks.start(close_and_check(sim, sub, modes[0], running, over), stop.get_token());
    sim.thread("canceller", [&] {
      sim.sleep_for(some_ms(sim, 20));
      stop.request_stop();
    });
    sim.run_until_idle();
    sim.require_all_done();
    tasks.require_ended();
    over = true;
    sim.require(tasks.cancelled() <= 1, "another task was cancelled");
    const ledger end = sub.ledger();
    require_balanced(sim, {end});
    sim.require(end.offered == books.matched && end.accepted == books.accepted, to_string(end));
    if (drains) sim.require(end.discarded == 0 && end.failed == 0, to_string(end));
    sim.require(sub.close() == close_status::closed);
  });
}

TEST_CASE("async_close_for gives up at its deadline, not before, and the call still ends by itself") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    crew tasks(sim);
    int in_time = 0;
    int ended = 0;
    auto sub = bus.subscribe<item>("slow", subscribe_options().capacity(2), [&](const item&) -> task<> {
      co_await penstock::sleep_for(some_ms(sim, 20));
      ++ended;
    });
    for (int number = 0; number < 3; ++number) static_cast<void>(bus.try_publish(item{0, number}));
    let_go_on(sim, 10);
    tasks.start(close_within(sim, sub, 10ms, in_time));
    tasks.start(close_within(sim, sub, some_ms(sim, 20) + 1ms, in_time));
    sim.run_until_idle();
    tasks.require_ended();
    sim.require_all_done();
    const ledger end = sub.ledger();
    require_balanced(sim, {end});
    sim.require(end.handled == static_cast<std::uint64_t>(ended) && end.failed == 0, to_string(end));
  });
}

TEST_CASE("async_wait_idle comes back at an instant when nothing is queued, running or pending") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books;
    crew tasks(sim);
    int open = 0;  // calls begun and not ended, and events that are on their way to one
    int found = 0;
    auto second = bus.subscribe<cut>("second", subscribe_options().capacity(1), [&](const cut&) -> task<> {
      co_await penstock::sleep_for(some_ms(sim, 5));
      --open;
    });
    auto first = bus.subscribe<raw>("first", subscribe_options().capacity(1), [&](const raw& each) -> task<> {
      const auto out = bus.publisher<cut>();
      ++open;
      if (sim.random(2) == 0) co_await penstock::sleep_for(some_ms(sim, 5));
      const publish_result result = co_await out.async_emplace(each.number);
      books.book(sim, result);
      --open;
    });
    // One event at a time, so that `open` says what is under way at the instant of the answer.
    sim.thread("publisher", [&] {
      for (int number = 0; number < 3; ++number) {
        ++open;
        books.book(sim, bus.publish(raw{number}));
        if (sim.random(2) == 0) sim.sleep_for(some_ms(sim, 20));
      }
    });
    std::stop_source stop;
    let_go_on(sim, 6);
    const int none = 0;
    tasks.start(wait_until_idle(sim, bus, none, found));
    tasks.start(wait_until_idle(sim, bus, none, found), stop.get_token());
    tasks.start(wait_a_while(sim, bus, 7ms));
    sim.thread("canceller", [&] {
      sim.sleep_for(some_ms(sim, 20));
      stop.request_stop();
    });
    sim.run_until_idle();
    sim.require_all_done();
    tasks.require_ended();
    sim.require(open == 0 && found + tasks.cancelled() == 2 && tasks.cancelled() <= 1);
    // At rest the answer is immediate, and with a call under way it waits for its end.
    ++open;
    books.book(sim, bus.publish(raw{9}));
    tasks.start(wait_until_idle(sim, bus, open, found));
    sim.run_until_idle();
    tasks.require_ended();
    sim.require(open == 0, "idle was told although a call was under way");
    require_balanced(sim, {first.ledger(), second.ledger()});
    sim.require(first.ledger().handled == 4 && second.ledger().handled == 4 && books.matched == 8);
  });
}

TEST_CASE("a shutdown cancels coroutines that are suspended in the library's operations, and names none as stuck") {
  in_all_schedules([](simulation& sim) {
    penstock::runtime_options options;
    options.on_failure([](const penstock::failure&) {});
    auto& rt = sim.runtime(std::move(options));
    auto bus = rt.bus();
    account books;
    int begun = 0;
    int cancelled = 0;
    int by_themselves = 0;
    auto nobody = bus.stream<polished>("nobody sends");
    auto full = bus.stream<cut>("nobody reads", stream_options().capacity(1));
    auto sleeping = bus.subscribe<raw>(
        "sleeping", subscribe_options().capacity(4).concurrency(2), [&](const raw& each) -> task<> {
          ++begun;
          try {
            if (each.number % 3 == 0) {
              co_await penstock::sleep_for(some_hours(sim));
            } else if (each.number % 3 == 1) {
              auto one = co_await nobody.next();
              sim.require(!one, "something came out of nothing");
            } else {
              const auto out = bus.publisher<cut>();
              const publish_result result = co_await out.async_emplace(each.number);
              books.book(sim, result);
            }
          } catch (const penstock::cancelled& why) {
            ++cancelled;
            sim.require(why.why().kind == penstock::cancel_kind::shutdown, why.why().reason);
            throw;
          }
          ++by_themselves;
        });
    sim.thread("publisher", [&] {
      for (int number = 0; number < 6; ++number) {
        const auto result = bus.publish(raw{number + static_cast<int>(sim.random(3))});
        sim.require(result.rejected() == 0 || result.error() == errc::closed, to_string(result));
      }
    });
    sim.run_for(some_ms(sim, 10));
    let_go_on(sim, 20);
    const auto at = sim.elapsed();
    const auto report = rt.shutdown(1s);
    sim.require(sim.elapsed() - at <= 1s + 10ms, "the shutdown took longer than it was given");
    sim.require(report.stuck.empty(), to_string(report));
    sim.require(report.abandoned_workers == 0, to_string(report));
    for (const auto& each : report.subscriptions) {
      sim.require(each.ledger.balanced(), to_string(each.ledger));
      sim.require(each.ledger.running == 0 && each.ledger.queued == 0, to_string(each.ledger));
    }
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(begun == cancelled + by_themselves, "a coroutine never ended");
    const ledger end = sleeping.ledger();
    require_balanced(sim, {end, full.ledger(), nobody.ledger()});
    sim.require(end.failed == static_cast<std::uint64_t>(cancelled), to_string(end));
    sim.require(end.handled == static_cast<std::uint64_t>(by_themselves), to_string(end));
  });
}

TEST_CASE("a shutdown keeps a retry's delay that ends in time, and fails the event at once otherwise") {
  in_all_schedules([](simulation& sim) {
    penstock::runtime_options options;
    options.on_failure([](const penstock::failure&) {});
    auto& rt = sim.runtime(std::move(options));
    auto bus = rt.bus();
    std::map<int, int> tries;
    const bool fits = sim.random(2) == 0;
    const auto delay = fits ? std::chrono::milliseconds(10) : std::chrono::milliseconds(3'600'000);
    auto sub = bus.subscribe<item>(
        "retried", subscribe_options().capacity(3).retry(retry_policy().attempts(2).backoff(delay).jitter(0.0)),
        [&](const item& each) -> task<> {
          ++tries[each.number];
          if (sim.random(2) == 0) co_await penstock::yield();
          throw std::runtime_error("as planned");
        });
    std::uint64_t taken = 0;
    for (int number = 0; number < 3; ++number) taken += bus.publish(item{0, number}).accepted();
    let_go_on(sim, 12);
    const auto at = sim.elapsed();
    const auto report = rt.shutdown(1s);
    const ledger end = sub.ledger();
    require_balanced(sim, {end});
    sim.require(report.drained && report.stuck.empty(), to_string(report));
    sim.require(taken == 3 && end.failed == 3, to_string(end));
    sim.require(sim.elapsed() - at <= 30ms, "a delay that cannot end in time was waited for");
    for (const auto& [number, count] : tries)
      sim.require(count == 2 || !fits, "a delay that ends in time was cut short");
    sim.require(tries.size() == 3, "an event was not begun");
  });
}

namespace {

task<> relay(simulation& sim, penstock::stream<raw>& in, publisher<cut> out, account& books, std::uint64_t& relayed) {
  for (;;) {
    auto one = co_await in.next();
    if (!one) co_return;
    if (sim.random(2) == 0) co_await penstock::sleep_for(some_ms(sim, 5));
    one.publish_under([&] {
      const publish_result result = out.try_publish(cut{one->number});
      books.book(sim, result);
      sim.require(result.error() == errc::none, std::string("refused under a delivery: ") + to_string(result.error()));
    });
    ++relayed;
    one.done();
  }
}

}  // namespace

TEST_CASE("what a reader publishes under its delivery is taken until the drain of a shutdown ends") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime();
    auto bus = rt.bus();
    account books;
    crew tasks(sim);
    std::uint64_t relayed = 0;
    std::uint64_t handled = 0;
    bool over = false;
    auto in = bus.stream<raw>("in", stream_options().capacity(8));
    auto target = bus.subscribe<cut>("target", subscribe_options().capacity(16), [&](const cut&) {
      sim.require(!over, "a call after the shutdown");
      ++handled;
    });
    tasks.start(relay(sim, in, bus.publisher<cut>(), books, relayed));
    sim.thread("reader", [&] {
      for (;;) {
        auto one = in.receive();
        if (!one) return;
        if (sim.random(2) == 0) sim.sleep_for(some_ms(sim, 5));
        one.publish_under([&] { books.book(sim, bus.publish(cut{one->number})); });
        ++relayed;
      }
    });
    std::uint64_t taken = 0;
    for (int number = 0; number < 6; ++number) taken += bus.publish(raw{number}).accepted();
    let_go_on(sim, 20);
    const auto report = rt.shutdown(1s);
    over = true;
    sim.require(report.clean() && report.drained, to_string(report));
    sim.run_until_idle();
    sim.require_all_done();
    tasks.require_ended(1);
    require_balanced(sim, {in.ledger(), target.ledger()});
    sim.require(taken == 6 && relayed == 6, "an event of the stream was not read");
    sim.require(books.rejected == 0, "what was published under a delivery was refused");
    sim.require(books.matched == 6, "what was published under a delivery found nobody: " + to_string(target.ledger()));
    sim.require(handled == 6 && target.ledger().handled == 6, "an output was lost");
  });
}

namespace {

void give_fate(simulation& sim, penstock::delivery<item>& one, std::uint64_t fate) {
  if (fate == 0) sim.require(one.requeue() == errc::none, "an event was not taken back");
  if (fate == 1) one.fail("as planned");
  if (fate == 2) one.done();
}

}  // namespace

TEST_CASE("who waits for idle is told when the last delivery of a closed stream is decided, however it is") {
  in_all_schedules([](simulation& sim) {
    penstock::runtime_options options;
    options.on_failure([](const penstock::failure&) {});
    auto bus = sim.runtime(std::move(options)).bus();
    crew tasks(sim);
    int found = 0;
    const int none = 0;
    const bool drains = sim.random(2) == 0;
    auto in = bus.stream<item>("read");
    sim.require(bus.publish(item{0, 1}).accepted() == 1);
    auto one = in.try_receive();
    sim.require(static_cast<bool>(one), "an event that waits was not received");
    bool idle_by_thread = false;
    auto waiter = sim.thread("waits for idle", [&] { idle_by_thread = bus.wait_idle(1h); });
    tasks.start(wait_until_idle(sim, bus, none, found));
    sim.run_for(1ms);
    sim.require(found == 0 && !waiter.done(), "idle was told while a delivery is in a reader's hands");
    in.close(drains ? close_mode::drain : close_mode::stop_now);
    if (sim.random(2) == 0) sim.run_for(1ms);
    const auto fate = sim.random(3);
    give_fate(sim, one, fate);
    sim.run_until([&] { return tasks.all_ended() && waiter.done(); });
    const std::string how = std::string(drains ? "close(drain), " : "close(), ") +
                            (fate == 0 ? "requeue" : fate == 1 ? "fail" : "done") + (found == 1 ? "" : ", the task") +
                            (sim.elapsed() < 1s ? "" : ", the thread");
    sim.require(tasks.all_ended() && sim.elapsed() < 1s, "somebody was not told that the bus is idle: " + how);
    sim.require_all_done();
    tasks.require_ended();
    const ledger end = in.ledger();
    require_balanced(sim, {end});
    sim.require(found == 1 && idle_by_thread, "not told once that the bus is idle");
    sim.require(end.handled == (fate == 2), to_string(end));
    sim.require(end.discarded == (fate == 0 && !drains), to_string(end));
    sim.require(end.failed == (fate == 1 || (fate == 0 && drains)), to_string(end));
  });
}

TEST_CASE("a delivery in a reader's hands is running also after its stream was closed: the bus is not idle") {
  in_all_schedules([](simulation& sim) {
    penstock::runtime_options options;
    options.on_failure([](const penstock::failure&) {});
    auto bus = sim.runtime(std::move(options)).bus();
    auto in = bus.stream<item>("read");
    sim.require(bus.publish(item{0, 1}).accepted() == 1);
    auto one = in.try_receive();
    in.close(sim.random(2) == 0 ? close_mode::drain : close_mode::stop_now);
    sim.require(in.ledger().running == 1, to_string(in.ledger()));
    sim.require(!bus.wait_idle(1s), "idle was told while a delivery is in a reader's hands");
    give_fate(sim, one, sim.random(3));
    sim.require(bus.wait_idle(1s), "the last delivery is decided, and the bus is not idle");
    require_balanced(sim, {in.ledger()});
  });
}

TEST_CASE("each wait for a timer ends once: its instant, its call off, or its task's stop, whichever comes first") {
  in_all_schedules([](simulation& sim) {
    const auto pool = sim.runtime().pool("default");
    std::optional<penstock::timer> due(std::in_place, pool, 10ms);
    struct ends {
      int came = 0;
      int called_off = 0;
      int stopped = 0;
      int refused = 0;
      int told = 0;
    } seen;
    std::uint64_t called_off = 0;
    std::stop_source stop;
    constexpr int waiters = 4;
    const auto wait = [](simulation& of, const penstock::timer& until, ends& to) -> task<> {
      const auto instant = until.expiry();
      const bool came = co_await until.async_wait();
      if (came) of.require(of.now() >= instant, "told before its instant");
      ++(came ? to.came : to.called_off);
    };
    for (int i = 0; i < waiters; ++i) {
      const bool can_stop = sim.random(2) == 0;
      penstock::start_task(pool, wait(sim, *due, seen), [&](penstock::outcome<void>&& end) noexcept {
        ++seen.told;
        try {
          std::move(end).get();
        } catch (const penstock::cancelled&) {
          ++seen.stopped;
        } catch (...) {
          ++seen.refused;
        }
      }, can_stop ? stop.get_token() : std::stop_token());
    }
    sim.thread("caller off", [&] {
      for (auto times = sim.random(3); times != 0; --times) {
        sim.sleep_for(some_ms(sim, 12));
        called_off += sim.random(2) == 0 ? due->cancel() : due->expires_after(some_ms(sim, 12));
      }
    });
    sim.thread("stopper", [&] {
      sim.sleep_for(some_ms(sim, 12));
      stop.request_stop();
    });
    let_go_on(sim, 40);
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(seen.told == waiters && seen.refused == 0, "a wait was told twice or never");
    sim.require(seen.came + seen.called_off + seen.stopped == waiters, "a wait has not one end");
    sim.require(static_cast<std::uint64_t>(seen.called_off) == called_off,
                "who calls it off counts others than those told");
  });
}
