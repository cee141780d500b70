// The log that the subscriptions of a topic share, through the bus, under preemption at every atomic operation and
// lock. Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/core_of.hpp"
#include "coverage.hpp"
#include "journal.hpp"
#include "tracked.hpp"

#include <penstock/exec/retry_policy.hpp>
#include <penstock/exec/sleep.hpp>
#include <penstock/exec/task.hpp>
#include <penstock/runtime/log.hpp>
#include <penstock/testing/simulation.hpp>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using penstock::close_mode;
using penstock::close_status;
using penstock::drop_reason;
using penstock::errc;
using penstock::overflow;
using penstock::publish_result;
using penstock::subscribe_options;
using penstock::testing::explore_options;
using penstock::testing::simulation;
using penstock_test::core_of;
using penstock_test::coverage;
using penstock_test::event_id;
using penstock_test::inside_call;
using penstock_test::journal;
using penstock_test::litter;
using penstock_test::logged;
using penstock_test::publish_record;
using penstock_test::require_balanced;
using penstock_test::require_in_turn;
using penstock_test::run_to_the_end;
using penstock_test::tracked;

namespace {

bool reads_log(const penstock::subscription& handle) { return core_of(handle).channel.in_log(); }

/// More switches than elsewhere: the readers enter the log first.
template <class Scenario>
void explore(Scenario&& scenario, unsigned preemptions = 5) {
  penstock::testing::explore(explore_options().each(penstock::testing::simulation_options().preemptions(preemptions)),
                             std::forward<Scenario>(scenario));
}

/// A subscription to `tracked`, and what it was given.
struct reader {
  std::size_t capacity = 0;
  overflow policy = overflow::block;
  std::vector<event_id> handled;
  std::map<event_id, int> dropped;    // told of by on_drop
  std::map<event_id, int> discarded;  // told of by on_undelivered
  int calls = 0;
  bool over = false;              // closed: nothing may come any more
  penstock::subscription handle;  // the last member: when it goes, the others are still there

  void join(simulation& sim, const penstock::event_bus& bus, std::size_t room, overflow when_full = overflow::block,
            std::shared_ptr<penstock::testing::gate> held = {}) {
    capacity = room;
    policy = when_full;
    subscribe_options options;
    options.capacity(room).overflow(when_full);
    if (when_full != overflow::block && when_full != overflow::fail) {
      options.on_drop<tracked>([this](const tracked& event, drop_reason) noexcept {
        ++dropped[{event.producer, event.index}];
      });
    }
    handle = bus.subscribe<tracked>("reader", std::move(options), [this, &sim, held](const tracked& event) {
      sim.require(!over, "an event was handled after its subscription had ended");
      const inside_call here(calls);
      sim.require(calls == 1, "two calls of one lane overlap");
      handled.emplace_back(event.producer, event.index);
      if (held)
        held->wait();
      else if (sim.random(2) == 0)
        sim.yield();
    });
  }
  bool lossy() const { return policy != overflow::block; }
};

constexpr std::uint32_t warming = 1000;  // the producer of the events before a case begins

/// Publishes until all of them read the log, and forgets what came of it. Gates have to be open.
template <class Readers>
void enter_log(simulation& sim, litter& events, const penstock::publisher<tracked>& out, Readers& readers) {
  const auto all_in = [&] {
    return std::all_of(readers.begin(), readers.end(), [](const auto& each) { return reads_log(each.handle); });
  };
  for (std::uint32_t i = 0; i < 3 && !all_in(); ++i) {
    sim.require(out.try_emplace(events, warming, i).accepted() == readers.size(),
                "an idle subscription refused an event");
    sim.run_until_idle();
  }
  sim.require(all_in(), "a subscription with nothing to do does not read the log");
  for (auto& each : readers) each.handled.clear();
}

/// Events of producer 0, one after the other, each of which both readers have a seat for.
void seat_each(simulation& sim, litter& events, const penstock::publisher<tracked>& out, std::uint32_t count) {
  for (std::uint32_t i = 0; i < count; ++i) {
    sim.require(out.try_emplace(events, 0U, i).accepted() == 2, "a free seat was not given");
    sim.run_until_idle();
  }
}

/// Ends them at rest; then nothing may be left of their events.
template <class Readers>
void end(simulation& sim, litter& events, Readers& readers) {
  for (auto& each : readers) {
    require_balanced(sim, each.handle.ledger());
    sim.require(each.handle.ledger().quiescent(), "something is left queued at rest");
    sim.require(each.handle.close() == close_status::closed, "a close at rest did not close");
  }
  sim.require(events.live == 0, "a payload was not released");
}

}  // namespace

TEST_CASE("what is written once into the log of a topic is handled by each of its readers, once and in order") {
  coverage written("events written into the log", 20'000);
  coverage dropped("events dropped or refused");
  const auto scenario = [&](simulation& sim) {
    litter events;
    {
      std::vector<reader> readers(2 + sim.random(2));
      for (std::size_t i = 0; i < readers.size(); ++i) {
        constexpr overflow policies[] = {overflow::block, overflow::fail, overflow::drop_newest};
        readers[i].join(sim, sim.runtime().bus(), 1 + sim.random(3),
                        i == 0 ? overflow::block : policies[sim.random(3)]);
      }
      const auto out = sim.runtime().bus().publisher<tracked>();
      enter_log(sim, events, out, readers);
      const std::uint64_t before = logged(readers[0].handle);
      journal published;
      std::uint64_t accepted = 0;
      for (std::uint32_t producer = 0; producer < 3; ++producer) {
        sim.thread("publisher", [&, producer] {
          for (std::uint32_t index = 0; index < 3; ++index) {
            const publish_result result =
                published.note(producer, index, [&] { return out.emplace(events, producer, index); });
            sim.require(result.matched() == readers.size(),
                        "a publish was not offered to each reader, or to one twice");
            sim.require(result.accepted() + result.dropped() + result.rejected() == readers.size(),
                        "an offer has no fate");
            sim.require(result.error() == errc::none, "a refusal by policy is no error");
            accepted += result.accepted();
          }
        });
      }
      sim.thread("onlooker", [&] {
        for (int i = 0; i < 4; ++i) {
          const reader& seen = readers[sim.random(readers.size())];
          const penstock::ledger counted = seen.handle.ledger();
          sim.require(counted.pending <= 3, "more wait than there are publishers: " + penstock::to_string(counted));
          sim.require(counted.queued <= 12 && counted.running <= 12,
                      "more fates than offers: " + penstock::to_string(counted));
          sim.yield();
        }
      });
      run_to_the_end(sim);
      written.count(logged(readers[0].handle) - before);
      std::uint64_t handled = 0;
      for (reader& each : readers) {
        published.require_in_order(sim, each.handled);
        const penstock::ledger counted = each.handle.ledger();
        sim.require(each.handled.size() + counted.dropped + counted.rejected.full == 9, "an event was lost");
        sim.require(each.lossy() || each.handled.size() == 9,
                    "a subscription that makes publishers wait lost an event");
        sim.require(each.policy != overflow::drop_newest || each.dropped.size() == counted.dropped,
                    "a drop was counted and not told, or told and not counted");
        for (const auto& [event, times] : each.dropped)
          sim.require(times == 1 && std::count(each.handled.begin(), each.handled.end(), event) == 0,
                      "a drop was told twice, or its event handled");
        handled += each.handled.size();
        dropped.count(counted.dropped + counted.rejected.full);
      }
      sim.require(handled == accepted, "results and handlers differ");
      end(sim, events, readers);
    }
  };
  explore(scenario);
  explore(scenario, 24);  // an onlooker stands still while a reader enters and goes on
  written.check();
  dropped.check();
}

TEST_CASE("a publisher that waits in the log for a full reader delays no other reader, and its event stands in order") {
  coverage stayed("the full reader stayed in the log", 500);
  coverage overrun("the full reader was overrun and left the log", 500);
  explore([&](simulation& sim) {
    litter events;
    {
      auto held = std::make_shared<penstock::testing::gate>(sim.gate("the full reader's call"));
      held->open();
      std::vector<reader> readers(3);
      readers[0].join(sim, sim.runtime().bus(), 1 + sim.random(2), overflow::block, held);
      readers[1].join(sim, sim.runtime().bus(), 1 + sim.random(4));
      readers[2].join(sim, sim.runtime().bus(), 1 + sim.random(2));
      const auto out = sim.runtime().bus().publisher<tracked>();
      enter_log(sim, events, out, readers);
      held->close();
      const auto publishers = static_cast<std::uint32_t>(3 + sim.random(5));
      std::uint32_t returned = 0;
      for (std::uint32_t producer = 0; producer < publishers; ++producer) {
        sim.thread("publisher", [&, producer] {
          sim.sleep_for(std::chrono::microseconds(100 * producer));  // one after the other: their order is known
          const publish_result result = out.emplace(events, producer, 0U);
          sim.require(result.matched() == 3 && result.accepted() == 3 && result.error() == errc::none,
                      "a waiting publish was not accepted by all");
          ++returned;
        });
      }
      sim.run_for(1500us);
      const std::size_t seats = 1 + readers[0].capacity;
      sim.require(readers[1].handled.size() == publishers && readers[2].handled.size() == publishers,
                  "a reader waited for another one that is full");
      sim.require(returned == std::min<std::size_t>(seats, publishers),
                  "a publish did not wait for its seat, or for more");
      const penstock::ledger full = readers[0].handle.ledger();
      sim.require(full.running == 1 && full.queued == returned - 1 && full.pending == publishers - returned,
                  "the full reader's ledger is off: " + penstock::to_string(full));
      if (publishers > seats) (reads_log(readers[0].handle) ? stayed : overrun).count();
      held->open();
      run_to_the_end(sim);
      for (reader& each : readers) {
        sim.require(each.handled.size() == publishers, "an event was lost");
        for (std::uint32_t i = 0; i < publishers; ++i)
          sim.require(each.handled[i] == event_id{i, 0}, "an event is not where its publish stood");
      }
      end(sim, events, readers);
    }
  });
  stayed.check();
  overrun.check();
}

TEST_CASE("a reader that drops or refuses, and is full while others read on, gets its oldest events and no other") {
  coverage left("it left the log", 5'000);
  explore([&](simulation& sim) {
    litter events;
    {
      auto held = std::make_shared<penstock::testing::gate>(sim.gate("the full reader's call"));
      held->open();
      std::vector<reader> readers(3);
      const overflow policy = sim.random(2) == 0 ? overflow::drop_newest : overflow::fail;
      readers[0].join(sim, sim.runtime().bus(), 1 + sim.random(3), policy, held);
      for (std::size_t i = 1; i < 3; ++i) readers[i].join(sim, sim.runtime().bus(), 1 + sim.random(3));
      const auto out = sim.runtime().bus().publisher<tracked>();
      enter_log(sim, events, out, readers);
      held->close();
      journal published;
      sim.require(published.note(0, 0, [&] { return out.try_emplace(events, 0U, 0U); }).accepted() == 3,
                  "a free seat was not given");
      sim.run_until_idle();  // it is in the call
      std::uint64_t dropped = 0;
      std::uint64_t rejected = 0;
      std::vector<event_id> refused;
      const std::uint32_t publishers = 1 + static_cast<std::uint32_t>(sim.random(2));
      const std::uint32_t each_publishes = 8 / publishers;
      for (std::uint32_t producer = 0; producer < publishers; ++producer) {
        sim.thread("publisher", [&, producer] {
          for (std::uint32_t index = producer == 0 ? 1 : 0; index < each_publishes; ++index) {
            const publish_result result =
                published.note(producer, index, [&] { return out.emplace(events, producer, index); });
            sim.require(result.matched() == 3 && result.accepted() + result.dropped() + result.rejected() == 3 &&
                            result.accepted() >= 2,
                        "a reader with room refused an event");
            dropped += result.dropped();
            rejected += result.rejected();
            if (result.accepted() < 3) refused.emplace_back(producer, index);
          }
        });
      }
      sim.run_until_idle();
      if (!reads_log(readers[0].handle)) left.count();
      const std::size_t seats = 1 + readers[0].capacity;  // one is in the call
      const auto counted_of = [&] { return readers[0].handle.ledger(); };
      sim.require(counted_of().accepted - counted_of().handled == seats,
                  "it has not as many events as it has room for");
      sim.require(dropped + rejected == 8 - seats && refused.size() == 8 - seats,
                  "an event was refused that had a seat");
      sim.require((policy == overflow::drop_newest ? rejected : dropped) == 0, "refused against the policy");
      held->open();
      sim.run_until_idle();
      sim.require_all_done();
      sim.require(readers[0].handled.size() == seats, "an event that had a seat was lost");
      published.require_in_order(sim, readers[0].handled);
      // Once refused, all later ones are: in the order of one publisher the handled come first.
      for (const event_id& each : readers[0].handled)
        for (const event_id& other : refused)
          sim.require(each != other && (each.first != other.first || each.second < other.second),
                      "an event was handled that is not among the oldest");
      if (policy == overflow::drop_newest) {
        sim.require(readers[0].dropped.size() == refused.size(), "a drop was not told");
        for (const event_id& each : refused) sim.require(readers[0].dropped[each] == 1, "a drop was not told once");
      }
      sim.require(counted_of().dropped == dropped && counted_of().rejected.full == rejected,
                  "results and ledger differ");
      for (std::size_t i = 1; i < 3; ++i) {
        sim.require(readers[i].handled.size() == 8, "another reader lost an event");
        published.require_in_order(sim, readers[i].handled);
      }
      end(sim, events, readers);
    }
  });
  left.check();
}

TEST_CASE("a publish that gives up in the log is refused by the full reader alone, and leaks no seat of it") {
  coverage in_log("the publishers waited in the log", 2'000);
  coverage accepted("accepted all the same");
  coverage refused("refused");
  explore([&](simulation& sim) {
    litter events;
    {
      const auto given_up_after = sim.random(2) == 0 ? 3ms : 6ms;  // before and after publishers look by themselves
      const bool by_token = sim.random(2) == 0;
      const errc reason = by_token ? errc::cancelled : errc::timed_out;
      auto held = std::make_shared<penstock::testing::gate>(sim.gate("the full reader's call"));
      held->open();
      std::vector<reader> readers(2);
      const std::size_t capacity = 1 + sim.random(2);
      readers[0].join(sim, sim.runtime().bus(), capacity, overflow::block, held);
      readers[1].join(sim, sim.runtime().bus(), 4);
      const auto out = sim.runtime().bus().publisher<tracked>();
      enter_log(sim, events, out, readers);
      held->close();
      const auto seats = static_cast<std::uint32_t>(1 + capacity);
      seat_each(sim, events, out, seats);
      sim.require(reads_log(readers[0].handle), "a reader that is full left the log though nothing asked it to");
      constexpr std::uint32_t publishers = 3;
      const auto gives_up = static_cast<std::uint32_t>(1 + sim.random(publishers));
      const bool opened = sim.random(4) != 0;  // at the very moment; else later
      bool was_refused = false;
      std::stop_source stop;
      const auto began = sim.elapsed();
      for (std::uint32_t producer = 1; producer <= publishers; ++producer) {
        sim.thread("publisher", [&, producer] {
          sim.sleep_for(std::chrono::microseconds(100 * producer));
          const bool mine = producer == gives_up;
          publish_result result;
          tracked event(events, producer, 0);
          if (!mine)
            result = out.publish(event);
          else if (by_token)
            result = out.publish(event, stop.get_token());
          else
            result = out.publish_until(sim.now() + given_up_after - std::chrono::microseconds(100 * producer), event);
          sim.require(result.matched() == 2 && result.accepted() + result.rejected() == 2,
                      "a publish has no fate, or two");
          sim.require(result.accepted() == 2 ? result.error() == errc::none : mine && result.error() == reason,
                      "the error is not what came of the publish");
          sim.require(result.accepted() >= 1, "a reader with room refused an event");
          const auto took = sim.elapsed() - began;
          sim.require(!(mine || opened) || took <= given_up_after, "was told too late");
          sim.require(took >= given_up_after, "was told of a seat that was not free");
          if (!mine) return;
          was_refused = result.accepted() == 1;
          (was_refused ? refused : accepted).count();
        });
      }
      sim.thread("opener", [&] {
        sim.sleep_for(opened ? given_up_after : given_up_after + 1ms);
        held->open();
      });
      if (by_token) {
        sim.thread("canceller", [&] {
          sim.sleep_for(given_up_after);
          stop.request_stop();
        });
      }
      sim.run_for(1ms);
      if (reads_log(readers[0].handle)) in_log.count();
      sim.require(readers[1].handled.size() == seats + publishers, "a reader waited for another one that is full");
      sim.run_until_idle();
      sim.require_all_done();
      std::vector<event_id> expected;
      for (std::uint32_t i = 0; i < seats; ++i) expected.emplace_back(0U, i);
      for (std::uint32_t producer = 1; producer <= publishers; ++producer)
        if (producer != gives_up || !was_refused) expected.emplace_back(producer, 0U);
      sim.require(readers[0].handled == expected, "somebody was overtaken, or an event lost");
      // All its seats are free, and no more.
      held->close();
      for (std::uint32_t i = 0; i < seats; ++i) {
        sim.require(out.try_emplace(events, 8U, i).accepted() == 2, "a seat was leaked");
        sim.run_until_idle();
      }
      const publish_result more = out.try_emplace(events, 8U, 99U);
      sim.require(more.accepted() == 1 && more.rejected() == 1, "one event more than the capacity was taken");
      held->open();
      sim.run_until_idle();
      end(sim, events, readers);
    }
  });
  in_log.check();
  accepted.check();
  refused.check();
}

TEST_CASE("each event that meets the end of a reader of the log is handled, given back or refused, once") {
  coverage in_log("the reader was in the log when its end began", 1'000);
  coverage discarded("events discarded");
  coverage refused("events refused");
  explore([&](simulation& sim) {
    litter events;
    {
      const auto bus = sim.runtime().bus();
      int destroyed = 0;
      std::vector<reader> readers(3);
      auto& ending = readers[0];
      ending.capacity = 1 + sim.random(3);
      ending.handle =
          bus.subscribe<tracked>("ending",
                                 subscribe_options()
                                     .capacity(ending.capacity)
                                     .on_undelivered<tracked>([&](const tracked& event, const penstock::undelivered&) {
                                       sim.require(!ending.over, "given back after close had returned closed");
                                       ++ending.discarded[{event.producer, event.index}];
                                       sim.yield();
                                     }),
                                 [&, end = penstock_test::closure_witness([&] { ++destroyed; })](const tracked& event) {
                                   sim.require(!ending.over, "a call began after close had returned closed");
                                   const inside_call here(ending.calls);
                                   ending.handled.emplace_back(event.producer, event.index);
                                   sim.yield();
                                 });
      for (std::size_t i = 1; i < 3; ++i) readers[i].join(sim, bus, 1 + sim.random(3));
      const auto out = bus.publisher<tracked>();
      enter_log(sim, events, out, readers);
      const std::uint64_t before = ending.handle.ledger().handled;
      events.looks_at = bus;
      journal published;
      std::uint64_t matched = 0;
      std::uint64_t accepted = 0;
      std::uint64_t rejected = 0;
      for (std::uint32_t producer = 0; producer < 3; ++producer) {
        sim.thread("publisher", [&, producer] {
          for (std::uint32_t index = 0; index < 3; ++index) {
            const publish_result result =
                published.note(producer, index, [&] { return out.emplace(events, producer, index); });
            sim.require(result.matched() == 2 || result.matched() == 3, "a publish was not offered to each reader");
            sim.require(result.accepted() + result.rejected() == result.matched(), "an offer has no fate");
            sim.require(result.rejected() == 0 || result.error() == errc::closed,
                        "refused, but not because it was closed");
            sim.require(result.accepted() >= 2, "a reader that stays refused an event");
            matched += result.matched();
            accepted += result.accepted();
            rejected += result.rejected();
          }
        });
      }
      constexpr close_mode modes[] = {close_mode::stop_now, close_mode::drain, close_mode::cancel};
      const close_mode mode = modes[sim.random(3)];
      const bool stops_first = sim.random(4) == 0;
      const auto wait = sim.random(8);
      sim.thread("closer", [&] {
        for (std::uint64_t i = 0; i < wait; ++i) sim.yield();
        if (reads_log(ending.handle)) in_log.count();
        if (stops_first) ending.handle.stop();
        sim.require(ending.handle.close(mode) == close_status::closed, "a close without a deadline did not close");
        sim.require(ending.calls == 0 && destroyed == 1, "close returned closed and the closure is not gone");
        ending.over = true;
      });
      run_to_the_end(sim);
      sim.require(!reads_log(ending.handle), "a subscription that has ended reads the log");
      published.require_in_order(sim, ending.handled);
      const penstock::ledger counted = ending.handle.ledger();
      require_balanced(sim, counted);
      sim.require(counted.quiescent(), "something is left of a closed subscription: " + penstock::to_string(counted));
      sim.require(counted.handled - before == ending.handled.size() && counted.discarded == ending.discarded.size(),
                  "handled and given back are not what the ledger says: " + penstock::to_string(counted));
      sim.require(ending.discarded.empty() || mode != close_mode::drain || stops_first, "a drain discarded an event");
      for (const auto& [event, times] : ending.discarded)
        sim.require(times == 1 && std::count(ending.handled.begin(), ending.handled.end(), event) == 0,
                    "an event was given back twice, or handled and given back");
      sim.require(rejected == counted.rejected.closed, "results and ledger differ");
      sim.require(matched == 18 + counted.offered - before && accepted == 18 + counted.accepted - before,
                  "results and ledger differ");
      for (std::size_t i = 1; i < 3; ++i) {
        sim.require(readers[i].handled.size() == 9, "a reader that stays lost an event");
        published.require_in_order(sim, readers[i].handled);
      }
      discarded.count(counted.discarded);
      refused.count(counted.rejected.closed);
      events.looks_at.reset();
      end(sim, events, readers);
    }
  });
  in_log.check();
  discarded.check();
  refused.check();
}

TEST_CASE("who waits in the log for a stuck reader is released by the reader's end, and the others keep the event") {
  coverage in_log("the publishers waited in the log", 2'000);
  explore([&](simulation& sim) {
    litter events;
    {
      auto held = std::make_shared<penstock::testing::gate>(sim.gate("the full reader's call"));
      held->open();
      std::map<event_id, int> given;
      std::vector<reader> readers(2);
      const std::size_t capacity = 1 + sim.random(2);
      readers[0].capacity = capacity;
      readers[0].handle =
          sim.runtime().bus().subscribe<tracked>("stuck",
                                                 subscribe_options().capacity(capacity).on_undelivered<tracked>(
                                                     [&](const tracked& event, const penstock::undelivered&) {
                                                       ++given[{event.producer, event.index}];
                                                     }),
                                                 [&, held](const tracked& event) {
                                                   readers[0].handled.emplace_back(event.producer, event.index);
                                                   held->wait();
                                                 });
      readers[1].join(sim, sim.runtime().bus(), 4);
      const auto out = sim.runtime().bus().publisher<tracked>();
      enter_log(sim, events, out, readers);
      held->close();
      const auto seats = static_cast<std::uint32_t>(1 + capacity);
      seat_each(sim, events, out, seats);
      const std::uint64_t extra = sim.random(3);
      std::size_t released = 0;
      for (std::uint32_t producer = 1; producer <= 1 + extra; ++producer) {
        sim.thread("publisher", [&, producer] {
          const tracked span[2] = {{events, producer, 0}, {events, producer, 1}};
          const publish_result result = out.publish_many(std::span<const tracked>(span, 1 + producer % 2));
          const std::size_t size = 1 + producer % 2;
          sim.require(result.accepted() == size && result.rejected() + result.accepted() == result.matched(),
                      "the reader that stays has not each event, or the other one has");
          sim.require(result.rejected() == 0 ||
                          (result.rejected() == size && result.error() == errc::closed && result.prefix() == 0),
                      "not refused as a whole, or not because the reader has ended");
          released += result.rejected();
        });
      }
      sim.run_for(500us);
      if (reads_log(readers[0].handle)) in_log.count();
      const bool drains = sim.random(2) == 0;
      sim.thread("closer", [&] {
        sim.require(readers[0].handle.close(drains ? close_mode::drain : close_mode::stop_now) == close_status::closed,
                    "a close without a deadline did not close");
      });
      sim.run_for(500us);
      sim.require(released == readers[0].handle.ledger().rejected.closed && released > 0,
                  "who waits for a reader that has ended was not released");
      held->open();
      run_to_the_end(sim);
      sim.require(readers[0].handled.size() == (drains ? seats : 1) && given.size() == (drains ? 0 : seats - 1),
                  "what was queued at the end is not where it should be");
      for (const auto& [event, times] : given) sim.require(times == 1, "an event was given back twice");
      end(sim, events, readers);
    }
  });
  in_log.check();
}

TEST_CASE("a shutdown against publishers and readers of the log releases all, handles what was taken, and balances") {
  coverage written("events written into the log", 10'000);
  explore([&](simulation& sim) {
    litter events;
    {
      penstock::runtime rt(penstock::runtime_options().environment(sim.environment()));
      std::vector<reader> readers(3);
      for (reader& each : readers) each.join(sim, rt.bus(), 1 + sim.random(2));
      const auto out = rt.bus().publisher<tracked>();
      enter_log(sim, events, out, readers);
      const std::uint64_t before = logged(readers[0].handle);
      std::uint64_t handled_before = 0;
      for (reader& each : readers) handled_before += each.handle.ledger().handled;
      std::uint64_t accepted = 0;
      std::uint64_t matched = 0;
      bool over = false;
      for (std::uint32_t producer = 0; producer < 2; ++producer) {
        sim.thread("publisher", [&, producer] {
          for (std::uint32_t index = 0; index < 4; ++index) {
            const bool was_over = over;
            const publish_result result = out.emplace(events, producer, index);
            sim.require(!was_over || result.error() == errc::closed,
                        "a publish after shutdown was not refused as closed");
            sim.require(result.accepted() + result.rejected() == result.matched(), "an offer has no fate");
            sim.require(result.rejected() == 0 || result.error() == errc::closed,
                        "refused, but not because of the shutdown");
            accepted += result.accepted();
            matched += result.matched();
          }
        });
      }
      const auto wait = sim.random(8);
      sim.thread("stopper", [&] {
        for (std::uint64_t i = 0; i < wait; ++i) sim.yield();
        const penstock::shutdown_report report = rt.shutdown(1s);
        over = true;
        for (reader& each : readers) each.over = true;
        sim.require(report.clean(), "a shutdown without stuck calls was not clean: " + penstock::to_string(report));
        for (const auto& each : report.subscriptions) require_balanced(sim, each.ledger);
      });
      run_to_the_end(sim);
      written.count(logged(readers[0].handle) - before);
      std::uint64_t offered = 0;
      std::uint64_t seated = 0;
      std::uint64_t fates = 0;
      for (reader& each : readers) {
        const penstock::ledger counted = each.handle.ledger();
        require_balanced(sim, counted);
        offered += counted.offered;
        seated += counted.accepted;
        fates += each.handled.size() + counted.discarded;
      }
      sim.require(offered - handled_before == matched && seated - handled_before == accepted,
                  "results and ledgers differ");
      sim.require(fates == accepted, "an accepted event has no fate");
      end(sim, events, readers);
    }
  });
  written.check();
}

TEST_CASE("who joins or leaves while others read the log has each event of its time, and no other") {
  coverage written("events written into the log", 10'000);
  constexpr int not_yet = 1'000'000;
  explore([&](simulation& sim) {
    litter events;
    {
      struct member : reader {
        int asked = not_yet;
        int joined = not_yet;
        int leaving = not_yet;
        int left = not_yet;
      };
      const auto bus = sim.runtime().bus();
      std::deque<member> members(4);
      std::uint64_t warmed = 0;
      journal published;
      const auto out = bus.publisher<tracked>();
      for (int i = 0; i < 2; ++i) members[static_cast<std::size_t>(i)].join(sim, bus, 1 + sim.random(3));
      std::vector<penstock::subscription*> first{&members[0].handle, &members[1].handle};
      for (std::uint32_t i = 0; i < 3 && !(reads_log(*first[0]) && reads_log(*first[1])); ++i) {
        warmed += out.try_emplace(events, warming, i).accepted();
        sim.run_until_idle();
      }
      sim.require(reads_log(*first[0]) && reads_log(*first[1]),
                  "a subscription with nothing to do does not read the log");
      if (sim.random(2) == 0) core_of(members[0].handle).topic().renew_after(2);
      const std::uint64_t before = logged(members[0].handle);
      for (std::size_t i = 0; i < 2; ++i) {
        members[i].handled.clear();
        members[i].asked = members[i].joined = 0;
      }
      const auto come = [&](member& each) {
        each.asked = published.moment();
        each.join(sim, bus, 1 + sim.random(3));
        each.joined = published.moment();
      };
      const auto go = [&](member& each) {
        each.leaving = published.moment();
        sim.require(each.handle.close(close_mode::drain) == close_status::closed, "a close did not close");
        each.left = published.moment();
        each.over = true;
      };
      std::uint64_t matched = 0;
      for (std::uint32_t producer = 0; producer < 2; ++producer) {
        sim.thread("publisher", [&, producer] {
          for (std::uint32_t index = 0; index < 4; ++index) {
            const publish_result result =
                published.note(producer, index, [&] { return out.emplace(events, producer, index); });
            sim.require(result.accepted() + result.rejected() == result.matched(), "an offer has no fate");
            matched += result.matched();
          }
        });
      }
      sim.thread("comes", [&] { come(members[2]); });
      sim.thread("comes and goes", [&] {
        come(members[3]);
        sim.yield();
        go(members[3]);
      });
      sim.thread("goes", [&] {
        sim.yield();
        go(members[0]);
      });
      sim.run_until_idle();
      sim.require_all_done();
      written.count(logged(members[0].handle) - before);
      std::uint64_t offered = 0;
      for (member& each : members) {
        const penstock::ledger counted = each.handle.ledger();
        require_balanced(sim, counted);
        offered += counted.offered;
        published.require_in_order(sim, each.handled);
        for (const publish_record& event : published.all()) {
          const auto times = std::count(each.handled.begin(), each.handled.end(), event.event);
          if (event.began > each.joined && event.returned < each.leaving)
            sim.require(times == 1, "a publish within a membership did not reach the member");
          if (event.returned < each.asked || event.began > each.left)
            sim.require(times == 0, "a publish outside of a membership reached the member");
        }
        // A cut: of each publisher, everything from the first on that came.
        if (each.leaving != not_yet) continue;
        for (std::uint32_t producer = 0; producer < 2; ++producer) {
          std::uint32_t last = 4;
          for (auto seen = each.handled.rbegin(); seen != each.handled.rend(); ++seen)
            if (seen->first == producer) sim.require(seen->second == --last, "an event after the first one is missing");
        }
      }
      sim.require(matched + warmed == offered, "what the publishes matched is not what the members were offered");
      end(sim, events, members);
    }
  });
  written.check();
}

TEST_CASE("readers that had to leave the log come back when they rest, again and again") {
  coverage left("a reader left the log", 5'000);
  coverage back("all readers were back in the log after a round", 20'000);
  explore([&](simulation& sim) {
    litter events;
    {
      std::vector<reader> readers(2);
      constexpr overflow policies[] = {overflow::block, overflow::fail, overflow::drop_newest};
      readers[0].join(sim, sim.runtime().bus(), 1 + sim.random(2), policies[sim.random(3)]);
      readers[1].join(sim, sim.runtime().bus(), 1 + sim.random(2));
      const auto out = sim.runtime().bus().publisher<tracked>();
      enter_log(sim, events, out, readers);
      journal published;
      std::uint64_t accepted = 0;
      for (std::uint32_t round = 0; round < 3; ++round) {
        bool one_left = false;
        for (std::uint32_t producer = 0; producer < 2; ++producer) {
          sim.thread("publisher", [&, producer] {
            for (std::uint32_t i = 0; i < 2; ++i) {
              const std::uint32_t index = round * 2 + i;
              const bool patient = sim.random(2) == 0;
              const publish_result result = published.note(producer, index, [&] {
                return patient ? out.emplace(events, producer, index) : out.try_emplace(events, producer, index);
              });
              sim.require(result.accepted() + result.dropped() + result.rejected() == 2,
                          "an offer has no fate, or two");
              accepted += result.accepted();
              for (reader& each : readers) one_left = one_left || !reads_log(each.handle);
            }
          });
        }
        sim.run_until_idle();
        sim.require_all_done();
        if (one_left) left.count();
        if (reads_log(readers[0].handle) && reads_log(readers[1].handle)) back.count();
      }
      sim.require(penstock_test::nobody_looked(sim), "a publisher had to look by itself: nobody had told it");
      sim.require(readers[0].handled.size() + readers[1].handled.size() == accepted, "results and handlers differ");
      for (reader& each : readers) published.require_in_order(sim, each.handled);
      end(sim, events, readers);
    }
  });
  left.check();
  back.check();
}

TEST_CASE("beside readers of the log, a subscription that cannot read it gets every event as well") {
  coverage written("events written into the log beside a ring", 10'000);
  explore([&](simulation& sim) {
    litter events;
    {
      const auto bus = sim.runtime().bus();
      std::deque<reader> readers(2);
      for (reader& each : readers) each.join(sim, bus, 1 + sim.random(3));
      const bool evicts = sim.random(2) == 0;
      std::map<event_id, int> fates;
      subscribe_options options;
      options.capacity(1 + sim.random(3));
      if (evicts)
        options.overflow(overflow::drop_oldest).on_drop<tracked>([&](const tracked& event, drop_reason) noexcept {
          ++fates[{event.producer, event.index}];
        });
      else
        options.concurrency(2);
      auto other = bus.subscribe<tracked>("beside", std::move(options), [&](const tracked& event) {
        ++fates[{event.producer, event.index}];
        if (sim.random(2) == 0) sim.yield();
      });
      const auto out = bus.publisher<tracked>();
      for (std::uint32_t i = 0; i < 2; ++i) {
        sim.require(out.try_emplace(events, warming, i).accepted() == 3, "an idle subscription refused an event");
        sim.run_until_idle();
      }
      sim.require(reads_log(readers[0].handle) && reads_log(readers[1].handle) && !reads_log(other),
                  "not all are where they should be");
      for (reader& each : readers) each.handled.clear();
      fates.clear();
      const std::uint64_t before = logged(readers[0].handle);
      journal published;
      const bool one_goes = sim.random(2) == 0;
      for (std::uint32_t producer = 0; producer < 2; ++producer) {
        sim.thread("publisher", [&, producer] {
          for (std::uint32_t index = 0; index < 4; ++index) {
            const publish_result result =
                published.note(producer, index, [&] { return out.emplace(events, producer, index); });
            sim.require(result.accepted() >= 2 && result.accepted() + result.rejected() == result.matched(),
                        "an open subscription refused an event");
            sim.require(result.rejected() == 0 || (one_goes && result.error() == errc::closed),
                        "refused, but not because it was closed");
          }
        });
      }
      if (one_goes) {
        sim.thread("goes", [&] {
          sim.yield();
          sim.require(readers[1].handle.close(close_mode::drain) == close_status::closed, "a close did not close");
          readers[1].over = true;
        });
      }
      sim.run_until_idle();
      sim.require_all_done();
      sim.require(one_goes || penstock_test::nobody_looked(sim),
                  "a publisher had to look by itself: nobody had told it");
      written.count(logged(readers[0].handle) - before);
      sim.require(readers[0].handled.size() == 8, "an event was lost");
      sim.require(fates.size() == 8, "an event was lost beside the log");
      for (const auto& [event, times] : fates) sim.require(times == 1, "an event has two fates beside the log");
      for (reader& each : readers) published.require_in_order(sim, each.handled);
      require_balanced(sim, other.ledger());
      sim.require(other.close() == close_status::closed, "a close at rest did not close");
      end(sim, events, readers);
    }
  });
  written.check();
}

TEST_CASE(
    "a span that is longer than a reader has seats, or than the log, is handled by each reader whole and in order") {
  coverage written("events written into the log", 20'000);
  coverage longer("spans longer than the whole log", 1'000);
  explore([&](simulation& sim) {
    litter events;
    {
      std::vector<reader> readers(2 + sim.random(2));
      for (reader& each : readers) each.join(sim, sim.runtime().bus(), 1 + sim.random(4));
      const auto out = sim.runtime().bus().publisher<tracked>();
      enter_log(sim, events, out, readers);
      const std::uint64_t before = logged(readers[0].handle);
      const std::uint64_t cells = core_of(readers[0].handle).topic().log().size();
      std::uint64_t all = 0;
      for (std::uint32_t producer = 0; producer < 2; ++producer) {
        sim.thread("publisher", [&, producer] {
          std::uint32_t index = 0;
          for (int i = 0; i < 2; ++i) {
            std::deque<tracked> made;
            const std::size_t size = 1 + sim.random(9);
            std::vector<tracked> span;
            span.reserve(size);
            for (std::size_t k = 0; k < size; ++k) span.emplace_back(events, producer, index++);
            all += size;
            if (size > cells) longer.count();
            const publish_result result = out.publish_many(std::span<const tracked>(span));
            sim.require(result.matched() == size * readers.size() && result.accepted() == result.matched() &&
                            result.prefix() == size && result.error() == errc::none,
                        "a span that may wait was not accepted by all");
          }
        });
      }
      run_to_the_end(sim);
      written.count(logged(readers[0].handle) - before);
      for (reader& each : readers) {
        sim.require(each.handled.size() == all, "an event was lost");
        require_in_turn(sim, each.handled);
      }
      end(sim, events, readers);
    }
  });
  written.check();
  longer.check();
}

TEST_CASE("of a span that may not wait each reader of the log takes as many as it has seats, from the front") {
  coverage partly("spans that were taken in part", 2'000);
  explore([&](simulation& sim) {
    litter events;
    {
      std::vector<reader> readers(2);
      constexpr overflow policies[] = {overflow::block, overflow::fail, overflow::drop_newest};
      for (reader& each : readers) each.join(sim, sim.runtime().bus(), 1 + sim.random(4), policies[sim.random(3)]);
      const auto out = sim.runtime().bus().publisher<tracked>();
      enter_log(sim, events, out, readers);
      std::uint64_t accepted = 0;
      std::uint64_t dropped = 0;
      std::uint64_t rejected = 0;
      struct span_record {
        std::uint32_t producer, first, size;
        std::size_t prefix;
      };
      std::vector<span_record> spans;
      for (std::uint32_t producer = 0; producer < 2; ++producer) {
        sim.thread("publisher", [&, producer] {
          std::uint32_t index = 0;
          for (int i = 0; i < 2; ++i) {
            const auto size = static_cast<std::uint32_t>(1 + sim.random(7));
            std::vector<tracked> span;
            span.reserve(size);
            const std::uint32_t first = index;
            for (std::uint32_t k = 0; k < size; ++k) span.emplace_back(events, producer, index++);
            const publish_result result = out.try_publish_many(std::span<const tracked>(span));
            sim.require(
                result.matched() == size * 2 && result.accepted() + result.dropped() + result.rejected() == size * 2,
                "an offer has no fate, or two");
            accepted += result.accepted();
            dropped += result.dropped();
            rejected += result.rejected();
            spans.push_back({producer, first, size, result.prefix()});
          }
        });
      }
      sim.run_until_idle();
      sim.require_all_done();
      for (const span_record& span : spans) {
        std::size_t least = span.size;
        for (const reader& each : readers) {
          std::size_t seen = 0;
          for (const event_id& event : each.handled)
            if (event.first == span.producer && event.second >= span.first && event.second < span.first + span.size)
              sim.require(event.second == span.first + seen++, "what was taken of a span is not its front, in order");
          least = std::min(least, seen);
        }
        sim.require(span.prefix == least, "the result does not say how many nobody refused");
        if (least > 0 && least < span.size) partly.count();
      }
      std::uint64_t handled = 0;
      std::uint64_t told = 0;
      for (const reader& each : readers) {
        handled += each.handled.size();
        for (const auto& [event, times] : each.dropped) told += static_cast<std::uint64_t>(times);
      }
      sim.require(handled == accepted && told == dropped, "results, handlers and hooks differ");
      std::uint64_t counted = 0;
      for (const reader& each : readers) counted += each.handle.ledger().rejected.full;
      sim.require(counted == rejected, "results and ledgers differ");
      end(sim, events, readers);
    }
  });
  partly.check();
}

TEST_CASE("readers of the log that rest are woken by what is published, whoever goes to sleep meanwhile") {
  coverage written("events written into the log", 50'000);
  const auto scenario = [&](simulation& sim) {
    litter events;
    {
      std::vector<reader> readers(2 + sim.random(2));
      for (reader& each : readers) each.join(sim, sim.runtime().bus(), 8);
      const auto out = sim.runtime().bus().publisher<tracked>();
      enter_log(sim, events, out, readers);
      const std::uint64_t before = logged(readers[0].handle);
      const std::uint32_t publishers = 1 + static_cast<std::uint32_t>(sim.random(2));
      for (std::uint32_t producer = 0; producer < publishers; ++producer) {
        sim.thread("publisher", [&, producer] {
          for (std::uint32_t index = 0; index < 8 / publishers; ++index) {
            sim.require(out.try_emplace(events, producer, index).accepted() == readers.size(),
                        "a free seat was not given");
            for (std::uint64_t i = sim.random(3); i > 0; --i) sim.yield();
          }
        });
      }
      if (sim.random(4) != 0) {
        sim.thread("leaver", [&] {  // as an offer does that the log cannot serve
          for (int times = 0; times < 4; ++times) {
            sim.yield();
            for (reader& each : readers) {
              auto& core = core_of(each.handle);
              core.topic().leave_log(core);
            }
          }
        });
      }
      sim.run_until_idle();
      sim.require_all_done();
      written.count(logged(readers[0].handle) - before);
      for (reader& each : readers) sim.require(each.handled.size() == 8, "an event lies there and its reader sleeps");
      sim.require(penstock_test::nobody_looked(sim), "somebody waited for an event that nobody was writing");
      end(sim, events, readers);
    }
  };
  explore(scenario);
  explore(scenario, 24);
  written.check();
}

TEST_CASE("a handler's output that finds readers of the log full stands in their lines until they have seats") {
  coverage parked("outputs that were parked", 500);
  struct order {
    std::uint32_t number = 0;
  };
  explore([&](simulation& sim) {
    litter events;
    {
      const auto bus = sim.runtime().bus();
      std::vector<reader> readers(2);
      for (reader& each : readers) each.join(sim, bus, 1);
      const auto out = bus.publisher<tracked>();
      enter_log(sim, events, out, readers);
      std::uint64_t accepted = 0;
      auto relay = bus.subscribe<order>("relay", [&](const order& each) {
        const publish_result result = out.emplace(events, 0U, each.number);
        sim.require(result.matched() == 2 && result.accepted() + result.parked() == 2, "an output was refused");
        accepted += result.matched();
        parked.count(result.parked());
      });
      const auto orders = bus.publisher<order>();
      for (std::uint32_t i = 0; i < 4; ++i)
        sim.require(orders.try_publish({i}).accepted() == 1, "an order was refused");
      sim.thread("publisher", [&] {
        for (std::uint32_t i = 0; i < 3; ++i) accepted += out.emplace(events, 1U, i).accepted();
      });
      run_to_the_end(sim);
      sim.require(accepted == 14, "a publish was not accepted by all");
      for (reader& each : readers) {
        sim.require(each.handled.size() == 7, "an event was lost");
        require_in_turn(sim, each.handled);
      }
      sim.require(relay.close() == close_status::closed, "a close at rest did not close");
      end(sim, events, readers);
    }
  });
  parked.check();
}

TEST_CASE("a reader that is made to leave the log while publishers wait there loses none of them, and no event") {
  coverage waited("a reader left while somebody waited there", 1'000);
  const auto scenario = [&](simulation& sim) {
    litter events;
    {
      std::vector<reader> readers(2);
      for (reader& each : readers) each.join(sim, sim.runtime().bus(), 1 + sim.random(3));
      const auto out = sim.runtime().bus().publisher<tracked>();
      enter_log(sim, events, out, readers);
      journal published;
      for (std::uint32_t producer = 0; producer < 3; ++producer) {
        sim.thread("publisher", [&, producer] {
          for (std::uint32_t index = 0; index < 4; index += 2) {
            const publish_result result = published.note(producer, index, [&] {
              const tracked span[2] = {{events, producer, index}, {events, producer, index + 1}};
              return out.publish_many(std::span<const tracked>(span));
            });
            sim.require(result.matched() == 4 && result.accepted() == 4, "a waiting publish was not accepted by all");
          }
        });
      }
      for (std::size_t i = 0; i < 2; ++i) {
        sim.thread("leaver", [&, i] {
          for (int times = 0; times < 4; ++times) {
            auto& core = core_of(readers[i].handle);
            if (reads_log(readers[i].handle) && core.topic().log().awaited() != 0) waited.count();
            core.topic().leave_log(core);
            sim.yield();
          }
        });
      }
      run_to_the_end(sim);
      for (reader& each : readers) {
        sim.require(each.handled.size() == 12, "an event was lost, or handled twice");
        require_in_turn(sim, each.handled);
      }
      end(sim, events, readers);
    }
  };
  explore(scenario);
  explore(scenario, 24);  // who leaves, who reads and who waits all stand still at once
  waited.check();
}

TEST_CASE("a publisher in the log that has looked by itself is told of its seat at once, others when half are free") {
  coverage in_log("the publishers waited in the log", 10'000);
  explore([&](simulation& sim) {
    litter events;
    {
      // A call for each event, and a gate for each call.
      std::deque<penstock::testing::gate> gates;
      constexpr std::uint32_t capacity = 4;
      for (std::uint32_t i = 0; i <= capacity + 2; ++i) gates.push_back(sim.gate("a call"));
      std::vector<reader> readers(2);
      readers[0].handle = sim.runtime().bus().subscribe<tracked>(
          "slow", subscribe_options().capacity(capacity), [&](const tracked& event) {
            readers[0].handled.emplace_back(event.producer, event.index);
            if (event.producer != warming) gates[readers[0].handled.size() - 1].wait();
          });
      readers[1].join(sim, sim.runtime().bus(), capacity);
      const auto out = sim.runtime().bus().publisher<tracked>();
      enter_log(sim, events, out, readers);
      seat_each(sim, events, out, capacity + 1);
      std::uint32_t returned = 0;
      for (std::uint32_t producer = 1; producer <= 2; ++producer) {
        sim.thread("publisher", [&, producer] {
          sim.sleep_for(std::chrono::microseconds(100 * producer));
          sim.require(out.emplace(events, producer, 0U).accepted() == 2, "a waiting publish was not accepted by all");
          ++returned;
        });
      }
      const bool look = sim.random(2) == 0;
      sim.run_for(look ? 5ms : 1ms);
      if (reads_log(readers[0].handle)) in_log.count();
      sim.require(returned == 0, "a publish did not wait");
      for (std::uint32_t opened = 1; opened <= 2; ++opened) {
        gates[opened - 1].open();
        sim.run_for(10us);
        sim.require(returned == (look ? opened : 0), look ? "was not told at once" : "was told before half were free");
      }
      gates[2].open();
      sim.run_for(10us);
      sim.require(returned >= 1, "was not told when half were free");
      gates[3].open();
      sim.run_for(10us);
      sim.require(returned == 2, "was not told when half were free");
      for (const auto& each : gates) each.open();
      sim.run_until_idle();
      sim.require_all_done();
      sim.require(readers[0].handled.size() == capacity + 3 && readers[1].handled.size() == capacity + 3,
                  "an event was lost");
      end(sim, events, readers);
    }
  });
  in_log.check();
}

TEST_CASE(
    "a reader that goes on and falls asleep while it is made to leave the log is woken for those who wait there") {
  coverage in_log("a publisher waited in the log", 10'000);
  coverage alone("for a reader that was the only one left", 4'000);
  const auto scenario = [&](simulation& sim) {
    litter events;
    {
      // Turns of two calls: the one that follows the second call finds out anew where the events are.
      const auto bus =
          sim.runtime(penstock::runtime_options().pool("default", penstock::worker_pool_options().threads(2).budget(2)))
              .bus();
      std::deque<penstock::testing::gate> gates;
      for (int i = 0; i < 2; ++i) gates.push_back(sim.gate("a call"));
      std::vector<reader> readers(2);
      readers[0].handle = bus.subscribe<tracked>("full", subscribe_options().capacity(1), [&](const tracked& event) {
        readers[0].handled.emplace_back(event.producer, event.index);
        if (event.producer == 0 && event.index < 2) gates[event.index].wait();
      });
      readers[1].join(sim, bus, 4);
      const auto out = bus.publisher<tracked>();
      enter_log(sim, events, out, readers);
      seat_each(sim, events, out, 2);
      gates[0].open();  // the first call of the turn ends, the second begins
      sim.run_until_idle();
      sim.require(out.try_emplace(events, 0U, 2U).accepted() == 2, "a free seat was not given");
      sim.run_until_idle();
      sim.thread("publisher", [&] {
        sim.require(out.emplace(events, 1U, 0U).accepted() == 2, "a waiting publish was not accepted by all");
      });
      sim.run_for(100us);
      // Who is alone does not try to enter the log again before it sleeps, and so does not wait for its mutex there.
      const bool one_goes = sim.random(2) == 0;
      if (one_goes) sim.require(readers[1].handle.close() == close_status::closed, "a close at rest did not close");
      if (reads_log(readers[0].handle)) {
        in_log.count();
        if (one_goes) alone.count();
      }
      sim.thread("leaver", [&] {
        gates[1].open();
        auto& core = core_of(readers[0].handle);
        core.topic().leave_log(core);
      });
      run_to_the_end(sim);
      for (reader& each : readers) sim.require(each.handled.size() == 4, "an event was lost");
      end(sim, events, readers);
    }
  };
  explore(scenario, 32);  // both stand still at two places
  in_log.check();
  alone.check();
}

TEST_CASE("a reader that goes to sleep in the log while it is made to leave it is woken by the next event") {
  coverage left("readers that left the log", 10'000);
  const auto scenario = [&](simulation& sim) {
    litter events;
    {
      std::vector<reader> readers(2);
      for (reader& each : readers) each.join(sim, sim.runtime().bus(), 4);
      const auto out = sim.runtime().bus().publisher<tracked>();
      enter_log(sim, events, out, readers);
      for (std::uint32_t round = 0; round < 3; ++round) {
        // The second of two events is the next one: to a topic whose log nobody reads any more.
        sim.require(out.try_emplace(events, 0U, 2 * round).accepted() == 2, "a free seat was not given");
        sim.thread("leaver", [&] {
          for (std::uint64_t i = sim.random(3); i > 0; --i) sim.yield();
          for (reader& each : readers) {
            if (reads_log(each.handle)) left.count();
            auto& core = core_of(each.handle);
            core.topic().leave_log(core);
          }
        });
        sim.run_until_idle();
        sim.require_all_done();
        sim.require(out.try_emplace(events, 0U, 2 * round + 1).accepted() == 2, "a free seat was not given");
        sim.run_until_idle();
        for (reader& each : readers)
          sim.require(each.handled.size() == 2 * round + 2, "an event lies there and its reader sleeps");
      }
      end(sim, events, readers);
    }
  };
  explore(scenario, 32);
  left.check();
}

TEST_CASE("readers of the log whose calls wait, or are tried again, keep their event and their place") {
  coverage written("events written into the log", 20'000);
  coverage again("calls that were tried again");
  explore([&](simulation& sim) {
    litter events;
    {
      std::vector<reader> readers(3);
      for (reader& each : readers) each.capacity = 1 + sim.random(3);
      const auto bus = sim.runtime(penstock::runtime_options().log_to([](const penstock::log_record&) {})).bus();
      readers[0].handle =
          bus.subscribe<tracked>("suspended", subscribe_options().capacity(readers[0].capacity),
                                 [&](const tracked& event) -> penstock::task<> {
                                   const inside_call here(readers[0].calls);
                                   sim.require(readers[0].calls == 1, "two calls of one lane overlap");
                                   readers[0].handled.emplace_back(event.producer, event.index);
                                   if (event.producer != warming && sim.random(2) == 0)
                                     co_await penstock::sleep_for(20us);
                                   sim.require(readers[0].handled.back() == event_id{event.producer, event.index},
                                               "the event of a call changed while it waited");
                                 });
      std::map<event_id, int> attempts;
      readers[1].handle = bus.subscribe<tracked>(
          "tried again",
          subscribe_options().capacity(readers[1].capacity).retry(penstock::retry_policy().attempts(2).backoff(20us)),
          [&](const tracked& event) {
            const event_id id{event.producer, event.index};
            if (attempts[id]++ == 0 && id.first != warming && sim.random(4) == 0) {
              again.count();
              throw std::runtime_error("as planned");
            }
            readers[1].handled.push_back(id);
          });
      readers[2].join(sim, bus, readers[2].capacity);
      const auto out = bus.publisher<tracked>();
      enter_log(sim, events, out, readers);
      const std::uint64_t before = logged(readers[0].handle);
      journal published;
      for (std::uint32_t producer = 0; producer < 2; ++producer) {
        sim.thread("publisher", [&, producer] {
          for (std::uint32_t index = 0; index < 4; ++index) {
            const publish_result result =
                published.note(producer, index, [&] { return out.emplace(events, producer, index); });
            sim.require(result.matched() == 3 && result.accepted() == 3, "a waiting publish was not accepted by all");
          }
        });
      }
      sim.run_until_idle();
      sim.require_all_done();
      written.count(logged(readers[0].handle) - before);
      for (reader& each : readers) {
        sim.require(each.handled.size() == 8, "an event was lost");
        published.require_in_order(sim, each.handled);
      }
      end(sim, events, readers);
    }
  });
  written.check();
  again.check();
}

// --- times and losses --------------------------------------------------------------------------------------------------

namespace {

/// A subscription to `tracked` on a topic that keeps times, and what its calls were told.
struct timed_reader {
  struct call {
    event_id event;
    penstock::steady_time published;
    std::uint64_t lost;
    bool operator==(const call&) const = default;
  };
  std::vector<call> handled;
  std::vector<std::pair<event_id, penstock::steady_time>> discarded;
  int calls = 0;
  int lanes = 1;
  bool over = false;
  penstock::subscription handle;

  auto body(simulation& sim) {
    return [this, &sim](const tracked& event, const penstock::call& told) {
      sim.require(!over, "an event was handled after its subscription had ended");
      const inside_call here(calls);
      sim.require(calls <= lanes, "two calls of one lane overlap");
      handled.push_back({{event.producer, event.index}, told.published(), told.dropped_before()});
      switch (sim.random(4)) {  // time passes only while nobody can go on: so others find it full
        case 0: break;
        case 1: sim.yield(); break;
        default: sim.sleep_for(std::chrono::microseconds(1 + sim.random(5)));
      }
    };
  }
  void join(simulation& sim, const penstock::topic<tracked>& topic, std::size_t room, overflow policy) {
    handle = topic.subscribe("timed",
                             subscribe_options().capacity(room).overflow(policy).on_undelivered<tracked>(
                                 [this, &sim](const tracked& event, const penstock::undelivered& what) {
                                   sim.require(!over, "given back after close had returned closed");
                                   discarded.push_back({{event.producer, event.index}, what.published()});
                                 }),
                             body(sim));
  }
  /// Without a hook: the loop of a lane that has nothing but its stamps.
  void join_simply(simulation& sim, const penstock::topic<tracked>& topic, std::size_t room, overflow policy) {
    handle = topic.subscribe(
        "timed", subscribe_options().capacity(room).overflow(policy).concurrency(static_cast<unsigned>(lanes)), body(sim));
  }
};

penstock::topic<tracked> timed_topic(const penstock::event_bus& bus) {
  return bus.topic<tracked>(penstock::topic_options().name("timed").metadata(penstock::metadata::precise));
}

}  // namespace

TEST_CASE("a reader of the log is told when each event was published and how many it lost before, in the log or out") {
  coverage written("events written into the log", 20'000);
  coverage left("a lossy reader was out of the log", 5'000);
  coverage back("and back in it after it had lost events", 2'000);
  coverage lost("events lost", 10'000);
  explore([&](simulation& sim) {
    litter events;
    {
      const auto topic = timed_topic(sim.runtime().bus());
      constexpr overflow policies[] = {overflow::block, overflow::drop_newest, overflow::fail};
      std::vector<timed_reader> readers(3);
      for (std::size_t i = 0; i < 3; ++i) {
        if (sim.random(2) == 0)
          readers[i].join(sim, topic, 1 + sim.random(4), policies[i]);
        else
          readers[i].join_simply(sim, topic, 1 + sim.random(4), policies[i]);
      }
      const auto out = topic.publisher();
      enter_log(sim, events, out, readers);
      const std::uint64_t before = logged(readers[0].handle);
      std::vector<timed_reader::call> expected[3];
      std::uint64_t missed[3] = {};
      sim.thread("publisher", [&] {
        for (std::uint32_t i = 0; i < 14; ++i) {
          if (sim.random(3) == 0) sim.sleep_for(std::chrono::microseconds(1 + sim.random(i == 7 ? 60 : 6)));
          const bool was_out[3] = {false, !reads_log(readers[1].handle), !reads_log(readers[2].handle)};
          const auto now = sim.now();
          const publish_result result = out.emplace(events, 0U, i);
          const bool refused[3] = {false, result.dropped() == 1, result.rejected() == 1};
          sim.require(result.matched() == 3 && result.accepted() + result.dropped() + result.rejected() == 3,
                      "an offer has no fate");
          for (std::size_t r = 0; r < 3; ++r) {
            if (was_out[r])
              left.count();
            else if (expected[r].size() < i && missed[r] == 0 && r > 0)
              back.count();
            if (refused[r]) {
              lost.count();
              ++missed[r];
            } else {
              expected[r].push_back({{0U, i}, now, std::exchange(missed[r], 0)});
            }
          }
        }
      });
      sim.run_until_idle();
      sim.require_all_done();
      written.count(logged(readers[0].handle) - before);
      for (std::size_t r = 0; r < 3; ++r) {
        sim.require(readers[r].handled.size() == expected[r].size(), "an event was lost, or handled twice");
        for (std::size_t i = 0; i < expected[r].size(); ++i) {
          sim.require(readers[r].handled[i].event == expected[r][i].event, "not the next event");
          sim.require(readers[r].handled[i].published == expected[r][i].published, "not when it was published");
          sim.require(readers[r].handled[i].lost == expected[r][i].lost,
                      "told of " + std::to_string(readers[r].handled[i].lost) + " losses that were " +
                          std::to_string(expected[r][i].lost));
        }
      }
      end(sim, events, readers);
    }
  });
  written.check();
  left.check();
  back.check();
  lost.check();
}

TEST_CASE("an event that waited in the log, stood in line, or was given back still has the time of its publish") {
  coverage waited("a reader left while somebody waited there", 1'000);
  coverage discarded("events given back", 1'000);
  explore([&](simulation& sim) {
    litter events;
    {
      const auto topic = timed_topic(sim.runtime().bus());
      std::vector<timed_reader> readers(2);
      for (timed_reader& each : readers) each.join(sim, topic, 1 + sim.random(3), overflow::block);
      const auto out = topic.publisher();
      enter_log(sim, events, out, readers);
      std::map<event_id, penstock::steady_time> times;
      const bool stops = sim.random(2) == 0;
      for (std::uint32_t producer = 0; producer < 3; ++producer) {
        sim.thread("publisher", [&, producer] {
          for (std::uint32_t index = 0; index < 6; index += 2) {
            sim.sleep_for(std::chrono::microseconds(1 + sim.random(7)));
            times[{producer, index}] = times[{producer, index + 1}] = sim.now();
            const tracked span[2] = {{events, producer, index}, {events, producer, index + 1}};
            const publish_result result = out.publish_many(std::span<const tracked>(span));
            sim.require(result.rejected() == 0 || (stops && result.error() == errc::closed), "an open one refused");
          }
        });
      }
      sim.thread("leaver", [&] {
        for (int i = 0; i < 4; ++i) {
          sim.sleep_for(std::chrono::microseconds(1 + sim.random(9)));
          for (timed_reader& each : readers) {
            auto& core = core_of(each.handle);
            if (each.over || sim.random(2) == 0) continue;
            if (reads_log(each.handle) && core.topic().log().awaited() != 0) waited.count();
            core.topic().leave_log(core);
          }
        }
      });
      if (stops) {
        sim.thread("closer", [&] {
          sim.sleep_for(std::chrono::microseconds(4 + sim.random(20)));
          sim.require(readers[0].handle.close(close_mode::stop_now) == close_status::closed, "a close did not close");
          readers[0].over = true;
        });
      }
      sim.run_until_idle();
      sim.require_all_done();
      for (timed_reader& each : readers) {
        for (const timed_reader::call& call : each.handled) {
          sim.require(call.published == times[call.event], "not when it was published");
          sim.require(call.lost == 0, "told of a loss that was none");
        }
        for (const auto& [event, published] : each.discarded)
          sim.require(published == times[event], "given back with another time than that of its publish");
        discarded.count(each.discarded.size());
      }
      sim.require(readers[1].handled.size() == 18, "an event was lost, or handled twice");
      const penstock::ledger counted = readers[0].handle.ledger();
      sim.require(readers[0].handled.size() + readers[0].discarded.size() + counted.rejected.closed == 18 || stops,
                  "an event has no fate");
      end(sim, events, readers);
    }
  });
  waited.check();
  discarded.check();
}

TEST_CASE("what readers are told of losses is what they lost, however many publish at once") {
  coverage lost("events lost", 10'000);
  coverage evicted("of them to make room", 3'000);
  coverage beside("readers with two lanes", 3'000);
  explore([&](simulation& sim) {
    litter events;
    {
      const auto topic = timed_topic(sim.runtime().bus());
      std::vector<timed_reader> readers(1 + sim.random(2));
      constexpr overflow policies[] = {overflow::drop_newest, overflow::fail, overflow::drop_oldest};
      for (timed_reader& each : readers) {
        each.lanes = 1 + static_cast<int>(sim.random(2));
        each.join_simply(sim, topic, 1 + sim.random(4), policies[sim.random(3)]);
      }
      const auto out = topic.publisher();
      sim.require(out.try_emplace(events, warming, 0U).accepted() == readers.size(), "an idle one refused");
      sim.run_until_idle();
      for (std::uint32_t producer = 0; producer < 3; ++producer) {
        sim.thread("publisher", [&, producer] {
          for (std::uint32_t index = 0; index < 6; index += 2) {
            const tracked span[2] = {{events, producer, index}, {events, producer, index + 1}};
            static_cast<void>(out.publish_many(std::span<const tracked>(span)));
            if (sim.random(4) == 0) sim.sleep_for(2us);
          }
        });
      }
      sim.run_until_idle();
      sim.require_all_done();
      sim.require(out.try_emplace(events, 0U, 6U).accepted() == readers.size(), "an idle one refused");
      sim.run_until_idle();
      for (timed_reader& each : readers) {
        const penstock::ledger counted = each.handle.ledger();
        const std::uint64_t all = counted.dropped + counted.rejected.full + counted.evicted;
        lost.count(all);
        evicted.count(counted.evicted);
        if (each.lanes > 1) beside.count();
        std::uint64_t told = 0;
        for (const timed_reader::call& call : each.handled) {
          sim.require(call.lost <= all - told, "told of more losses than there were: " + std::to_string(call.lost));
          told += call.lost;
        }
        sim.require(told == all, "not told of all losses");
      }
      end(sim, events, readers);
    }
  });
  lost.check();
  evicted.check();
  beside.check();
}
