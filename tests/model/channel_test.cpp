// The bounded channel under preemption at every atomic operation and lock: seats, order, sleep, and leaving the line.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "bare_channel.hpp"
#include "coverage.hpp"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using penstock_test::channel;
using penstock_test::config_of;
using penstock_test::consumer;
using penstock_test::errc;
using penstock_test::offering;
using penstock_test::require_all_seats_free;
using penstock_test::ticket;
using penstock::sync::full_policy;
using penstock::testing::explore;
using penstock::testing::simulation;

namespace {

/// When an offer began and when it was decided or stood in line, on a clock that counts such moments.
struct span_record {
  std::uint32_t producer = 0;
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  int began = 0;
  int placed = 0;
};

/// Who was placed before another one began is handled before it, each span in its own order, and nothing is missing.
void require_linearizable(simulation& sim, const std::vector<span_record>& spans, const std::vector<ticket>& handled) {
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::size_t> place;
  for (std::size_t i = 0; i < handled.size(); ++i)
    sim.require(place.emplace(std::pair(handled[i].producer, handled[i].index), i).second, "an event was handled twice");
  std::size_t offered = 0;
  struct extent {
    std::size_t first, last;
  };
  std::vector<extent> extents;
  for (const span_record& each : spans) {
    offered += each.count;
    extent found{handled.size(), 0};
    std::size_t before = 0;
    for (std::uint32_t i = 0; i < each.count; ++i) {
      const auto at = place.find({each.producer, each.first + i});
      sim.require(at != place.end(), "an event was lost");
      sim.require(i == 0 || at->second > before, "a producer's own order was turned round");
      before = at->second;
      found.first = std::min(found.first, before);
      found.last = std::max(found.last, before);
    }
    extents.push_back(found);
  }
  sim.require(offered == handled.size(), "more events were handled than offered");
  for (std::size_t a = 0; a < spans.size(); ++a)
    for (std::size_t b = 0; b < spans.size(); ++b)
      if (spans[a].placed < spans[b].began)
        sim.require(extents[a].last < extents[b].first, "an event was overtaken by one that was offered later");
}

}  // namespace

TEST_CASE("producers that wait at a channel of one or two seats lose nothing, overtake nobody and fit its capacity") {
  explore(10'000, [](simulation& sim) {
    const std::size_t capacity = 1 + sim.random(2);
    const auto producers = static_cast<std::uint32_t>(2 + sim.random(2));
    const std::uint32_t spans_each = producers == 2 ? 3 : 2;
    channel line(config_of(capacity));
    consumer reader(sim, line);
    std::vector<ticket> handled;
    std::vector<span_record> spans;
    int moments = 0;
    sim.thread("consumer", [&] {
      reader.run([&](const ticket& event, std::uint64_t sequence) {
        handled.push_back(event);
        sim.require(sequence == handled.size(), "a seat number was left out");
        // Only this thread frees seats: nothing moves the lower end while it looks.
        const auto counts = line.counts();
        sim.require(counts.tail - counts.begun <= capacity, "more events are seated than there are seats");
      });
    });
    for (std::uint32_t producer = 0; producer < producers; ++producer) {
      sim.thread("producer", [&, producer] {
        std::uint32_t next = 0;
        for (std::uint32_t i = 0; i < spans_each; ++i) {
          ticket events[2];
          const auto count = static_cast<std::uint32_t>(1 + sim.random(2));
          span_record mine{producer, next, count, 0, 0};
          for (std::uint32_t k = 0; k < count; ++k) events[k] = {producer, next++};
          offering offer(sim, line, reader);
          offer.tell_at_once = sim.random(4) == 0;  // as a handler's parked output
          mine.began = ++moments;
          const bool waits = offer.offer(events, count);
          mine.placed = ++moments;
          spans.push_back(mine);
          if (waits) offer.wait();
          sim.require(offer.outcome.accepted + offer.admitted == count, "an offer that waited is not all in");
          sim.require(!waits || offer.why == errc::none, "a waiter was refused by an open channel");
          sim.require(offer.times_settled <= 1, "a waiter was settled twice");
        }
      });
    }
    sim.run_until_idle();
    sim.require(penstock_test::nobody_looked(sim),
                "a waiter had to look by itself: the consumer rested and had not told it");
    require_linearizable(sim, spans, handled);
    const auto counts = line.counts();
    sim.require(counts.pending == 0 && counts.tail == counts.begun && counts.tail == handled.size(), "the counts are off");
    sim.require(!line.wants_service(), "the hint is set and nobody is in line");
    reader.finish();
    sim.run_until_idle();
    sim.require_all_done();
    require_all_seats_free(sim, line, capacity);
  });
}

TEST_CASE("a waiter that withdraws while a seat comes free is either admitted or withdrawn, and no seat is leaked") {
  int withdrawn = 0;
  int admitted = 0;
  int settled_elsewhere = 0;
  explore(10'000, [&](simulation& sim) {
    const std::size_t capacity = 1 + sim.random(2);
    channel line(config_of(capacity));
    consumer reader(sim, line);
    std::vector<ticket> handled;
    sim.thread("consumer", [&] {
      reader.run([&](const ticket& event, std::uint64_t) {
        handled.push_back(event);
        sim.yield();
      });
    });
    std::size_t expected = 0;
    // Three in line, and the one who leaves is among them: before, between or behind the others.
    for (std::uint32_t producer = 0; producer < 3; ++producer) {
      sim.thread("stays", [&, producer] {
        const ticket events[2] = {{producer, 0}, {producer, 1}};
        offering offer(sim, line, reader);
        if (offer.offer(events, 2)) offer.wait();
        sim.require(offer.why == errc::none && offer.outcome.accepted + offer.admitted == 2, "who stayed was not admitted");
        expected += 2;
      });
    }
    sim.thread("leaves", [&] {
      const ticket events[2] = {{7, 0}, {7, 1}};
      offering offer(sim, line, reader);
      offer.tell_at_once = sim.random(2) == 0;
      std::size_t in = 2;
      if (offer.offer(events, 2)) {
        for (auto pause = sim.random(3); pause > 0; --pause) sim.yield();
        switch (line.withdraw(offer, errc::timed_out)) {
          case channel::withdrawal::withdrawn:
            ++withdrawn;
            sim.require(offer.why == errc::timed_out && offer.remaining > 0, "withdrawn, but nothing was left to withdraw");
            sim.require(offer.times_settled == 0, "withdrawn and settled as well");
            in = offer.outcome.accepted + offer.admitted;
            sim.require(in + offer.remaining == 2, "an event of a withdrawn span is neither in nor out");
            break;
          case channel::withdrawal::was_admitted:
            ++admitted;
            sim.require(offer.why == errc::none && offer.remaining == 0, "admitted, but not entirely");
            break;
          case channel::withdrawal::settled_elsewhere:
            ++settled_elsewhere;
            offer.wait_to_be_told();
            sim.require(offer.why == errc::none && offer.remaining == 0, "settled by an open channel, but not admitted");
            break;
        }
        sim.require(offer.state == penstock::sync::waiter_state::settled, "a waiter that left is not settled");
      }
      expected += in;
      for (std::uint32_t i = 0; i < 2; ++i) {  // what is in will be handled, what is out never
        const bool known = std::find(handled.begin(), handled.end(), ticket{7, i}) != handled.end();
        sim.require(!known || i < in, "a withdrawn event was handled");
      }
    });
    sim.run_until_idle();
    sim.require(penstock_test::nobody_looked(sim),
                "a waiter had to look by itself: the consumer rested and had not told it");
    sim.require(handled.size() == expected, "handled and admitted differ");
    const auto counts = line.counts();
    sim.require(counts.pending == 0, "a place in line was left behind");
    sim.require(counts.tail == handled.size(), "a seat was taken for nobody");
    sim.require(counts.rejected[static_cast<int>(errc::timed_out)] + counts.tail == 8, "an offered event is in no count");
    reader.finish();
    sim.run_until_idle();
    sim.require_all_done();
    require_all_seats_free(sim, line, capacity);
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(withdrawn > 100);  // the race was run, and went each way
  CHECK(admitted > 20);
  CHECK(settled_elsewhere > 20);
}

TEST_CASE("a producer that gets in line while the last event is taken is not left there") {
  explore(10'000, [](simulation& sim) {
    channel line(config_of(1));
    consumer reader(sim, line);
    std::vector<ticket> handled;
    const ticket first{0, 0};
    {
      offering offer(sim, line, reader);
      sim.require(!offer.offer(&first, 1), "an empty channel made somebody wait");
    }
    sim.thread("consumer", [&] { reader.run([&](const ticket& event, std::uint64_t) { handled.push_back(event); }); });
    sim.thread("producer", [&] {
      const ticket second{0, 1};
      offering offer(sim, line, reader);
      offer.tell_at_once = sim.random(2) == 0;
      if (offer.offer(&second, 1)) offer.wait();
    });
    sim.run_until_idle();
    sim.require(line.counts().pending == 0, "a producer stands in line at an empty channel");
    sim.require(penstock_test::nobody_looked(sim),
                "a waiter had to look by itself: the consumer rested and had not told it");
    sim.require(handled.size() == 2, "an event was lost");
    reader.finish();
    sim.run_until_idle();
    sim.require_all_done();
  });
}

TEST_CASE("a consumer that goes to sleep while a producer publishes is never left asleep") {
  explore(10'000, [](simulation& sim) {
    channel line(config_of(8));
    consumer reader(sim, line);
    std::vector<ticket> handled;
    int sleeps_with_work = 0;
    sim.thread("consumer", [&] { reader.run([&](const ticket& event, std::uint64_t) { handled.push_back(event); }); });
    {
      // The ring comes with the first event; from then on offers take no lock.
      const ticket first{9, 0};
      offering offer(sim, line, reader);
      offer.offer(&first, 1);
    }
    if (sim.random(2) == 0) sim.run_until_idle();
    for (std::uint32_t producer = 0; producer < 2; ++producer) {
      sim.thread("producer", [&, producer] {
        for (std::uint32_t i = 0; i < 2; ++i) {
          const ticket event{producer, i};
          offering offer(sim, line, reader);
          sim.require(!offer.offer(&event, 1) && offer.outcome.accepted == 1, "a channel with room made somebody wait");
        }
      });
    }
    sim.run_until_idle();
    if (line.ready()) ++sleeps_with_work;
    sim.require(sleeps_with_work == 0, "the consumer sleeps, and an event is ready: a wake-up was lost");
    sim.require(handled.size() == 5, "an event was lost");
    reader.finish();
    sim.run_until_idle();
    sim.require_all_done();
  });
}

TEST_CASE("an event of a drop_oldest channel is handled or evicted, never both and never neither") {
  int evictions = 0;
  explore(10'000, [&](simulation& sim) {
    const std::size_t capacity = 1 + sim.random(2);
    channel line(config_of(capacity, full_policy::drop_oldest));
    consumer reader(sim, line);
    std::vector<ticket> seen;
    std::vector<ticket> evicted;
    std::uint64_t last = 0;
    sim.thread("consumer", [&] {
      reader.run([&](const ticket& event, std::uint64_t sequence) {
        sim.require(sequence > last, "an evicting channel handled an older event after a newer one");
        last = sequence;
        seen.push_back(event);
      });
    });
    for (std::uint32_t producer = 0; producer < 2; ++producer) {
      sim.thread("producer", [&, producer] {
        for (std::uint32_t i = 0; i < 4; i += 2) {
          const ticket events[2] = {{producer, i}, {producer, i + 1}};
          offering offer(sim, line, reader);
          sim.require(!offer.offer(events, 2), "drop_oldest made somebody wait");
          sim.require(offer.outcome.accepted == 2, "drop_oldest refused an event");
          evicted.insert(evicted.end(), offer.evicted.begin(), offer.evicted.end());
        }
      });
    }
    sim.run_until_idle();
    std::map<std::pair<std::uint32_t, std::uint32_t>, int> fates;
    for (const ticket& each : seen) ++fates[{each.producer, each.index}];
    for (const ticket& each : evicted) ++fates[{each.producer, each.index}];
    sim.require(fates.size() == 8, "an event has no fate");
    for (const auto& [event, count] : fates) sim.require(count == 1, "an event has two fates");
    const auto counts = line.counts();
    sim.require(counts.tail == 8 && counts.begun == 8 && counts.evicted == evicted.size(), "the counts are off");
    evictions += static_cast<int>(evicted.size());
    reader.finish();
    sim.run_until_idle();
    sim.require_all_done();
  });
  if (!penstock_test::all_seeds_ran()) return;
  CHECK(evictions > 0);
}

TEST_CASE("a stop against offers, waiters and the consumer leaves each event with one fate") {
  explore(10'000, [](simulation& sim) {
    const std::size_t capacity = 1 + sim.random(2);
    channel line(config_of(capacity));
    consumer reader(sim, line);
    std::size_t handled = 0;
    bool stopped = false;
    sim.thread("consumer", [&] {
      reader.run([&](const ticket&, std::uint64_t) {
        ++handled;
        sim.yield();
      });
    });
    std::size_t offered = 0;
    for (std::uint32_t producer = 0; producer < 2; ++producer) {
      sim.thread("producer", [&, producer] {
        for (std::uint32_t i = 0; i < 2; ++i) {
          const ticket event{producer, i};
          offering offer(sim, line, reader);
          const bool was_stopped = stopped;
          if (offer.offer(&event, 1)) offer.wait();
          sim.require(!was_stopped || offer.outcome.unmatched == 1, "a stopped channel took an offer");
          sim.require(offer.outcome.unmatched + offer.outcome.accepted + offer.admitted + offer.remaining == 1,
                      "an offer has no result, or two");
          sim.require(offer.remaining == 0 || offer.why == errc::closed, "refused, but not because it was closed");
          offered += 1 - offer.outcome.unmatched;
        }
      });
    }
    std::size_t handled_at_stop = 0;
    sim.thread("stopper", [&] {
      penstock::sync::waiter_list released;
      if (line.stop(released)) line.discard_queued();
      released.settle_all();
      stopped = true;
      handled_at_stop = handled;
    });
    sim.run_until_idle();
    sim.require(penstock_test::nobody_looked(sim), "a waiter was left in the line of a stopped channel");
    const auto counts = line.counts();
    sim.require(handled <= handled_at_stop + 1, "events began after the stop");  // one was begun and not yet seen by us
    sim.require(counts.pending == 0, "somebody still waits at a stopped channel");
    sim.require(counts.begun == handled, "begun and handled differ");
    sim.require(counts.tail == counts.begun + counts.discarded, "a seated event was neither begun nor discarded");
    sim.require(offered == counts.tail + counts.rejected[static_cast<int>(errc::closed)], "an offered event is in no count");
    reader.end();
    sim.run_until_idle();
    sim.require_all_done();
  });
}
