// Failure isolation: whatever a handler does, only its own event is lost, and the record of it is complete.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"

#include <penstock/penstock.hpp>

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <pthread.h>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::close_mode;
using penstock::close_status;
using penstock::errc;
using penstock::failure;
using penstock::runtime_options;
using penstock::subscribe_options;
using penstock::worker_pool_options;

namespace {

struct job {
  int value = 0;
};

struct copy_throws {
  copy_throws() = default;
  copy_throws(const copy_throws&) { throw std::logic_error("a copy of the exception was made"); }
};
struct tagged : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Throws the kind of exception that the number stands for.
[[noreturn]] void throw_kind(int kind) {
  switch (kind) {
    case 0:
      throw std::runtime_error("plain words");
    case 1:
      throw 42;
    case 2:
      throw copy_throws();  // built where the exception lives, so this throw itself copies nothing
    case 3:
      try {
        try {
          throw std::out_of_range("the core");
        } catch (...) {
          std::throw_with_nested(std::invalid_argument("the middle"));
        }
      } catch (...) {
        std::throw_with_nested(std::runtime_error("the outside"));
      }
    case 4:
      throw std::string("a text");
    case 5:
      throw std::bad_alloc();
    case 6:
      throw tagged("control \x1b[31m\nforged line");
    case 7:
      std::rethrow_exception(std::make_exception_ptr(static_cast<const char*>("literal")));
    default:
      try {
        throw 7;
      } catch (...) {
        std::throw_with_nested(std::runtime_error("around an int"));
      }
  }
}
struct expectation {
  const char* type;
  const char* what;
  std::vector<std::string> nested;
};
const expectation expected[] = {
    {"std::runtime_error", "plain words", {}},
    {"int", "", {}},
    {"copy_throws", "", {}},
    {"runtime_error", "the outside", {"the middle", "the core"}},
    {"basic_string", "", {}},
    {"std::bad_alloc", "std::bad_alloc", {}},
    {"tagged", "control \x1b[31m\nforged line", {}},
    {"char const*", "", {}},
    {"runtime_error", "around an int", {"unknown exception"}},
};
constexpr int kinds = 9;

worker_pool_options threads(unsigned count) { return worker_pool_options().threads(count); }

}  // namespace

TEST_CASE("whatever a handler throws is caught around that one call", "[F1][D9]") {
  const time_limit limit;
  record<failure> failures;
  penstock::runtime rt(
      runtime_options().pool("default", threads(2)).on_failure([&](const failure& f) { failures.add(f); }));
  record<int> thrown_on, bystander;
  auto thrower = rt.bus().subscribe<job>("thrower", [&](const job& e) {
    thrown_on.add(e.value);
    if (e.value < kinds) throw_kind(e.value);
  });
  auto other = rt.bus().subscribe<job>("bystander", [&](const job& e) { bystander.add(e.value); });
  for (int i = 0; i < kinds + 3; ++i) CHECK(rt.bus().publish(job{i}).accepted() == 2);
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(bystander.size() == kinds + 3);
  CHECK(thrown_on.size() == kinds + 3);
  const auto ledger = thrower.ledger();
  CHECK(ledger.failed == kinds);
  CHECK(ledger.handled == 3);
  CHECK(ledger.balanced());
  CHECK(other.ledger().handled == kinds + 3);

  const auto all = failures.all();
  REQUIRE(all.size() == kinds);
  for (std::size_t i = 0; i < all.size(); ++i) {
    INFO("kind " << i << ": " << to_string(all[i]));
    CHECK(all[i].subscription == "thrower");
    CHECK_THAT(all[i].event, contains_text("job"));
    CHECK(all[i].sequence == i + 1);
    CHECK(all[i].attempt == 1);
    CHECK_THAT(all[i].file, contains_text("failure_test.cpp"));
    CHECK(all[i].line > 0);
    CHECK_THAT(all[i].exception.type_name, contains_text(expected[i].type));
    CHECK(all[i].exception.what == expected[i].what);
    CHECK(all[i].exception.nested == expected[i].nested);
  }
}

TEST_CASE("of exceptions nested without end the outer sixteen causes are kept", "[F1]") {
  const std::function<void(int)> nest = [&](int depth) {
    try {
      if (depth == 0) throw std::runtime_error("the core");
      nest(depth - 1);
    } catch (...) {
      if (depth == 0) throw;
      std::throw_with_nested(std::runtime_error("layer " + std::to_string(depth)));
    }
  };
  penstock::exception_record kept;
  try {
    nest(20);
  } catch (...) {
    kept = penstock::describe_current_exception();
  }
  CHECK(kept.what == "layer 20");
  REQUIRE(kept.nested.size() == 16);
  CHECK(kept.nested.front() == "layer 19");
  CHECK(kept.nested.back() == "layer 4");
}

TEST_CASE("a failure's line of text names who, what and where, and cannot forge another line", "[F2]") {
  failure record;
  record.subscription = "mail\n[error] forged";
  record.event = "order";
  record.sequence = 7;
  record.file = "shop.cpp";
  record.line = 12;
  record.exception.type_name = "std::runtime_error";
  record.exception.what = "no \x1b[31mroute";
  record.exception.nested = {"inner"};
  const std::string text = to_string(record);
  CHECK(text.find('\n') == std::string::npos);
  CHECK(text.find('\x1b') == std::string::npos);
  for (const char* part : {"mail\\x0a", "order", "#7", "std::runtime_error", "route", "inner", "shop.cpp:12"})
    CHECK_THAT(text, contains_text(part));
}

TEST_CASE("the live exception is readable during the failure hook", "[F2]") {
  const time_limit limit;
  record<std::string> seen;
  penstock::runtime rt(runtime_options().on_failure([&](const failure&) {
    try {
      if (std::current_exception()) throw;
      seen.add("none");
    } catch (const tagged& live) {
      seen.add(live.what());
    }
  }));
  auto sub = rt.bus().subscribe<job>("thrower", [](const job&) { throw tagged("alive"); });
  rt.bus().publish(job{});
  seen.wait_for(1);
  CHECK(seen.all() == std::vector<std::string>{"alive"});
}

TEST_CASE("a failure hook that throws cannot recurse or terminate, and is told of the next failure", "[F2][D11]") {
  const time_limit limit;
  std::atomic<int> told{0};
  penstock::runtime rt(runtime_options().on_failure([&](const failure&) {
    ++told;
    if (told % 2 == 0) throw 1;
    throw std::runtime_error("the hook is broken");
  }));
  std::atomic<int> after{0};
  auto sub = rt.bus().subscribe<job>("thrower", [&](const job& e) {
    if (e.value < 4) throw e.value;
    ++after;
  });
  for (int i = 0; i < 6; ++i) rt.bus().publish(job{i});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(told == 4);
  CHECK(after == 2);
  CHECK(sub.ledger().failed == 4);
}

TEST_CASE("a failure hook may publish; what would have to wait there is refused with would_block", "[F2][P3]") {
  const time_limit limit;
  struct alarm_raised {
    int value = 0;
  };
  penstock::event_bus* bus = nullptr;
  record<errc> said;
  penstock::runtime rt(runtime_options().pool("default", threads(2)).on_failure([&](const failure&) {
    said.add(bus->publish(alarm_raised{1}).error());
  }));
  bus = &rt.bus();
  gate release;
  record<int> alarms;
  auto listener =
      rt.bus().subscribe<alarm_raised>("listener", subscribe_options().capacity(1), [&](const alarm_raised&) {
        alarms.add(1);
        release.wait();
      });
  auto sub = rt.bus().subscribe<job>("thrower", [](const job&) { throw 1; });
  rt.bus().publish(job{});
  alarms.wait_for(1);
  for (int i = 0; i < 2; ++i) rt.bus().publish(job{});
  said.wait_for(3);
  CHECK(said.all() == std::vector{errc::none, errc::none, errc::would_block});
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
}

TEST_CASE("a runtime without a hook logs the failure and goes on", "[F2]") {
  const time_limit limit;
  penstock::runtime rt;
  std::atomic<int> handled{0};
  auto sub = rt.bus().subscribe<job>("logged", [&](const job& e) {
    if (e.value == 0) throw std::runtime_error("this line belongs to the test of the logging hook");
    ++handled;
  });
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(handled == 2);
}

TEST_CASE("calls that run at once fail each for itself", "[F1][O2]") {
  const time_limit limit;
  record<failure> failures;
  penstock::runtime rt(
      runtime_options().pool("default", threads(4)).on_failure([&](const failure& f) { failures.add(f); }));
  auto sub = rt.bus().subscribe<job>("parallel", subscribe_options().concurrency(4), [](const job& e) {
    if (e.value % 2 == 0) throw std::runtime_error(std::to_string(e.value));
  });
  for (int i = 0; i < 400; ++i) rt.bus().publish(job{i});
  REQUIRE(sub.close(close_mode::drain) == close_status::closed);
  CHECK(failures.size() == 200);
  CHECK(sub.ledger().failed == 200);
  CHECK(sub.ledger().handled == 200);
}

TEST_CASE("posted work that throws is reported by its pool, and its worker goes on", "[F1]") {
  const time_limit limit;
  record<failure> failures;
  penstock::runtime rt(
      runtime_options().pool("default", threads(1).on_failure([&](const failure& f) { failures.add(f); })));
  gate done;
  REQUIRE(rt.pool("default")->post([] { throw tagged("posted"); }) == errc::none);
  failures.wait_for(1);
  REQUIRE(rt.pool("default")->post([&] { done.open(); }) == errc::none);
  done.wait();
  CHECK(failures.all().front().subscription == "default");
  CHECK(failures.all().front().exception.what == "posted");
}

TEST_CASE("a pool's failure hook that throws harms nobody", "[F1][D11]") {
  const time_limit limit;
  auto pool = penstock::worker_pool::start("throwing", threads(1).on_failure([](const failure&) { throw 1; }));
  gate done;
  REQUIRE(pool->post([] { throw 2; }) == errc::none);
  REQUIRE(pool->post([] { throw 3; }) == errc::none);
  REQUIRE(pool->post([&] { done.open(); }) == errc::none);
  done.wait();
}

// --- a worker that is lost
// ---------------------------------------------------------------------------------------------

TEST_CASE("a handler that ends its thread costs one event: the worker is replaced and reported, the lane goes on",
          "[F1][D12]") {
  const time_limit limit;
  const bool cancelled = GENERATE(false, true);
  record<failure> lost;
  {
    penstock::runtime rt(
        runtime_options().pool("default", threads(1).on_failure([&](const failure& f) { lost.add(f); })));
    record<int> handled, other;
    auto destroyed = std::make_shared<int>(0);
    auto sub = rt.bus().subscribe<job>("suicidal", [&](const job& e) {
      const auto on_stack = destroyed;
      if (e.value == 1) {
        if (cancelled) {
          pthread_cancel(pthread_self());
          pthread_testcancel();
        } else {
          pthread_exit(nullptr);
        }
      }
      handled.add(e.value);
    });
    auto bystander = rt.bus().subscribe<job>("bystander", [&](const job& e) { other.add(e.value); });
    for (int i = 0; i < 4; ++i) rt.bus().publish(job{i});
    lost.wait_for(1);
    REQUIRE(rt.bus().wait_idle(25s));
    CHECK(handled.all() == std::vector{0, 2, 3});
    CHECK(other.all() == std::vector{0, 1, 2, 3});
    CHECK(destroyed.use_count() == 1);  // the stack was unwound
    CHECK(sub.ledger().failed == 1);
    CHECK(sub.ledger().handled == 3);
    CHECK(sub.ledger().balanced());
    CHECK(lost.size() == 1);
    CHECK_THAT(lost.all().front().exception.what, contains_text("replaced"));
    CHECK(sub.close() == close_status::closed);
    const auto report = rt.shutdown(25s);
    CHECK(report.clean());
    CHECK(report.abandoned_workers == 0);
  }
}

TEST_CASE("posted work that ends its thread is reported, and the pool keeps its size", "[F1][D12]") {
  const time_limit limit;
  record<failure> lost;
  auto pool = penstock::worker_pool::start("lossy", threads(2).on_failure([&](const failure& f) { lost.add(f); }));
  for (int i = 0; i < 6; ++i) REQUIRE(pool->post([] { pthread_exit(nullptr); }) == errc::none);
  lost.wait_for(6);
  std::atomic<int> inside{0};
  gate both, release;
  for (int i = 0; i < 2; ++i)
    REQUIRE(pool->post([&] {
      if (++inside == 2) both.open();
      release.wait();
    }) == errc::none);
  both.wait();  // two workers are there
  release.open();
  CHECK(pool->stop(penstock::no_deadline) == 0);
}

TEST_CASE("a handler that ends its thread with an output parked rests until that output has a seat", "[F1][P3]") {
  const time_limit limit;
  struct result {
    int value = 0;
  };
  record<failure> lost;
  penstock::runtime rt(
      runtime_options().pool("default", threads(2).on_failure([&](const failure& f) { lost.add(f); })));
  gate release;
  record<int> results, handled;
  auto writer = rt.bus().subscribe<result>("writer", subscribe_options().capacity(1), [&](const result& e) {
    results.add(e.value);
    if (e.value == -1) release.wait();
  });
  rt.bus().publish(result{-1});
  results.wait_for(1);
  rt.bus().publish(result{-2});
  auto sub = rt.bus().subscribe<job>("suicidal", [&](const job& e) {
    (void)rt.bus().publish(result{e.value});
    if (e.value == 0) pthread_exit(nullptr);
    handled.add(e.value);
  });
  rt.bus().publish(job{0});
  rt.bus().publish(job{1});
  lost.wait_for(1);
  CHECK(handled.size() == 0);
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(results.all() == std::vector{-1, -2, 0, 1});
  CHECK(handled.all() == std::vector{1});
}
