// The log that the subscriptions of a topic share, under many threads at once: nothing is lost, nothing is repeated,
// and every ledger balances. Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/core_of.hpp"
#include "../support/gate.hpp"
#include "scale.hpp"

#include <penstock/penstock.hpp>

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <span>
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

/// In place: torn if its last member does not fit the others.
struct plain {
  std::uint32_t producer = 0;
  std::uint32_t number = 0;
  std::uint64_t between[5] = {};
  std::uint64_t check = 0;
  plain(std::uint32_t by, std::uint32_t n) : producer(by), number(n), check(mixed()) {}
  std::uint64_t mixed() const { return (std::uint64_t{producer} << 32 | number) * 0x9e3779b97f4a7c15U; }
  bool whole() const { return check == mixed(); }
  static std::int64_t live() { return 0; }
};

/// In a block, which is counted.
struct counted {
  std::uint32_t producer = 0;
  std::uint32_t number = 0;
  std::uint64_t check = 0;
  counted(std::uint32_t by, std::uint32_t n) : producer(by), number(n), check(std::uint64_t{by} << 32 | n) { ++alive; }
  counted(const counted& other) : counted(other.producer, other.number) {}
  counted& operator=(const counted&) = delete;
  ~counted() {
    check = ~check;
    --alive;
  }
  bool whole() const { return check == (std::uint64_t{producer} << 32 | number); }
  static std::int64_t live() { return alive.load(); }
  static inline std::atomic<std::int64_t> alive{0};
};

enum : std::uint32_t { waits, tries, limited, spans, producers };  // how each of them publishes

template <class Event>
struct listener {
  std::uint32_t next[producers] = {};
  std::uint64_t handled = 0;
  std::uint64_t broken = 0;  // out of order, twice, torn; or missing, where none may be
  std::atomic<std::uint64_t> told{0};
  bool complete = false;  // it was there from the beginning, and nobody who waits is refused
  penstock::subscription sub;

  void join(const penstock::event_bus& bus, overflow policy, std::size_t capacity) {
    auto options = subscribe_options().capacity(capacity).overflow(policy);
    if (policy == overflow::drop_newest)
      options.template on_drop<Event>([this](const Event& e, drop_reason why) noexcept {
        if (why == drop_reason::newest && e.whole()) ++told;
      });
    sub = bus.subscribe<Event>("listener", std::move(options), [this](const Event& e) {
      const bool in_order = complete && (e.producer == waits || e.producer == spans) ? e.number == next[e.producer]
                                                                                     : e.number >= next[e.producer];
      if (!in_order || !e.whole()) ++broken;
      next[e.producer] = e.number + 1;
      ++handled;
    });
  }
};

struct totals {
  std::uint64_t matched = 0, accepted = 0, dropped = 0, rejected = 0, without_fate = 0, wrong_error = 0;
  void add(const publish_result& result, errc allowed) {
    matched += result.matched();
    accepted += result.accepted();
    dropped += result.dropped();
    rejected += result.rejected();
    if (result.matched() != result.accepted() + result.dropped() + result.rejected()) ++without_fate;
    // Who waits for a subscription that ends is told so.
    if (result.error() != errc::none && result.error() != errc::closed && result.error() != allowed) ++wrong_error;
  }
  void add(const totals& other) {
    matched += other.matched;
    accepted += other.accepted;
    dropped += other.dropped;
    rejected += other.rejected;
    without_fate += other.without_fate;
    wrong_error += other.wrong_error;
  }
};

template <class Event>
void run_traffic() {
  const time_limit limit(sanitized ? 300 : 120);
  const std::uint64_t seed = seed_of_run();
  INFO("seed " << seed << ": PENSTOCK_TEST_SEED");
  const auto each = static_cast<std::uint32_t>(scaled(80'000, 5));
  {
    penstock::runtime rt(runtime_options().pool("default", worker_pool_options().threads(3).budget(7)));
    std::array<listener<Event>, 8> constant;
    constexpr std::pair<overflow, std::size_t> kinds[] = {
        {overflow::block, 1},  {overflow::block, 7},       {overflow::block, 512}, {overflow::fail, 4},
        {overflow::fail, 100}, {overflow::drop_newest, 1}, {overflow::block, 2},   {overflow::drop_newest, 32}};
    for (std::size_t i = 0; i < constant.size(); ++i) {
      constant[i].complete = kinds[i].first == overflow::block;
      constant[i].join(rt.bus(), kinds[i].first, kinds[i].second);
    }
    std::mutex m;
    totals published;
    std::string odd;  // one ledger that is not as the test counted
    // What a publish that goes on meanwhile is refused may be counted after the close: they are added up when all have
    // returned.
    std::vector<penstock::subscription> ended;
    const auto end = [&](listener<Event>& l, close_mode mode) {
      const bool closed = l.sub.close(mode) == close_status::closed;
      const penstock::ledger counted = l.sub.ledger();
      const std::lock_guard lock(m);
      const bool good = closed && counted.balanced() && counted.quiescent() && counted.handled == l.handled &&
                        l.broken == 0 && counted.dropped == l.told &&
                        (mode != close_mode::drain || counted.discarded == 0);
      if (!good) {
        odd = "handled " + std::to_string(l.handled) + ", broken " + std::to_string(l.broken) + ", told of " +
              std::to_string(l.told) + " drops; " + to_string(counted);
      }
      ended.push_back(std::move(l.sub));
    };
    std::atomic<std::uint32_t> running{producers};
    std::vector<std::thread> threads;
    for (std::uint32_t p = 0; p < producers; ++p)
      threads.emplace_back([&, p] {
        std::mt19937_64 random(seed + p);
        const auto publisher = rt.bus().publisher<Event>();
        totals mine;
        for (std::uint32_t i = 0; i < each;) {
          switch (p) {
            case waits:
              mine.add(publisher.publish(Event(p, i++)), errc::none);
              break;
            case tries:
              mine.add(publisher.try_publish(Event(p, i++)), errc::none);
              break;
            case limited:
              mine.add(publisher.publish_for(std::chrono::microseconds(random() % 100), Event(p, i++)),
                       errc::timed_out);
              break;
            default: {
              std::vector<Event> span;
              const auto most = static_cast<std::uint32_t>(random() % 30);
              span.reserve(most + 1);
              for (std::uint32_t j = 0; j <= most && i < each; ++j) span.emplace_back(p, i++);
              mine.add(publisher.publish_many(std::span<const Event>(span)), errc::none);
            }
          }
        }
        --running;
        const std::lock_guard lock(m);
        published.add(mine);
      });
    for (unsigned t = 0; t < 2; ++t)
      threads.emplace_back([&, t] {
        std::mt19937_64 random(seed + 100 + t);
        constexpr overflow policies[] = {overflow::block, overflow::fail, overflow::drop_newest};
        constexpr close_mode modes[] = {close_mode::stop_now, close_mode::drain, close_mode::cancel};
        while (running > 0) {
          listener<Event> brief;
          brief.join(rt.bus(), policies[random() % 3], random() % 20 + 1);
          for (auto turns = random() % 50; turns > 0; --turns) std::this_thread::yield();
          end(brief, modes[random() % 3]);
        }
      });
    threads.emplace_back([&] {
      while (running > 0) {
        for (auto& l : constant) {
          const penstock::ledger seen = l.sub.ledger();
          // Wrapped round: more fates than offers.
          if ((seen.queued | seen.running | seen.pending) >> 32 != 0) {
            const std::lock_guard lock(m);
            odd = "under traffic: " + to_string(seen);
          }
        }
        std::this_thread::yield();
      }
    });
    for (auto& thread : threads) thread.join();
    const std::uint64_t written = logged(constant[0].sub);
    for (auto& l : constant) end(l, close_mode::drain);
    totals in_ledgers;
    for (const auto& sub : ended) {
      const penstock::ledger counted = sub.ledger();
      in_ledgers.matched += counted.offered;
      in_ledgers.accepted += counted.accepted;
      in_ledgers.dropped += counted.dropped;
      in_ledgers.rejected += counted.rejected.total();
    }
    CHECK(odd == "");
    CHECK(published.without_fate == 0);
    CHECK(published.wrong_error == 0);
    CHECK(published.matched == in_ledgers.matched);
    CHECK(published.accepted == in_ledgers.accepted);
    CHECK(published.dropped == in_ledgers.dropped);
    CHECK(published.rejected == in_ledgers.rejected);
    for (auto& l : constant) {
      if (!l.complete) continue;
      CHECK(l.next[waits] == each);
      CHECK(l.next[spans] == each);
    }
    // Else this was no test of the log.
    CHECK(written > each / 10);
  }
  CHECK(Event::live() == 0);
}

}  // namespace

TEST_CASE("eight readers of one log, four kinds of publishers, and others that join and leave lose nothing in place",
          "[stress][log]") {
  run_traffic<plain>();
}

TEST_CASE(
    "eight readers of one log, four kinds of publishers, and others that join and leave lose no block and leak none",
    "[stress][log]") {
  run_traffic<counted>();
}
