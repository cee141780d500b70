// Each operation with its nth allocation failing, for every n: it succeeds or says so, and the next call works.
// Floor 9, room tests.
#include "support/catch.hpp"
#include "support/gate.hpp"

#include <penstock/penstock.hpp>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

// Allocations of all threads count down to the one that fails; below zero none does.
static std::atomic<long> allocations_left{-1};
static std::atomic<bool> fails_for_good{false};  // each further one as well, until the count is set anew

static bool fails_now() noexcept {
  const long left = allocations_left.load();
  if (left < 0) return false;
  if (left == 0 && fails_for_good.load()) return true;
  return allocations_left.fetch_sub(1) == 0;
}

#if defined(TEST_THREAD_SANITIZED) || defined(TEST_ADDRESS_SANITIZED)
// A sanitizer has malloc to itself: only what C++ allocates can fail there.
static void* allocate(std::size_t bytes) noexcept {
  return fails_now() ? nullptr : std::malloc(bytes != 0 ? bytes : 1);
}
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
  // Its workers sleep when they are idle: then which allocation is the nth depends least on who is faster.
  world()
      : rt(runtime_options()
               .pool("default", penstock::worker_pool_options().wait(penstock::wait_strategy::park))
               .on_failure([this](const failure&) { ++failures; })) {}
  std::atomic<int> failures{0};
  std::atomic<int> calls{0};
  runtime rt;
  event_bus& bus() { return rt.bus(); }
};

enum class ending { succeeded, refused };

/// A line for whoever adds up: what was tried, at how many allocations, and how it ended there. To the file that the
/// variable PENSTOCK_FIGURES names.
void tell_figures(const char* what, long points, int succeeded, int refused, int threw) {
  const char* path = std::getenv("PENSTOCK_FIGURES");
  std::FILE* file = path != nullptr ? std::fopen(path, "a") : nullptr;
  if (file == nullptr) return;
  std::fprintf(file, "%s\t%ld\t%d\t%d\t%d\n", what, points, succeeded, refused, threw);
  std::fclose(file);
}

/// Runs `operation` with its nth allocation failing, for n = 0, 1, … until none failed. It throws std::bad_alloc or
/// std::system_error, or says how it ended. `afterwards` shows that the world still works. Gives how many n there were.
int sweep(const char* what, const std::function<void(world&)>& prepare, const std::function<ending(world&)>& operation,
          const std::function<void(world&)>& afterwards) {
  int succeeded = 0, refused = 0, threw = 0;
  for (long n = 0;; ++n) {
    INFO(what << ": allocation " << n << " fails");
    world made;
    prepare(made);
    std::optional<ending> end;
    allocations_left = n;
    try {
      end = operation(made);
    } catch (const std::bad_alloc&) {
    } catch (const std::system_error&) {
    }
    const bool failed = allocations_left.exchange(-1) < 0;
    if (!failed) CHECK(end == ending::succeeded);
    afterwards(made);
    CHECK(made.bus().wait_idle(25s));
    for (const auto& each : made.bus().subscriptions()) {
      INFO(each.name << ": " << to_string(each.ledger));
      CHECK(each.ledger.balanced());
    }
    if (!failed) {
      tell_figures(what, n, succeeded, refused, threw);
      return static_cast<int>(n);
    }
    ++(!end ? threw : end == ending::succeeded ? succeeded : refused);
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
  CHECK(sweep(
            "publish in place", six, [](world& w) { return ended(w.bus().publish(small{1})); }, close_all) > 0);
  CHECK(sweep(
            "publish in a block", six,
            [](world& w) {
              text event{std::string(300, 'x')};
              return ended(w.bus().publish(std::move(event)));
            },
            close_all) > 0);
  CHECK(sweep(
            "publish_many", six,
            [](world& w) {
              const std::vector<text> many(5, text{std::string(300, 'x')});
              return ended(w.bus().publisher<text>().publish_many(many));
            },
            close_all) > 0);
  CHECK(sweep(
            "publish of a shared event", six,
            [](world& w) {
              auto shared = make_event<text>(std::string(300, 'x'));
              return ended(w.bus().publisher<text>().publish(shared));
            },
            close_all) > 0);
}

TEST_CASE("subscribe with its nth allocation failing subscribes, or throws and leaves nothing behind", "[G8][S1]") {
  const time_limit limit;
  int points = sweep(
      "subscribe", nothing,
      [](world& w) {
        auto sub =
            w.bus().subscribe<small>("one with everything, and a name that does not fit into a small string",
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
      "stream", nothing,
      [](world& w) {
        auto inbox = w.bus().stream<text>("a stream", stream_options().capacity(2));
        return ending::succeeded;
      },
      still_publishes);
  CHECK(points > 4);
  points = sweep(
      "try_subscribe", nothing,
      [](world& w) {
        const auto tried = w.bus().try_subscribe<small>("tried, with a name that does not fit into a small string",
                                                        subscribe_options(), [](const small&) {});
        if (!tried) CHECK(tried.error == errc::not_enough_memory);
        return tried ? ending::succeeded : ending::refused;
      },
      still_publishes);
  CHECK(points > 4);
  points = sweep(
      "topic", nothing,
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
  CHECK(sweep("a coroutine call", coroutine, publish_and_wait, counted) > 2);  // the block, the ring, the frame, …

  const auto failing = [&](world& w) {
    graves.emplace(w.bus().subscribe<dead_letter<text>>("graves", [](const dead_letter<text>&) {}));
    sub.emplace(w.bus().subscribe<text>("failing", subscribe_options().retry(retry_policy().attempts(2).backoff(1ms)),
                                        [](const text&) { throw std::system_error(make_error_code(errc::full)); }));
  };
  CHECK(sweep(
            "a failing call with a dead letter", failing,
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
            "block_on", nothing,
            [](world& w) {
              auto work = seven();
              return block_on(w.rt.pool("default"), std::move(work)) == 7 ? ending::succeeded : ending::refused;
            },
            still_publishes) > 2);
  CHECK(sweep(
            "async_publish",
            [&](world& w) {
              sub.emplace(w.bus().subscribe<text>("slow", subscribe_options().capacity(1),
                                                  [](const text&) -> task<void> { co_await sleep_for(1ms); }));
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

TEST_CASE("post with its nth allocation failing runs the work, or refuses and destroys it", "[G8]") {
  const time_limit limit;
  const auto alive = std::make_shared<int>(0);
  CHECK(sweep(
            "post", nothing,
            [&](world& w) {
              penstock_test::gate ran;
              const errc said = w.rt.pool("default")->post([&ran, alive] { ran.open(); });
              if (said == errc::none) ran.wait();
              return said == errc::none ? ending::succeeded : ending::refused;
            },
            [&](world& w) {
              penstock_test::eventually([&] { return alive.use_count() == 1; });
              still_publishes(w);
            }) > 0);
}

TEST_CASE("reading a stream with its nth allocation failing loses no event", "[G8][S5]") {
  const time_limit limit;
  std::optional<stream<text>> inbox;
  CHECK(sweep(
            "receive and requeue",
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

TEST_CASE("a delivery that is failed with its nth allocation failing is told, and counted once", "[G8][S5]") {
  const time_limit limit;
  std::optional<stream<text>> inbox;
  const auto with_one = [&](world& w) {
    inbox.emplace(w.bus().stream<text>("an inbox with a name that does not fit into a small string"));
    const text event{"one"};
    w.bus().publish(event);
  };
  const auto fail_it = [&](world&) {
    inbox->receive().fail("a reason that does not fit into a small string");
    return ending::succeeded;
  };
  const auto counted = [&](world& w) {
    CHECK(w.failures >= 1);  // the delivery's, and that of a dead letter that could not be made
    CHECK(w.failures <= 2);
    CHECK(inbox->ledger().failed == 1);
    inbox.reset();
    still_publishes(w);
  };
  CHECK(sweep("fail of a delivery", with_one, fail_it, counted) > 2);

  world without_memory;
  with_one(without_memory);
  fails_for_good = true;
  allocations_left = 0;
  fail_it(without_memory);
  allocations_left = -1;
  fails_for_good = false;
  counted(without_memory);
}

TEST_CASE("waiting until a bus is idle with the nth allocation failing says so only when it is", "[G8]") {
  const time_limit limit;
  std::optional<subscription> sub;
  bool lied = false;
  const auto one = [&](world& w) {
    sub.emplace(w.bus().subscribe<small>("one", [&w](const small&) { ++w.calls; }));
    w.bus().publish(small{1});
  };
  const auto truly = [&](world& w, bool idle) {
    if (idle && w.calls + w.failures != 1) lied = true;
    return idle ? ending::succeeded : ending::refused;
  };
  const auto ends = [&](world& w) {
    REQUIRE(w.bus().wait_idle(25s));
    CHECK(w.calls + w.failures == 1);
    still_publishes(w);
    sub.reset();
  };
  const auto waits = [&](world& w) { return truly(w, w.bus().wait_idle(25s)); };
  CHECK(sweep("wait_idle", one, waits, ends) > 0);
  const auto idle_of = [](event_bus& bus) -> task<bool> { co_return co_await bus.async_wait_idle_for(25s); };
  const auto awaits = [&](world& w) {
    auto work = idle_of(w.bus());
    return truly(w, block_on(w.rt.pool("default"), std::move(work)));
  };
  CHECK(sweep("async_wait_idle_for", one, awaits, ends) > 0);
  CHECK_FALSE(lied);
}

TEST_CASE("looking, closing and shutting down with the nth allocation failing end, and can be done again", "[G8]") {
  const time_limit limit;
  std::optional<subscription> sub;
  const auto one = [&](world& w) {
    sub.emplace(w.bus().subscribe<small>("one", [&w](const small&) { ++w.calls; }));
    w.bus().publish(small{1});
  };
  CHECK(sweep(
            "snapshot", one,
            [](world& w) { return w.bus().snapshot().subscriptions.empty() ? ending::refused : ending::succeeded; },
            [&](world& w) {
              still_publishes(w);
              sub.reset();
            }) > 5);
  sweep(
      "unsubscribe", one,
      [&](world&) {
        return sub->close(close_mode::cancel) == close_status::closed ? ending::succeeded : ending::refused;
      },
      [&](world& w) {
        CHECK(sub->close() == close_status::closed);
        still_publishes(w);
      });
  CHECK(sweep(
            "shutdown", one,
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

TEST_CASE("a shutdown is requested whichever allocation fails: by a call, by a signal, by a failure that escalates",
          "[G8]") {
  const time_limit limit;
  constexpr const char* long_reason = "a reason that does not fit into a string's own bytes, with \xc3\xa4 in it";
  enum class by { call, signal, escalation };
  const by who = GENERATE(by::call, by::signal, by::escalation);
  bool failed = true;
  for (long n = 0; failed; ++n) {
    INFO("allocation " << n << " fails");
    REQUIRE(n < 2000);
    std::atomic<int> failures{0};
    runtime rt(runtime_options()
                   .on_failure([&](const failure&) { ++failures; })
                   .on_escalate([](const failure&) {})
                   .stop_on_signals({SIGUSR1}));
    const auto out = rt.bus().publisher<small>();
    auto sub = rt.bus().subscribe<small>("escalates at once, and has a long name",
                                         subscribe_options().on_failure(failure_policy::escalate()),
                                         [](const small&) { throw 1; });
    allocations_left = n;
    if (who == by::call) {
      rt.request_shutdown(long_reason);
    } else if (who == by::signal) {
      raise(SIGUSR1);
    } else if (!out.publish(small{1}).accepted()) {
      allocations_left = -1;
      continue;
    }
    penstock_test::eventually([&] { return rt.shutdown_requested(); });
    failed = allocations_left.exchange(-1) < 0;
    const auto report = rt.shutdown(25s);
    const std::string whole = who == by::call     ? long_reason
                              : who == by::signal ? "signal USR1"
                                                  : "escalated by " + sub.name();
    if (report.reason != whole && report.reason != "escalated by a failure") {
      CHECK(report.reason.ends_with("…"));
      CHECK(whole.starts_with(report.reason.substr(0, report.reason.size() - std::string("…").size())));
    }
    CHECK(report.reason.size() > 8);
    CHECK(report.tasks.counts.balanced());
  }
}

namespace {

constexpr const char* long_name = "a task with a name that does not fit into a small string";
constexpr const char* long_owner = "an owner with a name that does not fit into a small string";

task<void> sleeps_for_ever() { co_await sleep_for(std::chrono::nanoseconds::max()); }
task<void> closes(task_registry tasks, bool& clean) {
  const task_report report = co_await tasks.async_close(std::chrono::nanoseconds::max());
  clean = report.clean();
}

/// Nothing is left of the tasks of an operation, and further ones are taken.
void tasks_at_rest(world& w) {
  const task_registry& tasks = w.rt.tasks();
  tasks.cancel_all("the operation is over");
  penstock_test::eventually([&] { return tasks.counts().running == 0; });
  INFO(to_string(tasks.counts()));
  CHECK(tasks.counts().balanced());
  CHECK(tasks.snapshot().empty());
  CHECK(tasks.spawn("afterwards", [] {}).wait() == task_status::completed);
  bool clean = false;
  auto last = closes(tasks.owner(long_owner), clean);
  block_on(w.rt.pool("default"), std::move(last));  // an owner that looks busy would never close
  CHECK(clean);
}

/// Asked to stop and ended; by a failure when its start or its sleep found no memory.
bool stopped(const task_handle& task) {
  const task_status how = task.wait();
  return task.info().stop_requested ? how == task_status::cancelled || how == task_status::failed
                                    : how == task_status::failed;
}

ending ended(const world& w, const task_handle& task) {
  return task.status() == task_status::completed && w.failures == 0 ? ending::succeeded : ending::refused;
}

}  // namespace

TEST_CASE("spawn with its nth allocation failing starts the task or destroys its work, and its end is told once",
          "[G8][task]") {
  const time_limit limit;
  const auto alive = std::make_shared<int>(0);
  std::atomic<int> told{0}, asked{0};
  bool wrong = false;  // an assertion takes memory: afterwards
  const auto gone = [&](world& w) {
    CHECK_FALSE(wrong);
    tasks_at_rest(w);
    penstock_test::eventually([&] { return alive.use_count() == 1 && told == asked; });
    told = asked = 0;
  };
  const auto listen = [&](const task_handle& task) {
    task.on_done([&, alive](const task_handle&) { ++told; });
    ++asked;
  };
  const auto group = [](world& w) { return w.rt.tasks().owner(long_owner); };
  CHECK(sweep(
            "spawn of a function", nothing,
            [&](world& w) {
              const task_handle made = group(w).spawn(long_name, [alive, &w] { ++w.calls; });
              listen(made);
              made.wait();
              return ended(w, made);
            },
            gone) > 6);
  CHECK(sweep(
            "spawn of a coroutine", nothing,
            [&](world& w) {
              const auto made = group(w).spawn(long_name, [alive]() -> task<int> {
                const auto inner = alive;
                co_await sleep_for(1ms);
                co_return 7;
              });
              listen(made);
              made.wait();
              wrong = made.value() != nullptr && *made.value() != 7;
              return ended(w, made);
            },
            gone) > 8);
  CHECK(sweep(
            "spawn with restarts", nothing,
            [&](world& w) {
              const auto policy = restart_policy().attempts(3).pauses(retry_policy().backoff(1ms));
              const task_handle made = group(w).spawn(long_name, spawn_options().restart(policy), [alive, &w] {
                if (++w.calls == 1) throw errc::full;
              });
              listen(made);
              made.wait();
              return made.status() == task_status::completed && w.calls == 2 ? ending::succeeded : ending::refused;
            },
            gone) > 8);
}

TEST_CASE("every with its nth allocation failing ticks on, or ends and says so", "[G8][task]") {
  const time_limit limit;
  const auto alive = std::make_shared<int>(0);
  bool wrong = false;
  const auto gone = [&](world& w) {
    CHECK_FALSE(wrong);
    tasks_at_rest(w);
    penstock_test::eventually([&] { return alive.use_count() == 1; });
  };
  const auto two_ticks = [&](world& w, const task_handle& made) {
    penstock_test::eventually([&] { return w.calls >= 2 || made.done(); });
    const bool ticked = !made.done();
    wrong = !ticked && w.failures == 0;
    made.request_cancel();
    made.wait();
    return ticked && made.status() == task_status::cancelled && w.failures == 0 ? ending::succeeded : ending::refused;
  };
  CHECK(sweep(
            "every with a function", nothing,
            [&](world& w) {
              const auto made = w.rt.tasks().owner(long_owner).every(long_name, 1ms, [alive, &w] { ++w.calls; });
              return two_ticks(w, made);
            },
            gone) > 8);
  CHECK(sweep(
            "every with a coroutine", nothing,
            [&](world& w) {
              const auto made = w.rt.tasks().owner(long_owner).every(long_name, 1ms, [alive, &w]() -> task<void> {
                ++w.calls;
                co_return;
              });
              return two_ticks(w, made);
            },
            gone) > 8);
}

TEST_CASE("stopping and closing tasks with the nth allocation failing stop all, or can be done again", "[G8][task]") {
  const time_limit limit;
  std::vector<task_handle> made;
  const auto three = [&](world& w) {
    made.clear();
    for (int i = 0; i < 3; ++i) made.push_back(w.rt.tasks().owner(long_owner).spawn(long_name, sleeps_for_ever()));
  };
  bool all_asked = true;
  const auto nothing_left = [&](world& w) {
    CHECK(all_asked);
    tasks_at_rest(w);
    for (const task_handle& each : made) CHECK(stopped(each));
  };
  sweep(
      "cancel of all tasks", three,
      [&](world& w) {
        w.rt.tasks().cancel_all("a reason that does not fit into a small string, so that it takes memory");
        for (const task_handle& each : made) all_asked = all_asked && each.wait() != task_status::running;
        return ending::succeeded;
      },
      nothing_left);
  sweep(
      "cancel of a task", three,
      [&](world&) {
        const bool had_ended = made[0].done();  // by a start without memory
        const bool asked =
            made[0].request_cancel("a reason that does not fit into a small string, so that it takes memory");
        all_asked = all_asked && (asked || made[0].wait() == task_status::failed || had_ended);
        made[0].wait();
        return ending::succeeded;
      },
      nothing_left);
  CHECK(sweep(
            "close of a group", three,
            [&](world& w) {
              return w.rt.tasks().owner(long_owner).close(20s).clean() ? ending::succeeded : ending::refused;
            },
            [&](world& w) {
              CHECK(w.rt.tasks().owner(long_owner).close(20s).clean());
              nothing_left(w);
            }) > 4);
  CHECK(sweep(
            "async_close of a group", three,
            [&](world& w) {
              bool clean = false;
              auto work = closes(w.rt.tasks().owner(long_owner), clean);
              block_on(w.rt.pool("default"), std::move(work));
              return clean ? ending::succeeded : ending::refused;
            },
            [&](world& w) {
              CHECK(w.rt.tasks().owner(long_owner).close(20s).clean());
              nothing_left(w);
            }) > 4);
}

TEST_CASE("with its nth allocation failing a record is told or counted as lost", "[G8][log]") {
  const time_limit limit;
  std::uint64_t lost_in_all = 0;
  const auto fails = [&](runtime& rt, long n) {
    auto sub = rt.bus().subscribe<small>("a name that does not fit into a small string, so that it takes memory",
                                         [&](const small&) {
                                           allocations_left = n;
                                           throw std::runtime_error("words that do not fit into a small string either");
                                         });
    rt.bus().publish(small{1});
    penstock_test::eventually([&] { return sub.ledger().failed == 1; });
    const bool failed = allocations_left.exchange(-1) < 0;
    CHECK(rt.bus().wait_idle(25s));
    lost_in_all += rt.lost_log_records();
    return failed;
  };
  const int before = dup(STDERR_FILENO);
  const int nowhere = open("/dev/null", O_WRONLY);
  dup2(nowhere, STDERR_FILENO);
  for (long n = 0;; ++n) {
    INFO("allocation " << n << " fails");
    std::atomic<std::uint64_t> told{0};
    runtime rt(runtime_options().log_to([&](const log_record&) { ++told; }));
    const bool failed = fails(rt, n);
    CHECK(told + rt.lost_log_records() >= 1);  // and one about a dead letter that could not be made
    if (!failed) break;
    REQUIRE(n < 2000);
  }
  CHECK(lost_in_all > 4);
  lost_in_all = 0;
  for (long n = 0;; ++n) {  // and the library's own sink
    INFO("allocation " << n << " fails");
    runtime rt;
    if (!fails(rt, n)) break;
    CHECK(rt.lost_log_records() <= 2);
    REQUIRE(n < 2000);
  }
  CHECK(lost_in_all > 4);
  dup2(before, STDERR_FILENO);
  close(before);
  close(nowhere);
}
