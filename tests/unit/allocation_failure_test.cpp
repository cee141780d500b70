// Each operation with its nth allocation failing, for every n: it succeeds or says so, and the next call works.
// Floor 9, room tests.
#include "support/catch.hpp"
#include "support/gate.hpp"

#include <penstock/penstock.hpp>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

// Allocations of all threads count down to the one that fails; below zero none does.
static std::atomic<long> allocations_left{-1};

static bool fails_now() noexcept { return allocations_left.load() >= 0 && allocations_left.fetch_sub(1) == 0; }

#if defined(TEST_THREAD_SANITIZED) || defined(TEST_ADDRESS_SANITIZED)
// A sanitizer has malloc to itself: only what C++ allocates can fail there.
static void* allocate(std::size_t bytes) noexcept { return fails_now() ? nullptr : std::malloc(bytes != 0 ? bytes : 1); }
void* operator new(std::size_t bytes) {
  if (void* memory = allocate(bytes)) return memory;
  throw std::bad_alloc();
}
void* operator new[](std::size_t bytes) { return operator new(bytes); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
#else
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void* malloc(std::size_t bytes) {
  if (!fails_now()) return __libc_malloc(bytes);
  errno = ENOMEM;
  return nullptr;
}
void* aligned_alloc(std::size_t align, std::size_t bytes) {
  if (!fails_now()) return __libc_memalign(align, bytes);
  errno = ENOMEM;
  return nullptr;
}
}
#endif

namespace {

using namespace std::chrono_literals;
using namespace penstock;
using penstock_test::time_limit;

struct small {
  int value = 0;
};
struct text {
  std::string words;
};

/// One world in which one operation is tried with one allocation failing.
class world {
 public:
  world() : rt(runtime_options().on_failure([this](const failure&) { ++failures; })) {}
  std::atomic<int> failures{0};
  std::atomic<int> calls{0};
  runtime rt;
  event_bus& bus() { return rt.bus(); }
};

enum class ending { succeeded, refused };

/// Runs `operation` with its nth allocation failing, for n = 0, 1, … until none failed. It throws std::bad_alloc or
/// std::system_error, or says how it ended. `afterwards` shows that the world still works. Gives how many n there were.
int sweep(const std::function<void(world&)>& prepare, const std::function<ending(world&)>& operation,
          const std::function<void(world&)>& afterwards) {
  for (long n = 0;; ++n) {
    INFO("allocation " << n << " fails");
    world made;
    prepare(made);
    bool threw = false;
    ending end = ending::refused;
    allocations_left = n;
    try {
      end = operation(made);
    } catch (const std::bad_alloc&) {
      threw = true;
    } catch (const std::system_error&) {
      threw = true;
    }
    const bool failed = allocations_left.exchange(-1) < 0;
    if (!failed) CHECK(!threw);
    if (!failed) CHECK(end == ending::succeeded);
    afterwards(made);
    CHECK(made.bus().wait_idle(25s));
    for (const auto& each : made.bus().subscriptions()) {
      INFO(each.name << ": " << to_string(each.ledger));
      CHECK(each.ledger.balanced());
    }
    if (!failed) return static_cast<int>(n);
    REQUIRE(n < 2000);
  }
}

void nothing(world&) {}

/// Publishing still works: to whoever is there, and to a new subscriber.
void still_publishes(world& w) {
  std::atomic<int> seen{0};
  auto sub = w.bus().subscribe<small>("afterwards", [&](const small&) { ++seen; });
  CHECK(w.bus().publish(small{1}).error() == errc::none);
  REQUIRE(w.bus().wait_idle(25s));
  CHECK(seen == 1);
}

ending ended(const publish_result& result) {
  return result.error() == errc::none && result.rejected() == 0 ? ending::succeeded : ending::refused;
}

task<int> seven() {
  co_await sleep_for(1ms);
  co_return 7;
}

}  // namespace

TEST_CASE("publish with its nth allocation failing is accepted, or refused with not_enough_memory", "[G8][F4]") {
  const time_limit limit;
  std::vector<subscription> kept;
  const auto six = [&](world& w) {
    kept.clear();
    for (int i = 0; i < 6; ++i) {
      kept.push_back(w.bus().subscribe<small>("small", [&](const small&) { ++w.calls; }));
      kept.push_back(w.bus().subscribe<text>("text", [&](const text&) { ++w.calls; }));
    }
  };
  const auto close_all = [&](world& w) {
    REQUIRE(w.bus().wait_idle(25s));
    still_publishes(w);
    kept.clear();
  };
  CHECK(sweep(six, [](world& w) { return ended(w.bus().publish(small{1})); }, close_all) > 0);
  CHECK(sweep(
            six,
            [](world& w) {
              text event{std::string(300, 'x')};
              return ended(w.bus().publish(std::move(event)));
            },
            close_all) > 0);
  CHECK(sweep(
            six,
            [](world& w) {
              const std::vector<text> many(5, text{std::string(300, 'x')});
              return ended(w.bus().publisher<text>().publish_many(many));
            },
            close_all) > 0);
  CHECK(sweep(
            six,
            [](world& w) {
              auto shared = make_event<text>(std::string(300, 'x'));
              return ended(w.bus().publisher<text>().publish(shared));
            },
            close_all) > 0);
}

TEST_CASE("subscribe with its nth allocation failing subscribes, or throws and leaves nothing behind", "[G8][S1]") {
  const time_limit limit;
  int points = sweep(
      nothing,
      [](world& w) {
        auto sub = w.bus().subscribe<small>(
            "one with everything, and a name that does not fit into a small string",
            subscribe_options()
                .capacity(8)
                .concurrency(3)
                .retry(retry_policy())
                .on_failure(failure_policy::pause(2, 1s))
                .filter<small>([&w](const small&) { return w.failures == 0; })
                .on_drop<small>([&w](const small&, drop_reason) noexcept { ++w.failures; }),
            [&w](const small&) -> task<void> {
              ++w.calls;
              co_return;
            });
        return ending::succeeded;
      },
      [](world& w) {
        CHECK(w.bus().subscriptions().empty());
        CHECK(w.bus().publish(small{1}).matched() == 0);
        still_publishes(w);
      });
  CHECK(points > 8);
  points = sweep(
      nothing,
      [](world& w) {
        auto inbox = w.bus().stream<text>("a stream", stream_options().capacity(2));
        return ending::succeeded;
      },
      still_publishes);
  CHECK(points > 4);
  points = sweep(
      nothing,
      [](world& w) {
        auto topic = w.bus().topic<small>("a.topic.with.a.name.of.its.own");
        auto orders = topic.publisher();
        return ending::succeeded;
      },
      still_publishes);
  CHECK(points > 2);
}

TEST_CASE("a call with its nth allocation failing is handled, retried or failed, and counted once", "[G8][F28]") {
  const time_limit limit;
  std::optional<subscription> sub;
  std::optional<subscription> graves;
  const auto coroutine = [&](world& w) {
    sub.emplace(w.bus().subscribe<text>("coroutine", [&w](const text&) -> task<void> {
      co_await sleep_for(1ms);
      ++w.calls;
    }));
  };
  const auto publish_and_wait = [](world& w) {
    text event{std::string(300, 'x')};
    const auto result = w.bus().publish(std::move(event));
    const bool idle = w.bus().wait_idle(25s);
    return ended(result) == ending::succeeded && idle && w.failures == 0 ? ending::succeeded : ending::refused;
  };
  const auto counted = [&](world& w) {
    REQUIRE(w.bus().wait_idle(25s));
    const ledger counters = sub->ledger();
    CHECK(counters.handled + counters.failed == counters.accepted);
    CHECK(counters.handled == static_cast<std::uint64_t>(w.calls.load()));
    still_publishes(w);
    sub.reset();
    graves.reset();
  };
  CHECK(sweep(coroutine, publish_and_wait, counted) > 2);  // the block, the ring, the frame, …

  const auto failing = [&](world& w) {
    graves.emplace(w.bus().subscribe<dead_letter<text>>("graves", [](const dead_letter<text>&) {}));
    sub.emplace(w.bus().subscribe<text>("failing", subscribe_options().retry(retry_policy().attempts(2).backoff(1ms)),
                                        [](const text&) { throw std::system_error(make_error_code(errc::full)); }));
  };
  CHECK(sweep(
            failing,
            [](world& w) {
              text event{std::string(300, 'x')};
              const auto result = w.bus().publish(std::move(event));
              return ended(result) == ending::succeeded && w.bus().wait_idle(25s) ? ending::succeeded : ending::refused;
            },
            counted) > 4);
}

TEST_CASE("a task with its nth allocation failing ends with a value or an exception, and once", "[G8]") {
  const time_limit limit;
  std::optional<subscription> sub;
  CHECK(sweep(
            nothing,
            [](world& w) {
              auto work = seven();
              return block_on(w.rt.pool("default"), std::move(work)) == 7 ? ending::succeeded : ending::refused;
            },
            still_publishes) > 2);
  CHECK(sweep(
            [&](world& w) {
              sub.emplace(w.bus().subscribe<text>("slow", subscribe_options().capacity(1), [](const text&) -> task<void> {
                co_await sleep_for(1ms);
              }));
            },
            [](world& w) {
              auto body = [&]() -> task<bool> {
                bool good = true;
                for (int i = 0; i < 4; ++i) {
                  auto shared = make_event<text>(std::string(300, 'x'));
                  const auto result = co_await w.bus().publisher<text>().async_publish(shared);
                  if (result.error() != errc::none || result.rejected() > 0) good = false;
                }
                co_return good;
              };
              auto work = body();
              const bool good = block_on(w.rt.pool("default"), std::move(work)) && w.bus().wait_idle(25s);
              return good && w.failures == 0 ? ending::succeeded : ending::refused;
            },
            [&](world& w) {
              REQUIRE(w.bus().wait_idle(25s));
              still_publishes(w);
              sub.reset();
            }) > 6);
}

TEST_CASE("reading a stream with its nth allocation failing loses no event", "[G8][S5]") {
  const time_limit limit;
  std::optional<stream<text>> inbox;
  CHECK(sweep(
            [&](world& w) {
              inbox.emplace(w.bus().stream<text>("inbox"));
              const text event{"one"};
              w.bus().publish(event);
            },
            [&](world&) {
              auto got = inbox->receive();
              if (got.requeue() != errc::none) {
                got.done();
                return ending::refused;
              }
              got = inbox->receive();
              return got && got.attempt() == 2 ? ending::succeeded : ending::refused;
            },
            [&](world& w) {
              const ledger counters = inbox->ledger();
              CHECK(counters.handled + counters.failed + counters.queued == 1);
              CHECK(counters.balanced());
              inbox.reset();
              still_publishes(w);
            }) > 0);
}

TEST_CASE("looking, closing and shutting down with the nth allocation failing end, and can be done again", "[G8]") {
  const time_limit limit;
  std::optional<subscription> sub;
  const auto one = [&](world& w) {
    sub.emplace(w.bus().subscribe<small>("one", [&w](const small&) { ++w.calls; }));
    w.bus().publish(small{1});
  };
  CHECK(sweep(
            one,
            [](world& w) {
              return w.bus().snapshot().subscriptions.empty() ? ending::refused : ending::succeeded;
            },
            [&](world& w) {
              still_publishes(w);
              sub.reset();
            }) > 5);
  sweep(
      one, [&](world&) { return sub->close(close_mode::cancel) == close_status::closed ? ending::succeeded : ending::refused; },
      [&](world& w) {
        CHECK(sub->close() == close_status::closed);
        still_publishes(w);
      });
  CHECK(sweep(
            one,
            [](world& w) {
              const auto report = w.rt.shutdown(10s);
              return report.drained && report.stuck.empty() ? ending::succeeded : ending::refused;
            },
            [&](world& w) {
              const auto again = w.rt.shutdown(10s);
              CHECK(again.stuck.empty());
              CHECK(sub->ledger().balanced());
              sub.reset();
            }) > 4);
}
