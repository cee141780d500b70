// What a subscription may be told to do: filter, retry, pause, bury, name, keep metadata; refused cycles; the snapshot.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"
#include "../support/refusal.hpp"

#include <penstock/bus/dead_letter.hpp>
#include <penstock/exec/retry_policy.hpp>
#include <penstock/penstock.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::call;
using penstock::close_mode;
using penstock::close_status;
using penstock::dead_letter;
using penstock::drop_reason;
using penstock::errc;
using penstock::failure;
using penstock::failure_policy;
using penstock::overflow;
using penstock::retry_policy;
using penstock::runtime_options;
using penstock::stream_options;
using penstock::subscribe_options;
using penstock::subscription;
using penstock::subscription_state;
using penstock::task;
using penstock::topic_options;
using penstock::worker_pool_options;

namespace bus_policies_test {

struct job {
  int value = 0;
};
/// Travels in a block.
struct letter {
  std::string text;
};
struct titled {
  int value = 0;
};

}  // namespace bus_policies_test

template <>
struct penstock::event_name<bus_policies_test::titled> {
  static constexpr std::string_view value = "policies.titled";
};

namespace {

using bus_policies_test::job;
using bus_policies_test::letter;
using bus_policies_test::titled;

/// This file's own: its name may be another type's in another file.
struct other_job {
  int value = 0;
};
struct private_letter {
  std::string text;
};

runtime_options workers(unsigned count) {
  return runtime_options()
      .pool("default", worker_pool_options().threads(count))
      .on_failure([](const failure&) {});
}
runtime_options workers(unsigned count, record<failure>& failures) {
  return runtime_options()
      .pool("default", worker_pool_options().threads(count))
      .on_failure([&failures](const failure& f) { failures.add(f); });
}

retry_policy quick(unsigned attempts) { return retry_policy().attempts(attempts).backoff(1ms).jitter(0); }
retry_policy never_again(unsigned attempts) {
  return retry_policy().attempts(attempts).backoff(1h).cap(10h).jitter(0);
}

std::vector<int> first(int count) {
  std::vector<int> all;
  for (int i = 0; i < count; ++i) all.push_back(i);
  return all;
}

penstock::subscription_snapshot seen_as(const penstock::bus_snapshot& all, const std::string& name) {
  for (const auto& each : all.subscriptions)
    if (each.name == name) return each;
  return {};
}

/// How often a text lies in another.
std::size_t times(const std::string& part, const std::string& text) {
  std::size_t count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

}  // namespace

// --- filters
// -----------------------------------------------------------------------------------------------------------

TEST_CASE("events that a filter refuses end as filtered, the others are handled in order", "[S7]") {
  const time_limit limit;
  record<int> handled;
  penstock::runtime rt(workers(1));
  auto sub = rt.bus().subscribe<job>(
      "even", subscribe_options().filter<job>([](const job& e) { return e.value % 2 == 0; }),
      [&](const job& e) { handled.add(e.value); });
  auto all = rt.bus().subscribe<job>("all", [](const job&) {});
  for (int i = 0; i < 10; ++i) CHECK(rt.bus().publish(job{i}).accepted() == 2);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(handled.all() == std::vector{0, 2, 4, 6, 8});
  CHECK(sub.ledger().filtered == 5);
  CHECK(sub.ledger().handled == 5);
  CHECK(sub.ledger().accepted == 10);
  CHECK(all.ledger().handled == 10);
  CHECK(quiet(sub));
}

TEST_CASE("a filter runs on the lane: until then its event holds a seat", "[S7]") {
  const time_limit limit;
  record<int> begun;
  gate release;
  std::atomic<int> asked{0};
  penstock::runtime rt(workers(2));
  auto sub = rt.bus().subscribe<job>("filtered", subscribe_options().capacity(1).filter<job>([&](const job& e) {
    ++asked;
    return e.value == 0;
  }), [&](const job& e) {
    begun.add(e.value);
    release.wait();
  });
  rt.bus().publish(job{0});
  begun.wait_for(1);
  CHECK(rt.bus().try_publish(job{1}).accepted() == 1);
  CHECK(rt.bus().try_publish(job{2}).accepted() == 0);
  CHECK(asked == 1);
  CHECK(sub.ledger().filtered == 0);
  CHECK(sub.ledger().queued == 1);
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(asked == 2);
  CHECK(sub.ledger().filtered == 1);
  CHECK(quiet(sub));
}

TEST_CASE("what a filter throws is its subscription's failure, and nobody else's", "[F4][S7]") {
  const time_limit limit;
  record<failure> failures;
  record<int> handled, bystander;
  penstock::runtime rt(workers(1, failures));
  auto graves = rt.bus().stream<dead_letter<job>>("graves");
  auto sub = rt.bus().subscribe<job>("filtered", subscribe_options().filter<job>([](const job& e) {
    if (e.value == 1) throw std::runtime_error("the filter is broken");
    return true;
  }), [&](const job& e) { handled.add(e.value); });
  auto other = rt.bus().subscribe<job>("bystander", [&](const job& e) { bystander.add(e.value); });
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  REQUIRE(sub.close(close_mode::drain) == close_status::closed);
  REQUIRE(other.close(close_mode::drain) == close_status::closed);
  CHECK(handled.all() == std::vector{0, 2});
  CHECK(bystander.all() == first(3));
  CHECK(sub.ledger().failed == 1);
  CHECK(sub.ledger().filtered == 0);
  REQUIRE(failures.size() == 1);
  CHECK(failures.all().front().subscription == "filtered");
  CHECK(failures.all().front().sequence == 2);
  CHECK(failures.all().front().exception.what == "the filter is broken");
  const auto buried = graves.try_receive();
  REQUIRE(buried);
  CHECK(buried->event().value == 1);
  CHECK(quiet(sub));
}

TEST_CASE("a filter serves a coroutine handler and a retry as well", "[S7][F3]") {
  const time_limit limit;
  record<int> handled;
  std::atomic<int> asked{0};
  penstock::runtime rt(workers(1));
  auto sub = rt.bus().subscribe<job>("both", subscribe_options().retry(quick(3)).filter<job>([&](const job& e) {
    if (e.value == 1 && ++asked < 3) throw 1;
    return e.value != 0;
  }), [&](const job& e) -> task<void> {
    co_await penstock::yield();
    handled.add(e.value);
  });
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(handled.all() == std::vector{1, 2});
  CHECK(sub.ledger().filtered == 1);
  CHECK(sub.ledger().handled == 2);
  CHECK(sub.ledger().failed == 0);
  CHECK(quiet(sub));
}

// --- retries
// -----------------------------------------------------------------------------------------------------------

TEST_CASE("a failing event is tried as often as the policy says, and fails once", "[F3]") {
  const time_limit limit;
  record<failure> failures;
  record<std::pair<unsigned, std::uint64_t>> attempts;
  penstock::runtime rt(workers(1, failures));
  auto graves = rt.bus().stream<dead_letter<job>>("graves");
  auto sub = rt.bus().subscribe<job>("retried", subscribe_options().retry(quick(4)), [&](const job&, const call& c) {
    attempts.add({c.attempt(), c.sequence()});
    throw std::runtime_error("attempt " + std::to_string(c.attempt()));
  });
  rt.bus().publish(job{7});
  REQUIRE(sub.close(close_mode::drain) == close_status::closed);
  const std::vector<std::pair<unsigned, std::uint64_t>> expected{{1U, 1U}, {2U, 1U}, {3U, 1U}, {4U, 1U}};
  CHECK((attempts.all() == expected));
  CHECK(sub.ledger().failed == 1);
  CHECK(sub.ledger().handled == 0);
  CHECK(sub.ledger().offered == 1);  // a retry is no offer
  REQUIRE(failures.size() == 4);
  for (unsigned i = 0; i < 4; ++i) {
    CHECK(failures.all()[i].attempt == i + 1);
    CHECK(failures.all()[i].exception.what == "attempt " + std::to_string(i + 1));
  }
  const auto buried = graves.try_receive();
  REQUIRE(buried);
  CHECK(buried->attempts() == 4);
  CHECK_THAT(buried->text(), contains_text("attempt 4"));
  CHECK_FALSE(graves.try_receive());
  CHECK(quiet(sub));
}

TEST_CASE("an event that succeeds on a later attempt is handled once, and the lane keeps its order", "[F3][O1]") {
  const time_limit limit;
  const unsigned threads = GENERATE(1U, 3U);
  record<failure> failures;
  record<int> seen;
  penstock::runtime rt(workers(threads, failures));
  auto sub = rt.bus().subscribe<letter>("retried", subscribe_options().retry(quick(3)),
                                        [&](const letter& e, const call& c) {
                                          seen.add(std::stoi(e.text) * 10 + static_cast<int>(c.attempt()));
                                          if (e.text == "1" && c.attempt() < 3) throw 1;
                                        });
  for (int i = 0; i < 4; ++i) rt.bus().publisher<letter>().emplace(std::to_string(i));
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(seen.all() == std::vector{1, 11, 12, 13, 21, 31});
  CHECK(sub.ledger().handled == 4);
  CHECK(sub.ledger().failed == 0);
  CHECK(failures.size() == 2);
  CHECK(quiet(sub));
}

TEST_CASE("a coroutine handler is retried the same way, each time from its beginning", "[F3][H2]") {
  const time_limit limit;
  record<failure> failures;
  record<int> seen;
  penstock::runtime rt(workers(1, failures));
  auto sub = rt.bus().subscribe<letter>("retried", subscribe_options().retry(quick(3)),
                                        [&](const letter& e, const call& c) -> task<void> {
                                          const int value = std::stoi(e.text) * 10 + static_cast<int>(c.attempt());
                                          co_await penstock::sleep_for(1ms);
                                          seen.add(value);
                                          if (e.text == "1" && c.attempt() < 3) throw std::runtime_error(e.text);
                                          if (e.text == "2") throw std::runtime_error(e.text);
                                        });
  for (int i = 0; i < 4; ++i) rt.bus().publisher<letter>().emplace(std::to_string(i));
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(seen.all() == std::vector{1, 11, 12, 13, 21, 22, 23, 31});
  CHECK(sub.ledger().handled == 3);
  CHECK(sub.ledger().failed == 1);
  CHECK(failures.size() == 5);
  CHECK(quiet(sub));
}

TEST_CASE("a retry's delay holds no worker, its lane waits, and close() ends it as failed", "[F3]") {
  const time_limit limit;
  record<failure> failures;
  record<int> seen, others;
  penstock::runtime rt(workers(1, failures));
  auto graves = rt.bus().stream<dead_letter<job>>("graves");
  auto sub = rt.bus().subscribe<job>("delayed", subscribe_options().retry(never_again(3)), [&](const job& e) {
    seen.add(e.value);
    throw 1;
  });
  auto other = rt.bus().subscribe<other_job>("other", [&](const other_job& e) { others.add(e.value); });
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  failures.wait_for(1);
  for (int i = 0; i < 3; ++i) rt.bus().publish(other_job{i});
  others.wait_for(3);  // on the only worker
  eventually([&] {
    const auto running = seen_as(rt.bus().snapshot(), "delayed").running;
    return running.size() == 1 && running.front().retry_wait;
  });
  CHECK(seen.all() == std::vector{0});
  CHECK(sub.ledger().running == 1);
  CHECK(sub.ledger().queued == 2);
  CHECK(sub.ledger().balanced());
  CHECK_FALSE(rt.bus().wait_idle(2ms));
  SECTION("close") { CHECK(sub.close() == close_status::closed); }
  SECTION("close(cancel)") { CHECK(sub.close(close_mode::cancel) == close_status::closed); }
  SECTION("stop") {
    sub.stop();
    CHECK(sub.close() == close_status::closed);
  }
  CHECK(seen.size() == 1);
  CHECK(sub.ledger().failed == 1);
  CHECK(sub.ledger().discarded == 2);
  const auto buried = graves.try_receive();
  REQUIRE(buried);
  CHECK(buried->reason() == "closed");
  CHECK(buried->event().value == 0);
  CHECK(buried->attempts() == 1);
  CHECK(quiet(sub));
}

TEST_CASE("close(drain) keeps a retry's delay, and what is queued behind it", "[F3][S2]") {
  const time_limit limit;
  record<failure> failures;
  record<int> seen;
  penstock::runtime rt(workers(1, failures));
  auto sub = rt.bus().subscribe<job>(
      "delayed", subscribe_options().retry(retry_policy().attempts(2).backoff(20ms).jitter(0)),
      [&](const job& e, const call& c) {
        seen.add(e.value * 10 + static_cast<int>(c.attempt()));
        if (e.value == 0 && c.attempt() == 1) throw 1;
      });
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  failures.wait_for(1);
  CHECK(sub.close(close_mode::drain) == close_status::closed);
  CHECK(seen.all() == std::vector{1, 2, 11, 21});
  CHECK(sub.ledger().handled == 3);
  CHECK(sub.ledger().failed == 0);
  CHECK(quiet(sub));
}

TEST_CASE("a shutdown keeps a delay that ends before its deadline", "[F3]") {
  const time_limit limit;
  record<failure> failures;
  record<int> seen;
  penstock::runtime rt(workers(1, failures));
  auto sub = rt.bus().subscribe<job>(
      "delayed", subscribe_options().retry(retry_policy().attempts(2).backoff(20ms).jitter(0)),
      [&](const job& e, const call& c) {
        seen.add(e.value * 10 + static_cast<int>(c.attempt()));
        if (c.attempt() == 1) throw 1;
      });
  for (int i = 0; i < 2; ++i) rt.bus().publish(job{i});
  failures.wait_for(1);
  const auto report = rt.shutdown(25s);
  INFO(to_string(report));
  CHECK(report.clean());
  CHECK(seen.all() == std::vector{1, 2, 11, 12});
  CHECK(sub.ledger().handled == 2);
  CHECK(quiet(sub));
}

TEST_CASE("a shutdown fails an event at once whose delay would end beyond the deadline", "[F3]") {
  const time_limit limit;
  const bool coroutine = GENERATE(false, true);
  record<failure> failures;
  record<int> seen;
  record<std::pair<int, std::string>> buried;
  penstock::runtime rt(workers(1, failures));
  auto graves = rt.bus().subscribe<dead_letter<job>>("graves", [&](const dead_letter<job>& e) {
    buried.add({e.event().value, e.reason()});
  });
  auto options = subscribe_options().retry(never_again(3));
  subscription sub;
  if (coroutine)
    sub = rt.bus().subscribe<job>("delayed", std::move(options), [&](const job& e) -> task<void> {
      seen.add(e.value);
      co_await penstock::yield();
      throw 1;
    });
  else
    sub = rt.bus().subscribe<job>("delayed", std::move(options), [&](const job& e) {
      seen.add(e.value);
      throw 1;
    });
  for (int i = 0; i < 2; ++i) rt.bus().publish(job{i});
  failures.wait_for(1);
  const auto report = rt.shutdown(20s);
  INFO(to_string(report));
  CHECK(report.clean());  // failed, not lost
  CHECK(report.elapsed < 10s);
  CHECK(seen.all() == std::vector{0, 1});
  CHECK(sub.ledger().failed == 2);
  const std::vector<std::pair<int, std::string>> expected{{0, "shutdown"}, {1, "shutdown"}};
  CHECK((buried.all() == expected));
  CHECK(quiet(sub));
  CHECK(quiet(graves));
}

TEST_CASE("with concurrency 2 a delay holds only its own lane", "[F3][O2]") {
  const time_limit limit;
  record<failure> failures;
  record<int> seen;
  penstock::runtime rt(workers(1, failures));
  auto sub = rt.bus().subscribe<job>("wide", subscribe_options().concurrency(2).retry(never_again(2)),
                                     [&](const job& e) {
                                       seen.add(e.value);
                                       if (e.value == 0) throw 1;
                                     });
  for (int i = 0; i < 4; ++i) rt.bus().publish(job{i});
  seen.wait_for(4);
  eventually([&] { return sub.ledger().handled == 3; });
  CHECK(sub.ledger().running == 1);
  CHECK(sub.close() == close_status::closed);
  CHECK(sub.ledger().failed == 1);
  CHECK(quiet(sub));
}

TEST_CASE("a retry's delay grows by its factor up to its cap, and jitter only lengthens it", "[F3]") {
  const auto plain = retry_policy().attempts(10).backoff(10ms).factor(3).cap(200ms).jitter(0);
  CHECK(plain.attempts() == 10);
  for (const std::uint64_t random : {std::uint64_t{0}, std::uint64_t{12345}, ~std::uint64_t{0}}) {
    CHECK(plain.delay(1, random) == 10ms);
    CHECK(plain.delay(2, random) == 30ms);
    CHECK(plain.delay(3, random) == 90ms);
    CHECK(plain.delay(4, random) == 200ms);
    CHECK(plain.delay(5, random) == 200ms);
    CHECK(plain.delay(std::numeric_limits<unsigned>::max(), random) == 200ms);
  }
  const auto jittered = retry_policy().backoff(10ms).factor(2).cap(15ms).jitter(0.5);
  CHECK(jittered.delay(1, 0) == 10ms);
  CHECK(jittered.delay(2, 0) == 15ms);
  for (unsigned i = 0; i < 64; ++i) {
    const std::uint64_t random = std::uint64_t{1} << i;
    CHECK(jittered.delay(1, random) >= 10ms);
    CHECK(jittered.delay(1, random) <= 15ms);
  }
  const auto most = jittered.delay(1, ~std::uint64_t{0});
  CHECK(most > 14ms);
  CHECK(most <= 15ms);
  CHECK(jittered.delay(2, ~std::uint64_t{0}) > 15ms);  // the cap is before the jitter
  const auto constant = retry_policy().backoff(7ms).factor(1).jitter(0);
  CHECK(constant.delay(1000, 1) == 7ms);
  const auto none = retry_policy().backoff(0ms).jitter(1);
  CHECK(none.delay(3, ~std::uint64_t{0}) == 0ms);
  const auto small_cap = retry_policy().backoff(10ms).cap(1ms).jitter(0);
  CHECK(small_cap.delay(1, 0) == 1ms);
  const auto endless = retry_policy().backoff(std::chrono::hours::max()).factor(1e6).cap(std::chrono::hours::max());
  CHECK(endless.delay(9, ~std::uint64_t{0}) > 0ns);  // clamped, no overflow
  const retry_policy usual;
  CHECK(usual.attempts() == 3);
  CHECK(usual.delay(1, 0) == 100ms);
  CHECK(usual.delay(2, 0) == 200ms);
  CHECK(usual.delay(100, 0) == 1min);
  CHECK(usual.delay(1, ~std::uint64_t{0}) <= 110ms);
}

TEST_CASE("a policy out of its range is refused with a text that names the subscription and the thing", "[F3]") {
  const time_limit limit;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  penstock::runtime rt(workers(1));
  struct refused {
    std::string thing;
    std::pair<errc, std::string> what;
  };
  std::vector<refused> all;
  const auto attempt = [&](const std::string& thing, subscribe_options options) {
    all.push_back({thing, refusal_of([&] {
                     (void)rt.bus().subscribe<job>("refused", std::move(options), [](const job&) {});
                   })});
  };
  const auto retry = [&](const std::string& thing, retry_policy policy) {
    REQUIRE(policy.complaint() != nullptr);
    CHECK_THAT(std::string(policy.complaint()), contains_text(thing));
    attempt(thing, subscribe_options().retry(policy));
  };
  retry("attempts", retry_policy().attempts(0));
  retry("backoff", retry_policy().backoff(-1ms));
  retry("cap", retry_policy().cap(-1ms));
  retry("factor", retry_policy().factor(0.5));
  retry("factor", retry_policy().factor(nan));
  retry("jitter", retry_policy().jitter(-0.1));
  retry("jitter", retry_policy().jitter(1.5));
  retry("jitter", retry_policy().jitter(nan));
  attempt("policy", subscribe_options().on_failure(failure_policy::pause(0, 1ms)));
  attempt("policy", subscribe_options().on_failure(failure_policy::unsubscribe(0)));
  attempt("policy", subscribe_options().on_failure(failure_policy::escalate(0)));
  attempt("pause", subscribe_options().on_failure(failure_policy::pause(1, 0ms)));
  attempt("pause", subscribe_options().on_failure(failure_policy::pause(1, -1s)));
  attempt("latest", subscribe_options().capacity(2).overflow(overflow::latest));
  for (const refused& each : all) {
    INFO(each.thing << ": " << each.what.second);
    CHECK(each.what.first == errc::invalid_argument);
    CHECK_THAT(each.what.second, contains_text("refused"));
    CHECK_THAT(each.what.second, contains_text(each.thing));
  }
  CHECK(retry_policy().complaint() == nullptr);
  const auto filter = refusal_of([&] {
    (void)rt.bus().subscribe<job>("refused",
                                  subscribe_options().filter<other_job>([](const other_job&) { return true; }),
                                  [](const job&) {});
  });
  CHECK(filter.first == errc::event_type_mismatch);
  CHECK_THAT(filter.second, contains_text("filter"));
  CHECK(rt.bus().subscriptions().empty());
}

// --- the breaker
// -------------------------------------------------------------------------------------------------------

TEST_CASE("a breaker pauses after so many failures in a row: events stay queued, and resume lifts it", "[F3]") {
  const time_limit limit;
  record<failure> failures;
  record<int> seen;
  std::atomic<bool> broken{true};
  penstock::runtime rt(workers(1, failures));
  auto sub = rt.bus().subscribe<job>("broken", subscribe_options().on_failure(failure_policy::pause(3, 1h)),
                                     [&](const job& e) {
                                       seen.add(e.value);
                                       if (broken) throw std::runtime_error("down");
                                     });
  CHECK(sub.state() == subscription_state::open);
  sub.resume();  // does nothing
  for (int i = 0; i < 10; ++i) rt.bus().publish(job{i});
  failures.wait_for(3);
  eventually([&] { return sub.state() == subscription_state::paused; });
  CHECK(rt.bus().publish(job{10}).accepted() == 1);
  CHECK(sub.ledger().failed == 3);
  CHECK(sub.ledger().queued == 8);
  CHECK(sub.ledger().running == 0);
  CHECK(sub.ledger().balanced());
  CHECK(seen_as(rt.bus().snapshot(), "broken").state == subscription_state::paused);
  CHECK_FALSE(rt.bus().wait_idle(2ms));
  CHECK(seen.size() == 3);
  broken = false;
  sub.resume();
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(sub.state() == subscription_state::open);
  CHECK(seen.all() == first(11));
  CHECK(sub.ledger().handled == 8);
  CHECK(failures.size() == 3);
  CHECK(quiet(sub));
}

TEST_CASE("a breaker counts failures in a row: a success in between starts anew", "[F3]") {
  const time_limit limit;
  std::atomic<int> calls{0};
  penstock::runtime rt(workers(1));
  auto sub = rt.bus().subscribe<job>("shaky", subscribe_options().on_failure(failure_policy::pause(3, 1h)),
                                     [&](const job& e) {
                                       ++calls;
                                       if (e.value % 3 != 2) throw 1;
                                     });
  for (int i = 0; i < 12; ++i) rt.bus().publish(job{i});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(calls == 12);
  CHECK(sub.state() == subscription_state::open);
  CHECK(sub.ledger().failed == 8);
  CHECK(sub.ledger().handled == 4);
  CHECK(quiet(sub));
}

TEST_CASE("a breaker's probe tries one event: a failure pauses again, a success resumes", "[F3]") {
  const time_limit limit;
  const bool coroutine = GENERATE(false, true);
  record<failure> failures;
  record<int> seen;
  std::atomic<bool> broken{true};
  penstock::runtime rt(workers(1, failures));
  auto options = subscribe_options().on_failure(failure_policy::pause(2, 3ms));
  subscription sub;
  if (coroutine)
    sub = rt.bus().subscribe<job>("broken", std::move(options), [&](const job& e) -> task<void> {
      seen.add(e.value);
      co_await penstock::yield();
      if (broken) throw 1;
    });
  else
    sub = rt.bus().subscribe<job>("broken", std::move(options), [&](const job& e) {
      seen.add(e.value);
      if (broken) throw 1;
    });
  for (int i = 0; i < 200; ++i) rt.bus().publish(job{i});
  const auto before = rt.time().now();
  failures.wait_for(6);  // two that trip it, four probes
  CHECK(rt.time().now() - before >= 9ms);  // one probe for each pause
  eventually([&] { return sub.state() == subscription_state::paused || sub.ledger().quiescent(); });
  broken = false;
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(sub.state() == subscription_state::open);
  CHECK(seen.all() == first(200));
  CHECK(sub.ledger().failed + sub.ledger().handled == 200);
  CHECK(sub.ledger().failed == failures.size());
  CHECK(quiet(sub));
}

TEST_CASE("after a breaker's probe has succeeded it takes as many failures in a row again", "[F3]") {
  const time_limit limit;
  record<int> seen;
  record<failure> failures;
  penstock::runtime rt(workers(1, failures));
  auto sub = rt.bus().subscribe<job>("broken", subscribe_options().on_failure(failure_policy::pause(2, 1ms)),
                                     [&](const job& e) {
                                       seen.add(e.value);
                                       if (e.value < 2 || e.value == 3) throw 1;
                                     });
  for (int i = 0; i < 2; ++i) rt.bus().publish(job{i});
  eventually([&] { return sub.state() == subscription_state::paused; });
  rt.bus().publish(job{2});  // the probe
  seen.wait_for(3);
  eventually([&] { return sub.state() == subscription_state::open; });
  rt.bus().publish(job{3});  // one failure is no pause
  failures.wait_for(3);
  rt.bus().publish(job{4});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(sub.state() == subscription_state::open);
  CHECK(seen.all() == first(5));
  CHECK(quiet(sub));
}

TEST_CASE("with retries a breaker counts events that failed for good, not attempts", "[F3]") {
  const time_limit limit;
  record<failure> failures;
  penstock::runtime rt(workers(1, failures));
  auto sub = rt.bus().subscribe<job>(
      "broken", subscribe_options().retry(quick(3)).on_failure(failure_policy::pause(2, 1h)),
      [](const job&) { throw 1; });
  for (int i = 0; i < 5; ++i) rt.bus().publish(job{i});
  eventually([&] { return sub.state() == subscription_state::paused; });
  CHECK(failures.size() == 6);
  CHECK(sub.ledger().failed == 2);
  CHECK(sub.ledger().queued == 3);
  CHECK(sub.close() == close_status::closed);
  CHECK(sub.ledger().discarded == 3);
  CHECK(quiet(sub));
}

TEST_CASE("a paused subscription does not hold up a shutdown, and its events count as undelivered", "[F3]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto sub = rt.bus().subscribe<job>("broken", subscribe_options().on_failure(failure_policy::pause(1, 1h)),
                                     [](const job&) { throw 1; });
  for (int i = 0; i < 6; ++i) rt.bus().publish(job{i});
  eventually([&] { return sub.state() == subscription_state::paused; });
  const auto report = rt.shutdown(20s);
  INFO(to_string(report));
  CHECK(report.elapsed < 10s);
  CHECK_FALSE(report.clean());
  CHECK(report.undelivered() == 5);
  CHECK(report.stuck.empty());
  CHECK(sub.ledger().discarded == 5);
  CHECK(sub.ledger().failed == 1);
  CHECK(quiet(sub));
}

TEST_CASE("a subscription that pauses during the drain is not resumed there, nor waited for", "[F3]") {
  const time_limit limit;
  record<int> begun;
  gate release;
  penstock::runtime rt(workers(2));
  auto sub = rt.bus().subscribe<job>("broken", subscribe_options().on_failure(failure_policy::pause(1, 1h)),
                                     [&](const job& e) {
                                       begun.add(e.value);
                                       release.wait();
                                       throw 1;
                                     });
  for (int i = 0; i < 4; ++i) rt.bus().publish(job{i});
  begun.wait_for(1);
  penstock::shutdown_report report;
  std::thread ending([&] { report = rt.shutdown(20s); });
  eventually([&] { return rt.bus().publish(other_job{}).error() == errc::closed; });
  release.open();
  ending.join();
  INFO(to_string(report));
  CHECK(report.elapsed < 10s);
  CHECK(begun.size() == 1);
  CHECK(sub.ledger().failed == 1);
  CHECK(sub.ledger().discarded == 3);
  CHECK(quiet(sub));
}

TEST_CASE("unsubscribe stops the subscription after so many failures in a row, and no other", "[F3]") {
  const time_limit limit;
  const unsigned after = GENERATE(1U, 3U);
  record<int> bystander;
  std::atomic<unsigned> calls{0};
  penstock::runtime rt(workers(1));
  auto held = std::make_shared<int>(0);
  auto sub = rt.bus().subscribe<job>("leaver", subscribe_options().on_failure(failure_policy::unsubscribe(after)),
                                     [&calls, held](const job&) {
                                       ++calls;
                                       throw 1;
                                     });
  auto other = rt.bus().subscribe<job>("bystander", [&](const job& e) { bystander.add(e.value); });
  for (int i = 0; i < 6; ++i) rt.bus().publish(job{i});
  eventually([&] { return sub.state() == subscription_state::ended; });
  eventually([&] { return held.use_count() == 1; });
  bystander.wait_for(6);
  CHECK(calls == after);
  CHECK(sub.ledger().failed == after);
  CHECK(sub.ledger().failed + sub.ledger().discarded == sub.ledger().accepted);
  CHECK(rt.bus().publish(job{6}).matched() == 1);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(bystander.all() == first(7));
  CHECK(sub.close() == close_status::closed);
  CHECK(quiet(sub));
}

TEST_CASE("escalate closes the intake and tells on_escalate who failed", "[F3]") {
  const time_limit limit;
  record<failure> escalated;
  record<int> seen;
  penstock::runtime rt(workers(1).on_escalate([&](const failure& f) { escalated.add(f); }));
  auto sub = rt.bus().subscribe<job>("vital", subscribe_options().on_failure(failure_policy::escalate(2)),
                                     [&](const job& e) {
                                       seen.add(e.value);
                                       if (e.value > 0) throw std::runtime_error("vital " + std::to_string(e.value));
                                     });
  for (int i = 0; i < 2; ++i) CHECK(rt.bus().publish(job{i}).accepted() == 1);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(escalated.size() == 0);
  CHECK(rt.bus().publish(job{2}).accepted() == 1);
  escalated.wait_for(1);
  CHECK(escalated.all().front().subscription == "vital");
  CHECK(escalated.all().front().exception.what == "vital 2");
  CHECK(escalated.all().front().sequence == 3);
  CHECK(rt.bus().publish(job{3}).error() == errc::closed);
  CHECK(refusal_of([&] { (void)rt.bus().subscribe<job>("late", [](const job&) {}); }).first == errc::closed);
  const auto report = rt.shutdown(25s);
  INFO(to_string(report));
  CHECK(report.clean());
  CHECK(seen.all() == first(3));
  CHECK(quiet(sub));
}

// --- dead letters
// ------------------------------------------------------------------------------------------------------

TEST_CASE("a dead letter says which event failed, where, how often and why, one for each failed event", "[F3]") {
  const time_limit limit;
  record<std::string> letters;
  record<std::pair<std::uint64_t, unsigned>> numbers;
  record<int> values;
  penstock::runtime rt(workers(1));
  auto graves = rt.bus().subscribe<dead_letter<job>>("graves", [&](const dead_letter<job>& e) {
    values.add(e.event().value);
    letters.add(e.subscription() + "|" + e.reason() + "|" + e.text() + "|" + e.topic());
    numbers.add({e.sequence(), e.attempts()});
  });
  auto sub = rt.bus().subscribe<job>("thrower", [](const job& e) {
    if (e.value % 2 == 1) throw std::runtime_error("odd " + std::to_string(e.value));
  });
  for (int i = 0; i < 6; ++i) rt.bus().publish(job{i});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(values.all() == std::vector{1, 3, 5});
  REQUIRE(letters.size() == 3);
  CHECK_THAT(letters.all()[1], contains_text("thrower|failed|"));
  CHECK_THAT(letters.all()[1], contains_text("std::runtime_error"));
  CHECK_THAT(letters.all()[1], contains_text("odd 3"));
  CHECK_THAT(letters.all()[1], contains_text("job"));
  const std::vector<std::pair<std::uint64_t, unsigned>> expected{{2U, 1U}, {4U, 1U}, {6U, 1U}};
  CHECK((numbers.all() == expected));
  CHECK(sub.ledger().failed == 3);
  CHECK(graves.ledger().handled == 3);
  CHECK(quiet(sub));
  CHECK(quiet(graves));
}

TEST_CASE("a dead letter of an event in a block shares it, without a copy", "[F3][E2]") {
  const time_limit limit;
  record<const void*> failed_at;
  penstock::runtime rt(workers(1));
  const auto graves = rt.bus().stream<dead_letter<letter>>("graves");
  auto sub = rt.bus().subscribe<letter>("thrower", [&](const letter& e) {
    failed_at.add(&e);
    throw 1;
  });
  rt.bus().publisher<letter>().emplace("a text that is too long to lie within the string itself");
  penstock::event_ptr<letter> kept;
  {
    REQUIRE(sub.close(close_mode::drain) == close_status::closed);
    const auto buried = graves.try_receive();
    REQUIRE(buried);
    CHECK(&buried->event() == failed_at.all().front());
    CHECK(buried->event().text == "a text that is too long to lie within the string itself");
    kept = buried->share();
  }
  CHECK(kept->text == "a text that is too long to lie within the string itself");
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(quiet(sub));
  CHECK(quiet(graves));
}

TEST_CASE("a dead letter that fails makes no dead letter", "[F3]") {
  const time_limit limit;
  record<failure> failures;
  record<int> deeper;
  penstock::runtime rt(workers(1, failures));
  auto graves = rt.bus().subscribe<dead_letter<job>>("graves", [](const dead_letter<job>&) { throw 2; });
  auto read = rt.bus().stream<dead_letter<job>>("read graves");
  auto second = rt.bus().subscribe<dead_letter<dead_letter<job>>>(
      "second", [&](const dead_letter<dead_letter<job>>&) { deeper.add(1); });
  auto sub = rt.bus().subscribe<job>("thrower", [](const job&) { throw 1; });
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  for (int i = 0; i < 3; ++i) read.receive_for(10s).fail("no");
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(deeper.size() == 0);
  CHECK(failures.size() == 9);
  CHECK(graves.ledger().failed == 3);
  CHECK(read.ledger().failed == 3);
  CHECK(second.ledger().offered == 0);
  CHECK(quiet(graves));
  CHECK(quiet(read));
}

TEST_CASE("without a subscriber there is no dead letter, and one that comes later gets only later ones", "[F3]") {
  const time_limit limit;
  record<int> values;
  penstock::runtime rt(workers(1));
  auto sub = rt.bus().subscribe<job>("thrower", [](const job&) { throw 1; });
  rt.bus().publish(job{0});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(rt.bus().snapshot().topics.size() == 1);
  auto graves = rt.bus().subscribe<dead_letter<job>>("graves", [&](const dead_letter<job>& e) {
    values.add(e.event().value);
  });
  rt.bus().publish(job{1});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(graves.close() == close_status::closed);
  rt.bus().publish(job{2});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(values.all() == std::vector{1});
  CHECK(sub.ledger().failed == 3);
  CHECK(quiet(sub));
}

TEST_CASE("events of a type that is private to its file have dead letters too", "[F3][E1]") {
  const time_limit limit;
  record<int> values;
  penstock::runtime rt(workers(1));
  const auto read = rt.bus().stream<dead_letter<private_letter>>("read");
  auto graves = rt.bus().subscribe<dead_letter<other_job>>("graves", [&](const dead_letter<other_job>& e) {
    values.add(e.event().value);
  });
  auto near = rt.bus().subscribe<other_job>("near", [](const other_job&) { throw 1; });
  auto far = rt.bus().subscribe<private_letter>("far", [](const private_letter&) { throw 1; });
  rt.bus().publish(other_job{5});
  rt.bus().publisher<private_letter>().emplace("far");
  REQUIRE(near.close(close_mode::drain) == close_status::closed);
  REQUIRE(far.close(close_mode::drain) == close_status::closed);
  REQUIRE(graves.close(close_mode::drain) == close_status::closed);
  CHECK(values.all() == std::vector{5});
  const auto buried = read.try_receive();
  REQUIRE(buried);
  CHECK(buried->event().text == "far");
  CHECK(quiet(near));
  CHECK(quiet(far));
}

TEST_CASE("a full channel of dead letters holds up the lane that fails, and loses none", "[F3][P3]") {
  const time_limit limit;
  record<int> values;
  gate release;
  penstock::runtime rt(workers(2));
  auto graves = rt.bus().subscribe<dead_letter<job>>("graves", subscribe_options().capacity(1),
                                                     [&](const dead_letter<job>& e) {
                                                       values.add(e.event().value);
                                                       release.wait();
                                                     });
  auto sub = rt.bus().subscribe<job>("thrower", [](const job&) { throw 1; });
  for (int i = 0; i < 10; ++i) rt.bus().publish(job{i});
  eventually([&] { return graves.ledger().pending == 1; });
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(values.all() == first(10));
  CHECK(graves.ledger().handled == 10);
  CHECK(quiet(graves));
  CHECK(quiet(sub));
}

TEST_CASE("dead letters of all topics of a type come on one topic, and say which it was", "[F3][E4]") {
  const time_limit limit;
  record<std::string> topics;
  penstock::runtime rt(workers(1));
  auto graves = rt.bus().subscribe<dead_letter<titled>>("graves", [&](const dead_letter<titled>& e) {
    topics.add(e.topic());
  });
  const auto placed = rt.bus().topic<titled>("order.placed");
  auto one = placed.subscribe("one", [](const titled&) { throw 1; });
  auto two = rt.bus().subscribe<titled>("two", [](const titled&) { throw 1; });
  placed.publisher().publish(titled{1});
  REQUIRE(rt.bus().wait_idle(25s));
  rt.bus().publish(titled{2});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(topics.all() == std::vector<std::string>{"order.placed", "policies.titled"});
  CHECK(quiet(one));
  CHECK(quiet(two));
  CHECK(quiet(graves));
}

// --- named topics
// ------------------------------------------------------------------------------------------------------

TEST_CASE("topics with names are separate from each other and from the unnamed one of their type", "[E4]") {
  const time_limit limit;
  record<int> plain, placed, paid;
  penstock::runtime rt(workers(1));
  const auto placed_topic = rt.bus().topic<job>("order.placed");
  const auto paid_topic = rt.bus().topic<job>("order.paid");
  CHECK(placed_topic.name() == "order.placed");
  CHECK(placed_topic.publisher().topic_name() == "order.placed");
  auto a = rt.bus().subscribe<job>("plain", [&](const job& e) { plain.add(e.value); });
  auto b = placed_topic.subscribe("placed", [&](const job& e) { placed.add(e.value); });
  auto c = paid_topic.subscribe("paid", subscribe_options().capacity(4), [&](const job& e) { paid.add(e.value); });
  const auto read = paid_topic.stream("paid, read");
  CHECK(rt.bus().publish(job{1}).matched() == 1);
  CHECK(placed_topic.publisher().publish(job{2}).matched() == 1);
  CHECK(rt.bus().topic<job>("order.paid").publisher().publish(job{3}).matched() == 2);
  CHECK(rt.bus().topic<job>("order.Paid").publisher().publish(job{4}).matched() == 0);
  CHECK(read.receive()->value == 3);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(plain.all() == std::vector{1});
  CHECK(placed.all() == std::vector{2});
  CHECK(paid.all() == std::vector{3});
  CHECK(quiet(a));
  CHECK(quiet(b));
  CHECK(quiet(c));
  CHECK(quiet(read));
}

TEST_CASE("a topic's name has 1 to 64 letters, digits, underscores, dots and hyphens", "[E4]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  for (const std::string& name : {std::string("a"), std::string(64, 'x'), std::string("A-Z_a.z-09"), std::string(".")})
    CHECK(rt.bus().topic<job>(name).name() == name);
  for (const std::string& name :
       {std::string(65, 'x'), std::string("a b"), std::string("a/b"), std::string("a\nb"), std::string("\xc3\xa4"),
        std::string("a\0b", 3), std::string("a:b")}) {
    const auto refused = refusal_of([&] { (void)rt.bus().topic<job>(name); });
    INFO(refused.second);
    CHECK(refused.first == errc::invalid_argument);
    CHECK_THAT(refused.second, contains_text("name"));
    CHECK(refused.second.find('\n') == std::string::npos);
  }
  CHECK(rt.bus().snapshot().topics.empty());
}

TEST_CASE("a topic's name may not be empty", "[E4]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  CHECK(refusal_of([&] { (void)rt.bus().topic<job>(""); }).first == errc::invalid_argument);
  CHECK(refusal_of([&] { (void)rt.bus().topic<job>(topic_options().name("")); }).first == errc::invalid_argument);
}

TEST_CASE("a topic's name belongs to one event type while it is held, and is released when nobody does", "[E4]") {
  const time_limit limit;
  record<int> values;
  penstock::runtime rt(workers(1));
  const auto mismatch = [&] {
    const auto refused = refusal_of([&] { (void)rt.bus().topic<other_job>("shared"); });
    return refused.first == errc::event_type_mismatch && refused.second.find("shared") != std::string::npos;
  };
  {
    auto first_handle = std::make_optional(rt.bus().topic<job>("shared"));
    CHECK(mismatch());
    auto copy = std::make_optional(*first_handle);
    first_handle.reset();
    CHECK(mismatch());
    auto publisher = std::make_optional(copy->publisher());
    auto sub = copy->subscribe("held", [&](const job& e) { values.add(e.value); });
    copy.reset();
    CHECK(mismatch());
    publisher->publish(job{1});
    values.wait_for(1);
    publisher.reset();
    CHECK(mismatch());  // by the subscription
    CHECK(rt.bus().topic<job>("shared").publisher().publish(job{2}).matched() == 1);
    values.wait_for(2);
    CHECK(sub.close() == close_status::closed);
    CHECK(quiet(sub));
  }
  eventually([&] { return rt.bus().snapshot().topics.empty(); });
  {
    auto read = rt.bus().topic<other_job>("shared").stream("read");
    CHECK(rt.bus().topic<other_job>("shared").publisher().publish(other_job{1}).matched() == 1);
    CHECK(refusal_of([&] { (void)rt.bus().topic<job>("shared"); }).first == errc::event_type_mismatch);
    read.receive().done();
  }
  eventually([&] { return rt.bus().snapshot().topics.empty(); });
}

TEST_CASE("a topic's name is no event's name: the two never meet", "[E4][E1]") {
  const time_limit limit;
  record<int> plain, named;
  penstock::runtime rt(workers(1));
  auto a = rt.bus().subscribe<titled>("plain", [&](const titled& e) { plain.add(e.value); });
  const auto topic = rt.bus().topic<job>("policies.titled");
  auto b = topic.subscribe("named", [&](const job& e) { named.add(e.value); });
  rt.bus().publish(titled{1});
  topic.publisher().publish(job{2});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(plain.all() == std::vector{1});
  CHECK(named.all() == std::vector{2});
  CHECK(quiet(a));
  CHECK(quiet(b));
}

// --- metadata
// ----------------------------------------------------------------------------------------------------------

TEST_CASE("without metadata there is no publish time and no count of losses", "[E3]") {
  const time_limit limit;
  record<penstock::steady_time> times_seen;
  record<std::uint64_t> losses;
  penstock::runtime rt(workers(1));
  const auto read = rt.bus().stream<job>("read", stream_options().overflow(overflow::latest));
  auto sub = rt.bus().subscribe<job>("sub", [&](const job&, const call& c) {
    times_seen.add(c.published());
    losses.add(c.dropped_before());
  });
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  REQUIRE(sub.close(close_mode::drain) == close_status::closed);
  CHECK((times_seen.all() == std::vector(3, penstock::steady_time{})));
  CHECK(losses.all() == std::vector<std::uint64_t>{0, 0, 0});
  const auto got = read.receive();
  CHECK((got.published() == penstock::steady_time{}));
  CHECK(got.dropped_before() == 0);
}

TEST_CASE("with metadata an event says when it was published, by the coarse clock or by the precise one", "[E3]") {
  const time_limit limit;
  const auto kept = GENERATE(penstock::metadata::coarse, penstock::metadata::precise);
  record<penstock::steady_time> told;
  penstock::runtime rt(workers(1));
  const auto topic = rt.bus().topic<job>(topic_options().name("timed").metadata(kept));
  const auto unnamed = rt.bus().topic<letter>(topic_options().metadata(kept));
  const auto read = unnamed.stream("read");
  auto sub = topic.subscribe("sub", subscribe_options().retry(quick(2)), [&](const job&, const call& c) {
    told.add(c.published());
    if (c.attempt() == 1) throw 1;
  });
  const auto before = kept == penstock::metadata::coarse ? rt.time().coarse_now() : rt.time().now();
  topic.publisher().publish(job{1});
  const std::array<job, 3> more{job{2}, job{3}, job{4}};
  topic.publisher().publish_many(more);
  rt.bus().publisher<letter>().emplace("one");
  const auto after = rt.time().now();
  REQUIRE(sub.close(close_mode::drain) == close_status::closed);
  const auto got = read.receive();
  const auto all = told.all();
  REQUIRE(all.size() == 8);
  for (std::size_t i = 0; i < all.size(); ++i) {
    CHECK((all[i] >= before));
    CHECK((all[i] <= after));
    if (i % 2 == 1) CHECK((all[i] == all[i - 1]));  // the second attempt is of the same event
  }
  CHECK((got.published() >= before));
  CHECK((got.published() <= after));
  CHECK(quiet(sub));
}

TEST_CASE("a coarse publish time is what the system's coarse clock says at that moment", "[E3]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto topic = rt.bus().topic<job>(topic_options().name("timed").metadata(penstock::metadata::coarse));
  const auto read = topic.stream("read");
  const auto publisher = topic.publisher();
  for (int i = 0; i < 20; ++i) {
    const auto before = rt.time().coarse_now();
    publisher.publish(job{i});
    const auto after = rt.time().coarse_now();
    const auto got = read.try_receive();
    CHECK(got.published() >= before);
    CHECK(got.published() <= after);
    CHECK(after <= rt.time().now());
    eventually([&] { return rt.time().coarse_now() > after; });
  }
  CHECK(quiet(read));
}

TEST_CASE("dropped_before counts what was lost since the event before: evicted, dropped, refused as full", "[E3]") {
  const time_limit limit;
  struct row {
    int value;
    std::uint64_t sequence, lost;
    bool operator==(const row&) const = default;
  };
  const auto policy = GENERATE(overflow::drop_oldest, overflow::drop_newest, overflow::fail);
  record<row> seen;
  gate release;
  penstock::runtime rt(workers(1));
  const auto topic = rt.bus().topic<job>(topic_options().name("lossy").metadata(penstock::metadata::coarse));
  const auto options = [&] { return subscribe_options().capacity(2).overflow(policy); };
  auto sub = topic.subscribe("sub", options(), [&](const job& e, const call& c) {
    seen.add({e.value, c.sequence(), c.dropped_before()});
    if (e.value == 0) release.wait();
  });
  const auto read = topic.stream("read", stream_options().capacity(2).overflow(policy));
  const auto publisher = topic.publisher();
  std::vector<row> read_rows;
  const auto read_one = [&] {
    const auto got = read.receive();
    read_rows.push_back({got->value, got.sequence(), got.dropped_before()});
  };
  publisher.publish(job{0});
  seen.wait_for(1);
  read_one();
  for (int i = 1; i <= 5; ++i) publisher.publish(job{i});
  release.open();
  REQUIRE(sub.ledger().balanced());
  eventually([&] { return sub.ledger().quiescent(); });
  read_one();
  read_one();
  publisher.publish(job{6});
  eventually([&] { return sub.ledger().quiescent(); });
  read_one();
  std::vector<row> expected;
  if (policy == overflow::drop_oldest)
    expected = {{0, 1, 0}, {4, 5, 3}, {5, 6, 0}, {6, 7, 0}};
  else
    expected = {{0, 1, 0}, {1, 2, 0}, {2, 3, 0}, {6, 4, 3}};
  CHECK((seen.all() == expected));
  CHECK((read_rows == expected));
  CHECK(quiet(sub));
  CHECK(quiet(read));
}

TEST_CASE("a topic keeps one kind of metadata: another request is an error that names both", "[E3]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  {
    const auto topic = rt.bus().topic<job>(topic_options().name("timed").metadata(penstock::metadata::coarse));
    auto sub = topic.subscribe("sub", [](const job&) {});
    const auto refused = refusal_of([&] {
      (void)rt.bus().topic<job>(topic_options().name("timed").metadata(penstock::metadata::precise));
    });
    INFO(refused.second);
    CHECK(refused.first == errc::invalid_argument);
    CHECK_THAT(refused.second, contains_text("timed"));
    CHECK_THAT(refused.second, contains_text("coarse"));
    CHECK_THAT(refused.second, contains_text("precise"));
    CHECK(refusal_of([&] {
            (void)rt.bus().topic<job>(topic_options().name("timed").metadata(penstock::metadata::off));
          }).first == errc::invalid_argument);
    CHECK(rt.bus().topic<job>(topic_options().name("timed").metadata(penstock::metadata::coarse)).name() == "timed");
    CHECK(rt.bus().topic<job>("timed").name() == "timed");
    CHECK(rt.bus().topic<other_job>(topic_options().name("other").metadata(penstock::metadata::precise)).name() ==
          "other");
  }
  {
    auto sub = rt.bus().subscribe<other_job>("plain", [](const other_job&) {});
    CHECK(refusal_of([&] {
            (void)rt.bus().topic<other_job>(topic_options().metadata(penstock::metadata::precise));
          }).first == errc::invalid_argument);
  }
  eventually([&] { return rt.bus().snapshot().topics.empty(); });
  // Released, so it may be had another way.
  CHECK(rt.bus().topic<job>(topic_options().name("timed").metadata(penstock::metadata::precise)).name() == "timed");
}

// --- back-pressure cycles
// ----------------------------------------------------------------------------------------------

namespace {

/// Named topics of one type in a ring: for its event 0 the handler of topic i publishes an event 2 to topic i + 1, when
/// its gate is opened. Each channel has one seat, and that is taken by an event 1.
struct ring {
  explicit ring(std::size_t size, runtime_options options) : gates(size), rt(std::move(options)) {
    for (std::size_t i = 0; i < size; ++i) topics.push_back(rt.bus().topic<job>("ring" + std::to_string(i)));
    for (std::size_t i = 0; i < size; ++i) {
      const auto next = topics[(i + 1) % size].publisher();
      members.push_back(topics[i].subscribe(
          "member" + std::to_string(i),
          subscribe_options().capacity(1).on_drop<job>([this, i](const job& e, drop_reason reason) noexcept {
            drops.add({static_cast<int>(i) * 100 + e.value, reason});
          }),
          [this, i, next](const job& e) {
            handled.add(static_cast<int>(i) * 100 + e.value);
            if (e.value != 0) return;
            begun.add(static_cast<int>(i));
            gates[i].wait();
            const auto result =
                with_deadline ? next.publish_for(1h, job{2}) : next.publish(job{2});
            said.add({result.error(), result.parked(), result.rejected()});
          }));
    }
    for (std::size_t i = 0; i < size; ++i) {
      topics[i].publisher().publish(job{0});
      begun.wait_for(i + 1);
      topics[i].publisher().publish(job{1});
    }
  }
  struct answer {
    errc error;
    std::uint64_t parked, rejected;
  };
  std::vector<gate> gates;
  std::atomic<bool> with_deadline{false};
  record<int> begun, handled;
  record<answer> said;
  record<std::pair<int, drop_reason>> drops;
  penstock::runtime rt;
  std::vector<penstock::topic<job>> topics;
  std::vector<subscription> members;
};

}  // namespace

TEST_CASE("a park that would close a ring of handlers is refused as a cycle, and everything goes on", "[P4]") {
  const time_limit limit;
  const std::size_t size = GENERATE(1U, 2U, 3U, 5U);
  const bool with_deadline = GENERATE(false, true);
  record<failure> failures;
  ring r(size, workers(6, failures));
  r.with_deadline = with_deadline;
  for (std::size_t i = 0; i < size; ++i) {
    r.gates[i].open();
    r.said.wait_for(i + 1);
  }
  REQUIRE(r.rt.bus().wait_idle(20s));
  const auto said = r.said.all();
  REQUIRE(said.size() == size);
  for (std::size_t i = 0; i + 1 < size; ++i) {
    CHECK(said[i].error == errc::none);
    CHECK(said[i].parked == 1);
  }
  CHECK(said.back().error == errc::backpressure_cycle);
  CHECK(said.back().parked == 0);
  CHECK(said.back().rejected == 1);
  // The target of the last is the first.
  const std::vector<std::pair<int, drop_reason>> expected{{2, drop_reason::cycle}};
  CHECK((r.drops.all() == expected));
  for (std::size_t i = 0; i < size; ++i) {
    const auto ledger = r.members[i].ledger();
    CHECK(ledger.rejected.cycle == (i == 0 ? 1 : 0));
    CHECK(ledger.handled == (i == 0 ? 2 : 3));
    CHECK(quiet(r.members[i]));
  }
  REQUIRE(failures.size() == 1);
  const std::string text = to_string(failures.all().front());
  INFO(text);
  for (std::size_t i = 0; i < size; ++i) CHECK_THAT(text, contains_text("member" + std::to_string(i)));
  CHECK(failures.all().front().subscription == "member" + std::to_string(size - 1));
  // The chain ends where it began.
  const std::string chain = failures.all().front().exception.what;
  CHECK(times("member" + std::to_string(size - 1), chain) == 2);
}

TEST_CASE("a diamond of handlers is no cycle: nothing is refused", "[P4]") {
  const time_limit limit;
  record<failure> failures;
  record<int> sunk;
  penstock::runtime rt(workers(2, failures));
  const auto left = rt.bus().topic<job>("left");
  const auto right = rt.bus().topic<job>("right");
  const auto sink = rt.bus().topic<job>("sink");
  const auto narrow = [] { return subscribe_options().capacity(1); };
  auto d = sink.subscribe("sink", narrow(), [&](const job& e) { sunk.add(e.value); });
  auto b = left.subscribe("left", narrow(),
                          [to = sink.publisher()](const job& e) { (void)to.publish(job{e.value * 2}); });
  auto c = right.subscribe("right", narrow(),
                           [to = sink.publisher()](const job& e) { (void)to.publish(job{e.value * 2 + 1}); });
  auto a = rt.bus().subscribe<job>("source", narrow(),
                                   [to_left = left.publisher(), to_right = right.publisher()](const job& e) {
                                     (void)to_left.publish(e);
                                     (void)to_right.publish(e);
                                   });
  const int count = sanitized ? 100 : 500;
  for (int i = 0; i < count; ++i) rt.bus().publish(job{i});
  REQUIRE(rt.bus().wait_idle(25s));
  auto all = sunk.all();
  std::sort(all.begin(), all.end());
  CHECK(all == first(count * 2));
  CHECK(failures.size() == 0);
  for (const subscription* each : {&a, &b, &c, &d}) {
    CHECK(each->ledger().rejected.total() == 0);
    CHECK(quiet(*each));
  }
}

TEST_CASE("with concurrency 2 a handler may park on its own channel while its other lane is free", "[P4][O2]") {
  const time_limit limit;
  record<failure> failures;
  record<int> begun;
  record<std::pair<errc, std::uint64_t>> said;
  gate gates[2];
  const bool both = GENERATE(false, true);
  penstock::runtime rt(workers(3, failures));
  auto sub = rt.bus().subscribe<job>("wide", subscribe_options().capacity(1).concurrency(2), [&](const job& e) {
    if (e.value >= 2) return;
    begun.add(e.value);
    gates[e.value].wait();
    if (e.value == 1 && !both) return;
    const auto result = rt.bus().publish(job{e.value + 10});
    said.add({result.error(), result.parked()});
  });
  for (int i = 0; i < 2; ++i) {
    rt.bus().publish(job{i});
    begun.wait_for(static_cast<std::size_t>(i) + 1);
  }
  rt.bus().publish(job{5});  // full now
  gates[0].open();
  said.wait_for(1);
  CHECK(said.all().front().first == errc::none);
  CHECK(said.all().front().second == 1);
  gates[1].open();
  REQUIRE(rt.bus().wait_idle(20s));
  if (both) {
    REQUIRE(said.size() == 2);
    CHECK(said.all().back().first == errc::backpressure_cycle);
    CHECK(failures.size() == 1);
  } else {
    CHECK(failures.size() == 0);
  }
  CHECK(sub.ledger().rejected.cycle == (both ? 1 : 0));
  CHECK(sub.ledger().handled == 4);
  CHECK(quiet(sub));
}

TEST_CASE("a stream in the ring is alive: a park on it is not refused", "[P4][S5]") {
  const time_limit limit;
  record<failure> failures;
  record<std::pair<errc, std::uint64_t>> said;
  penstock::runtime rt(workers(1, failures));
  const auto read = rt.bus().stream<other_job>("read", stream_options().capacity(1));
  auto sub = rt.bus().subscribe<job>("stage", subscribe_options().capacity(1), [&](const job& e) {
    const auto result = rt.bus().publish(other_job{e.value});
    said.add({result.error(), result.parked()});
  });
  rt.bus().publish(job{0});
  rt.bus().publish(job{1});
  said.wait_for(2);
  CHECK(said.all().back().first == errc::none);
  CHECK(said.all().back().second == 1);
  std::atomic<int> count{0};
  std::thread reader([&] {  // and goes round: what it reads it publishes to the stage
    while (count < 20) {
      const auto got = read.receive_for(20s);
      if (!got) break;
      if (++count <= 18) (void)rt.bus().publish(job{got->value + 2});
    }
  });
  reader.join();
  CHECK(count == 20);
  REQUIRE(rt.bus().wait_idle(20s));
  CHECK(failures.size() == 0);
  CHECK(sub.ledger().handled == 20);
  CHECK(read.ledger().rejected.total() == 0);
  CHECK(quiet(sub));
  CHECK(quiet(read));
}

TEST_CASE("a coroutine handler's async_publish to its own full channel is refused as a cycle", "[P4][P3]") {
  const time_limit limit;
  record<failure> failures;
  record<errc> said;
  record<int> begun;
  gate release;
  record<drop_reason> drops;
  penstock::runtime rt(workers(1, failures));
  const auto publisher = rt.bus().publisher<job>();
  auto options = subscribe_options().capacity(1).on_drop<job>([&](const job&, drop_reason reason) noexcept {
    drops.add(reason);
  });
  auto sub = rt.bus().subscribe<job>("self", std::move(options), [&](const job& e) -> task<void> {
    begun.add(e.value);
    if (e.value == 0) {
      release.wait();
      const job output{2};
      const auto result = co_await publisher.async_publish(output);
      said.add(result.error());
    }
  });
  publisher.publish(job{0});
  begun.wait_for(1);
  publisher.publish(job{1});
  release.open();
  REQUIRE(rt.bus().wait_idle(20s));
  CHECK(said.all() == std::vector{errc::backpressure_cycle});
  CHECK(drops.all() == std::vector{drop_reason::cycle});
  CHECK(sub.ledger().rejected.cycle == 1);
  CHECK(begun.all() == std::vector{0, 1});
  CHECK(failures.size() == 1);
  CHECK(quiet(sub));
}

TEST_CASE("a channel with room, or with a policy that never waits, makes no cycle", "[P4]") {
  const time_limit limit;
  record<failure> failures;
  record<errc> said;
  const auto policy = GENERATE(overflow::block, overflow::fail, overflow::drop_newest, overflow::drop_oldest);
  penstock::runtime rt(workers(1, failures));
  const std::size_t room = policy == overflow::block ? 3 : 1;
  auto sub = rt.bus().subscribe<job>("self", subscribe_options().capacity(room).overflow(policy), [&](const job& e) {
    if (e.value == 0)
      for (int i = 1; i <= 3; ++i) said.add(rt.bus().publish(job{i}).error());
  });
  rt.bus().publish(job{0});
  REQUIRE(rt.bus().wait_idle(20s));
  CHECK(said.all() == std::vector(3, errc::none));
  CHECK(sub.ledger().offered == 4);
  CHECK(sub.ledger().rejected.cycle == 0);
  CHECK(failures.size() == 0);
  CHECK(quiet(sub));
}

TEST_CASE("a ring of handlers under load never hangs, and accounts for every event", "[P4]") {
  const time_limit limit;
  std::atomic<std::uint64_t> told{0};
  penstock::runtime rt(workers(3));
  std::vector<penstock::topic<job>> topics;
  std::vector<subscription> members;
  for (int i = 0; i < 3; ++i) topics.push_back(rt.bus().topic<job>("load" + std::to_string(i)));
  for (std::size_t i = 0; i < 3; ++i)
    members.push_back(topics[i].subscribe(
        "load" + std::to_string(i),
        subscribe_options().capacity(2).on_drop<job>([&](const job&, drop_reason) noexcept { ++told; }),
        [to = topics[(i + 1) % 3].publisher()](const job& e) {
          if (e.value > 0) (void)to.publish(job{e.value - 1});
        }));
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      const auto publisher = topics[t].publisher();
      for (int i = 0; i < (sanitized ? 50 : 300); ++i) publisher.publish(job{9});
    });
  for (auto& each : threads) each.join();
  REQUIRE(rt.bus().wait_idle(20s));
  std::uint64_t cycles = 0;
  for (const auto& each : members) {
    const auto ledger = each.ledger();
    cycles += ledger.rejected.cycle;
    CHECK(ledger.rejected.total() == ledger.rejected.cycle);
    CHECK(quiet(each));
  }
  CHECK(told == cycles);
}

// --- the snapshot
// ------------------------------------------------------------------------------------------------------

TEST_CASE("a snapshot shows topics, subscriptions, their state, what runs and who waits for whom", "[snapshot]") {
  const time_limit limit;
  record<int> begun;
  gate release, never;
  record<failure> failures;
  penstock::runtime rt(workers(3, failures));
  const auto bus = rt.bus();
  const auto named = bus.topic<job>("snap.named");
  auto slow = named.subscribe("slow", subscribe_options().capacity(1), [&](const job& e) {
    begun.add(e.value);
    if (e.value == 0) release.wait();
  });
  auto stage = bus.subscribe<other_job>("stage", [to = named.publisher()](const other_job& e) {
    (void)to.publish(job{e.value});
  });
  auto delayed = bus.subscribe<letter>("delayed", subscribe_options().retry(never_again(2)).concurrency(2),
                                       [](const letter&) { throw 1; });
  auto waits = bus.subscribe<letter>("suspended", [](const letter&) -> task<void> {
    co_await penstock::sleep_for(1h);
  });
  auto paused = bus.subscribe<titled>("paused", subscribe_options().on_failure(failure_policy::pause(1, 1h)),
                                      [](const titled&) { throw 1; });
  const unsigned line = __LINE__ + 1;
  auto read = named.stream("read", stream_options().capacity(7).overflow(overflow::drop_oldest));
  auto latest = bus.subscribe<job>("latest", subscribe_options().overflow(overflow::latest), [](const job&) {});
  named.publisher().publish(job{0});
  begun.wait_for(1);
  named.publisher().publish(job{1});
  for (int i = 2; i < 4; ++i) bus.publish(other_job{i});
  bus.publisher<letter>().emplace("x");
  for (int i = 0; i < 3; ++i) bus.publish(titled{i});
  std::stop_source stop;
  std::thread reader([&] {
    for (int i = 0; i < 3; ++i) (void)read.receive(stop.get_token());
    (void)read.receive(stop.get_token());
  });
  eventually([&] {
    const auto seen = bus.snapshot();
    return slow.ledger().pending == 1 && paused.state() == subscription_state::paused &&
           seen_as(seen, "delayed").running.size() == 1 && seen_as(seen, "delayed").running.front().retry_wait &&
           seen_as(seen, "suspended").running.size() == 1 && seen_as(seen, "suspended").running.front().suspended &&
           seen_as(seen, "read").readers == 1;
  });
  const auto seen = bus.snapshot();
  const auto between = rt.time().now();
  const auto later = [&] {
    eventually([&] { return rt.time().now() - between > 2ms; });
    return bus.snapshot();
  }();
  CHECK(seen_as(later, "slow").oldest_at_least > 2ms);
  CHECK(seen_as(later, "paused").oldest_at_least > 2ms);
  CHECK(seen_as(later, "suspended").oldest_at_least == 0ns);  // its one event has begun

  CHECK(seen.subscriptions.size() == 7);
  const auto s = seen_as(seen, "slow");
  CHECK(s.topic == "snap.named");
  CHECK_THAT(s.event, contains_text("job"));
  CHECK(s.pool == "default");
  CHECK_THAT(s.file, contains_text("bus_policies_test.cpp"));
  CHECK(s.capacity == 1);
  CHECK(s.concurrency == 1);
  CHECK(s.ordered);
  CHECK(s.overflow == overflow::block);
  CHECK(s.state == subscription_state::open);
  CHECK(s.ledger.queued == 1);
  CHECK(s.ledger.pending == 1);
  CHECK(s.ledger.balanced());
  REQUIRE(s.running.size() == 1);
  CHECK(s.running.front().sequence == 1);
  CHECK_FALSE(s.running.front().suspended);
  CHECK_FALSE(s.running.front().retry_wait);
  REQUIRE(seen_as(later, "slow").running.size() == 1);
  CHECK(seen_as(later, "slow").running.front().at_least >= 2ms);
  const auto d = seen_as(seen, "delayed");
  CHECK(d.concurrency == 2);
  CHECK_FALSE(d.ordered);
  CHECK(d.ledger.running == 1);
  CHECK(seen_as(later, "delayed").running.front().at_least >= 2ms);
  CHECK(seen_as(later, "suspended").running.front().at_least >= 2ms);
  CHECK_FALSE(seen_as(seen, "suspended").running.front().retry_wait);
  CHECK(seen_as(seen, "paused").state == subscription_state::paused);
  CHECK(seen_as(seen, "paused").ledger.queued == 2);
  const auto r = seen_as(seen, "read");
  CHECK(r.concurrency == 0);
  CHECK(r.pool.empty());
  CHECK(r.capacity == 7);
  CHECK(r.overflow == overflow::drop_oldest);
  CHECK(r.line == line);
  CHECK(r.readers == 1);
  CHECK(seen_as(seen, "latest").overflow == overflow::latest);
  CHECK(seen_as(seen, "latest").capacity == 1);

  REQUIRE(seen.waits.size() == 1);
  CHECK(seen.waits.front().from == "stage");
  CHECK(seen.waits.front().to == "slow");
  CHECK(seen.waits.front().reason == penstock::wait_edge::why::output);
  CHECK(seen.waits.front().events == 1);

  bool found = false;
  for (const auto& each : seen.topics) {
    if (each.name != "snap.named") continue;
    found = true;
    CHECK_THAT(each.event, contains_text("job"));
    CHECK(each.subscriptions == 2);
    CHECK(each.handles >= 2);
  }
  CHECK(found);

  const auto json = nlohmann::json::parse(to_json(seen));
  REQUIRE(json["subscriptions"].size() == seen.subscriptions.size());
  REQUIRE(json["topics"].size() == seen.topics.size());
  REQUIRE(json["waits"].size() == 1);
  CHECK(json["waits"][0]["from"] == "stage");
  CHECK(json["waits"][0]["to"] == "slow");
  CHECK(json["waits"][0]["events"] == 1);
  for (std::size_t i = 0; i < seen.subscriptions.size(); ++i) {
    const auto& one = seen.subscriptions[i];
    const auto& shown = json["subscriptions"][i];
    INFO(shown.dump());
    CHECK(shown["name"] == one.name);
    CHECK(shown["topic"] == one.topic);
    CHECK(shown["event"] == one.event);
    CHECK(shown["state"] == to_string(one.state));
    CHECK(shown["overflow"] == to_string(one.overflow));
    CHECK(shown["capacity"] == one.capacity);
    CHECK(shown["concurrency"] == one.concurrency);
    CHECK(shown["line"] == one.line);
    CHECK(shown["readers"] == one.readers);
    const auto& ledger = shown["ledger"];
    CHECK(ledger["offered"] == one.ledger.offered);
    CHECK(ledger["accepted"] == one.ledger.accepted);
    CHECK(ledger["pending"] == one.ledger.pending);
    CHECK(ledger["handled"] == one.ledger.handled);
    CHECK(ledger["failed"] == one.ledger.failed);
    CHECK(ledger["queued"] == one.ledger.queued);
    CHECK(ledger["running"] == one.ledger.running);
    CHECK(ledger["rejected"]["cycle"] == one.ledger.rejected.cycle);
    REQUIRE(shown["running"].size() == one.running.size());
    for (std::size_t k = 0; k < one.running.size(); ++k) {
      CHECK(shown["running"][k]["sequence"] == one.running[k].sequence);
      CHECK(shown["running"][k]["suspended"] == one.running[k].suspended);
      CHECK(shown["running"][k]["retry_wait"] == one.running[k].retry_wait);
    }
  }

  release.open();
  stop.request_stop();
  reader.join();
  CHECK(delayed.close() == close_status::closed);
  CHECK(waits.close(close_mode::cancel) == close_status::closed);
  CHECK(paused.close() == close_status::closed);
  REQUIRE(stage.close(close_mode::drain) == close_status::closed);
  REQUIRE(slow.close(close_mode::drain) == close_status::closed);
  for (const subscription* each : {&slow, &stage, &delayed, &waits, &paused, &latest}) CHECK(quiet(*each));
}

TEST_CASE("a snapshot shows draining and stopped subscriptions, and who waits for an end", "[snapshot]") {
  const time_limit limit;
  record<int> begun;
  gate release;
  record<close_status> closed;
  penstock::runtime rt(workers(3));
  auto busy = rt.bus().subscribe<job>("busy", [&](const job& e) {
    begun.add(e.value);
    release.wait();
  });
  auto closer = rt.bus().subscribe<other_job>("closer", [&](const other_job&) -> task<void> {
    const auto status = co_await busy.async_close(close_mode::drain);
    closed.add(status);
  });
  CHECK(seen_as(rt.bus().snapshot(), "busy").state == subscription_state::open);
  for (int i = 0; i < 2; ++i) rt.bus().publish(job{i});
  begun.wait_for(1);
  rt.bus().publish(other_job{});
  eventually([&] { return busy.state() == subscription_state::draining; });
  eventually([&] { return !rt.bus().snapshot().waits.empty(); });
  const auto seen = rt.bus().snapshot();
  CHECK(seen_as(seen, "busy").state == subscription_state::draining);
  REQUIRE(seen.waits.size() == 1);
  CHECK(seen.waits.front().from == "closer");
  CHECK(seen.waits.front().to == "busy");
  CHECK(seen.waits.front().reason == penstock::wait_edge::why::close);
  busy.stop();
  CHECK(busy.state() == subscription_state::stopped);
  CHECK(seen_as(rt.bus().snapshot(), "busy").state == subscription_state::stopped);
  release.open();
  closed.wait_for(1);
  CHECK(closed.all() == std::vector{close_status::closed});
  CHECK(busy.state() == subscription_state::ended);
  CHECK(busy.ledger().discarded == 1);
  CHECK(quiet(busy));
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(rt.bus().snapshot().waits.empty());
  CHECK(rt.bus().snapshot().subscriptions.size() == 1);
  CHECK(subscription().state() == subscription_state::ended);
}

TEST_CASE("a snapshot's JSON parses whatever bytes the names have", "[snapshot]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const std::string controls = "new\nline \"quoted\" \\ \x01\x1f\x7f";
  const std::string umlaut = "stra\xc3\x9f" "e";
  const std::string broken = "bad \xff\xfe end \xc3";
  auto a = rt.bus().subscribe<job>(controls, [](const job&) {});
  auto b = rt.bus().subscribe<job>(umlaut, [](const job&) {});
  auto c = rt.bus().subscribe<job>(broken, [](const job&) {});
  const auto seen = rt.bus().snapshot();
  REQUIRE(seen.subscriptions.size() == 3);
  CHECK(seen.subscriptions[2].name == broken);
  const std::string text = to_json(seen);
  const auto json = nlohmann::json::parse(text);
  CHECK(json["subscriptions"][0]["name"] == controls);
  CHECK(json["subscriptions"][1]["name"] == umlaut);
  const auto shown = json["subscriptions"][2]["name"].get<std::string>();
  CHECK_THAT(shown, contains_text("bad "));
  CHECK_THAT(shown, contains_text(" end "));
  CHECK_THAT(shown, contains_text("\xef\xbf\xbd"));
  const auto nothing = nlohmann::json::parse(to_json(penstock::bus_snapshot()));
  CHECK(nothing["topics"].empty());
  CHECK(nothing["subscriptions"].empty());
  CHECK(nothing["waits"].empty());
}
