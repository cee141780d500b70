// Lanes that copy ahead of their calls, under many threads at once, on topics that keep times: each event has one fate, in
// order, with its own time. Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"
#include "scale.hpp"

#include <penstock/penstock.hpp>

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

using namespace penstock_test;
using penstock::close_mode;
using penstock::close_status;
using penstock::errc;
using penstock::overflow;
using penstock::publish_result;
using penstock::steady_time;
using penstock::subscribe_options;

namespace {

/// In place. It carries the time at which its publish began.
struct plain {
  std::uint32_t producer;
  std::uint32_t number;
  std::int64_t made;
  plain(std::uint32_t by, std::uint32_t n, std::int64_t at) : producer(by), number(n), made(at) {}
  static std::int64_t live() { return 0; }
};

/// In a block, which is counted.
struct counted {
  std::uint32_t producer;
  std::uint32_t number;
  std::int64_t made;
  counted(std::uint32_t by, std::uint32_t n, std::int64_t at) : producer(by), number(n), made(at) { ++alive; }
  counted(const counted& other) : counted(other.producer, other.number, other.made) {}
  counted& operator=(const counted&) = delete;
  ~counted() { --alive; }
  static std::int64_t live() { return alive.load(); }
  static inline std::atomic<std::int64_t> alive{0};
};

std::int64_t ticks(steady_time at) { return at.time_since_epoch().count(); }

constexpr std::uint32_t most_producers = 4;

/// A subscription that ends at any moment. Its lane and whoever ends it take turns: the close is between them.
template <class Event>
struct member {
  // Of each producer the number of an event, and 1: the last one. What is given back is, while the last call goes on.
  std::array<std::int64_t, most_producers> last_handled{}, first_given{}, last_given{};
  std::array<std::int64_t, most_producers> last_told{};
  std::uint64_t handled = 0, given_back = 0, broken = 0, broken_given = 0, lost = 0;
  penstock::subscription sub;

  template <class Topic>
  void join(const penstock::runtime& rt, const Topic& topic, std::size_t capacity, overflow policy, bool hook) {
    // A stamp is taken within the publish: not before the event was made, and not later than it is looked at.
    const auto right = [&rt](const Event& e, steady_time at) {
      return ticks(at) >= e.made && ticks(at) <= ticks(rt.time().now());
    };
    auto options = subscribe_options().capacity(capacity).overflow(policy);
    if (hook) {
      options.template on_undelivered<Event>([this, right](const Event& e, const penstock::undelivered& what) {
        const std::int64_t number = std::int64_t{e.number} + 1;
        if (!right(e, what.published()) || number <= last_given[e.producer]) ++broken_given;
        if (first_given[e.producer] == 0) first_given[e.producer] = number;
        last_given[e.producer] = number;
        ++given_back;
      });
    }
    sub = topic.subscribe("member", std::move(options), [this, right](const Event& e, const penstock::call& call) {
      // Of one producer the times go up as its events do.
      const std::int64_t number = std::int64_t{e.number} + 1;
      if (!right(e, call.published()) || number <= last_handled[e.producer] ||
          ticks(call.published()) < last_told[e.producer])
        ++broken;
      last_handled[e.producer] = number;
      last_told[e.producer] = ticks(call.published());
      lost += call.dropped_before();
      ++handled;
    });
  }
  std::string end(close_mode mode, bool hook) {
    const bool closed = sub.close(mode) == close_status::closed;
    broken += broken_given;
    for (std::uint32_t p = 0; p < most_producers; ++p)
      if (first_given[p] != 0 && first_given[p] <= last_handled[p]) ++broken;
    const penstock::ledger l = sub.ledger();
    const std::uint64_t missed = l.dropped + l.rejected.full + l.evicted;
    const bool good = closed && l.balanced() && l.quiescent() && l.handled == handled && broken == 0 &&
                      (!hook || l.discarded == given_back) && l.accepted == l.handled + l.discarded + l.evicted && lost <= missed;
    return good ? std::string()
                : "handled " + std::to_string(handled) + ", given back " + std::to_string(given_back) + ", broken " +
                      std::to_string(broken) + ", told of " + std::to_string(lost) + " losses; " + to_string(l);
  }
};

template <class Event>
void run(std::uint32_t producers, std::size_t members, std::uint64_t seed, std::uint64_t& ended_early) {
  INFO(producers << " producers, " << members << " members, seed " << seed);
  constexpr int ends = sanitized ? 10 : 30;  // of subscriptions, under traffic
  std::string odd;
  std::uint64_t matched = 0, accepted = 0, dropped = 0, rejected = 0, without_fate = 0;
  {
    penstock::runtime rt(
        penstock::runtime_options().pool("default", penstock::worker_pool_options().threads(3).budget(37)));
    const auto open = [&rt] {
      return rt.bus().topic<Event>(penstock::topic_options().name("timed").metadata(penstock::metadata::precise));
    };
    const auto topic = open();
    constexpr overflow policies[] = {overflow::block, overflow::drop_newest, overflow::fail, overflow::drop_oldest};
    constexpr close_mode modes[] = {close_mode::stop_now, close_mode::drain, close_mode::cancel, close_mode::stop_now};
    std::mt19937_64 random(seed);
    struct place {
      std::unique_ptr<member<Event>> now;
      bool hook = false;
    };
    std::vector<place> places(members);
    // What a publish that goes on meanwhile is refused is counted when it says so: they are added up when all have returned.
    std::vector<penstock::subscription> ended;
    const auto join = [&](place& p) {
      p.now = std::make_unique<member<Event>>();
      p.hook = random() % 2 == 0;
      const std::size_t capacity = random() % 4 == 0 ? 1 + random() % 20 : 34 + random() % 200;
      p.now->join(rt, open(), capacity, policies[random() % 4], p.hook);
    };
    const auto end = [&](place& p, close_mode mode) {
      const std::string wrong = p.now->end(mode, p.hook);
      if (!wrong.empty()) odd = wrong;
      const penstock::ledger l = p.now->sub.ledger();
      if (l.discarded > 0 && l.handled > 0) ++ended_early;
      ended.push_back(std::move(p.now->sub));
    };
    for (place& p : places) join(p);
    std::atomic<bool> over{false};
    std::vector<std::array<std::uint64_t, 5>> sums(producers);
    std::vector<std::thread> threads;
    for (std::uint32_t p = 0; p < producers; ++p)
      threads.emplace_back([&, p] {
        std::mt19937_64 mine(seed + 1 + p);
        const auto out = topic.publisher();
        auto& sum = sums[p];
        for (std::uint32_t i = 0; !over;) {
          publish_result result;
          if (mine() % 32 == 0) {
            std::vector<Event> span;
            const auto most = static_cast<std::uint32_t>(mine() % 40);
            span.reserve(most + 1);
            const std::int64_t made = ticks(rt.time().now());
            for (std::uint32_t j = 0; j <= most; ++j) span.emplace_back(p, i++, made);
            result = out.publish_many(std::span<const Event>(span));
          } else {
            result = out.publish(Event(p, i++, ticks(rt.time().now())));
          }
          sum[0] += result.matched();
          sum[1] += result.accepted();
          sum[2] += result.dropped();
          sum[3] += result.rejected();
          if (result.matched() != result.accepted() + result.dropped() + result.rejected()) ++sum[4];
        }
      });
    const std::uint64_t wanted = ended_early + 4;
    for (int i = 0; i < ends || (ended_early < wanted && i < 50 * ends); ++i) {
      place& p = places[random() % members];
      const std::uint64_t until = p.now->sub.ledger().handled + random() % 300;
      while (p.now->sub.ledger().handled < until) std::this_thread::yield();
      end(p, modes[random() % 4]);
      join(p);
    }
    over = true;
    for (auto& thread : threads) thread.join();
    for (place& p : places) end(p, close_mode::drain);
    std::uint64_t offered = 0, seated = 0, lost = 0, refused = 0;
    for (const auto& sub : ended) {
      const penstock::ledger l = sub.ledger();
      offered += l.offered;
      seated += l.accepted;
      lost += l.dropped;
      refused += l.rejected.total();
    }
    for (const auto& sum : sums) {
      matched += sum[0];
      accepted += sum[1];
      dropped += sum[2];
      rejected += sum[3];
      without_fate += sum[4];
    }
    CHECK(odd == "");
    CHECK(without_fate == 0);
    CHECK(matched == offered);
    CHECK(accepted == seated);
    CHECK(dropped == lost);
    CHECK(rejected == refused);
  }
  CHECK(Event::live() == 0);
}

template <class Event>
void run_all() {
  const time_limit limit(sanitized ? 300 : 120);
  const std::uint64_t seed = seed_of_run();
  INFO("seed " << seed << ": PENSTOCK_TEST_SEED");
  std::uint64_t ended_early = 0;
  for (const std::uint32_t producers : {1U, 4U})
    for (const std::size_t members : {1U, 3U}) run<Event>(producers, members, seed, ended_early);
  // Else this was no test of what is copied and not begun.
  CHECK(ended_early > 10);
}

}  // namespace

TEST_CASE("subscriptions that end at any moment while their lanes have copies in hand account for each event in place",
          "[stress][read_ahead]") {
  static_assert(std::is_trivially_copyable_v<plain>);
  run_all<plain>();
}

TEST_CASE("subscriptions that end at any moment while their lanes have copies in hand account for each block",
          "[stress][read_ahead]") {
  run_all<counted>();
}
