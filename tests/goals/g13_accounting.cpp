// G13: every event that was offered has exactly one fate, by the test's own counts and by the ledgers.
// Floor 9, room tests.
#include "../support/gate.hpp"
#include "goal.hpp"

#include <penstock/penstock.hpp>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <iterator>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_goals;
using penstock::close_mode;
using penstock::close_status;
using penstock::drop_reason;
using penstock::overflow;
using penstock::publish_result;
using penstock::subscribe_options;
using penstock::task;

namespace {

/// Published one by one; travels in place.
struct single {
  std::uint64_t number = 0;
};
/// Published in spans; travels in a block that is shared and counted.
std::atomic<std::int64_t> alive{0};
class shared {
 public:
  explicit shared(std::uint64_t number) noexcept : number_(number) { alive.fetch_add(1, std::memory_order_relaxed); }
  shared(const shared& other) noexcept : shared(other.number_) {}
  shared& operator=(const shared&) = delete;
  ~shared() { alive.fetch_sub(1, std::memory_order_relaxed); }
  std::uint64_t number() const noexcept { return number_; }

 private:
  std::uint64_t number_;
};
/// What the relay makes of a single.
struct relayed {
  std::uint64_t number = 0;
};

enum fate : std::size_t { handled, filtered, failed, dropped, evicted, refused, fates };

void add(std::atomic<std::uint64_t>& to, std::uint64_t what) { to.fetch_add(what, std::memory_order_relaxed); }

/// What the test itself saw become of the events of one subscription: how many, and the sum of their numbers, so that a
/// lost event is not made up for by a repeated one.
struct alignas(64) account {
  explicit account(std::string called) : name(std::move(called)) {}
  const std::string name;
  std::array<std::atomic<std::uint64_t>, fates> count{};
  std::atomic<std::uint64_t> numbers{0};
  bool numbers_known = true;  // a span's refusals are counted, not named
  bool drops_newest = false;  // its drops stand in results as well as in `on_drop`
  std::atomic<std::uint64_t> dropped_in_results{0};
  penstock::subscription sub;

  void see(fate what, std::uint64_t number) {
    add(count[what], 1);
    add(numbers, number);
  }
  std::uint64_t total() const {
    std::uint64_t sum = 0;
    for (const auto& each : count) sum += each;
    return sum;
  }
};

std::uint64_t number_of(const single& e) { return e.number; }
std::uint64_t number_of(const shared& e) { return e.number(); }

template <class E>
subscribe_options options_of(account& a, overflow policy, std::size_t capacity) {
  auto options = subscribe_options().overflow(policy).on_drop<E>([&a](const E& e, drop_reason why) noexcept {
    a.see(why == drop_reason::oldest ? evicted : dropped, number_of(e));
  });
  if (policy != overflow::latest) options.capacity(capacity);
  return options;
}

/// The permanent subscriptions of one topic, and what was published to it.
struct topic_account {
  std::deque<account> all;
  std::atomic<std::uint64_t> published{0}, numbers{0};
  std::atomic<std::uint64_t> matched{0}, accepted{0}, dropped{0}, rejected{0}, odd{0};

  account& made(const std::string& name) { return all.emplace_back(name); }
  void keep(const publish_result& r, std::uint64_t number) {
    add(matched, r.matched()), add(accepted, r.accepted()), add(dropped, r.dropped()), add(rejected, r.rejected());
    if (r.matched() != r.accepted() + r.parked() + r.dropped() + r.rejected()) add(odd, 1);
    for (std::size_t i = 0; i < r.refusals(); ++i) {
      const auto refusal = r.refusal(i);
      for (account& each : all)
        if (each.name == refusal.subscription && each.drops_newest) {
          add(each.dropped_in_results, refusal.events);
        } else if (each.name == refusal.subscription) {
          add(each.count[refused], refusal.events);
          add(each.numbers, number * refusal.events);
        }
    }
  }
};

struct findings {
  std::uint64_t offers = 0;              // event x subscription
  std::uint64_t unaccounted = 0;         // offers without a fate of their own, or with more than one
  std::uint64_t figures = 0, wrong = 0;  // ledger figures compared with the test's own
};

void compare(report& out, findings& found, const account& a, const penstock::ledger& l, std::uint64_t published,
             std::uint64_t numbers) {
  const std::uint64_t total = a.total();
  std::uint64_t missing = total > published ? total - published : published - total;
  if (missing == 0 && a.numbers_known && a.numbers != numbers) missing = 1;
  found.offers += published;
  found.unaccounted += missing;
  const std::pair<std::uint64_t, std::uint64_t> figures[] = {{l.offered, published},
                                                             {l.handled, a.count[handled]},
                                                             {l.filtered, a.count[filtered]},
                                                             {l.failed, a.count[failed]},
                                                             {l.dropped, a.count[dropped]},
                                                             {l.evicted, a.count[evicted]},
                                                             {l.rejected.total(), a.count[refused]},
                                                             {l.discarded, 0},
                                                             {l.balanced(), true},
                                                             {l.quiescent(), true},
                                                             {a.dropped_in_results, a.count[dropped]}};
  std::uint64_t wrong = 0;
  for (const auto& [theirs, ours] : figures) wrong += theirs != ours ? 1 : 0;
  found.figures += std::size(figures);
  found.wrong += wrong;
  if (missing != 0 || wrong != 0)
    out.note(a.name + ": published " + std::to_string(published) + ", own fates " + std::to_string(total) + ", sum " +
             (a.numbers == numbers ? "right" : "wrong") + "; " + to_string(l));
}

/// Subscriptions that join and leave under traffic. Each is owned by one publisher, which counts what it can know.
struct comers {
  std::atomic<std::uint64_t> offered{0}, matched_wrong{0}, rounds{0};
  void visit(penstock::event_bus& bus, std::mt19937_64& random, const penstock::publisher<shared>& to,
             topic_account& spans, std::uint64_t& numbers, std::uint64_t& published, std::uint64_t next) {
    constexpr overflow policies[] = {overflow::block, overflow::fail, overflow::drop_newest, overflow::drop_oldest,
                                     overflow::latest};
    constexpr close_mode modes[] = {close_mode::stop_now, close_mode::drain, close_mode::cancel};
    account a("comer");
    a.sub = bus.subscribe<shared>("comer", options_of<shared>(a, policies[random() % 5], random() % 8 + 1),
                                  [&a](const shared& e) { a.see(handled, e.number()); });
    std::vector<shared> span;
    for (std::uint64_t i = 0; i < 16; ++i) span.emplace_back(next + i), numbers += next + i;
    published += span.size();
    spans.keep(to.publish_many(span), next);
    const bool ended = a.sub.close(modes[random() % 3]) == close_status::closed;
    const auto l = a.sub.ledger();
    add(offered, l.offered);
    add(rounds, 1);
    // What was discarded, and what was refused to others, only the ledger knows; its laws have to hold with our counts
    // in it.
    const bool good = ended && l.balanced() && l.quiescent() && l.handled == a.count[handled] &&
                      l.dropped == a.count[dropped] && l.evicted == a.count[evicted] && l.offered >= span.size() &&
                      l.accepted == a.count[handled] + a.count[evicted] + l.discarded;
    if (!good) add(matched_wrong, 1);
  }
};

}  // namespace

int main() {
  const penstock_test::time_limit limit(most_seconds());
  report out;
  const std::uint64_t wanted = sized(5'000'000, 1'000'000'000);
  constexpr std::uint64_t publishers = 3, span_size = 32;
  topic_account singles, spans, relays;
  account& stream_seen = singles.made("stream");
  std::atomic<std::uint64_t> relayed_numbers{0}, relayed_count{0}, wrong_runs{0};
  findings found;
  comers coming;
  {
    penstock::runtime rt(penstock::runtime_options()
                             .pool("default", penstock::worker_pool_options().threads(3))
                             .on_failure([](const penstock::failure&) {}));
    auto& bus = rt.bus();
    const auto to_relayed = bus.publisher<relayed>();
    const auto with_policy = [&](topic_account& topic, auto sample, const char* name, overflow policy,
                                 std::size_t capacity) {
      using E = decltype(sample);
      account& a = topic.made(name);
      a.drops_newest = policy == overflow::drop_newest;
      a.sub = bus.subscribe<E>(name, options_of<E>(a, policy, capacity),
                               [&a](const E& e) { a.see(handled, number_of(e)); });
    };
    const auto throwing = [&](topic_account& topic, auto sample, const char* name) {
      using E = decltype(sample);
      account& a = topic.made(name);
      a.sub = bus.subscribe<E>(name, options_of<E>(a, overflow::block, 256), [&a](const E& e) {
        const bool bad = number_of(e) % 64 == 5;
        a.see(bad ? failed : handled, number_of(e));
        if (bad) throw std::runtime_error("bad");
      });
    };
    with_policy(singles, single(), "block", overflow::block, 256);
    with_policy(singles, single(), "fail", overflow::fail, 64);
    with_policy(singles, single(), "drop_newest", overflow::drop_newest, 64);
    with_policy(singles, single(), "drop_oldest", overflow::drop_oldest, 64);
    with_policy(singles, single(), "latest", overflow::latest, 1);
    throwing(singles, single(), "throwing");
    {
      account& a = singles.made("filtered");
      auto options = options_of<single>(a, overflow::block, 256);
      options.filter<single>([&a](const single& e) {
        if (e.number % 128 == 9) {
          a.see(failed, e.number);
          throw 9;
        }
        if (e.number % 3 == 0) a.see(filtered, e.number);
        return e.number % 3 != 0;
      });
      a.sub =
          bus.subscribe<single>("filtered", std::move(options), [&a](const single& e) { a.see(handled, e.number); });
    }
    {
      account& a = singles.made("retry");
      auto options = options_of<single>(a, overflow::block, 256);
      options.retry(penstock::retry_policy().attempts(3).backoff(1us).jitter(0));
      a.sub = bus.subscribe<single>("retry", std::move(options), [&a](const single& e, const penstock::call& call) {
        if (e.number % 4096 == 3 && call.attempt() < 3) throw 1;  // succeeds at last
        if (e.number % 4096 == 7) {                               // fails for good
          if (call.attempt() == 3) a.see(failed, e.number);
          throw 2;
        }
        a.see(handled, e.number);
      });
    }
    {
      account& a = singles.made("coroutine");
      a.sub = bus.subscribe<single>("coroutine", options_of<single>(a, overflow::block, 256).concurrency(2),
                                    [&a](const single& e) -> task<void> {
                                      if (e.number % 64 == 0) co_await penstock::yield();
                                      if (e.number % 256 == 11) {
                                        a.see(failed, e.number);
                                        throw 3;
                                      }
                                      a.see(handled, e.number);
                                    });
    }
    {
      account& a = singles.made("relay");
      a.sub = bus.subscribe<single>("relay", options_of<single>(a, overflow::block, 256), [&](const single& e) {
        if (e.number % 8 == 0) {
          add(relayed_count, 1), add(relayed_numbers, e.number);
          relays.keep(to_relayed.publish(relayed{e.number}), e.number);
        }
        a.see(handled, e.number);
      });
      account& b = relays.made("relayed");
      b.sub = bus.subscribe<relayed>("relayed", subscribe_options().capacity(2),
                                     [&b](const relayed& e) { b.see(handled, e.number); });
    }
    with_policy(spans, shared(0), "block", overflow::block, 256);
    with_policy(spans, shared(0), "fail", overflow::fail, 256);
    spans.all.back().numbers_known = false;
    with_policy(spans, shared(0), "drop_newest", overflow::drop_newest, 64);
    with_policy(spans, shared(0), "drop_oldest", overflow::drop_oldest, 64);
    with_policy(spans, shared(0), "latest", overflow::latest, 1);
    throwing(spans, shared(0), "throwing");

    auto inbox = bus.stream<single>("stream", penstock::stream_options().capacity(256).max_attempts(2));
    std::thread reader([&] {
      while (auto got = inbox.receive()) {
        const std::uint64_t number = got->number;
        if (number % 128 == 5 && got.attempt() == 1) {
          if (got.requeue() != penstock::errc::none) add(wrong_runs, 1);
        } else if (number % 128 == 6) {
          stream_seen.see(failed, number);
          got.fail("refused by its reader");
        } else {
          stream_seen.see(handled, number);
        }
      }
    });

    std::vector<std::thread> threads;
    for (std::uint64_t p = 0; p < publishers; ++p)
      threads.emplace_back([&, p] {
        std::mt19937_64 random(p + 1);
        std::stop_source stopped;
        stopped.request_stop();
        const auto one = bus.publisher<single>();
        const auto many = bus.publisher<shared>();
        std::uint64_t next = p << 40, single_count = 0, single_numbers = 0, span_count = 0, span_numbers = 0;
        for (std::uint64_t round = 0; single_count + span_count < wanted / publishers + 1; ++round) {
          for (int i = 0; i < 16; ++i) {
            const single e{next++};
            ++single_count, single_numbers += e.number;
            switch (random() % 16) {
              case 0:
                singles.keep(one.try_publish(e), e.number);
                break;
              case 1:
                singles.keep(one.publish_for(std::chrono::microseconds(random() % 30), e), e.number);
                break;
              case 2:
                singles.keep(one.publish(e, stopped.get_token()), e.number);
                break;  // gives up instead of waiting
              default:
                singles.keep(one.publish(e), e.number);
            }
          }
          std::vector<shared> span;
          span.reserve(span_size);
          for (std::uint64_t i = 0; i < span_size; ++i) {
            span.emplace_back(next++);
            span_numbers += span.back().number();
          }
          span_count += span_size;
          spans.keep(many.publish_many(span), 0);
          if (round % 64 == p) {
            coming.visit(bus, random, many, spans, span_numbers, span_count, next);
            next += 16;
          }
        }
        add(singles.published, single_count), add(singles.numbers, single_numbers);
        add(spans.published, span_count), add(spans.numbers, span_numbers);
      });
    for (auto& each : threads) each.join();
    if (!bus.wait_idle(60s)) add(wrong_runs, 1);
    const auto stream_ledger = inbox.ledger();
    compare(out, found, stream_seen, stream_ledger, singles.published, singles.numbers);
    for (topic_account* topic : {&singles, &spans, &relays}) {
      if (topic == &relays) relays.published = relayed_count.load(), relays.numbers = relayed_numbers.load();
      std::uint64_t offered = topic == &singles ? stream_ledger.offered : 0;
      for (account& each : topic->all) {
        if (&each == &stream_seen) continue;
        compare(out, found, each, each.sub.ledger(), topic->published, topic->numbers);
        offered += each.sub.ledger().offered;
      }
      if (topic == &spans) offered += coming.offered, found.offers += coming.offered;
      // Law 3: the publishers' results and the subscriptions' ledgers speak of the same offers.
      ++found.figures;
      if (topic->matched != offered || topic->odd != 0) {
        ++found.wrong;
        out.note("matched " + std::to_string(topic->matched) + ", offered " + std::to_string(offered) +
                 ", results that do not add up " + std::to_string(topic->odd));
      }
    }
    found.figures += coming.rounds;
    found.wrong += coming.matched_wrong;
    inbox.close(close_mode::drain);
    reader.join();
    if (!rt.shutdown(60s).clean()) add(wrong_runs, 1);
  }
  const auto still_alive = static_cast<std::uint64_t>(std::abs(alive.load()));
  if (still_alive != 0) out.note(std::to_string(alive.load()) + " shared events were not destroyed exactly once");
  out.figure(
      "G13 accounting identity",
      grouped(found.unaccounted + still_alive) + " unaccounted of " + grouped(singles.published + spans.published) +
          " events (" + grouped(found.offers) + " offers, to " +
          std::to_string(singles.all.size() + spans.all.size() + relays.all.size()) + " subscriptions and " +
          grouped(coming.rounds) + " that came and went), " + grouped(found.wrong) + " of " + grouped(found.figures) +
          " ledger figures off",
      "0 and 0",
      found.unaccounted + still_alive + found.wrong + wrong_runs == 0 && singles.published + spans.published >= wanted);
  return out.finish();
}
