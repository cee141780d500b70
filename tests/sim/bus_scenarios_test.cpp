// The real bus under ten thousand schedules a scenario: what is promised whatever runs first.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "schedules.hpp"

#include <penstock/testing/simulation.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using penstock::close_mode;
using penstock::close_status;
using penstock::drop_reason;
using penstock::errc;
using penstock::ledger;
using penstock::overflow;
using penstock::publish_result;
using penstock::subscribe_options;
using penstock::subscription;
using penstock::testing::simulation;
using penstock_test::dawdle;
using penstock_test::in_all_schedules;

namespace {

struct item {
  int producer = 0;
  int number = 0;
};

/// Travels as a shared block instead of in place.
struct parcel {
  int number = 0;
  std::shared_ptr<int> content;
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

/// The tests' own account of what they published, to be compared with the ledgers.
class account {
 public:
  explicit account(simulation& sim) : sim_(sim) {}

  /// Books one result and returns it.
  publish_result operator()(publish_result result) {
    sim_.require(result.matched() == result.accepted() + result.parked() + result.dropped() + result.rejected(),
                 "the counts of one publish do not add up: " + to_string(result));
    matched_ += result.matched();
    accepted_ += result.accepted();
    return result;
  }

  /// The accounting laws for these subscriptions, which must be at rest and all that anything was published to.
  void check(std::initializer_list<ledger> ledgers) const {
    std::uint64_t offered = 0;
    for (const ledger& each : ledgers) {
      sim_.require(each.balanced(), "not balanced: " + to_string(each));
      offered += each.offered;
    }
    sim_.require(offered == matched_, "offered " + std::to_string(offered) + ", matched " + std::to_string(matched_));
  }
  std::uint64_t matched() const { return matched_; }
  std::uint64_t accepted() const { return accepted_; }

 private:
  simulation& sim_;
  std::uint64_t matched_ = 0;
  std::uint64_t accepted_ = 0;
};

/// Time moves only when nothing is ready. So it has not moved in a scenario without sleeps and closed gates unless
/// somebody who could have gone on was not told, and looked again by its own timer.
void require_no_missed_wake_up(simulation& sim) {
  sim.require(sim.elapsed() == 0s, "time had to pass before somebody who could go on did so");
}

bool increasing(const std::vector<int>& numbers) {
  return std::adjacent_find(numbers.begin(), numbers.end(), [](int a, int b) { return a >= b; }) == numbers.end();
}

/// The numbers of one producer, in the order they were seen.
std::vector<int> of_producer(const std::vector<item>& seen, int producer) {
  std::vector<int> numbers;
  for (const item& each : seen)
    if (each.producer == producer) numbers.push_back(each.number);
  return numbers;
}

}  // namespace

TEST_CASE("blocking back-pressure hands every event over, in the order of each publisher") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    std::vector<item> seen;
    int running = 0;
    auto slow = bus.subscribe<item>("slow", subscribe_options().capacity(1 + sim.random(3)), [&](const item& each) {
      sim.require(++running == 1, "two calls of one subscription overlap");
      dawdle(sim);
      seen.push_back(each);
      --running;
    });
    for (int producer = 0; producer < 3; ++producer) {
      sim.thread("publisher", [&, producer] {
        const auto out = bus.publisher<item>();
        for (int number = 0; number < 4; ++number) {
          const auto result = books(out.publish({producer, number}));
          sim.require(result.accepted() == 1 && result.error() == errc::none);
        }
      });
    }
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    sim.require(seen.size() == 12);
    for (int producer = 0; producer < 3; ++producer)
      sim.require(of_producer(seen, producer) == std::vector<int>{0, 1, 2, 3}, "a publisher's events changed places");
    books.check({slow.ledger()});
    sim.require(slow.ledger().handled == 12 && slow.ledger().quiescent());
  });
}

TEST_CASE("the fail policy refuses what has no seat and handles the rest") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    std::uint64_t refused = 0;
    std::uint64_t handled = 0;
    auto strict =
        bus.subscribe<item>("strict", subscribe_options().capacity(2).overflow(overflow::fail), [&](const item&) {
          dawdle(sim);
          ++handled;
        });
    for (int producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        const auto out = bus.publisher<item>();
        for (int number = 0; number < 5; ++number) {
          const auto result = books(out.publish({producer, number}));
          sim.require(result.error() == errc::none, "a refusal by policy is a count, not an error");
          refused += result.rejected();
          dawdle(sim);
        }
      });
    }
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    const ledger end = strict.ledger();
    books.check({end});
    sim.require(end.rejected.full == refused && end.rejected.total() == refused);
    sim.require(end.handled == handled && handled + refused == 10);
  });
}

TEST_CASE("drop_newest drops the arriving event and tells of each drop once") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    std::vector<int> handled;
    std::vector<int> dropped;
    auto lossy = bus.subscribe<item>("lossy",
                                     subscribe_options()
                                         .capacity(2)
                                         .overflow(overflow::drop_newest)
                                         .on_drop<item>([&](const item& each, drop_reason reason) noexcept {
                                           if (reason == drop_reason::newest) dropped.push_back(each.number);
                                         }),
                                     [&](const item& each) {
                                       dawdle(sim);
                                       handled.push_back(each.number);
                                     });
    sim.thread("publisher", [&] {
      const auto out = bus.publisher<item>();
      for (int number = 0; number < 8; ++number) {
        const auto told_before = dropped.size();
        const auto result = books(out.publish({0, number}));
        sim.require(dropped.size() - told_before == result.dropped(), "on_drop and the result differ");
        dawdle(sim);
      }
    });
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    const ledger end = lossy.ledger();
    books.check({end});
    sim.require(end.dropped == dropped.size() && end.handled == handled.size());
    sim.require(handled.size() + dropped.size() == 8 && increasing(handled) && increasing(dropped));
    sim.require(handled.size() >= 2 && handled[0] == 0 && handled[1] == 1, "there were seats for the first two");
  });
}

TEST_CASE("drop_oldest evicts the oldest event that has not begun, and the newest is always handled") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    std::vector<int> handled;
    std::vector<int> evicted;
    auto recent = bus.subscribe<item>("recent",
                                      subscribe_options()
                                          .capacity(2)
                                          .overflow(overflow::drop_oldest)
                                          .on_drop<item>([&](const item& each, drop_reason reason) noexcept {
                                            if (reason == drop_reason::oldest) evicted.push_back(each.number);
                                          }),
                                      [&](const item& each) {
                                        handled.push_back(each.number);
                                        dawdle(sim);
                                      });
    sim.thread("publisher", [&] {
      const auto out = bus.publisher<item>();
      for (int number = 0; number < 8; ++number) {
        const auto result = books(out.publish({0, number}));
        sim.require(result.accepted() == 1, "drop_oldest accepts everything");
        dawdle(sim);
      }
    });
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    const ledger end = recent.ledger();
    books.check({end});
    sim.require(end.evicted == evicted.size() && end.handled == handled.size());
    sim.require(handled.size() + evicted.size() == 8 && increasing(handled) && increasing(evicted));
    sim.require(handled.size() >= 2 && handled.back() == 7 && handled[handled.size() - 2] == 6,
                "the last two were the newest");
  });
}

TEST_CASE("latest ends with an event that no later publish follows") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    struct call_times {
      int begun = 0;
      int returned = 0;
    };
    std::vector<item> handled;
    std::array<std::array<call_times, 4>, 2> times{};
    int now = 0;
    auto state = bus.subscribe<item>("state", subscribe_options().overflow(overflow::latest), [&](const item& each) {
      handled.push_back(each);
      dawdle(sim);
    });
    for (int producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        const auto out = bus.publisher<item>();
        for (int number = 0; number < 4; ++number) {
          auto& own = times[static_cast<std::size_t>(producer)][static_cast<std::size_t>(number)];
          own.begun = ++now;
          books(out.publish({producer, number}));
          own.returned = ++now;
          dawdle(sim);
        }
      });
    }
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    const ledger end = state.ledger();
    books.check({end});
    sim.require(end.handled + end.evicted == 8 && end.handled == handled.size());
    const auto& last =
        times[static_cast<std::size_t>(handled.back().producer)][static_cast<std::size_t>(handled.back().number)];
    for (const auto& producer : times)
      for (const call_times& each : producer) sim.require(each.begun < last.returned, "a later event was lost");
    for (int producer = 0; producer < 2; ++producer) sim.require(increasing(of_producer(handled, producer)));
  });
}

TEST_CASE("a stuck subscriber holds back its publisher and nobody else") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    auto gate = sim.gate("stuck");
    std::vector<int> fast_seen;
    std::vector<int> stuck_seen;
    auto stuck = bus.subscribe<item>("stuck", subscribe_options().capacity(1), [&, gate](const item& each) {
      gate.wait();
      stuck_seen.push_back(each.number);
    });
    auto fast = bus.subscribe<item>("fast", subscribe_options().capacity(1),
                                    [&](const item& each) { fast_seen.push_back(each.number); });
    auto publisher = sim.thread("publisher", [&] {
      const auto out = bus.publisher<item>();
      for (int number = 0; number < 5; ++number) sim.require(books(out.publish({0, number})).accepted() == 2);
    });
    sim.run_until_idle();
    // One event is in its call, one waits, and the third has reached everybody else before its publisher waits.
    sim.require(fast_seen == std::vector<int>{0, 1, 2}, "the waiting event did not reach the free subscriber");
    sim.require(!publisher.done() && stuck.ledger().pending == 1 && stuck.ledger().running == 1 &&
                stuck.ledger().queued == 1);
    sim.require(stuck.ledger().balanced() && fast.ledger().balanced());
    gate.open();
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(stuck_seen == std::vector<int>{0, 1, 2, 3, 4} && fast_seen == stuck_seen);
    books.check({stuck.ledger(), fast.ledger()});
  });
}

TEST_CASE("what one thread publishes after another thread's publish has returned is handled after it") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    std::vector<int> seen;
    auto reader = bus.subscribe<item>("reader", subscribe_options().capacity(1 + sim.random(4)), [&](const item& each) {
      dawdle(sim);
      seen.push_back(each.number);
    });
    int next = 0;
    bool taken = false;
    auto turn = sim.gate("turn");
    turn.open();
    for (int i = 0; i < 3; ++i) {
      sim.thread("publisher", [&, turn] {
        for (int round = 0; round < 3; ++round) {
          while (taken) turn.wait();  // a baton: who holds it publishes
          taken = true;
          turn.close();
          books(bus.publish(item{0, next++}));
          taken = false;
          turn.open();
          sim.yield();
        }
      });
    }
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    sim.require(seen.size() == 9 && increasing(seen), "handled in another order than published");
    books.check({reader.ledger()});
  });
}

TEST_CASE("waiting publishers are served first come, first served") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    auto gate = sim.gate("handler");
    std::vector<int> seen;
    auto narrow = bus.subscribe<item>("narrow", subscribe_options().capacity(1), [&, gate](const item& each) {
      gate.wait();
      dawdle(sim);
      seen.push_back(each.number);
    });
    const std::uint64_t waiters = 4;
    books(bus.publish(item{0, -2}));  // in its call, once a worker comes
    sim.run_until_idle();
    books(bus.publish(item{0, -1}));  // in the only seat
    for (std::uint64_t i = 0; i < waiters; ++i) {
      sim.thread("waiter", [&, i] { sim.require(books(bus.publish(item{0, static_cast<int>(i)})).accepted() == 1); });
      sim.require(sim.run_until([&] { return narrow.ledger().pending == i + 1; }), "the publisher does not wait");
    }
    sim.require(bus.try_publish(item{0, 99}).rejected() == 1, "try_publish overtook those who wait");
    gate.open();
    sim.thread("latecomer", [&] { books(bus.publish(item{0, 4})); });
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(seen == std::vector<int>{-2, -1, 0, 1, 2, 3, 4}, "the line was not kept");
    const ledger end = narrow.ledger();
    sim.require(end.balanced() && end.offered == books.matched() + 1 && end.rejected.full == 1);
  });
}

TEST_CASE("a waiter that is cancelled in the middle of the line takes no seat and strands nobody") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    auto gate = sim.gate("handler");
    std::vector<int> seen;
    auto narrow = bus.subscribe<item>("narrow", subscribe_options().capacity(1), [&, gate](const item& each) {
      gate.wait();
      seen.push_back(each.number);
    });
    std::array<std::stop_source, 4> stops;
    std::array<errc, 4> ends{};
    books(bus.publish(item{0, -2}));
    sim.run_until_idle();
    books(bus.publish(item{0, -1}));
    for (std::size_t i = 0; i < 4; ++i) {
      sim.thread("waiter", [&, i] {
        const auto result = books(bus.publisher<item>().publish(item{0, static_cast<int>(i)}, stops[i].get_token()));
        ends[i] = result.error();
        sim.require(result.accepted() + result.rejected() == 1);
        sim.require((result.error() == errc::cancelled) == (result.rejected() == 1));
      });
      sim.require(sim.run_until([&] { return narrow.ledger().pending == i + 1; }));
    }
    const std::size_t victim = sim.random(4);
    sim.thread("canceller", [&] {
      dawdle(sim);
      stops[victim].request_stop();
    });
    sim.thread("opener", [&, gate] {
      dawdle(sim);
      gate.open();
    });
    sim.run_until_idle();
    sim.require_all_done();
    std::vector<int> expected{-2, -1};
    for (std::size_t i = 0; i < 4; ++i) {
      sim.require(ends[i] == errc::none || (i == victim && ends[i] == errc::cancelled), "another waiter was cancelled");
      if (ends[i] == errc::none) expected.push_back(static_cast<int>(i));
    }
    sim.require(seen == expected, "accepted and handled are not the same");
    const ledger end = narrow.ledger();
    books.check({end});
    sim.require(end.rejected.cancelled == 6 - expected.size() && end.quiescent());
  });
}

TEST_CASE("closing during traffic: afterwards no code of the handler runs, and every event has its fate") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    auto alive = std::make_shared<int>(0);
    const std::weak_ptr<int> closure = alive;
    bool closed = false;
    int refused = 0;
    const auto content = std::make_shared<int>(1);
    auto sub = bus.subscribe<parcel>("leaving", subscribe_options().capacity(2),
                                     [&sim, &closed, alive = std::move(alive)](const parcel&) {
                                       sim.require(!closed, "a call began after close");
                                       dawdle(sim);
                                       sim.require(!closed, "a call went on after close");
                                       ++*alive;
                                     });
    for (int producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&] {
        for (int number = 0; number < 4; ++number) {
          const auto result = books(bus.publish(parcel{number, content}));
          if (result.rejected() == 1) {
            ++refused;
            sim.require(result.error() == errc::closed);
          }
          dawdle(sim);
        }
      });
    }
    for (auto steps = sim.random(40); steps != 0 && sim.step(); --steps) {
    }
    const std::array modes{close_mode::stop_now, close_mode::drain, close_mode::cancel};
    const auto mode = modes[sim.random(3)];
    if (sim.random(4) == 0) sub.stop();
    const auto status = sub.close(mode);
    closed = true;
    sim.require(status == close_status::closed);
    sim.require(closure.expired(), "the closure outlives close");
    const ledger at_close = sub.ledger();
    sim.require(at_close.running == 0 && at_close.queued == 0, to_string(at_close));
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    const ledger end = sub.ledger();
    books.check({end});
    sim.require(end.quiescent() && end.rejected.closed == static_cast<std::uint64_t>(refused), to_string(end));
    sim.require(end.handled == at_close.handled);
    sim.require(content.use_count() == 1, "a payload is kept by nobody's event");
  });
}

TEST_CASE("close(drain) handles everything that had a seat") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    std::uint64_t handled = 0;
    auto sub = bus.subscribe<parcel>("draining", subscribe_options().capacity(3), [&](const parcel&) {
      dawdle(sim);
      ++handled;
    });
    const auto content = std::make_shared<int>(1);
    for (int producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&] {
        for (int number = 0; number < 4; ++number) {
          parcel own{number, content};
          const auto result = books(bus.publish(std::move(own)));
          sim.require((own.content != nullptr) == (result.accepted() == 0), "what nobody took comes back unmoved");
        }
      });
    }
    for (auto steps = sim.random(30); steps != 0 && sim.step(); --steps) {
    }
    sim.require(sub.close(close_mode::drain) == close_status::closed);
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    const ledger end = sub.ledger();
    books.check({end});
    sim.require(end.handled == handled && end.handled == end.accepted && end.discarded == 0, to_string(end));
    sim.require(books.accepted() == end.accepted);
    sim.require(content.use_count() == 1, "a payload outlives its last call");
  });
}

TEST_CASE("two handlers that close each other both finish") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    subscription left;
    subscription right;
    int finished = 0;
    const auto closer = [&](subscription& other) {
      return [&](const item&) {
        dawdle(sim);
        const auto status = other.close();
        sim.require(status == close_status::closed || status == close_status::closing);
        ++finished;
      };
    };
    left = bus.subscribe<item>("left", closer(right));
    right = bus.subscribe<item>("right", closer(left));
    books(bus.publish(item{0, 1}));
    dawdle(sim);
    books(bus.publish(item{0, 2}));
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require(finished >= 1 && finished <= 3);  // the one that is closed last may have handled both events
    sim.require(left.close() == close_status::closed && right.close() == close_status::closed);
    books.check({left.ledger(), right.ledger()});
    sim.require(left.ledger().handled + right.ledger().handled == static_cast<std::uint64_t>(finished));
  });
}

TEST_CASE("a handler that closes its own subscription is its last call, and is told that the rest follows") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    subscription self;
    int calls = 0;
    auto alive = std::make_shared<int>(0);
    const std::weak_ptr<int> closure = alive;
    self = bus.subscribe<item>(
        "self-closing", subscribe_options().capacity(2), [&, alive = std::move(alive)](const item&) {
          ++calls;
          sim.require(self.close() == close_status::closing, "a call cannot wait for its own end");
          dawdle(sim);
          sim.require(!closure.expired(), "the closure died under its own call");
        });
    for (int producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&] {
        for (int number = 0; number < 3; ++number) {
          books(bus.publish(item{0, number}));
          dawdle(sim);
        }
      });
    }
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    sim.require(calls == 1 && closure.expired());
    sim.require(self.close() == close_status::closed);
    books.check({self.ledger()});
    sim.require(self.ledger().handled == 1);
  });
}

TEST_CASE("shutdown with a stuck handler returns at its deadline and names it") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime();
    auto bus = rt.bus();
    account books(sim);
    auto gate = sim.gate("stuck");
    auto stuck = bus.subscribe<item>("stuck", subscribe_options().capacity(1), [gate](const item&) { gate.wait(); });
    auto well = bus.subscribe<item>("well", [&](const item&) { dawdle(sim); });
    int closed = 0;
    for (int producer = 0; producer < 2; ++producer) {
      sim.thread("publisher", [&, producer] {
        for (int number = 0; number < 3; ++number)
          closed += books(bus.publish(item{producer, number})).error() == errc::closed ? 1 : 0;
      });
    }
    sim.run_until([&] { return gate.waiting() == 1; });
    for (auto steps = sim.random(20); steps != 0 && sim.step(); --steps) {
    }
    const auto begun = sim.elapsed();
    const auto report = rt.shutdown(5s, "the test is over");
    sim.require(sim.elapsed() - begun >= 5s && sim.elapsed() - begun < 6s, "not at its deadline");
    sim.require(!report.clean() && !report.drained && report.reason == "the test is over");
    sim.require(report.stuck.size() == 1 && report.stuck[0].subscription == "stuck" && report.stuck[0].at_least >= 5s);
    sim.require(report.abandoned_workers == 1);
    for (const auto& each : report.subscriptions) sim.require(each.ledger.balanced(), to_string(each.ledger));
    sim.run_until_idle();
    sim.require(closed >= 4, "a publisher was not told that the bus is closed");
    gate.open();
    sim.run_until_idle();
    sim.require_all_done();
    books.check({stuck.ledger(), well.ledger()});
    sim.require(stuck.ledger().quiescent() && well.ledger().quiescent());
    sim.require(books(bus.publish(item{})).error() == errc::closed);
  });
}

TEST_CASE("a clean shutdown drains what is queued and what handlers still publish") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime();
    auto bus = rt.bus();
    account books(sim);
    int ended = 0;
    auto second = bus.subscribe<cut>("second", subscribe_options().capacity(1), [&](const cut&) {
      dawdle(sim);
      ++ended;
    });
    auto first = bus.subscribe<raw>("first", subscribe_options().capacity(8), [&](const raw& each) {
      dawdle(sim);
      books(bus.publish(cut{each.number}));
    });
    for (int number = 0; number < 4; ++number) books(bus.publish(raw{number}));
    for (auto steps = sim.random(12); steps != 0 && sim.step(); --steps) {
    }
    const auto report = rt.shutdown(5s);
    sim.require(report.clean() && report.drained, to_string(report));
    sim.require(ended == 4 && sim.elapsed() == 0s);
    books.check({first.ledger(), second.ledger()});
  });
}

TEST_CASE("a pipeline of three narrow stages loses nothing and holds no worker, even with only one") {
  in_all_schedules([](simulation& sim) {
    penstock::runtime_options options;
    options.pool("default", penstock::worker_pool_options().threads(1 + static_cast<unsigned>(sim.random(2))));
    auto& rt = sim.runtime(std::move(options));
    auto bus = rt.bus();
    account books(sim);
    std::vector<int> ends;
    const auto narrow = [] { return subscribe_options().capacity(1); };
    auto third = bus.subscribe<polished>("third", narrow(), [&](const polished& each) {
      dawdle(sim);
      ends.push_back(each.number);
    });
    auto second = bus.subscribe<cut>("second", narrow(), [&, out = bus.publisher<polished>()](const cut& each) {
      const auto result = books(out.publish({each.number * 2}));
      sim.require(result.rejected() == 0, to_string(result));
      sim.require(books(out.publish({each.number * 2 + 1})).rejected() == 0);
    });
    auto first = bus.subscribe<raw>("first", narrow(), [&, out = bus.publisher<cut>()](const raw& each) {
      dawdle(sim);
      sim.require(books(out.publish({each.number})).rejected() == 0);
    });
    sim.thread("source", [&] {
      for (int number = 0; number < 6; ++number) sim.require(books(bus.publish(raw{number})).accepted() == 1);
    });
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    sim.require(ends.size() == 12 && increasing(ends), "lost, doubled or out of order");
    books.check({first.ledger(), second.ledger(), third.ledger()});
    sim.require(third.ledger().handled == 12 && third.ledger().pending == 0);
  });
}

TEST_CASE("a parked output of a producer that stops still reaches its target") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    auto gate = sim.gate("target");
    std::vector<int> seen;
    auto target = bus.subscribe<cut>("target", subscribe_options().capacity(1), [&, gate](const cut& each) {
      gate.wait();
      seen.push_back(each.number);
    });
    auto producer = bus.subscribe<raw>("producer", subscribe_options().capacity(4),
                                       [&](const raw& each) { books(bus.publish(cut{each.number})); });
    for (int number = 0; number < 4; ++number) books(bus.publish(raw{number}));
    sim.run_until_idle();
    sim.require(target.ledger().pending == 1 && producer.ledger().handled == 3,
                "the lane did not rest with one parked output");
    if (sim.random(2) == 0)
      producer.stop();
    else
      sim.require(producer.close() == close_status::closed, "close waits for no output");
    gate.open();
    sim.run_until_idle();
    sim.require(seen == std::vector<int>{0, 1, 2}, "the parked output was lost, or one more call began");
    books.check({producer.ledger(), target.ledger()});
    sim.require(producer.ledger().discarded == 1 && target.ledger().handled == 3);
  });
}

TEST_CASE("a parked output whose target closes is rejected and told to on_drop, and its producer goes on") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    auto gate = sim.gate("target");
    std::vector<int> told;
    auto target = bus.subscribe<cut>(
        "target", subscribe_options().capacity(1).on_drop<cut>([&](const cut& each, drop_reason reason) noexcept {
          if (reason == drop_reason::closed) told.push_back(each.number);
        }),
        [gate](const cut&) { gate.wait(); });
    std::uint64_t calls = 0;
    auto producer = bus.subscribe<raw>("producer", subscribe_options().capacity(4), [&](const raw& each) {
      ++calls;
      books(bus.publish(cut{each.number}));
    });
    for (int number = 0; number < 4; ++number) books(bus.publish(raw{number}));
    sim.run_until_idle();
    sim.require(calls == 3 && target.ledger().pending == 1);
    target.stop();
    sim.run_until_idle();
    sim.require(calls == 4, "the producer's lane was not let go");
    sim.require(told == std::vector<int>{2}, "the parked output was not told of once");
    gate.open();
    sim.run_until_idle();
    books.check({producer.ledger(), target.ledger()});
    sim.require(target.ledger().rejected.closed == 1 && target.ledger().discarded == 1 && target.ledger().handled == 1);
  });
}

TEST_CASE("concurrency n runs up to n calls at once and never more") {
  int most_ever = 0;
  in_all_schedules([&](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    int running = 0;
    int most = 0;
    std::vector<int> seen;
    auto wide = bus.subscribe<item>("wide", subscribe_options().concurrency(3).capacity(2), [&](const item& each) {
      most = std::max(most, ++running);
      dawdle(sim);
      seen.push_back(each.number);
      --running;
    });
    sim.thread("publisher", [&] {
      for (int number = 0; number < 10; ++number) books(bus.publish(item{0, number}));
    });
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    sim.require(most <= 3, "more calls at once than allowed");
    most_ever = std::max(most_ever, most);
    std::sort(seen.begin(), seen.end());
    sim.require(seen.size() == 10 && increasing(seen), "lost or doubled");
    books.check({wide.ledger()});
  });
  CHECK(most_ever == 3);
}

TEST_CASE("a subscription made during traffic is offered exactly the later events") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    int begun = 0;
    int returned = 0;
    auto witness = bus.subscribe<item>("witness", [](const item&) {});
    sim.thread("publisher", [&] {
      const auto out = bus.publisher<item>();
      for (int number = 0; number < 10; ++number) {
        ++begun;
        books(out.publish({0, number}));
        ++returned;
        sim.yield();
      }
    });
    for (auto steps = sim.random(14); steps != 0 && sim.step(); --steps) {
    }
    const int before = returned;
    std::vector<int> seen;
    auto late = bus.subscribe<item>("late", subscribe_options().capacity(2), [&](const item& each) {
      dawdle(sim);
      seen.push_back(each.number);
    });
    const int after = begun;
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    const int first = 10 - static_cast<int>(seen.size());
    sim.require(before <= first && first <= after, "it saw an earlier event or missed a later one");
    for (int i = 0; i < static_cast<int>(seen.size()); ++i) sim.require(seen[static_cast<std::size_t>(i)] == first + i);
    books.check({witness.ledger(), late.ledger()});
    sim.require(witness.ledger().handled == 10);
  });
}

TEST_CASE("closing the target releases every waiting publisher with closed") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    auto gate = sim.gate("handler");
    std::vector<int> free_seen;
    auto full = bus.subscribe<item>("full", subscribe_options().capacity(1), [gate](const item&) { gate.wait(); });
    auto free = bus.subscribe<item>("free", [&](const item& each) { free_seen.push_back(each.number); });
    int released = 0;
    for (int i = 0; i < 5; ++i) {
      sim.thread("publisher", [&, i] {
        const auto result = books(bus.publish(item{0, i}));
        sim.require(result.accepted() + result.rejected() == 2);
        if (result.rejected() == 1) {
          sim.require(result.error() == errc::closed && result.refusals() == 1);
          sim.require(std::string(result.refusal(0).subscription) == "full" &&
                      result.refusal(0).reason == errc::closed);
          ++released;
        }
      });
    }
    sim.run_until_idle();
    sim.require(full.ledger().pending == 3);
    full.stop();
    sim.run_until_idle();
    sim.require(released == 3, "a publisher still waits for a closed channel");
    gate.open();
    sim.require(full.close() == close_status::closed);
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(free_seen.size() == 5);
    books.check({full.ledger(), free.ledger()});
    sim.require(full.ledger().rejected.closed == 3 && full.ledger().discarded == 1);
  });
}

TEST_CASE("a publish that timed out is never delivered later, and one that did not is delivered once") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    std::vector<int> seen;
    auto slow = bus.subscribe<item>("slow", subscribe_options().capacity(1), [&](const item& each) {
      sim.sleep_for(std::chrono::milliseconds(10 * (1 + sim.random(3))));
      seen.push_back(each.number);
    });
    std::vector<int> taken;
    int late = 0;
    for (int i = 0; i < 5; ++i) {
      sim.thread("publisher", [&, i] {
        const auto wait = std::chrono::milliseconds(10 * (1 + sim.random(3)));  // deadlines fall on the handler's ends
        const auto begun = sim.elapsed();
        const auto result = books(bus.publisher<item>().publish_for(wait, item{0, i}));
        sim.require(result.accepted() + result.rejected() == 1);
        if (result.accepted() == 1) {
          taken.push_back(i);
        } else {
          ++late;
          sim.require(result.error() == errc::timed_out && sim.elapsed() - begun == wait, "not at its deadline");
        }
      });
    }
    sim.run_until_idle();
    sim.require_all_done();
    std::sort(seen.begin(), seen.end());
    std::sort(taken.begin(), taken.end());
    sim.require(seen == taken, "told and done are not the same");
    const ledger end = slow.ledger();
    books.check({end});
    sim.require(end.rejected.timed_out == static_cast<std::uint64_t>(late) && end.handled == seen.size());
  });
}

TEST_CASE("wait_idle returns when nothing is queued, running or pending, and gives up at its deadline") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    auto gate = sim.gate("handler");
    auto second = bus.subscribe<cut>("second", subscribe_options().capacity(1), [&, gate](const cut&) {
      dawdle(sim);
      gate.wait();
    });
    auto first = bus.subscribe<raw>("first", subscribe_options().capacity(1),
                                    [&](const raw& each) { books(bus.publish(cut{each.number})); });
    sim.thread("publisher", [&] {
      for (int number = 0; number < 4; ++number) books(bus.publish(raw{number}));
    });
    sim.step();
    sim.require(!bus.wait_idle(1s), "a stuck handler is not idle");
    sim.require(sim.elapsed() == 1s);
    sim.thread("opener", [&, gate] {
      sim.sleep_for(1s);
      gate.open();
    });
    sim.run_until([&] { return gate.is_open(); });
    sim.require(bus.wait_idle(1h));
    const bool at_rest = first.ledger().quiescent() && second.ledger().quiescent();
    sim.require(at_rest, "wait_idle came back early");
    sim.run_until_idle();
    sim.require_all_done();
    books.check({first.ledger(), second.ledger()});
  });
}

TEST_CASE("a span is taken in order by everybody, in the pieces that fit") {
  in_all_schedules([](simulation& sim) {
    auto bus = sim.runtime().bus();
    account books(sim);
    std::vector<int> narrow_seen;
    std::vector<int> wide_seen;
    auto narrow = bus.subscribe<item>("narrow", subscribe_options().capacity(2), [&](const item& each) {
      dawdle(sim);
      narrow_seen.push_back(each.number);
    });
    auto wide = bus.subscribe<item>("wide", subscribe_options().capacity(16),
                                    [&](const item& each) { wide_seen.push_back(each.number); });
    sim.thread("publisher", [&] {
      std::vector<item> batch;
      for (int number = 0; number < 7; ++number) batch.push_back({0, number});
      const auto result = books(bus.publisher<item>().publish_many(batch));
      sim.require(result.accepted() == 14 && result.prefix() == 7, to_string(result));
    });
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    sim.require(narrow_seen.size() == 7 && increasing(narrow_seen) && wide_seen == narrow_seen);
    books.check({narrow.ledger(), wide.ledger()});
  });
}

TEST_CASE("a handler that throws harms only its own event") {
  in_all_schedules([](simulation& sim) {
    int told = 0;
    penstock::runtime_options options;
    options.on_failure([&](const penstock::failure& failed) {
      sim.require(failed.subscription == "brittle" && failed.exception.type_name == "int");
      ++told;
    });
    auto bus = sim.runtime(std::move(options)).bus();
    account books(sim);
    std::uint64_t good = 0;
    std::uint64_t well = 0;
    auto brittle = bus.subscribe<item>("brittle", subscribe_options().capacity(1), [&](const item& each) {
      dawdle(sim);
      if (each.number % 2 == 1) throw each.number;
      ++good;
    });
    auto sturdy = bus.subscribe<item>("sturdy", subscribe_options().capacity(1), [&](const item&) { ++well; });
    sim.thread("publisher", [&] {
      for (int number = 0; number < 6; ++number) books(bus.publish(item{0, number}));
    });
    sim.run_until_idle();
    require_no_missed_wake_up(sim);
    sim.require_all_done();
    sim.require(good == 3 && well == 6 && told == 3);
    sim.require(brittle.ledger().failed == 3 && brittle.ledger().handled == 3);
    books.check({brittle.ledger(), sturdy.ledger()});
  });
}

TEST_CASE("posted work that would have to wait is refused, and on the blocking pool it waits") {
  in_all_schedules([](simulation& sim) {
    auto& rt = sim.runtime();
    auto bus = rt.bus();
    account books(sim);
    auto gate = sim.gate("handler");
    auto full = bus.subscribe<item>("full", subscribe_options().capacity(1), [gate](const item&) { gate.wait(); });
    books(bus.publish(item{0, 0}));
    sim.run_until_idle();
    books(bus.publish(item{0, 1}));
    errc refused = errc::none;
    errc waited = errc::closed;
    sim.require(rt.pool("default")->post([&] { refused = books(bus.publish(item{0, 2})).error(); }) == errc::none);
    sim.require(rt.pool("blocking")->post([&] { waited = books(bus.publish(item{0, 3})).error(); }) == errc::none);
    sim.run_until_idle();
    sim.require(refused == errc::would_block && full.ledger().pending == 1);
    gate.open();
    sim.run_until_idle();
    sim.require_all_done();
    sim.require(waited == errc::none);
    books.check({full.ledger()});
    sim.require(full.ledger().handled == 3 && full.ledger().rejected.would_block == 1);
  });
}
