// Costs: allocations per publish, idle processor time, memory after a burst.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"
#include "../support/sanitizers.hpp"

#include <penstock/penstock.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <malloc.h>
#include <sys/resource.h>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::errc;
using penstock::overflow;
using penstock::runtime_options;
using penstock::subscribe_options;
using penstock::worker_pool_options;

// The executable's symbols come first, for the shared library too. A sanitizer brings its own: then nothing is counted.
#if !defined(TEST_THREAD_SANITIZED) && !defined(TEST_ADDRESS_SANITIZED) && defined(__GLIBC__)

namespace {
std::atomic<bool> counting{false};
std::atomic<std::uint64_t> allocations{0};
void* counted(void* memory) noexcept {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  return memory;
}
}  // namespace

extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* memory, std::size_t bytes);
void* __libc_memalign(std::size_t align, std::size_t bytes);

[[gnu::visibility("default")]] void* malloc(std::size_t bytes) { return counted(__libc_malloc(bytes)); }
[[gnu::visibility("default")]] void* calloc(std::size_t n, std::size_t bytes) {
  return counted(__libc_calloc(n, bytes));
}
[[gnu::visibility("default")]] void* realloc(void* old, std::size_t bytes) {
  return counted(__libc_realloc(old, bytes));
}
[[gnu::visibility("default")]] void* memalign(std::size_t align, std::size_t bytes) {
  return counted(__libc_memalign(align, bytes));
}
[[gnu::visibility("default")]] void* aligned_alloc(std::size_t align, std::size_t bytes) {
  return counted(__libc_memalign(align, bytes));
}
[[gnu::visibility("default")]] int posix_memalign(void** result, std::size_t align, std::size_t bytes) {
  void* memory = counted(__libc_memalign(align, bytes));
  if (memory == nullptr) return ENOMEM;
  *result = memory;
  return 0;
}
}

namespace {

template <std::size_t Bytes>
struct sized {
  std::array<unsigned char, Bytes> bytes{};
};
struct alignas(64) aligned_event {
  unsigned char bytes[64] = {};
};

runtime_options workers(unsigned count) {
  return runtime_options().pool("default", worker_pool_options().threads(count));
}

/// Allocations of all threads together while `body` runs and until `settled`.
template <class Body, class Settled>
std::uint64_t allocations_of(Body body, Settled settled) {
  allocations = 0;
  counting = true;
  body();
  eventually(settled);
  counting = false;
  return allocations;
}

/// Allocations of `count` publishes to `fan_out` subscriptions that always have room.
template <class E, class Publish>
std::uint64_t allocations_per(std::size_t fan_out, int count, Publish publish) {
  penstock::runtime rt(workers(2));
  std::vector<penstock::subscription> subs;
  std::atomic<std::uint64_t> handled{0};
  for (std::size_t i = 0; i < fan_out; ++i)
    subs.push_back(rt.bus().subscribe<E>("counted", subscribe_options().capacity(4096), [&](const E&) { ++handled; }));
  const auto publisher = rt.bus().template publisher<E>();
  for (int i = 0; i < 10; ++i) publish(publisher);  // steady state: the rings are there
  const auto settled = [&] {
    return std::all_of(subs.begin(), subs.end(), [](auto& each) { return each.ledger().quiescent(); });
  };
  eventually(settled);
  const std::uint64_t counted = allocations_of(
      [&] {
        for (int i = 0; i < count; ++i) publish(publisher);
      },
      settled);
  REQUIRE(handled >= fan_out * static_cast<std::uint64_t>(count + 10));
  return counted;
}

}  // namespace

TEST_CASE("the allocation counter of this test counts", "[costs]") {
  allocations = 0;
  counting = true;
  auto* made = new std::string(100, 'x');
  void* aligned = std::aligned_alloc(64, 64);
  counting = false;
  delete made;
  std::free(aligned);
  CHECK(allocations == 3);
}

TEST_CASE("publish of a trivially copyable event up to 64 bytes that need not wait allocates nothing", "[L1]") {
  const time_limit limit;
  const std::size_t fan_out = GENERATE(1, 10);
  const auto publish = [](const auto& to) { to.publish({}); };
  const auto attempt = [](const auto& to) { to.try_publish({}); };
  const auto timed = [](const auto& to) { to.publish_for(1s, {}); };
  const auto emplaced = [](const auto& to) { to.emplace(); };
  CHECK(allocations_per<sized<1>>(fan_out, 1000, publish) == 0);
  CHECK(allocations_per<sized<8>>(fan_out, 1000, publish) == 0);
  CHECK(allocations_per<sized<64>>(fan_out, 1000, publish) == 0);
  CHECK(allocations_per<sized<64>>(fan_out, 1000, attempt) == 0);
  CHECK(allocations_per<sized<64>>(fan_out, 1000, timed) == 0);
  CHECK(allocations_per<sized<64>>(fan_out, 1000, emplaced) == 0);
  const std::vector<sized<64>> span(16);
  CHECK(allocations_per<sized<64>>(fan_out, 50, [&](const auto& to) { to.publish_many(span); }) == 0);
}

TEST_CASE("publish of any other event allocates once, whatever the fan-out", "[L1]") {
  const time_limit limit;
  const std::size_t fan_out = GENERATE(1, 10);
  const auto publish = [](const auto& to) { to.publish({}); };
  CHECK(allocations_per<sized<65>>(fan_out, 1000, publish) == 1000);
  CHECK(allocations_per<aligned_event>(fan_out, 1000, publish) == 1000);
  CHECK(allocations_per<std::string>(fan_out, 1000, publish) == 1000);
  CHECK(allocations_per<std::string>(fan_out, 1000, [](const auto& to) { to.emplace("short"); }) == 1000);
  const auto shared = penstock::make_event<std::string>("shared");
  CHECK(allocations_per<std::string>(fan_out, 1000, [&](const auto& to) { to.publish(shared); }) == 0);
}

TEST_CASE("a publish that nobody matches allocates nothing, whatever the event", "[L1]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  const auto publisher = rt.bus().publisher<sized<8>>();
  const auto at_once = [] { return true; };
  CHECK(allocations_of(
            [&] {
              for (int i = 0; i < 100; ++i) publisher.publish({});
            },
            at_once) == 0);
  const auto large = rt.bus().publisher<std::string>();
  CHECK(allocations_of(
            [&] {
              for (int i = 0; i < 100; ++i) large.emplace("nobody");
            },
            at_once) == 0);
}

TEST_CASE("a publish that waits at up to four channels allocates nothing for a small event", "[L1][C3]") {
  const time_limit limit;
  penstock::runtime rt(workers(5));
  std::vector<penstock::subscription> subs;
  gate release;
  record<int> begun;
  for (int i = 0; i < 4; ++i)
    subs.push_back(rt.bus().subscribe<sized<8>>("full", subscribe_options().capacity(1), [&](const sized<8>& e) {
      if (e.bytes[0] == 1) begun.add(1), release.wait();
    }));
  const auto publisher = rt.bus().publisher<sized<8>>();
  sized<8> plug;
  plug.bytes[0] = 1;
  publisher.publish(plug);
  begun.wait_for(4);
  publisher.publish({});
  gate started;
  std::thread opener([&] {
    started.open();
    eventually([&] {
      for (auto& each : subs)
        if (each.ledger().pending != 1) return false;
      return true;
    });
    release.open();
  });
  started.wait();  // what starting a thread allocates is not counted
  allocations = 0;
  counting = true;
  publisher.publish({});
  counting = false;
  opener.join();
  CHECK(allocations == 0);
}

TEST_CASE("a publish of a small event that is dropped or refused without waiting allocates nothing", "[L1][C2]") {
  const time_limit limit;
  const overflow policy = GENERATE(overflow::drop_oldest, overflow::drop_newest, overflow::fail, overflow::block);
  penstock::runtime rt(workers(2));
  gate release;
  record<int> begun;
  auto sub =
      rt.bus().subscribe<sized<8>>("full", subscribe_options().capacity(1).overflow(policy), [&](const sized<8>&) {
        begun.add(1);
        release.wait();
      });
  const auto publisher = rt.bus().publisher<sized<8>>();
  publisher.publish({});
  begun.wait_for(1);
  publisher.publish({});
  allocations = 0;
  counting = true;
  for (int i = 0; i < 100; ++i) publisher.try_publish({});
  counting = false;
  INFO("policy " << static_cast<int>(policy));
  CHECK(allocations == 0);
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
}

TEST_CASE("memory is back near the start after a burst of a million events", "[L3][Q8]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  std::atomic<std::uint64_t> bytes{0};
  auto small = rt.bus().subscribe<sized<32>>("small", [](const sized<32>&) {});
  auto large = rt.bus().subscribe<std::string>("large", [&](const std::string& e) { bytes += e.size(); });
  const auto numbers = rt.bus().publisher<sized<32>>();
  const auto texts = rt.bus().publisher<std::string>();
  const auto burst = [&](int count) {
    for (int i = 0; i < count; ++i) {
      numbers.publish({});
      if (i % 4 == 0) texts.emplace(1000, 'x');
    }
    return rt.bus().wait_idle(25s);
  };
  REQUIRE(burst(5000));
  const auto in_use = [] { return mallinfo2().uordblks; };
  const std::size_t before = in_use();
  REQUIRE(burst(800'000));
  const std::size_t after = in_use();
  CHECK(after < before + 256 * 1024);
}

TEST_CASE("post allocates nothing for a small closure that is trivially copyable, and once for any other", "[costs]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  const auto pool = rt.pool("default");
  const auto count = std::make_shared<std::atomic<int>>(0);
  std::atomic<int>& ran = *count;
  const auto one_by_one = [&](auto make) {
    return allocations_of(
        [&] {
          ran = 0;
          for (int i = 0; i < 1000; ++i) {
            REQUIRE(pool->post(make()) == errc::none);
            eventually([&] { return ran == i + 1; });
          }
        },
        [] { return true; });
  };
  const auto small = [&] { return [&ran] { ++ran; }; };
  const auto other = [&] { return [count] { ++*count; }; };
  one_by_one(small);  // the queue has its blocks
  CHECK(one_by_one(small) == 0);
  CHECK(one_by_one(other) == 1000);
}

TEST_CASE("ten thousand publishers' threads that come and go leave no memory behind", "[L3]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  std::atomic<std::uint64_t> handled{0};
  auto small = rt.bus().subscribe<sized<32>>("small", [&](const sized<32>&) { ++handled; });
  auto large = rt.bus().subscribe<std::string>("large", [&](const std::string&) { ++handled; });
  const auto numbers = rt.bus().publisher<sized<32>>();
  const auto texts = rt.bus().publisher<std::string>();
  const auto come_and_go = [&](int threads) {
    for (int i = 0; i < threads; ++i) {
      std::thread one([&] {
        numbers.publish({});
        texts.emplace(100, 'x');
        (void)rt.pool("default")->post([&] { ++handled; });
      });
      one.join();
    }
    eventually([&] { return rt.bus().wait_idle(25s) && handled % 3 == 0; });
  };
  come_and_go(500);
  const auto in_use = [] { return mallinfo2().uordblks; };
  const std::size_t before = in_use();
  come_and_go(10'000);
  const std::size_t after = in_use();
  CHECK(handled == 31'500);
  CHECK(after < before + 64 * 1024);
}

#endif

TEST_CASE("a hundred idle subscriptions use no processor time", "[L2][B10]") {
  const time_limit limit;
  struct tick {
    int value = 0;
  };
  const auto strategy =
      GENERATE(penstock::wait_strategy::park, penstock::wait_strategy::spin_then_park, penstock::wait_strategy::adaptive);
  penstock::runtime rt(runtime_options().pool("default", worker_pool_options().threads(4).wait(strategy)));
  std::vector<penstock::subscription> subs;
  for (int i = 0; i < 100; ++i) subs.push_back(rt.bus().subscribe<tick>("idle", [](const tick&) {}));
  rt.bus().publish(tick{});
  REQUIRE(rt.bus().wait_idle(25s));
  // Even a publisher that waits costs nothing: one more channel is held up meanwhile.
  gate release;
  record<int> begun;
  auto held = rt.bus().subscribe<std::string>("held", subscribe_options().capacity(1),
                                              [&](const std::string&) { begun.add(1), release.wait(); });
  rt.bus().publish(std::string("runs"));
  begun.wait_for(1);
  rt.bus().publish(std::string("waits"));
  std::thread publisher([&] { rt.bus().publish(std::string("blocked")); });
  eventually([&] { return held.ledger().pending == 1; });
  const auto used = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto of = [](const timeval& t) {
      return std::chrono::seconds(t.tv_sec) + std::chrono::microseconds(t.tv_usec);
    };
    return of(usage.ru_utime) + of(usage.ru_stime);
  };
  std::mutex m;
  std::condition_variable nobody;
  std::unique_lock lock(m);
  nobody.wait_for(lock, 50ms);  // who has just run is asleep by now
  const auto before = used();
  nobody.wait_for(lock, 500ms);
  const auto cost = used() - before;
  CHECK(std::chrono::duration_cast<std::chrono::microseconds>(cost).count() < 50'000);
  release.open();
  publisher.join();
}
