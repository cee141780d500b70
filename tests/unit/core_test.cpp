// The core from inside: the channel's seats and lines, the ready list, the timer heap, the versions of a topic.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"

#include "bus/bus_core.hpp"
#include "bus/topic.hpp"
#include "exec/posted_queue.hpp"
#include "exec/ready_list.hpp"
#include "exec/timer_thread.hpp"
#include "sync/channel.hpp"

#include <penstock/penstock.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::errc;
using penstock::sync::channel;
using penstock::sync::full_policy;
using penstock::sync::offer_outcome;
using penstock::sync::offer_patience;
using penstock::sync::take_status;
using penstock::sync::waiter;
using penstock::sync::waiter_list;
using penstock::sync::waiter_state;

namespace {

// --- a channel of numbers, driven by hand
// ------------------------------------------------------------------------------

/// As large as any event: a compiler that does not know how large one is sees a copy of 64 bytes, though none is made.
struct slot {
  alignas(16) std::byte bytes[64] = {};
  template <class T>
  T as() const {
    T value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
  }
};

struct numbers {
  channel c;
  explicit numbers(std::size_t capacity, full_policy policy = full_policy::block, bool shared = false)
      : c({capacity, policy, shared, sizeof(std::uint64_t), false}) {}

  /// Offers without waiting, as publish does: quickly, then slowly.
  offer_outcome offer(std::uint64_t value, waiter* place = nullptr) { return offer_span({value}, place); }
  offer_outcome offer_span(const std::vector<std::uint64_t>& values, waiter* place = nullptr) {
    offer_outcome outcome;
    const auto* events = reinterpret_cast<const std::byte*>(values.data());
    if (c.offer_quickly(events, values.size(), outcome)) return outcome;
    do {
      const std::size_t done = outcome.accepted + outcome.dropped + outcome.rejected + outcome.unmatched;
      outcome.evicted = false;
      c.offer_slowly(events + done * sizeof(std::uint64_t), values.size() - done,
                     place != nullptr ? offer_patience::line : offer_patience::never, errc::full, place,
                     reinterpret_cast<std::byte*>(&evicted), outcome);
      if (outcome.evicted) evictions.push_back(evicted);
    } while (outcome.again);
    return outcome;
  }
  /// The next number; 0 when there is none.
  std::uint64_t take() {
    slot room;
    std::uint64_t sequence = 0;
    if (c.take(room.bytes, sequence) != take_status::taken) return 0;
    const auto value = room.as<std::uint64_t>();
    last_sequence = sequence;
    return value;
  }

  std::uint64_t evicted = 0;
  std::uint64_t last_sequence = 0;
  std::vector<std::uint64_t> evictions;
};

/// One that stands in line and notes when it is told.
struct place : waiter {
  std::uint64_t value;
  std::vector<std::uint64_t>* told;
  place(std::uint64_t given, std::vector<std::uint64_t>& log, bool at_once = false) : value(given), told(&log) {
    tell_at_once = at_once;
    settle = [](waiter& settled) noexcept {
      auto& self = static_cast<place&>(settled);
      self.told->push_back(self.value);
    };
  }
  bool stand(numbers& in) {
    offer_outcome outcome;
    if (in.c.offer_quickly(reinterpret_cast<const std::byte*>(&value), 1, outcome)) return false;
    in.c.offer_slowly(reinterpret_cast<const std::byte*>(&value), 1, offer_patience::line, errc::full, this, nullptr,
                      outcome);
    return outcome.queued_in_line;
  }
};

void settle(waiter_list& released) { released.settle_all(); }

}  // namespace

TEST_CASE("a channel holds exactly its capacity, whatever the size of its ring", "[C1][Q3]") {
  const std::size_t capacity = GENERATE(1, 2, 3, 5, 1000);
  const bool shared = GENERATE(false, true);
  numbers n(capacity, full_policy::block, shared);
  for (int lap = 0; lap < 3; ++lap) {
    for (std::uint64_t i = 1; i <= capacity; ++i) REQUIRE(n.offer(i).accepted == 1);
    const auto beyond = n.offer(9999);
    REQUIRE(beyond.accepted == 0);
    REQUIRE(beyond.rejected == 1);
    REQUIRE(beyond.why == errc::full);
    REQUIRE(n.take() == 1);  // a seat is free from now on
    REQUIRE(n.offer(capacity + 1).accepted == 1);
    REQUIRE(n.offer(9999).accepted == 0);
    for (std::uint64_t i = 2; i <= capacity + 1; ++i) REQUIRE(n.take() == i);
    REQUIRE(n.take() == 0);
  }
  CHECK(n.last_sequence == 3 * (capacity + 1));
  const auto counts = n.c.counts();
  CHECK(counts.tail == counts.begun);
  CHECK(counts.rejected[static_cast<std::size_t>(errc::full)] == 6);
}

TEST_CASE("a span takes what fits in one step, in order, over the end of the ring", "[C1][P2]") {
  numbers n(5);
  std::uint64_t next = 1, expected = 1;
  for (int round = 0; round < 50; ++round) {
    std::vector<std::uint64_t> span;
    for (int i = 0; i < 1 + round % 7; ++i) span.push_back(next + static_cast<std::uint64_t>(i));
    const auto outcome = n.offer_span(span);
    CHECK(outcome.accepted == std::min<std::size_t>(span.size(), 5));
    CHECK(outcome.accepted + outcome.rejected == span.size());
    next += outcome.accepted;
    while (const std::uint64_t taken = n.take()) CHECK(taken == expected++);
  }
  CHECK(next == expected);
}

TEST_CASE("seats for a span are taken for all of it or for none, and who wakes the consumer is told once", "[C1][P2]") {
  using seating = channel::seating;
  numbers n(5);
  std::uint64_t next = 1, expected = 1;
  const auto seat = [&](std::size_t count) {
    std::vector<std::uint64_t> span(count);
    for (std::uint64_t& each : span) each = next++;
    const seating got = n.c.seat(reinterpret_cast<const std::byte*>(span.data()), count);
    if (got == seating::refused) next -= count;
    return got;
  };
  CHECK(seat(1) == seating::refused);  // the ring comes with the first event, by the slow way
  REQUIRE(n.offer(next++).accepted == 1);
  REQUIRE(n.take() == expected++);
  REQUIRE(n.c.try_sleep());
  for (int lap = 0; lap < 20; ++lap) {
    CHECK(seat(6) == seating::refused);
    CHECK(seat(3) == seating::seated_and_wakes);
    CHECK(seat(3) == seating::refused);
    CHECK(seat(2) == seating::seated);
    CHECK(seat(1) == seating::refused);
    while (const std::uint64_t taken = n.take()) CHECK(taken == expected++);
    CHECK(next == expected);
    REQUIRE(n.c.try_sleep());
  }
  const auto counts = n.c.counts();
  CHECK(counts.tail == 101);
  CHECK(counts.rejected[static_cast<std::size_t>(errc::full)] == 0);  // nothing was decided by it
}

TEST_CASE("a freed seat goes to the first in line without its thread's help, and nobody overtakes", "[C4]") {
  numbers n(2);
  std::vector<std::uint64_t> told;
  n.offer(1);
  n.offer(2);
  place third(3, told), fourth(4, told);
  REQUIRE(third.stand(n));
  REQUIRE(fourth.stand(n));
  CHECK(n.c.counts().pending == 2);
  CHECK(n.offer(9).rejected == 1);  // refused while anybody waits
  CHECK(n.take() == 1);             // the lane that frees the seat moves the first one in
  CHECK(n.c.counts().pending == 1);
  CHECK(n.c.counts().tail == 3);
  CHECK(n.offer(9).rejected == 1);
  for (const std::uint64_t each : {2, 3, 4}) CHECK(n.take() == each);
  n.c.serve(true);
  CHECK(told == std::vector<std::uint64_t>{3, 4});
  CHECK(third.why == errc::none);
  CHECK(third.state == waiter_state::settled);
  CHECK(n.offer(5).accepted == 1);
}

TEST_CASE("who is withdrawn from the middle of a line takes no seat and strands nobody", "[C4][Q10]") {
  numbers n(1);
  std::vector<std::uint64_t> told;
  n.offer(1);
  std::deque<place> line;
  for (std::uint64_t i = 2; i <= 6; ++i) REQUIRE(line.emplace_back(i, told).stand(n));
  CHECK(n.c.withdraw(line[2], errc::cancelled) == channel::withdrawal::withdrawn);  // 4
  CHECK(line[2].why == errc::cancelled);
  CHECK(line[2].remaining == 1);
  CHECK(n.c.withdraw(line[2], errc::cancelled) == channel::withdrawal::settled_elsewhere);
  CHECK(n.c.withdraw(line[0], errc::timed_out) == channel::withdrawal::withdrawn);  // 2, the first
  CHECK(n.c.withdraw(line[4], errc::timed_out) == channel::withdrawal::withdrawn);  // 6, the last
  for (const std::uint64_t each : {1, 3, 5}) CHECK(n.take() == each);
  CHECK(n.take() == 0);
  n.c.serve(true);
  CHECK(told == std::vector<std::uint64_t>{3, 5});
  const auto counts = n.c.counts();
  CHECK(counts.pending == 0);
  CHECK(counts.rejected[static_cast<std::size_t>(errc::cancelled)] == 1);
  CHECK(counts.rejected[static_cast<std::size_t>(errc::timed_out)] == 2);
  CHECK(n.offer(7).accepted == 1);
}

TEST_CASE("who was admitted and is not told yet learns it when asking, or is told when the lane rests", "[C4][C5]") {
  numbers n(8);
  std::vector<std::uint64_t> told;
  for (std::uint64_t i = 1; i <= 8; ++i) n.offer(i);
  place asks(9, told), gives_up(10, told), rests(11, told), at_once(12, told, true);
  for (place* each : {&asks, &gives_up, &rests, &at_once}) REQUIRE(each->stand(n));
  for (std::uint64_t i = 1; i <= 4; ++i) CHECK(n.take() == i);  // four seats: all are admitted
  CHECK(told == std::vector<std::uint64_t>{12});                // the others' wake-ups are put off
  CHECK(n.c.ask_to_be_told(asks));
  CHECK(asks.state == waiter_state::settled);
  CHECK_FALSE(n.c.ask_to_be_told(asks));
  CHECK(n.c.withdraw(gives_up, errc::cancelled) == channel::withdrawal::was_admitted);  // too late to be cancelled
  CHECK(gives_up.why == errc::none);
  CHECK(n.c.wants_service());
  n.c.serve(true);
  CHECK(told == std::vector<std::uint64_t>{12, 11});
  CHECK_FALSE(n.c.wants_service());
  for (std::uint64_t i = 5; i <= 12; ++i) CHECK(n.take() == i);
}

TEST_CASE("one that asked to be told while it waits is told by whoever admits it", "[C5]") {
  numbers n(4);
  std::vector<std::uint64_t> told;
  for (std::uint64_t i = 1; i <= 4; ++i) n.offer(i);
  place asks(5, told);
  REQUIRE(asks.stand(n));
  CHECK_FALSE(n.c.ask_to_be_told(asks));
  CHECK(n.take() == 1);
  CHECK(told == std::vector<std::uint64_t>{5});
}

TEST_CASE("stop discards what is queued, releases the line with closed, and is idempotent", "[S2][B4]") {
  const bool shared = GENERATE(false, true);
  numbers n(2, full_policy::block, shared);
  std::vector<std::uint64_t> told;
  n.offer(1);
  n.offer(2);
  place waits(3, told);
  REQUIRE(waits.stand(n));
  CHECK(n.take() == 1);  // 3 is in now, and not told
  place late(4, told);
  REQUIRE(late.stand(n));
  for (int again = 0; again < 2; ++again) {
    waiter_list released;
    if (n.c.stop(released)) n.c.discard_queued();
    settle(released);
  }
  CHECK(told.size() == 2);
  CHECK(waits.why == errc::none);  // it had its seat: discarded, not rejected
  CHECK(late.why == errc::closed);
  slot room;
  std::uint64_t sequence = 0;
  CHECK(n.c.take(room.bytes, sequence) == take_status::stopped);
  CHECK(n.offer(5).unmatched == 1);
  const auto counts = n.c.counts();
  CHECK(counts.discarded == 2);
  CHECK(counts.tail == counts.begun + counts.discarded);
  CHECK(counts.pending == 0);
}

TEST_CASE("a drain keeps parked outputs in line and takes no new offers", "[P6]") {
  numbers n(1);
  std::vector<std::uint64_t> told;
  n.offer(1);
  place caller(2, told), parked(3, told, true);
  parked.parked = true;
  REQUIRE(caller.stand(n));
  REQUIRE(parked.stand(n));
  waiter_list released;
  n.c.begin_drain(released);
  settle(released);
  CHECK(told == std::vector<std::uint64_t>{2});
  CHECK(caller.why == errc::closed);
  CHECK(n.offer(4).unmatched == 1);
  CHECK_FALSE(n.c.drained());
  CHECK(n.take() == 1);
  CHECK(n.take() == 3);
  CHECK(n.c.drained());
  CHECK(told == std::vector<std::uint64_t>{2, 3});
}

TEST_CASE("drop_oldest evicts one after the other, and never the event that began", "[C2][Q12]") {
  const std::size_t capacity = GENERATE(1, 3);
  numbers n(capacity, full_policy::drop_oldest);
  for (std::uint64_t i = 1; i <= capacity; ++i) n.offer(i);
  CHECK(n.take() == 1);
  const auto outcome = n.offer_span({101, 102, 103, 104, 105});
  CHECK(outcome.accepted == 5);
  std::vector<std::uint64_t> left;
  while (const auto each = n.take()) left.push_back(each);
  CHECK(left.size() == capacity);
  CHECK(left.back() == 105);
  CHECK(std::find(n.evictions.begin(), n.evictions.end(), 1) == n.evictions.end());
  const auto counts = n.c.counts();
  CHECK(counts.tail == capacity + 5);
  CHECK(counts.evicted == n.evictions.size());
  CHECK(counts.begun == counts.tail);
}

TEST_CASE("many producers and one consumer lose nothing, repeat nothing, and keep each producer's order", "[C1][O1]") {
  const time_limit limit;
  const std::size_t capacity = GENERATE(1, 3, 64);
  numbers n(capacity);
  constexpr std::uint64_t each = sanitized ? 2000 : 30000;
  std::vector<std::thread> producers;
  for (std::uint64_t p = 1; p <= 3; ++p)
    producers.emplace_back([&, p] {
      for (std::uint64_t i = 0; i < each;) {
        const std::uint64_t value = p << 32 | i;
        offer_outcome outcome;
        if (!n.c.offer_quickly(reinterpret_cast<const std::byte*>(&value), 1, outcome))
          n.c.offer_slowly(reinterpret_cast<const std::byte*>(&value), 1, offer_patience::never, errc::full, nullptr,
                           nullptr, outcome);
        i += outcome.accepted;
        if (outcome.accepted == 0) std::this_thread::yield();
      }
    });
  std::uint64_t next[4] = {}, taken = 0;
  bool in_order = true;
  while (taken < 3 * each) {
    const std::uint64_t value = n.take();
    if (value == 0) {
      std::this_thread::yield();
      continue;
    }
    ++taken;
    in_order = in_order && (value & 0xffffffff) == next[value >> 32]++;
  }
  for (auto& p : producers) p.join();
  CHECK(in_order);
  CHECK(n.take() == 0);
  CHECK(n.c.counts().tail == 3 * each);
}

TEST_CASE("a stop with stragglers: each accepted event either begins or is discarded, and no block leaks",
          "[S2][Q11]") {
  const time_limit limit;
  for (int round = 0; round < (sanitized ? 100 : 600); ++round) {
    static std::atomic<int> alive;
    alive = 0;
    penstock::detail::payload_type type;
    type.size = sizeof(int);
    type.destroy = [](void*) noexcept { --alive; };
    channel c({4, full_policy::block, round % 2 == 1, sizeof(void*), true});
    std::atomic<std::uint64_t> accepted{0}, handled{0};
    std::atomic<bool> go{false};
    const auto produce = [&] {
      go.wait(false);
      for (int i = 0; i < 20; ++i) {
        void* block = penstock::detail::allocate_block(type);
        ++alive;
        offer_outcome outcome;
        const auto* events = reinterpret_cast<const std::byte*>(&block);
        if (!c.offer_quickly(events, 1, outcome))
          c.offer_slowly(events, 1, offer_patience::never, errc::full, nullptr, nullptr, outcome);
        accepted += outcome.accepted;
        penstock::detail::release_block(block);
      }
    };
    const auto consume = [&] {
      go.wait(false);
      for (int i = 0; i < 60; ++i) {
        slot room;
        std::uint64_t sequence = 0;
        const auto status = c.take(room.bytes, sequence);
        if (status == take_status::stopped) return;
        if (status != take_status::taken) continue;
        ++handled;
        penstock::detail::release_block(room.as<void*>());
      }
    };
    std::thread a(produce), b(produce), taker(consume), stopper([&] {
      go.wait(false);
      for (int i = 0; i < round % 40; ++i) std::this_thread::yield();
      waiter_list released;
      if (c.stop(released)) c.discard_queued();
      released.settle_all();
    });
    go = true;
    go.notify_all();
    for (auto* each : {&a, &b, &taker, &stopper}) each->join();
    const auto counts = c.counts();
    REQUIRE(counts.tail == accepted);
    REQUIRE(counts.begun == handled);
    REQUIRE(counts.discarded == accepted - handled);
    REQUIRE(alive == 0);
  }
}

// --- the ready list
// ----------------------------------------------------------------------------------------------------

namespace {

struct item final : penstock::runnable {
  int number = 0;
  std::atomic<int> queued{0};
  std::atomic<int> runs{0};
  void run(unsigned) override { ++runs; }
  void dropped() noexcept override {}
};

using penstock::exec::ready_list;
using penstock::exec::spin_gauge;

}  // namespace

TEST_CASE("the ready list is first in, first out, and lanes and posted work take turns", "[O4]") {
  ready_list list(0ns, penstock::real_clock());
  ready_list::sleeper self;
  std::deque<item> items(5);
  for (int i = 0; i < 5; ++i) {
    items[static_cast<std::size_t>(i)].number = i;
    list.push(items[static_cast<std::size_t>(i)]);
  }
  for (int i = 0; i < 3; ++i) REQUIRE(list.push_posted());
  CHECK(list.size() >= 5);
  std::vector<int> order;
  for (int i = 0; i < 8; ++i) {
    const auto found = list.next(self);
    order.push_back(found.kind == ready_list::what::posted ? -1 : static_cast<item*>(found.lane)->number);
  }
  std::vector<int> lanes;
  std::copy_if(order.begin(), order.end(), std::back_inserter(lanes), [](int each) { return each >= 0; });
  CHECK(lanes == std::vector{0, 1, 2, 3, 4});
  // Never two of one kind in a row while the other kind waits.
  int posted = 0;
  for (std::size_t i = 0; i < 6; ++i) posted += order[i] == -1;
  CHECK(posted == 3);
  list.push(items[0]);
  list.stop();
  CHECK(list.next(self).kind == ready_list::what::stopped);
  CHECK_FALSE(list.push_posted());
  CHECK(list.take_left() == &items[0]);
  CHECK(list.take_left() == nullptr);
}

TEST_CASE("a worker takes posted items in a row, each a turn of its own, until a lane, a bell or a stop comes", "[O4]") {
  struct counted final : penstock::detail::worker_bell {
    int rung = 0;
    void ring() noexcept override { ++rung; }
  };
  ready_list list(0ns, penstock::real_clock());
  ready_list::sleeper self;
  list.enlist(self, 0);
  const auto turn = [&] {
    penstock::detail::pool_look seen;
    list.look(seen);
    REQUIRE(seen.working.size() == 1);
    return seen.working[0].turn;
  };
  for (int i = 0; i < 6; ++i) REQUIRE(list.push_posted());
  CHECK_FALSE(list.nothing_waits());
  CHECK(list.next(self).kind == ready_list::what::posted);
  const auto first = turn();
  CHECK(list.next_posted(self));
  CHECK(turn() != first);

  item lane;
  list.push(lane);
  CHECK_FALSE(list.next_posted(self));
  CHECK(list.next(self).lane == &lane);
  CHECK(list.next(self).kind == ready_list::what::posted);

  const auto bell = std::make_shared<counted>();
  list.watch(bell);
  list.ring_next();
  CHECK_FALSE(list.next_posted(self));
  CHECK(list.next(self).kind == ready_list::what::posted);
  CHECK(bell->rung == 1);

  CHECK(list.next_posted(self));
  CHECK(list.size() == 1);
  list.stop();
  CHECK_FALSE(list.next_posted(self));
  CHECK_FALSE(list.push_posted());
  CHECK(list.next(self).kind == ready_list::what::stopped);
  CHECK(list.size() == 1);
  list.leave(self);
}

TEST_CASE("an item is run by one worker for each time it was pushed, whoever pushes and whoever sleeps", "[O4][Q16]") {
  const time_limit limit;
  const auto gauge = GENERATE(spin_gauge(0ns), spin_gauge(20us), spin_gauge::adaptive(100us));
  ready_list list(gauge, penstock::real_clock());
  constexpr int items = 4, workers = 3;
  const int rounds = sanitized ? 300 : 5000;
  std::deque<item> all(items);
  std::atomic<bool> twice{false};
  std::vector<std::thread> threads;
  for (int w = 0; w < workers; ++w)
    threads.emplace_back([&] {
      ready_list::sleeper self;
      for (;;) {
        const auto found = list.next(self);
        if (found.kind == ready_list::what::stopped) return;
        if (found.kind == ready_list::what::posted) continue;
        auto& mine = *static_cast<item*>(found.lane);
        if (mine.queued.load() != 1) twice = true;
        const int run = ++mine.runs;
        if (run < rounds && run % 3 != 0) {
          list.push_again(mine);
          continue;
        }
        mine.queued.store(0);
        mine.queued.notify_all();
      }
    });
  std::vector<std::thread> pushers;
  for (auto& each : all)
    pushers.emplace_back([&] {
      while (each.runs < rounds) {
        each.queued.store(1);
        list.push(each);
        each.queued.wait(1);
      }
    });
  for (auto& each : pushers) each.join();
  list.stop();
  for (auto& each : threads) each.join();
  CHECK_FALSE(twice);
  for (const auto& each : all) CHECK(each.runs >= rounds);
}

TEST_CASE("one worker looks at a time, and what is pushed meanwhile is given to it and wakes nobody", "[O4]") {
  const time_limit limit;
  struct still final : penstock::clock {
    penstock::steady_time now() const noexcept override { return {}; }
  } time;
  ready_list list(spin_gauge(1h), time);  // by its clock, a look never ends
  constexpr int workers = 3;
  std::deque<ready_list::sleeper> sleepers(workers);
  std::deque<item> all(200);
  std::atomic<int> runs{0}, posted{0};
  std::vector<std::thread> threads;
  for (auto& self : sleepers)
    threads.emplace_back([&] {
      for (;;) {
        const auto found = list.next(self);
        if (found.kind == ready_list::what::stopped) return;
        if (found.kind == ready_list::what::posted) {
          ++posted;
          continue;
        }
        ++static_cast<item*>(found.lane)->number;  // not atomic: who pushes and who runs hand it to each other
        ++runs;
      }
    });
  const auto at_rest = [&] { return list.sleeping() == workers - 1 && list.size() == 0; };
  eventually(at_rest);
  for (int i = 0; i < 200; ++i) {
    all[static_cast<std::size_t>(i)].number = i;
    if (i % 4 == 0) REQUIRE(list.push_posted());
    if (i % 4 == 0) eventually([&] { return posted == i / 4 + 1; });
    list.push(all[static_cast<std::size_t>(i)]);
    eventually([&] { return runs == i + 1; });
    eventually(at_rest);
  }
  list.stop();
  for (auto& each : threads) each.join();
  for (int i = 0; i < 200; ++i) CHECK(all[static_cast<std::size_t>(i)].number == i + 1);
}

TEST_CASE("a worker that looks does so until it is given something, also after others have filled and emptied the list",
          "[O4]") {
  const time_limit limit;
  ready_list* looked_into = nullptr;
  item given;
  struct counted final : penstock::clock {
    ready_list*& list;
    item& given;
    mutable int looks = 0;
    mutable unsigned asleep = 0;
    counted(ready_list*& l, item& g) : list(l), given(g) {}
    penstock::steady_time now() const noexcept override {
      if (++looks == 100) {
        asleep = list->sleeping();
        list->push(given);
      }
      return penstock::steady_time(looks * 1us);
    }
  } time(looked_into, given);
  ready_list list(spin_gauge(1h), time);
  looked_into = &list;
  ready_list::sleeper self;
  std::deque<item> items(3);
  for (auto& each : items) list.push(each);
  for (auto& each : items) CHECK(list.next(self).lane == &each);
  CHECK(list.next(self).lane == &given);
  CHECK(time.looks >= 100);
  CHECK(time.asleep == 0);
  CHECK(list.size() == 0);
}

TEST_CASE("a worker that looks takes over what a turn has listed and does not come to itself", "[O4]") {
  const time_limit limit;
  ready_list list(spin_gauge(1h), penstock::real_clock());
  gate inside, release;
  struct long_turn final : penstock::runnable {
    ready_list* list = nullptr;
    item* listed = nullptr;
    gate* inside = nullptr;
    gate* release = nullptr;
    void run(unsigned) override {
      list->push_within(*listed);
      inside->open();
      release->wait();
    }
    void dropped() noexcept override {}
  } first;
  item second;
  first.list = &list;
  first.listed = &second;
  first.inside = &inside;
  first.release = &release;
  std::vector<std::thread> threads;
  for (int w = 0; w < 3; ++w)
    threads.emplace_back([&] {
      ready_list::sleeper self;
      for (;;) {
        const auto found = list.next(self);
        if (found.kind == ready_list::what::stopped) return;
        found.lane->run(1);
      }
    });
  list.push(first);
  inside.wait();
  eventually([&] { return second.runs == 1; });
  release.open();
  list.stop();
  for (auto& each : threads) each.join();
}

// --- timers
// ------------------------------------------------------------------------------------------------------------

namespace {
struct ring final : penstock::timer_node {
  record<int>* log = nullptr;
  int number = 0;
  std::atomic<int> fired{0};
};
}  // namespace

TEST_CASE("a closure is called, moved and destroyed once, whether it lies inside its wrapper or not", "[exec]") {
  using penstock::unique_function;
  const auto inside = [](const void* at, const auto& wrapper) {
    return !std::less<>()(at, &wrapper) && std::less<>()(at, &wrapper + 1);
  };
  int calls = 0;
  const int* at = nullptr;
  unique_function<int(int)> small([&calls, &at, own = 40](int more) mutable {
    ++calls;
    at = &own;
    return own += more;
  });
  CHECK(small(1) == 41);
  CHECK(inside(at, small));
  unique_function<int(int)> moved(std::move(small));
  CHECK_FALSE(small);
  CHECK(moved(1) == 42);
  CHECK(inside(at, moved));

  struct wide {
    int numbers[20] = {7};
  };
  unique_function<int(int)> large([&at, own = wide()](int which) mutable {
    at = own.numbers;
    return own.numbers[which];
  });
  CHECK(large(0) == 7);
  const int* const stays = at;
  moved = std::move(large);
  CHECK_FALSE(large);
  CHECK(moved(0) == 7);
  CHECK(at == stays);
  CHECK_FALSE(inside(at, moved));

  const auto alive = std::make_shared<int>(0);
  unique_function<long()> first([alive] { return alive.use_count(); });
  unique_function<long()> second([alive, only = std::make_unique<int>(1)] { return alive.use_count() + *only; });
  CHECK(second() == 4);
  first = std::move(second);
  CHECK(alive.use_count() == 2);
  auto& same = first;
  first = std::move(same);
  CHECK(first() == 3);
  second = std::move(first);
  CHECK(alive.use_count() == 2);
  second = nullptr;
  CHECK(alive.use_count() == 1);
  CHECK_FALSE(second);
}

TEST_CASE("whoever may take posted work gets some, however many take at once", "[exec]") {
  // A worker takes once for each piece that was pushed: a take that came back with nothing would leave one behind for ever.
  constexpr std::uint64_t pieces = 2'000'000;
  constexpr unsigned takers = 6;
  penstock::exec::posted_queue queue;
  std::atomic<std::int64_t> pushed{0};
  std::atomic<std::uint64_t> ran{0};
  std::atomic<std::uint64_t> empty{0};
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < takers; ++i)
    threads.emplace_back([&] {
      for (;;) {
        if (std::int64_t seen = pushed; seen > 0) {
          if (!pushed.compare_exchange_strong(seen, seen - 1)) continue;
          if (auto work = queue.pop())
            work();
          else
            ++empty;
        } else if (over) {
          return;
        } else {
          std::this_thread::yield();
        }
      }
    });
  std::uint64_t refused = 0;
  for (std::uint64_t i = 0; i < pieces; ++i) {
    penstock::unique_function<void()> work([&ran] { ++ran; });
    refused += queue.push(work) ? 0 : 1;
    ++pushed;
  }
  over = true;
  for (auto& thread : threads) thread.join();
  CHECK(refused == 0);
  CHECK(empty.load() == 0);
  CHECK(ran.load() == pieces);
  CHECK_FALSE(queue.pop());
}

TEST_CASE("the timer heap stays in order under random arming and disarming", "[exec]") {
  const time_limit limit;
  const std::uint64_t seed = std::random_device()();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  penstock::exec::timer_thread timers(penstock::real_clock());
  record<int> log;
  std::deque<ring> rings(200);
  const auto base = penstock::real_clock().now() + 150ms;
  const auto arm = [&](std::size_t i) {
    rings[i].log = &log;
    rings[i].number = static_cast<int>(i);
    rings[i].due = base + std::chrono::microseconds(i * 10);
    rings[i].fire = [](penstock::timer_node& node) noexcept {
      auto& self = static_cast<ring&>(node);
      ++self.fired;
      self.log->add(self.number);
    };
    return timers.arm(rings[i]) == errc::none;
  };
  std::set<int> armed;
  for (int step = 0; step < 3000; ++step) {
    const std::size_t i = random() % rings.size();
    if (armed.contains(static_cast<int>(i))) {
      if (!timers.disarm(rings[i])) break;  // a slow machine: they have begun to fire
      armed.erase(static_cast<int>(i));
    } else {
      REQUIRE(arm(i));
      armed.insert(static_cast<int>(i));
    }
  }
  log.wait_for(armed.size());
  const auto all = log.all();
  CHECK(std::is_sorted(all.begin(), all.end()));
  for (const auto& each : rings) CHECK(each.fired <= 1);
  for (auto& each : rings) CHECK_FALSE(timers.disarm(each));
  timers.stop();
  ring late;
  late.fire = [](penstock::timer_node&) noexcept {};
  CHECK(timers.arm(late) == errc::closed);
}

TEST_CASE("a timer is either disarmed or fires, never both, when the two race", "[exec][Q11]") {
  const time_limit limit;
  static std::atomic<int> fired;  // outlives each round: the timer thread still notifies when the round is over
  fired = 0;
  penstock::exec::timer_thread timers(penstock::real_clock());
  int expected = 0;
  for (int i = 0; i < (sanitized ? 200 : 3000); ++i) {
    ring each;
    each.due = penstock::real_clock().now() + std::chrono::microseconds(i % 20);
    each.fire = [](penstock::timer_node&) noexcept {
      ++fired;
      fired.notify_all();
    };
    REQUIRE(timers.arm(each) == errc::none);
    if (!timers.disarm(each)) fired.wait(expected++);
    REQUIRE(fired == expected);
  }
}

// --- the versions of a topic
// -------------------------------------------------------------------------------------------

TEST_CASE("a topic renews its version and uses slots again while publishes, joins and leaves go on", "[bus]") {
  const time_limit limit;
  struct tick {
    int value = 0;
  };
  auto environment = penstock::real_environment();
  auto pool = environment->make_pool("default", penstock::worker_pool_options().threads(2));
  {
    auto* core = new penstock::detail::bus_core(environment, pool, {});
    const penstock::event_bus watched(core);
    auto topic = core->open_topic(penstock::detail::describe_event<tick>());
    topic->renew_after(4);
    core->keep_topic(*topic);
    const penstock::publisher<tick> publisher(penstock::detail::topic_handle(decltype(topic)(topic).release()));
    std::atomic<std::uint64_t> handled{0};
    auto constant = watched.subscribe<tick>("constant", [&](const tick&) { ++handled; });
    const int rounds = sanitized ? 300 : 3000;
    std::atomic<std::uint64_t> unmatched{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < rounds; ++i)
          if (publisher.publish({i}).matched() == 0) ++unmatched;
      });
    threads.emplace_back([&] {
      for (int i = 0; i < rounds / 4; ++i) auto brief = watched.subscribe<tick>("brief", [](const tick&) {});
    });
    for (auto& each : threads) each.join();
    CHECK(unmatched == 0);
    REQUIRE(watched.wait_idle(25s));
    CHECK(handled == 2 * static_cast<std::uint64_t>(rounds));
    CHECK(constant.close() == penstock::close_status::closed);
    CHECK(publisher.publish({1}).matched() == 0);
    core->drop_topic(*topic);
  }
  CHECK(environment->stop_pools(penstock::no_deadline) == 0);
}
