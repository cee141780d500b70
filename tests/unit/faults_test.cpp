// Faults from outside the bus: threads that end or cannot start, processes that end or become others, signals, handlers
// that change who listens, and events that no memory can hold. Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/child.hpp"
#include "../support/gate.hpp"
#include "../support/sanitizers.hpp"
#include "../support/signal_storm.hpp"
#if !defined(TEST_THREAD_SANITIZED)  // its runtime starts the threads itself
#include "../support/thread_starts.hpp"
#endif

#include <penstock/exec/asio.hpp>
#include <penstock/penstock.hpp>
#include <penstock/runtime/signal_watcher.hpp>

#include <boost/asio/steady_timer.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::close_status;
using penstock::errc;
using penstock::failure;
using penstock::runtime_options;
using penstock::subscribe_options;
using penstock::subscription;
using penstock::task;
using penstock::worker_pool;
using penstock::worker_pool_options;

namespace {

struct job {
  int value = 0;
};

runtime_options workers(unsigned count) {
  return runtime_options()
      .pool("default", worker_pool_options().threads(count))
      .pool("blocking", worker_pool_options().threads(2))
      .on_failure([](const failure&) {});
}

std::vector<int> numbers(int from, int until) {
  std::vector<int> all;
  for (int i = from; i < until; ++i) all.push_back(i);
  return all;
}

}  // namespace

// --- who listens changes while an event is handled
// -----------------------------------------------------------------------

TEST_CASE("who joins or leaves in a handler does so from the next event on; nobody else misses one or has one twice",
          "[S1][S2]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  auto& bus = rt.bus();
  record<int> stays, leaves, left, joined;
  subscription joins, is_left, leaving;
  auto staying = bus.subscribe<job>("stays", [&](const job& e) { stays.add(e.value); });
  is_left = bus.subscribe<job>("is left", [&](const job& e) { left.add(e.value); });
  leaving = bus.subscribe<job>("leaves", [&](const job& e) {
    leaves.add(e.value);
    if (e.value == 3) {
      joins = bus.subscribe<job>("joins", [&](const job& j) { joined.add(j.value); });
      bus.publish(job{100});  // a next event, from within the same call
    }
    if (e.value == 5) is_left.stop();
    if (e.value == 7) leaving.stop();
  });
  for (int i = 0; i < 10; ++i) {
    bus.publish(job{i});
    REQUIRE(bus.wait_idle(25s));
  }
  const auto with_100 = [](int from, int until) {
    std::vector<int> all = numbers(from, until);
    if (from <= 3) all.insert(all.begin() + 4 - from, 100);
    return all;
  };
  CHECK(stays.all() == with_100(0, 10));
  CHECK(leaves.all() == with_100(0, 8));
  std::vector<int> later = numbers(4, 10);
  later.insert(later.begin(), 100);
  CHECK(joined.all() == later);
  // The event during which it was stopped was its own already: handled, or discarded with what waited.
  const auto ledger = is_left.ledger();
  CHECK(left.size() == ledger.handled);
  CHECK((left.all() == with_100(0, 5) || left.all() == with_100(0, 6)));
  CHECK(ledger.handled + ledger.discarded == 7);
}

// --- a thread that publishes ends, many of them end, one cannot start
// ----------------------------------------------------

namespace {
/// Ends its thread when the copy of a certain one is made.
struct ends_thread {
  static inline std::atomic<int> alive{0};
  int value;
  bool deadly;
  explicit ends_thread(int number, bool ends = false) : value(number), deadly(ends) { ++alive; }
  ends_thread(const ends_thread& other) : value(other.value), deadly(other.deadly) {
    if (deadly) pthread_exit(nullptr);
    ++alive;
  }
  ends_thread& operator=(const ends_thread&) = delete;
  ~ends_thread() { --alive; }
};
}  // namespace

TEST_CASE("a publisher's thread that ends within a span has published none of it, and leaks none of it", "[P2][F4]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  record<int> seen;
  auto sub = rt.bus().subscribe<ends_thread>("reader", [&](const ends_thread& e) { seen.add(e.value); });
  {
    const auto publisher = rt.bus().publisher<ends_thread>();
    std::vector<ends_thread> whole;
    whole.reserve(5);
    for (int i = 0; i < 5; ++i) whole.emplace_back(i);
    std::vector<ends_thread> broken;
    broken.reserve(5);
    for (int i = 5; i < 10; ++i) broken.emplace_back(i, i == 8);
    std::atomic<bool> returned{false};
    std::thread dying([&] {
      publisher.publish_many(whole);
      publisher.publish_many(broken);
      returned = true;
    });
    dying.join();
    CHECK_FALSE(returned);
    std::thread dying_too([&] {
      publisher.publish(broken[3]);
      returned = true;
    });
    dying_too.join();
    CHECK_FALSE(returned);
    publisher.publish(whole[0]);
    REQUIRE(rt.bus().wait_idle(25s));
  }
  CHECK(seen.all() == std::vector{0, 1, 2, 3, 4, 0});
  CHECK(sub.ledger().offered == 6);
  CHECK(ends_thread::alive == 0);
}

#if !defined(TEST_THREAD_SANITIZED)
TEST_CASE("whichever thread of a pool or a runtime cannot start, the others are joined and the error says which",
          "[X1]") {
  const time_limit limit;
  const auto threads_now = [] {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator("/proc/self/task")) ++count;
    return count;
  };
  const std::size_t before = threads_now();
  for (long k = 0; k < 4; ++k) {
    std::string text;
    {
      const failing_thread_start nth(k);
      try {
        worker_pool::start("press", worker_pool_options().threads(4));
      } catch (const std::system_error& refused) {
        CHECK(refused.code() == std::errc::resource_unavailable_try_again);
        text = refused.what();
      }
    }
    CHECK_THAT(text, contains_text("worker pool \"press\": thread " + std::to_string(k + 1) + " of 4 did not start"));
    CHECK(threads_now() == before);
  }
  long points = 0;
  for (bool failed = true; failed; ++points) {  // two pools of two, the watchdog, the watcher of signals
    const failing_thread_start nth(points);
    bool refused = false;
    try {
      penstock::runtime rt(workers(2).stop_on_signals({SIGUSR1}));
    } catch (const std::system_error&) {
      refused = true;
    }
    failed = nth.has_failed();
    CHECK(refused == failed);
    CHECK(threads_now() == before);
  }
  CHECK(points == 7);
}

TEST_CASE("a worker that is lost and cannot be replaced is reported, and the runtime ends all the same", "[F1][D12]") {
  const time_limit limit;
  record<failure> lost;
  penstock::runtime rt(
      workers(1)
          .pool("default", worker_pool_options().threads(1).on_failure([&](const failure& f) { lost.add(f); }))
          .watchdog(penstock::watchdog_options().enabled(false)));  // whose timer would start a thread as well
  auto sub = rt.bus().subscribe<job>("leaving", [](const job& e) {
    if (e.value == 0) pthread_exit(nullptr);
  });
  {
    const failing_thread_start first(0);
    rt.bus().publish(job{0});
    lost.wait_for(1);
  }
  CHECK_THAT(lost.all().front().exception.what, contains_text("could not be replaced"));
  rt.bus().publish(job{1});  // nobody is there to handle it
  const auto report = rt.shutdown(50ms);
  CHECK(report.undelivered() == 1);
  CHECK(report.stuck.empty());
  CHECK(report.abandoned_workers == 0);
  CHECK(sub.ledger().failed == 1);
  CHECK(sub.ledger().balanced());
}
#endif

// --- the process ends, or becomes another
// --------------------------------------------------------------------------------

TEST_CASE("a handler that aborts or terminates ends the process by SIGABRT, as it would without a bus", "[F1]") {
  const time_limit limit;
  const bool aborts = GENERATE(true, false);
  CHECK(in_child([&]() -> int {
          fclose(stderr);  // the C++ library's own words about it
          penstock::runtime rt(workers(2));
          auto sub = rt.bus().subscribe<job>("ending", [&](const job&) {
            if (aborts) std::abort();
            std::terminate();
          });
          rt.bus().publish(job{1});
          static_cast<void>(rt.bus().wait_idle(25s));
          return 1;
        }) == "signal 6");
}

namespace {
/// Its destructor runs on the worker that called `exit`, inside the handler, while the event is being handled.
struct static_runtime {
  std::unique_ptr<penstock::runtime> rt;
  subscription sub;
  ~static_runtime() {
    if (!rt) return;
    rt.reset();
    _exit(sub.close() == close_status::closing && sub.ledger().running == 1 ? 42 : 43);
  }
};
}  // namespace

TEST_CASE("a handler that calls exit ends the process, also when the runtime is a static object", "[F1][P11]") {
  const time_limit limit;
  CHECK(in_child([]() -> int {
          static auto* rt = new penstock::runtime(workers(2));  // of a main function that never comes back
          static auto sub = rt->bus().subscribe<job>("ending", [](const job&) { std::exit(7); });
          rt->bus().publish(job{1});
          gate never;
          never.wait();
          return 1;
        }) == "exit 7");
  CHECK(in_child([]() -> int {
          static static_runtime user;
          user.rt = std::make_unique<penstock::runtime>(workers(2));
          user.sub = user.rt->bus().subscribe<job>("ending", [](const job&) { std::exit(7); });
          user.rt->bus().publish(job{1});
          gate never;
          never.wait();
          return 1;
        }) == "exit 42");
}

TEST_CASE("no descriptor of a runtime outlives exec: signals, timers, the io_context and its timers", "[P13]") {
  const time_limit limit;
  const auto descriptors = [] {
    std::set<int> open;
    for (const auto& each : std::filesystem::directory_iterator("/proc/self/fd"))
      open.insert(std::stoi(each.path().filename()));
    return open;
  };
  const std::set<int> before = descriptors();
  penstock::runtime rt(workers(2).stop_on_signals({SIGUSR1}));
  gate due;
  boost::asio::steady_timer timer(penstock::pool_executor(rt.pool("default")), 1ms);
  timer.async_wait([&](boost::system::error_code) { due.open(); });
  due.wait();
  auto sub = rt.bus().subscribe<job>("waits", [](const job&) -> task<void> { co_await penstock::sleep_for(1ms); });
  rt.bus().publish(job{1});
  REQUIRE(rt.bus().wait_idle(25s));
  int made = 0;
  for (const int each : descriptors()) {
    if (before.count(each) != 0) continue;
    const int flags = fcntl(each, F_GETFD);
    if (flags < 0) continue;  // the one that was listed with
    ++made;
    INFO("descriptor " << each);
    CHECK((flags & FD_CLOEXEC) != 0);
  }
  CHECK(made >= 4);  // a pipe for signals; epoll, eventfd and timerfd of the io_context
}

// --- signals
// -------------------------------------------------------------------------------------------------------------

TEST_CASE("what a signal has to say to the bus is published on the watcher's thread, which may wait", "[P14]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  record<int> seen;
  auto sub =
      rt.bus().subscribe<job>("listener", subscribe_options().capacity(1), [&](const job& e) { seen.add(e.value); });
  record<std::size_t> accepted;
  const penstock::signal_watcher watcher({SIGUSR1}, [&](int signal, unsigned) {
    for (int i = 0; i < 5; ++i) accepted.add(rt.bus().publish(job{signal}).accepted());  // more than fits
  });
  raise(SIGUSR1);
  accepted.wait_for(5);
  seen.wait_for(5);
  CHECK(accepted.all() == std::vector<std::size_t>(5, 1));
  CHECK(seen.all() == std::vector<int>(5, SIGUSR1));
}

TEST_CASE("a signal every millisecond disturbs no wait: it ends neither early nor with another answer", "[P14]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  const signal_storm storm;
  auto slow = rt.bus().subscribe<job>("slow", subscribe_options().capacity(1),
                                      [](const job&) -> task<void> { co_await penstock::sleep_for(4ms); });
  for (int i = 0; i < 10; ++i) CHECK(rt.bus().publish(job{i}).accepted() == 1);  // waits for its seat
  CHECK(rt.bus().wait_idle(25s));
  CHECK(slow.ledger().handled == 10);
  rt.bus().publish(job{10});
  CHECK(slow.close(penstock::close_mode::drain) == close_status::closed);

  const auto at_least = [](std::chrono::nanoseconds wait, const std::function<void()>& waits) {
    const auto began = std::chrono::steady_clock::now();
    waits();
    return std::chrono::steady_clock::now() - began >= wait;
  };
  auto inbox = rt.bus().stream<job>("inbox");
  CHECK(at_least(20ms, [&] { CHECK_FALSE(inbox.receive_for(20ms)); }));
  auto sleeping = []() -> task<void> { co_await penstock::sleep_for(20ms); };
  auto once = sleeping();
  CHECK(at_least(20ms, [&] { penstock::block_on(rt.pool("default"), std::move(once)); }));
  const auto background = rt.tasks().spawn("sleeps", sleeping);
  CHECK(background.wait() == penstock::task_status::completed);
  gate release, inside;
  auto stuck = rt.bus().subscribe<std::string>("stuck", subscribe_options().capacity(1), [&](const std::string&) {
    inside.open();
    release.wait();
  });
  const auto texts = rt.bus().publisher<std::string>();
  texts.publish("runs");
  inside.wait();
  texts.publish("waits");
  CHECK(at_least(20ms, [&] { CHECK(texts.publish_for(20ms, "has no seat").error() == errc::timed_out); }));
  CHECK(at_least(20ms, [&] { CHECK_FALSE(rt.bus().wait_idle(20ms)); }));
  CHECK(at_least(20ms, [&] { CHECK(stuck.close_for(20ms) == close_status::timed_out); }));
  release.open();
  CHECK(rt.bus().wait_idle(25s));
  CHECK(storm.signals() > 10);
}

// --- an event that no memory can hold
// ------------------------------------------------------------------------------------

#if !defined(TEST_THREAD_SANITIZED) && !defined(TEST_ADDRESS_SANITIZED)  // which end the process instead
namespace {
struct huge {
  std::array<std::byte, std::size_t{1} << 46> bytes;
  explicit huge(bool& made) noexcept { made = true; }
};
}  // namespace

TEST_CASE("an event larger than all memory is refused with not_enough_memory before it is built, and offered to nobody",
          "[P2][F4]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  std::atomic<int> seen{0};
  auto sub = rt.bus().subscribe<huge>("reader", [&](const huge&) { ++seen; });
  bool made = false;
  CHECK(rt.bus().publisher<huge>().emplace(made).error() == errc::not_enough_memory);
  CHECK_FALSE(made);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(seen == 0);
  CHECK(sub.ledger().offered == 0);
}
#endif
