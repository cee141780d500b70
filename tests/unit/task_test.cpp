// A single task: what it gives, what it throws, when it runs, how it is cancelled, and when its frames die.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/child.hpp"
#include "../support/gate.hpp"

#include <penstock/penstock.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::block_on;
using penstock::cancelled;
using penstock::errc;
using penstock::outcome;
using penstock::runtime_options;
using penstock::start_task;
using penstock::subscribe_options;
using penstock::task;
using penstock::worker_pool;
using penstock::worker_pool_options;

namespace {

struct tick {
  int value = 0;
};

runtime_options workers(unsigned count) {
  return runtime_options()
      .pool("default", worker_pool_options().threads(count))
      .on_failure([](const penstock::failure&) {});
}

/// The code a call refuses with; `none` when it does not.
template <class Call>
std::error_code refusal_of(Call call) {
  try {
    call();
  } catch (const std::system_error& refused) {
    return refused.code();
  }
  return {};
}

/// What an outcome says, without its value.
enum class said : unsigned char { value, cancelled, closed, other };

std::string name(said what) {
  switch (what) {
    case said::value: return "value";
    case said::cancelled: return "cancelled";
    case said::closed: return "closed";
    case said::other: break;
  }
  return "other";
}

template <class T>
said sort(const outcome<T>& came) {
  if (came) return said::value;
  try {
    std::rethrow_exception(came.error());
  } catch (const cancelled&) {
    return said::cancelled;
  } catch (const std::system_error& refused) {
    return refused.code() == errc::closed ? said::closed : said::other;
  } catch (...) {
    return said::other;
  }
}

/// As `eventually`, and gives up: for what a bug would let hang, so that the other cases still run.
template <class Condition>
bool soon(Condition condition, std::chrono::seconds limit = sanitized ? 10s : 3s) {
  const auto end = std::chrono::steady_clock::now() + limit;
  bool came = false;
  eventually([&] {
    came = condition();
    return came || std::chrono::steady_clock::now() > end;
  });
  return came;
}

/// Counts how often things like it were made and have died.
struct census {
  std::atomic<int> made{0};
  std::atomic<int> died{0};
};
class counted {
 public:
  explicit counted(census& all) : all_(&all) { ++all_->made; }
  counted(const counted& other) : all_(other.all_) { ++all_->made; }
  counted& operator=(const counted&) = delete;
  ~counted() { ++all_->died; }

 private:
  census* all_;
};

/// Where the stack is. Not inlined: the address is that of a frame of its own.
[[gnu::noinline]] std::uintptr_t stack_here() { return reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)); }

/// The span of the stack that was seen.
struct stack_span {
  std::uintptr_t low = std::numeric_limits<std::uintptr_t>::max();
  std::uintptr_t high = 0;
  void look() {
    const std::uintptr_t now = stack_here();
    if (now < low) low = now;
    if (now > high) high = now;
  }
  std::size_t bytes() const { return high - low; }
};
constexpr std::size_t bounded = 16 * 1024;

task<int> seven() { co_return 7; }
task<int> throws_text(std::string text) {
  throw std::runtime_error(text);
  co_return 0;
}
task<void> nap(std::chrono::milliseconds wait) { co_await penstock::sleep_for(wait); }

struct no_default {
  explicit no_default(int made) : value(made) {}
  int value;
};

static_assert(!std::is_copy_constructible_v<task<int>> && std::is_nothrow_move_constructible_v<task<int>>);
static_assert(std::is_nothrow_default_constructible_v<task<no_default>>);
static_assert(!std::is_base_of_v<std::exception, cancelled>);

}  // namespace

// --- laziness and ownership
// --------------------------------------------------------------------------------------------

TEST_CASE("a task that is neither awaited nor started never runs, and its frame dies with it, once", "[task]") {
  const time_limit limit;
  census all;
  bool ran = false;
  auto body = [&ran](counted argument) -> task<void> {
    (void)argument;
    ran = true;
    co_return;
  };
  {
    task<void> made = body(counted(all));
    CHECK(made);
    CHECK(all.made - all.died == 1);
    task<void> moved(std::move(made));
    CHECK_FALSE(made);
    CHECK(moved);
    task<void> other = body(counted(all));
    CHECK(all.made - all.died == 2);
    other = std::move(moved);
    CHECK(all.made - all.died == 1);
    auto& self = other;
    other = std::move(self);
    CHECK(other);
    CHECK(all.made - all.died == 1);
  }
  CHECK(all.made == all.died);
  CHECK_FALSE(ran);
}

TEST_CASE("a task begins when it is awaited, not when it is made, and goes on at once in its caller", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  std::vector<std::string> order;
  auto inner = [&]() -> task<int> {
    order.push_back("inner");
    co_return 1;
  };
  auto outer = [&]() -> task<int> {
    order.push_back("outer");
    task<int> made = inner();
    order.push_back("made");
    const int got = co_await std::move(made);
    order.push_back("awaited");
    co_return got + 1;
  };
  CHECK(block_on(rt.pool("default"), outer()) == 2);
  CHECK(order == std::vector<std::string>{"outer", "made", "inner", "awaited"});
}

TEST_CASE("a task runs on its pool and never on the stack of whoever starts it", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  std::thread::id ran, told;
  gate over;
  auto body = [&]() -> task<void> {
    ran = std::this_thread::get_id();
    co_return;
  };
  start_task(rt.pool("default"), body(), [&](outcome<void>&&) {
    told = std::this_thread::get_id();
    over.open();
  });
  over.wait();
  CHECK(ran != std::this_thread::get_id());
  CHECK(told != std::this_thread::get_id());
}

// --- results
// -----------------------------------------------------------------------------------------------------------

TEST_CASE("a task gives results that cannot be default-constructed, references, and what can only be moved", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto pool = rt.pool("default");
  auto numbered = [](int value) -> task<no_default> { co_return no_default(value); };
  auto outer = [&]() -> task<int> {
    const no_default got = co_await numbered(5);
    co_return got.value + 1;
  };
  CHECK(block_on(pool, outer()) == 6);
  CHECK(block_on(pool, numbered(4)).value == 4);

  int target = 1;
  auto refer = [&target]() -> task<int&> { co_return target; };
  auto write = [&]() -> task<void> {
    int& got = co_await refer();
    got = 9;
  };
  block_on(pool, write());
  CHECK(target == 9);

  auto unique = [](int value) -> task<std::unique_ptr<int>> { co_return std::make_unique<int>(value); };
  auto pass = [&]() -> task<std::unique_ptr<int>> {
    std::unique_ptr<int> got = co_await unique(3);
    ++*got;
    co_return got;  // implicitly moved
  };
  CHECK(*block_on(pool, pass()) == 4);

  auto converts = []() -> task<std::string> { co_return "text"; };
  CHECK(block_on(pool, converts()) == "text");
}

TEST_CASE("a result is moved through the tasks and never copied, and dies once", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto mark = std::make_shared<int>(1);
  auto inner = [&]() -> task<std::shared_ptr<int>> { co_return mark; };
  auto outer = [&]() -> task<long> {
    const std::shared_ptr<int> got = co_await inner();
    co_return got.use_count();
  };
  CHECK(block_on(rt.pool("default"), outer()) == 2);
  CHECK(mark.use_count() == 1);
}

TEST_CASE("start_task tells the outcome once, with the value or with what was thrown", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  record<int> values;
  start_task(rt.pool("default"), seven(), [&](outcome<int>&& came) { values.add(std::move(came).get()); });
  values.wait_for(1);
  CHECK(values.all() == std::vector{7});
  record<std::string> texts;
  start_task(rt.pool("default"), throws_text("burst"), [&](outcome<int>&& came) {
    std::string said = came ? "value" : "no error";
    try {
      if (came.error()) std::rethrow_exception(came.error());
    } catch (const std::runtime_error& thrown) {
      said = thrown.what();
    }
    texts.add(said);
  });
  texts.wait_for(1);
  CHECK(texts.all() == std::vector<std::string>{"burst"});
}

TEST_CASE("start_task refuses an empty task and an empty pool, and then tells nobody", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  std::atomic<int> told{0};
  auto done = [&](outcome<int>&&) { ++told; };
  CHECK(refusal_of([&] { start_task(rt.pool("default"), task<int>(), done); }) == errc::invalid_argument);
  CHECK(refusal_of([&] { start_task(penstock::scheduler_ptr(), seven(), done); }) == errc::invalid_argument);
  CHECK(refusal_of([&] { (void)block_on(rt.pool("default"), task<int>()); }) == errc::invalid_argument);
  CHECK(refusal_of([&] { (void)block_on(penstock::scheduler_ptr(), seven()); }) == errc::invalid_argument);
  CHECK(block_on(rt.pool("default"), seven()) == 7);
  CHECK(told == 0);
}

// --- exceptions
// --------------------------------------------------------------------------------------------------------

TEST_CASE("what a task throws comes out of the await, keeps its type, and may be caught there", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto pool = rt.pool("default");
  CHECK_THROWS_AS(block_on(pool, throws_text("x")), std::runtime_error);
  auto throws_int = []() -> task<void> {
    throw 5;
    co_return;
  };
  int caught = 0;
  auto catches = [&]() -> task<std::string> {
    try {
      co_await throws_int();
    } catch (int value) {
      caught = value;
    }
    std::string text;
    try {
      (void)co_await throws_text("inner");
    } catch (const std::runtime_error& thrown) {
      text = thrown.what();
    }
    co_await penstock::yield();
    co_return text;
  };
  CHECK(block_on(pool, catches()) == "inner");
  CHECK(caught == 5);
  auto after_a_sleep = []() -> task<void> {
    co_await penstock::sleep_for(1ms);
    throw std::logic_error("late");
  };
  CHECK_THROWS_AS(block_on(pool, after_a_sleep()), std::logic_error);
}

TEST_CASE("locals, arguments and temporaries of a task that throws die once, before its caller goes on", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  census all;
  int alive_after = -1;
  auto inner = [&](counted argument) -> task<void> {
    const counted local(all);
    (void)argument;
    co_await penstock::sleep_for(1ms);
    throw std::runtime_error("x");
  };
  auto outer = [&]() -> task<void> {
    const counted argument(all);
    try {
      co_await inner(argument);
    } catch (const std::runtime_error&) {
    }
    alive_after = all.made - all.died;
  };
  block_on(rt.pool("default"), outer());
  CHECK(alive_after == 1);
  CHECK(all.made == all.died);
}

// --- an empty task
// -----------------------------------------------------------------------------------------------------

TEST_CASE("awaiting a task that is empty or was moved from throws invalid_argument", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  std::vector<std::error_code> codes;
  const auto await = [&](task<int>& which) -> task<void> {
    try {
      (void)co_await std::move(which);
    } catch (const std::system_error& refused) {
      codes.push_back(refused.code());
    }
  };
  task<int> empty;
  block_on(rt.pool("default"), await(empty));
  task<int> source = seven();
  const task<int> kept(std::move(source));
  block_on(rt.pool("default"), await(source));
  REQUIRE(codes.size() == 2);
  CHECK(codes[0] == errc::invalid_argument);
  CHECK(codes[1] == errc::invalid_argument);
}

TEST_CASE("awaiting the same task a second time throws invalid_argument and does not run it again", "[task]") {
  const time_limit limit;
  const std::string status = in_child([] {
    penstock::runtime rt(workers(1));
    int runs = 0;
    int code = 3;
    auto once = [&runs]() -> task<int> {
      ++runs;
      co_return 7;
    };
    auto twice = [&]() -> task<void> {
      task<int> made = once();
      (void)co_await std::move(made);
      try {
        (void)co_await std::move(made);
      } catch (const std::system_error& refused) {
        code = refused.code() == errc::invalid_argument ? 0 : 1;
      }
    };
    block_on(rt.pool("default"), twice());
    return runs == 1 ? code : 2;
  });
  CHECK(status == "exit 0");
}

TEST_CASE("a task that awaits itself is refused and goes on", "[A14]") {
  const time_limit limit;
  const std::string status = in_child([] {
    penstock::runtime rt(workers(1));
    int code = 3;
    task<void> self;
    auto body = [&]() -> task<void> {
      try {
        co_await std::move(self);
      } catch (const std::system_error& refused) {
        code = refused.code() == errc::would_deadlock || refused.code() == errc::invalid_argument ? 0 : 1;
      }
    };
    auto outer = [&]() -> task<void> {
      self = body();
      co_await std::move(self);
    };
    block_on(rt.pool("default"), outer());
    return code;
  });
  CHECK(status == "exit 0");
}

// --- the stack
// ---------------------------------------------------------------------------------------------------------

TEST_CASE("a million awaits that complete at once keep the stack bounded", "[task]") {
  const time_limit limit(sanitized ? 300 : give_up_seconds);
  penstock::runtime rt(workers(1));
  stack_span stack;
  auto step = [&](int value) -> task<int> {
    stack.look();
    co_return value;
  };
  auto loop = [&](int count) -> task<long> {
    long sum = 0;
    for (int i = 0; i < count; ++i) {
      const int got = co_await step(1);
      sum += got;
    }
    co_return sum;
  };
  const int count = 1'000'000;
  CHECK(block_on(rt.pool("default"), loop(count)) == count);
  CHECK(stack.bytes() < bounded);
}

TEST_CASE("tasks nested 100,000 deep keep the stack bounded, down, at the bottom, and up again", "[task]") {
  const time_limit limit(sanitized ? 300 : give_up_seconds);
  penstock::runtime rt(workers(1));
  struct nest {
    stack_span stack;
    task<long> down(int depth) {
      stack.look();
      if (depth == 0) {
        co_await penstock::sleep_for(1ms);
        stack.look();
        co_return 0;
      }
      const long below = co_await down(depth - 1);
      stack.look();
      co_return below + 1;
    }
    task<long> fail(int depth) {
      if (depth == 0) throw std::runtime_error("the bottom");
      const long below = co_await fail(depth - 1);
      co_return below;
    }
  } nested;
  CHECK(block_on(rt.pool("default"), nested.down(100'000)) == 100'000);
  CHECK(nested.stack.bytes() < bounded);
  CHECK_THROWS_AS(block_on(rt.pool("default"), nested.fail(10'000)), std::runtime_error);
}

TEST_CASE("tasks nested 100,000 deep are destroyed with a bounded stack when their pool ends", "[task]") {
  const time_limit limit(sanitized ? 300 : give_up_seconds);
  const std::string status = in_child([] {
    auto pool = worker_pool::start("own", worker_pool_options().threads(1));
    struct nest {
      gate& bottom;
      task<void> down(int depth) {
        if (depth == 0) {
          bottom.open();
          for (;;) co_await penstock::sleep_for(1ms);
        }
        co_await down(depth - 1);
      }
    };
    gate bottom, over;
    nest nested{bottom};
    said came = said::other;
    start_task(pool, nested.down(100'000), [&](outcome<void>&& ended) {
      came = sort(ended);
      over.open();
    });
    bottom.wait();
    (void)pool->stop(penstock::no_deadline);
    over.wait();
    return came == said::closed ? 0 : 1;
  });
  CHECK(status == "exit 0");
}

// --- sleeping and yielding
// ---------------------------------------------------------------------------------------------

TEST_CASE("sleep_for waits at least as long as it was asked, holds no thread, and takes zero and less", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  const auto pool = rt.pool("default");
  auto measured = []() -> task<bool> {
    const auto began = std::chrono::steady_clock::now();
    co_await penstock::sleep_for(5ms);
    co_return std::chrono::steady_clock::now() - began >= 5ms;
  };
  CHECK(block_on(pool, measured()));
  auto none = []() -> task<int> {
    co_await penstock::sleep_for(0s);
    co_await penstock::sleep_for(-1h);
    co_await penstock::sleep_for(std::chrono::nanoseconds::min());
    co_await penstock::sleep_for(std::chrono::hours::min());
    co_await penstock::sleep_until(penstock::steady_time::min());
    co_await penstock::sleep_until(penstock::steady_time());
    co_await penstock::yield();
    co_return 1;
  };
  CHECK(block_on(pool, none()) == 1);
  // A hundred sleep on one thread at once.
  record<int> woken;
  for (int i = 0; i < 100; ++i) start_task(pool, nap(2ms), [&](outcome<void>&&) { woken.add(1); });
  woken.wait_for(100);
  CHECK(woken.size() == 100);
}

TEST_CASE("sleep_for with the longest durations waits and does not overflow, and a cancel ends it", "[task][L4]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  gate sleeping[4];
  auto longest = [&]() -> task<void> {
    sleeping[0].open();
    co_await penstock::sleep_for(std::chrono::nanoseconds::max());
  };
  auto hours = [&]() -> task<void> {
    sleeping[1].open();
    co_await penstock::sleep_for(std::chrono::hours::max());
  };
  auto real = [&]() -> task<void> {
    sleeping[2].open();
    co_await penstock::sleep_for(std::chrono::duration<double>(1e300));
  };
  auto instant = [&]() -> task<void> {
    sleeping[3].open();
    co_await penstock::sleep_until(penstock::no_deadline);
  };
  std::stop_source stop;
  record<std::string> ends;
  const auto done = [&](outcome<void>&& came) { ends.add(name(sort(came))); };
  start_task(rt.pool("default"), longest(), done, stop.get_token());
  start_task(rt.pool("default"), hours(), done, stop.get_token());
  start_task(rt.pool("default"), real(), done, stop.get_token());
  start_task(rt.pool("default"), instant(), done, stop.get_token());
  for (gate& each : sleeping) each.wait();
  block_on(rt.pool("default"), nap(5ms));
  CHECK(ends.size() == 0);
  stop.request_stop();
  ends.wait_for(4);
  CHECK(ends.all() == std::vector<std::string>(4, "cancelled"));
}

TEST_CASE("sleepers wake in the order of their instants", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  record<int> woken;
  const auto base = std::chrono::steady_clock::now() + 5ms;
  auto sleeper = [&](int number) -> task<void> {
    co_await penstock::sleep_until(penstock::steady_time(base.time_since_epoch()) + number * 5ms);
    woken.add(number);
  };
  for (const int number : {3, 1, 2, 0}) start_task(rt.pool("default"), sleeper(number), [](outcome<void>&&) {});
  woken.wait_for(4);
  CHECK(woken.all() == std::vector{0, 1, 2, 3});
}

TEST_CASE("a task that only yields lets a task behind it on the only worker go first", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  std::atomic<bool> other_ran{false};
  gate over;
  auto other = [&]() -> task<void> {
    other_ran = true;
    co_return;
  };
  bool after_one = false;
  auto polite = [&]() -> task<void> {
    start_task(rt.pool("default"), other(), [&](outcome<void>&&) { over.open(); });
    co_await penstock::yield();
    after_one = other_ran;
    while (!other_ran) co_await penstock::yield();  // it must come at some time, in any case
  };
  block_on(rt.pool("default"), polite());
  over.wait();
  CHECK(after_one);
}

// --- waiting for a task from a thread
// ----------------------------------------------------------------------------------

TEST_CASE("block_on in a handler, a hook, a task or posted work is refused with would_deadlock", "[task]") {
  const time_limit limit;
  record<std::pair<std::string, std::error_code>> codes;
  std::optional<penstock::scheduler_ptr> pool;
  const auto ask = [&](const char* where) {
    bool ran = false;
    auto body = [&ran]() -> task<void> {
      ran = true;
      co_return;
    };
    const std::error_code code = refusal_of([&] { block_on(*pool, body()); });
    codes.add({std::string(where) + (ran ? ": ran" : ""), code});
  };
  penstock::runtime rt(runtime_options()
                           .pool("default", worker_pool_options().threads(2))
                           .on_failure([&](const penstock::failure&) { ask("failure hook"); }));
  pool = rt.pool("default");
  auto plain = rt.bus().subscribe<tick>("plain", [&](const tick&) { ask("handler"); });
  rt.bus().publish(tick());
  codes.wait_for(1);
  CHECK(plain.close() == penstock::close_status::closed);
  auto coroutine = rt.bus().subscribe<tick>("coroutine", [&](const tick&) -> task<void> {
    ask("coroutine handler");
    co_await penstock::yield();
    ask("coroutine handler, later");
  });
  rt.bus().publish(tick());
  codes.wait_for(3);
  CHECK(coroutine.close() == penstock::close_status::closed);
  auto failing = rt.bus().subscribe<tick>("failing", [&](const tick&) { throw 1; });
  rt.bus().publish(tick());
  codes.wait_for(4);
  CHECK(failing.close() == penstock::close_status::closed);
  REQUIRE((*pool)->post([&] { ask("posted"); }) == errc::none);
  codes.wait_for(5);
  auto inside = [&]() -> task<void> {
    ask("task");
    co_return;
  };
  block_on(*pool, inside());
  gate release;
  auto options = subscribe_options()
                     .capacity(1)
                     .overflow(penstock::overflow::drop_newest)
                     .on_drop<tick>([&](const tick&, penstock::drop_reason) noexcept { ask("drop hook"); });
  record<int> begun;
  auto dropping = rt.bus().subscribe<tick>("dropping", std::move(options), [&](const tick&) {
    begun.add(1);
    release.wait();
  });
  rt.bus().publish(tick());
  begun.wait_for(1);
  rt.bus().publish(tick());
  rt.bus().publish(tick());
  codes.wait_for(7);
  release.open();
  CHECK(dropping.close() == penstock::close_status::closed);
  std::vector<std::string> names;
  for (const auto& [where, code] : codes.all()) {
    names.push_back(where);
    INFO(where << ": " << code.message());
    CHECK(code == errc::would_deadlock);
  }
  CHECK(names == std::vector<std::string>{"handler", "coroutine handler", "coroutine handler, later", "failure hook",
                                          "posted", "task", "drop hook"});
}

TEST_CASE("block_on forwards a stop request, and waits for the task all the same", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  std::stop_source stop;
  bool cleaned = false;
  gate sleeping;
  auto body = [&]() -> task<int> {
    sleeping.open();
    try {
      co_await penstock::sleep_for(1h);
    } catch (const cancelled&) {
      cleaned = true;
    }
    co_return 3;
  };
  std::thread stopper([&] {
    sleeping.wait();
    stop.request_stop();
  });
  CHECK(block_on(rt.pool("default"), body(), stop.get_token()) == 3);
  stopper.join();
  CHECK(cleaned);
}

// --- cancellation
// ------------------------------------------------------------------------------------------------------

TEST_CASE("a task cancelled before its first step never runs its body, and its outcome is cancelled", "[A14]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  census all;
  std::atomic<bool> ran{false};
  auto body = [&](counted argument) -> task<void> {
    (void)argument;
    ran = true;
    co_return;
  };
  std::stop_source stop;
  record<std::string> ends;
  const auto done = [&](outcome<void>&& came) { ends.add(name(sort(came))); };
  SECTION("asked before it is started") {
    stop.request_stop();
    start_task(rt.pool("default"), body(counted(all)), done, stop.get_token());
  }
  SECTION("asked by block_on's token") {
    stop.request_stop();
    try {
      block_on(rt.pool("default"), body(counted(all)), stop.get_token());
      ends.add("value");
    } catch (const cancelled& thrown) {
      ends.add(thrown.why().kind == penstock::cancel_kind::requested ? "cancelled" : "another cause");
    }
  }
  ends.wait_for(1);
  CHECK(ends.all() == std::vector<std::string>{"cancelled"});
  CHECK_FALSE(ran);
  CHECK(all.made == all.died);
}

TEST_CASE("a cancel during a sleep ends it at once: cancelled, with its cause, and exactly one outcome", "[A1][A8]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  census all;
  gate sleeping;
  auto inner = [&](counted argument) -> task<void> {
    (void)argument;
    sleeping.open();
    co_await penstock::sleep_for(1h);
  };
  auto outer = [&]() -> task<void> {
    const counted local(all);
    co_await inner(local);
  };
  std::stop_source stop;
  record<std::string> ends;
  start_task(
      rt.pool("default"), outer(),
      [&](outcome<void>&& came) {
        std::string said = "value";
        try {
          std::move(came).get();
        } catch (const cancelled& thrown) {
          said = std::string("cancelled: ") + to_string(thrown.why().kind);
        } catch (...) {
          said = "other";
        }
        ends.add(said);
      },
      stop.get_token());
  sleeping.wait();
  stop.request_stop();
  ends.wait_for(1);
  block_on(rt.pool("default"), nap(2ms));
  CHECK(ends.all() == std::vector<std::string>{"cancelled: requested"});
  CHECK(all.made == all.died);
}

TEST_CASE("catch (const std::exception&) does not swallow cancelled", "[A1]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  gate sleeping;
  std::atomic<bool> swallowed{false};
  auto body = [&]() -> task<void> {
    sleeping.open();
    try {
      co_await penstock::sleep_for(1h);
    } catch (const std::exception&) {
      swallowed = true;
    }
  };
  std::stop_source stop;
  record<std::string> ends;
  start_task(rt.pool("default"), body(), [&](outcome<void>&& came) { ends.add(name(sort(came))); }, stop.get_token());
  sleeping.wait();
  stop.request_stop();
  ends.wait_for(1);
  CHECK(ends.all() == std::vector<std::string>{"cancelled"});
  CHECK_FALSE(swallowed);
}

TEST_CASE("a swallowed cancel is thrown again by each further await, of whatever kind", "[A1]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto sub = rt.bus().subscribe<tick>("target", [](const tick&) {});
  gate sleeping;
  std::vector<std::string> thrown;
  bool callee_ran = false;
  auto callee = [&]() -> task<void> {
    callee_ran = true;
    co_return;
  };
  auto body = [&]() -> task<int> {
    sleeping.open();
    try {
      co_await penstock::sleep_for(1h);
    } catch (...) {
      thrown.push_back("first sleep");
    }
    try {
      co_await penstock::sleep_for(1h);
    } catch (...) {
      thrown.push_back("second sleep");
    }
    try {
      co_await penstock::yield();
    } catch (...) {
      thrown.push_back("yield");
    }
    try {
      co_await callee();
    } catch (...) {
      thrown.push_back("task");
    }
    try {
      const tick event;
      (void)co_await rt.bus().async_publish(event);
    } catch (...) {
      thrown.push_back("publish");
    }
    try {
      (void)co_await rt.bus().async_wait_idle();
    } catch (...) {
      thrown.push_back("wait_idle");
    }
    try {
      (void)co_await sub.async_close();
    } catch (...) {
      thrown.push_back("close");
    }
    co_return 1;
  };
  std::stop_source stop;
  record<std::string> ends;
  start_task(rt.pool("default"), body(), [&](outcome<int>&& came) { ends.add(name(sort(came))); }, stop.get_token());
  sleeping.wait();
  stop.request_stop();
  ends.wait_for(1);
  CHECK(thrown == std::vector<std::string>{"first sleep", "second sleep", "yield", "task", "publish", "wait_idle",
                                           "close"});
  CHECK_FALSE(callee_ran);
  CHECK(ends.all() == std::vector<std::string>{"value"});
  CHECK(sub.ledger().offered == 0);  // what a cancelled await would have done was not done
  CHECK(sub.state() == penstock::subscription_state::open);
}

TEST_CASE("a value returned after a cancel stands, also when the cancel came after the last await", "[A2]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  std::stop_source stop;
  record<int> values;
  gate running, asked;
  SECTION("swallowed") {
    auto body = [&]() -> task<int> {
      running.open();
      try {
        co_await penstock::sleep_for(1h);
      } catch (...) {
      }
      co_return 4;
    };
    start_task(rt.pool("default"), body(), [&](outcome<int>&& came) { values.add(came ? std::move(came).get() : -1); },
               stop.get_token());
    running.wait();
    stop.request_stop();
    values.wait_for(1);
  }
  SECTION("after the last await") {
    auto body = [&]() -> task<int> {
      co_await penstock::yield();
      running.open();
      asked.wait();  // it holds its worker, as a handler must not; here the request has to come while it runs
      co_return 4;
    };
    start_task(rt.pool("default"), body(), [&](outcome<int>&& came) { values.add(came ? std::move(came).get() : -1); },
               stop.get_token());
    running.wait();
    stop.request_stop();
    asked.open();
    values.wait_for(1);
  }
  CHECK(values.all() == std::vector{4});
}

TEST_CASE("a request to stop while the task runs takes effect at its next await", "[A1]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  gate running, asked;
  std::atomic<bool> beyond{false};
  auto body = [&]() -> task<void> {
    running.open();
    asked.wait();
    co_await penstock::sleep_for(1h);
    beyond = true;
  };
  std::stop_source stop;
  record<std::string> ends;
  start_task(rt.pool("default"), body(), [&](outcome<void>&& came) { ends.add(name(sort(came))); }, stop.get_token());
  running.wait();
  stop.request_stop();
  asked.open();
  ends.wait_for(1);
  CHECK(ends.all() == std::vector<std::string>{"cancelled"});
  CHECK_FALSE(beyond);
}

TEST_CASE("a stop request after the end of a task does nothing", "[A8]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  for (int round = 0; round < 50; ++round) {
    std::stop_source stop;
    record<std::string> ends;
    start_task(rt.pool("default"), seven(), [&](outcome<int>&& came) { ends.add(name(sort(came))); },
               stop.get_token());
    ends.wait_for(1);
    stop.request_stop();
    CHECK(ends.all() == std::vector<std::string>{"value"});
  }
}

TEST_CASE("a cancel that races the start, the sleep or the end of a task leaves exactly one outcome", "[A8]") {
  const time_limit limit(sanitized ? 300 : give_up_seconds);
  penstock::runtime rt(workers(2));
  census all;
  auto body = [&](int kind, counted argument) -> task<int> {
    (void)argument;
    if (kind == 1) co_await penstock::yield();
    if (kind == 2) co_await penstock::sleep_for(20us);
    if (kind == 3) {
      co_await penstock::sleep_for(1h);
    }
    co_return kind;
  };
  std::atomic<int> values{0}, cancels{0}, others{0};
  const int rounds = sanitized ? 400 : 4000;
  {
    const counted first(all);
    for (int i = 0; i < rounds; ++i) {
      std::stop_source stop;
      std::thread racing;
      const bool threaded = i % 8 == 0;
      std::atomic<bool> go{false};
      if (threaded) {
        racing = std::thread([&] {
          while (!go) std::this_thread::yield();
          stop.request_stop();
        });
      }
      start_task(
          rt.pool("default"), body(i % 4, first),
          [&](outcome<int>&& came) {
            switch (sort(came)) {
              case said::value: ++values; break;
              case said::cancelled: ++cancels; break;
              default: ++others; break;
            }
          },
          stop.get_token());
      go = true;
      if (threaded)
        racing.join();
      else
        stop.request_stop();
    }
    eventually([&] { return values + cancels + others >= rounds; });
    block_on(rt.pool("default"), nap(2ms));
  }
  CHECK(values + cancels == rounds);
  CHECK(others == 0);
  CHECK(cancels >= rounds / 4);  // who sleeps for an hour is always cancelled
  CHECK(soon([&] { return all.made == all.died; }));
}

TEST_CASE("several threads that request the stop at once give one cause and one outcome", "[A1]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  for (int round = 0; round < 50; ++round) {
    std::stop_source stop;
    record<std::string> ends;
    gate sleeping;
    auto body = [&]() -> task<void> {
      sleeping.open();
      co_await penstock::sleep_for(1h);
    };
    start_task(rt.pool("default"), body(), [&](outcome<void>&& came) { ends.add(name(sort(came))); },
               stop.get_token());
    sleeping.wait();
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) threads.emplace_back([&] { stop.request_stop(); });
    for (auto& each : threads) each.join();
    ends.wait_for(1);
    CHECK(ends.all() == std::vector<std::string>{"cancelled"});
  }
}

// --- lifetimes
// ---------------------------------------------------------------------------------------------------------

TEST_CASE("frames and captures of a started task die exactly once, before its outcome is told", "[task]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  census all;
  auto inner = [&](counted argument) -> task<int> {
    const counted local(all);
    (void)argument;
    co_await penstock::yield();
    co_return 1;
  };
  auto outer = [&](counted argument) -> task<int> {
    const int one = co_await inner(argument);
    const int two = co_await inner(argument);
    co_return one + two;
  };
  census of_done;
  std::atomic<int> alive{-1};
  gate over;
  {
    const counted in_done(of_done);
    task<int> work;
    {
      const counted argument(all);  // gone before the task is started
      work = outer(argument);
    }
    start_task(rt.pool("default"), std::move(work), [&, in_done](outcome<int>&&) {
      alive = all.made - all.died;
      over.open();
    });
  }
  over.wait();
  CHECK(alive == 0);
  CHECK(all.made == all.died);
  CHECK(soon([&] { return of_done.made == of_done.died; }));
}

TEST_CASE("a task started on a pool that has ended is told closed, and its frame dies unrun", "[task]") {
  const time_limit limit;
  auto pool = worker_pool::start("ended", worker_pool_options().threads(1));
  (void)pool->stop(penstock::no_deadline);
  census all;
  std::atomic<bool> ran{false};
  auto body = [&](counted argument) -> task<void> {
    (void)argument;
    ran = true;
    co_return;
  };
  record<std::string> ends;
  const auto done = [&](outcome<void>&& came) { ends.add(name(sort(came))); };
  start_task(pool, body(counted(all)), done);
  ends.wait_for(1);
  std::stop_source stop;
  stop.request_stop();
  start_task(pool, body(counted(all)), done, stop.get_token());
  ends.wait_for(2);
  CHECK(ends.all().front() == "closed");
  CHECK(refusal_of([&] { block_on(pool, body(counted(all))); }) == errc::closed);
  CHECK_FALSE(ran);
  CHECK(soon([&] { return all.made == all.died; }));
}

TEST_CASE("a pool stopped under a waiting task: its outcome is closed and its frames are destroyed once", "[task]") {
  const time_limit limit;
  // Kept beyond the case should the outcome come late.
  struct seen {
    census all;
    record<std::string> ends;
    gate waiting;
    std::atomic<bool> went_on{false};
  };
  auto state = std::make_shared<seen>();
  auto pool = worker_pool::start("own", worker_pool_options().threads(1));
  struct bodies {
    static task<void> inner(std::shared_ptr<seen> state, std::chrono::nanoseconds wait, counted argument) {
      (void)argument;
      state->waiting.open();
      co_await penstock::sleep_for(wait);
      state->went_on = true;
    }
    static task<void> outer(std::shared_ptr<seen> state, std::chrono::nanoseconds wait) {
      const counted local(state->all);
      co_await inner(state, wait, local);
    }
  };
  std::chrono::nanoseconds wait{};
  SECTION("a sleep that ends soon") { wait = 50ms; }
  SECTION("a sleep that does not end in time") { wait = 1h; }
  std::stop_source stop;
  start_task(pool, bodies::outer(state, wait), [state](outcome<void>&& came) { state->ends.add(name(sort(came))); },
             stop.get_token());
  state->waiting.wait();
  CHECK(pool->stop(penstock::no_deadline) == 0);
  CHECK(soon([&] { return state->ends.size() >= 1; }));
  stop.request_stop();  // after the end it does nothing; where the end has not come, it brings it
  CHECK(soon([&] { return state->ends.size() >= 1; }));
  pool.reset();
  CHECK(state->ends.all() == std::vector<std::string>{"closed"});
  CHECK(soon([&] { return state->all.made == state->all.died; }));
  CHECK_FALSE(state->went_on);
}

TEST_CASE("a runtime that ends under a waiting task tells it closed and destroys its frames once", "[task]") {
  const time_limit limit;
  struct seen {
    census all;
    record<std::string> ends;
    gate waiting;
  };
  auto state = std::make_shared<seen>();
  struct bodies {
    static task<void> sleeping(std::shared_ptr<seen> state, counted argument) {
      (void)argument;
      state->waiting.open();
      co_await penstock::sleep_for(1h);
    }
  };
  {
    penstock::runtime rt(workers(1));
    start_task(rt.pool("default"), bodies::sleeping(state, counted(state->all)),
               [state](outcome<void>&& came) { state->ends.add(name(sort(came))); });
    state->waiting.wait();
  }
  CHECK(soon([&] { return state->ends.size() == 1; }));
  CHECK(state->ends.all() == std::vector<std::string>{"closed"});
  CHECK(soon([&] { return state->all.made == state->all.died; }));
}
