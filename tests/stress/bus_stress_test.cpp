// The bus under many threads at once: nothing is lost, nothing is repeated, nothing hangs, and every ledger balances.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"
#include "scale.hpp"

#include <penstock/penstock.hpp>

#include <atomic>
#include <cstdint>
#include <latch>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::close_mode;
using penstock::close_status;
using penstock::drop_reason;
using penstock::errc;
using penstock::overflow;
using penstock::publish_result;
using penstock::runtime_options;
using penstock::subscribe_options;
using penstock::worker_pool_options;

namespace {

struct numbered {
  std::uint32_t producer = 0;
  std::uint32_t number = 0;
};
struct hop {
  std::uint64_t number = 0;
};

runtime_options workers(unsigned count, unsigned budget = 64) {
  return runtime_options()
      .pool("default", worker_pool_options().threads(count).budget(budget))
      .on_failure([](const penstock::failure&) {});
}

constexpr unsigned stress_limit = sanitized ? 300 : 120;

}  // namespace

TEST_CASE("many producers and many subscribers that join and leave lose nothing and keep each producer's order",
          "[stress][O1][laws]") {
  const time_limit limit(stress_limit);
  const std::uint64_t seed = seed_of_run();
  INFO("seed " << seed << ": PENSTOCK_TEST_SEED");
  penstock::runtime rt(workers(3, 5));
  constexpr std::uint32_t producers = 4;
  const auto each = static_cast<std::uint32_t>(scaled(50'000));
  struct listener {
    std::uint32_t next[producers] = {};
    std::uint64_t handled = 0;
    std::atomic<std::uint64_t> dropped{0}, evicted{0};
    bool in_order = true, gaps_allowed = false;
    penstock::subscription sub;
  };
  std::mutex ended_mutex;
  // What a publish that goes on meanwhile is refused may be counted after the close: they are added up when all have
  // returned.
  std::vector<penstock::subscription> ended;
  bool all_in_order = true;
  std::string odd;  // one ledger that is not as the test counted
  const auto join = [&](listener& l, overflow policy, std::size_t capacity) {
    l.gaps_allowed = true;
    auto options = subscribe_options().overflow(policy).on_drop<numbered>(
        [&l](const numbered&, drop_reason why) noexcept { ++(why == drop_reason::oldest ? l.evicted : l.dropped); });
    if (policy != overflow::latest) options.capacity(capacity);
    l.sub = rt.bus().subscribe<numbered>("listener", std::move(options), [&l](const numbered& e) {
      std::uint32_t& next = l.next[e.producer];
      l.in_order = l.in_order && (l.gaps_allowed ? e.number >= next : e.number == next);
      next = e.number + 1;
      ++l.handled;
    });
  };
  const auto leave = [&](listener& l, close_mode mode) {
    const bool closed = l.sub.close(mode) == close_status::closed;
    const auto ledger = l.sub.ledger();
    const std::lock_guard lock(ended_mutex);
    all_in_order = all_in_order && l.in_order;
    const bool good = closed && ledger.balanced() && ledger.quiescent() && ledger.handled == l.handled &&
                      ledger.dropped >= l.dropped && ledger.evicted >= l.evicted;
    if (!good)
      odd = "handled " + std::to_string(l.handled) + ", told of " + std::to_string(l.dropped) + " dropped and " +
            std::to_string(l.evicted) + " evicted; " + to_string(ledger);
    ended.push_back(std::move(l.sub));
  };

  listener constant[3];
  const std::size_t capacities[] = {1, 7, 512};
  for (std::size_t i = 0; i < 3; ++i) {
    join(constant[i], overflow::block, capacities[i]);
    constant[i].gaps_allowed = false;
  }
  std::atomic<std::uint64_t> matched{0}, lost{0};
  std::atomic<std::uint32_t> running{producers};
  std::vector<std::thread> threads;
  for (std::uint32_t p = 0; p < producers; ++p)
    threads.emplace_back([&, p] {
      std::mt19937_64 random(seed + p);
      const auto publisher = rt.bus().publisher<numbered>();
      std::uint64_t mine = 0;
      for (std::uint32_t i = 0; i < each;) {
        publish_result result;
        if (random() % 8 == 0) {
          std::vector<numbered> span;
          for (std::uint32_t j = 0; j < 10 && i + j < each; ++j) span.push_back({p, i + j});
          i += static_cast<std::uint32_t>(span.size());
          result = publisher.publish_many(span);
        } else {
          result = publisher.publish({p, i++});
        }
        mine += result.matched();
        if (result.matched() != result.accepted() + result.dropped() + result.rejected()) ++lost;
      }
      matched += mine;
      --running;
    });
  for (unsigned t = 0; t < 2; ++t)
    threads.emplace_back([&, t] {
      std::mt19937_64 random(seed + 100 + t);
      constexpr overflow policies[] = {overflow::block, overflow::fail, overflow::drop_newest, overflow::drop_oldest,
                                       overflow::latest};
      constexpr close_mode modes[] = {close_mode::stop_now, close_mode::drain, close_mode::cancel};
      while (running > 0) {
        listener brief;
        join(brief, policies[random() % 5], random() % 20 + 1);
        for (auto turns = random() % 50; turns > 0; --turns) std::this_thread::yield();
        leave(brief, modes[random() % 3]);
      }
    });
  for (auto& thread : threads) thread.join();
  for (listener& l : constant) leave(l, close_mode::drain);
  std::uint64_t offered = 0;
  for (const auto& sub : ended) offered += sub.ledger().offered;
  CHECK(lost == 0);
  CHECK(all_in_order);
  CHECK(odd == "");
  CHECK(matched == offered);
  for (const listener& l : constant) CHECK(l.handled == std::uint64_t{producers} * each);
}

TEST_CASE("each drop is told once, also while close races with the publishers", "[stress][C2][S7]") {
  const time_limit limit(stress_limit);
  const overflow policy = GENERATE(overflow::drop_newest, overflow::drop_oldest);
  penstock::runtime rt(workers(2));
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&] {
      const auto publisher = rt.bus().publisher<hop>();
      while (!over) publisher.publish({1});
    });
  std::vector<penstock::subscription> ended;
  std::uint64_t told_in_all = 0;
  const int rounds = scaled(800);
  for (int round = 0; round < rounds; ++round) {
    std::atomic<std::uint64_t> told{0};
    auto options = subscribe_options().capacity(1).overflow(policy).on_drop<hop>(
        [&](const hop&, drop_reason) noexcept { ++told; });
    auto sub = rt.bus().subscribe<hop>("dropping", std::move(options), [](const hop&) {});
    for (int i = 0; i < round % 8; ++i) std::this_thread::yield();
    (void)sub.close();
    told_in_all += told;  // nobody is told after the end
    ended.push_back(std::move(sub));
  }
  over = true;
  for (auto& thread : threads) thread.join();
  std::uint64_t counted = 0;
  for (const auto& sub : ended) {
    const auto ledger = sub.ledger();
    counted += ledger.dropped + ledger.evicted;
  }
  CHECK(counted == told_in_all);
}

TEST_CASE("a publish that races with close is either offered and accounted for, or not matched", "[stress][S3][T13]") {
  const time_limit limit(stress_limit);
  penstock::runtime rt(workers(2));
  const int rounds = scaled(2'000);
  std::atomic<std::uint64_t> matched{0}, accepted{0};
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&] {
      const auto publisher = rt.bus().publisher<hop>();
      while (!over) {
        const auto result = publisher.publish({1});
        matched += result.matched();
        accepted += result.accepted();
      }
    });
  std::vector<penstock::subscription> ended;
  std::uint64_t wrong = 0;
  constexpr close_mode modes[] = {close_mode::stop_now, close_mode::drain, close_mode::cancel};
  for (int round = 0; round < rounds; ++round) {
    auto handled = std::make_shared<std::uint64_t>(0);
    auto sub = rt.bus().subscribe<hop>("raced", subscribe_options().capacity(static_cast<std::size_t>(round % 5) + 1),
                                       [handled](const hop&) { ++*handled; });
    for (int i = 0; i < round % 8; ++i) std::this_thread::yield();
    if (sub.close(modes[round % 3]) != close_status::closed) ++wrong;
    if (handled.use_count() != 1) ++wrong;  // the closure is gone
    const auto ledger = sub.ledger();
    if (!ledger.balanced() || !ledger.quiescent() || ledger.handled != *handled) ++wrong;
    ended.push_back(std::move(sub));
  }
  over = true;
  for (auto& thread : threads) thread.join();
  std::uint64_t offered = 0, seated = 0;
  for (const auto& sub : ended) {
    const auto ledger = sub.ledger();
    offered += ledger.offered;
    seated += ledger.accepted;
  }
  CHECK(wrong == 0);
  CHECK(matched == offered);
  CHECK(accepted == seated);
}

TEST_CASE("a cancel that races with the grant of a seat: the seat is used once or given back", "[stress][C4][Q11]") {
  const time_limit limit(stress_limit);
  penstock::runtime rt(workers(2));
  std::atomic<std::uint64_t> handled{0};
  auto sub = rt.bus().subscribe<hop>("narrow", subscribe_options().capacity(1), [&](const hop&) { ++handled; });
  const int rounds = scaled(50'000);
  std::atomic<std::uint64_t> accepted{0}, cancelled{0}, timed_out{0}, odd{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      const auto publisher = rt.bus().publisher<hop>();
      std::mt19937 random(t);
      for (int i = 0; i < rounds; ++i) {
        publish_result result;
        if (t == 0) {
          result = publisher.publish_for(std::chrono::microseconds(random() % 30), hop{1});
        } else if (t == 1 && i % 16 == 0) {
          std::stop_source source;
          std::thread canceller([&] { source.request_stop(); });
          result = publisher.publish(hop{1}, source.get_token());
          canceller.join();
        } else {
          result = publisher.publish({1});
        }
        accepted += result.accepted();
        if (result.accepted() + result.rejected() != 1) ++odd;
        if (result.error() == errc::cancelled) ++cancelled;
        if (result.error() == errc::timed_out) ++timed_out;
      }
    });
  for (auto& thread : threads) thread.join();
  REQUIRE(rt.bus().wait_idle(25s));
  const auto ledger = sub.ledger();
  CHECK(odd == 0);
  CHECK(accepted == handled);
  CHECK(ledger.rejected.cancelled == cancelled);
  CHECK(ledger.rejected.timed_out == timed_out);
  CHECK(ledger.balanced());
  CHECK(rt.bus().publisher<hop>().try_publish({1}).accepted() == 1);  // the one seat is there
  CHECK(ledger.offered == 3 * static_cast<std::uint64_t>(rounds));
}

TEST_CASE("runtimes start, work and shut down in several threads at once, cycle after cycle", "[stress][shutdown]") {
  const time_limit limit(stress_limit);
  const int cycles = scaled(50);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      for (int cycle = 0; cycle < cycles; ++cycle) {
        std::atomic<int> handled{0};
        std::vector<penstock::subscription> outliving;
        penstock::publisher<hop> publisher;
        {
          penstock::runtime rt(workers(2));
          publisher = rt.bus().publisher<hop>();
          for (int i = 0; i < 3; ++i)
            outliving.push_back(
                rt.bus().subscribe<hop>("cycle", subscribe_options().capacity(4), [&](const hop&) { ++handled; }));
          std::thread other([&] {
            while (publisher.publish({1}).error() == errc::none) {
            }
          });
          for (int i = 0; i < 50; ++i) publisher.publish({1});
          if ((cycle + t) % 2 == 0 && !rt.shutdown(20s).clean()) ++wrong;
          if ((cycle + t) % 2 != 0) (void)rt.shutdown(0s);
          other.join();
        }
        if (publisher.publish({1}).error() != errc::closed) ++wrong;
        std::uint64_t sum = 0;
        for (auto& each : outliving) {
          if (!each.ledger().balanced() || each.close() != close_status::closed) ++wrong;
          sum += each.ledger().handled;
        }
        if (sum != static_cast<std::uint64_t>(handled.load())) ++wrong;
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("a pipeline of capacity-1 stages on few workers hands every event on in order", "[stress][P3][P5]") {
  const time_limit limit(stress_limit);
  const unsigned count = GENERATE(1U, 2U, 3U);
  penstock::runtime rt(workers(count, 2));
  struct s1 {
    std::uint64_t number;
  };
  struct s2 {
    std::uint64_t number;
  };
  struct s3 {
    std::uint64_t number;
  };
  struct s4 {
    std::shared_ptr<std::uint64_t> number;
  };
  const auto narrow = [] { return subscribe_options().capacity(1); };
  const auto p2 = rt.bus().publisher<s2>();
  const auto p3 = rt.bus().publisher<s3>();
  const auto p4 = rt.bus().publisher<s4>();
  std::uint64_t next = 0, out_of_order = 0;
  auto last = rt.bus().subscribe<s4>("last", narrow(), [&](const s4& e) { out_of_order += *e.number != next++; });
  auto third = rt.bus().subscribe<s3>("third", narrow(),
                                      [&](const s3& e) { p4.publish(s4{std::make_shared<std::uint64_t>(e.number)}); });
  auto second = rt.bus().subscribe<s2>("second", narrow(), [&](const s2& e) { p3.emplace(e.number); });
  auto first = rt.bus().subscribe<s1>("first", narrow(), [&](const s1& e) { p2.emplace(e.number); });
  const auto events = static_cast<std::uint64_t>(scaled(100'000));
  const auto in = rt.bus().publisher<s1>();
  for (std::uint64_t i = 0; i < events; ++i) in.publish({i});
  REQUIRE(rt.bus().wait_idle(60s));
  CHECK(next == events);
  CHECK(out_of_order == 0);
  CHECK(rt.shutdown(25s).clean());
}

TEST_CASE("two stages of capacity 1 that play ping-pong lose no ball", "[stress][P3][O4]") {
  const time_limit limit(stress_limit);
  struct ping {
    int left;
  };
  struct pong {
    int left;
  };
  penstock::runtime rt(workers(2, 1));
  const auto pings = rt.bus().publisher<ping>();
  const auto pongs = rt.bus().publisher<pong>();
  std::atomic<std::uint64_t> turns{0};
  gate over;
  auto a = rt.bus().subscribe<ping>("a", subscribe_options().capacity(1),
                                    [&](const ping& e) { ++turns, pongs.publish({e.left}); });
  auto b = rt.bus().subscribe<pong>("b", subscribe_options().capacity(1), [&](const pong& e) {
    if (e.left == 0)
      over.open();
    else
      pings.publish({e.left - 1});
  });
  const int rounds = scaled(300'000);
  pings.publish({rounds});
  over.wait();
  CHECK(turns == static_cast<std::uint64_t>(rounds) + 1);
}

TEST_CASE("concurrency n never exceeds n calls, and every event is handled once", "[stress][O2]") {
  const time_limit limit(stress_limit);
  const unsigned lanes = GENERATE(2U, 3U, 7U);
  const std::size_t capacity = GENERATE(1, 50);
  penstock::runtime rt(workers(4, 3));
  std::atomic<unsigned> inside{0};
  std::atomic<bool> exceeded{false};
  const auto events = static_cast<std::uint32_t>(scaled(20'000));
  std::vector<std::atomic<std::uint8_t>> seen(2 * events);
  auto sub = rt.bus().subscribe<numbered>("wide", subscribe_options().concurrency(lanes).capacity(capacity),
                                          [&](const numbered& e) {
                                            if (inside.fetch_add(1) + 1 > lanes) exceeded = true;
                                            ++seen[e.producer * events + e.number];
                                            inside.fetch_sub(1);
                                          });
  std::vector<std::thread> producers;
  for (std::uint32_t p = 0; p < 2; ++p)
    producers.emplace_back([&, p] {
      for (std::uint32_t i = 0; i < events; ++i) rt.bus().publish(numbered{p, i});
    });
  for (auto& each : producers) each.join();
  REQUIRE(sub.close(close_mode::drain) == close_status::closed);
  CHECK_FALSE(exceeded);
  bool once = true;
  for (const auto& each : seen) once = once && each == 1;
  CHECK(once);
  CHECK(sub.ledger().handled == 2 * std::uint64_t{events});
}

TEST_CASE("lanes that go to sleep while events come are always woken", "[stress][O4][Q16]") {
  const time_limit limit(stress_limit);
  const unsigned lanes = GENERATE(1U, 3U);
  const auto strategy =
      GENERATE(penstock::wait_strategy::park, penstock::wait_strategy::spin_then_park, penstock::wait_strategy::adaptive);
  penstock::runtime rt(runtime_options().pool("default", worker_pool_options().threads(2).wait(strategy)));
  std::atomic<std::uint64_t> handled{0};
  auto sub = rt.bus().subscribe<hop>("sleeper", subscribe_options().concurrency(lanes), [&](const hop&) {
    ++handled;
    handled.notify_all();
  });
  const auto publisher = rt.bus().publisher<hop>();
  const auto rounds = static_cast<std::uint64_t>(scaled(15'000));
  for (std::uint64_t i = 0; i < rounds; ++i) {
    publisher.publish({i});
    for (std::uint64_t now = handled; now <= i; now = handled) handled.wait(now);  // hangs if a wake-up was lost
  }
  CHECK(handled == rounds);
}

TEST_CASE("subscriptions are closed by their own and each other's handlers under load, and all end",
          "[stress][S2][S3][D4]") {
  const time_limit limit(stress_limit);
  penstock::runtime rt(workers(3));
  const int rounds = scaled(20'000);
  std::atomic<int> destroyed{0};
  struct counted {
    std::atomic<int>* count;
    explicit counted(std::atomic<int>& c) : count(&c) {}
    counted(counted&& other) noexcept : count(std::exchange(other.count, nullptr)) {}
    ~counted() {
      if (count != nullptr) ++*count;
    }
  };
  std::jthread traffic([&](std::stop_token stop) {
    const auto publisher = rt.bus().publisher<hop>();
    while (!stop.stop_requested()) publisher.publish({1});
  });
  for (int round = 0; round < rounds; ++round) {
    struct pair {
      std::latch ready{1};
      penstock::subscription one, two;
    };
    auto both = std::make_shared<pair>();
    const auto handler = [&](bool first) {
      return [&, first, both, mark = counted(destroyed)](const hop&) {
        both->ready.wait();
        (void)(first ? both->two : both->one).close();
        if (!first) both->two.stop();
      };
    };
    both->one = rt.bus().subscribe<hop>("one", subscribe_options().capacity(2), handler(true));
    both->two = rt.bus().subscribe<hop>("two", subscribe_options().capacity(2), handler(false));
    both->ready.count_down();
    if (round % 3 == 0) (void)both->one.close();
    eventually([&] {
      return both->one.close_for(1h) == close_status::closed && both->two.close_for(1h) == close_status::closed;
    });
  }
  traffic.request_stop();
  traffic.join();
  CHECK(destroyed == 2 * rounds);
  CHECK(rt.bus().subscriptions().empty());
}
