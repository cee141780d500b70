// The runtime: shutdown, pools and their threads, misuse, fork, and the end of the process.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/child.hpp"
#include "../support/gate.hpp"
#include "../support/sanitizers.hpp"

#include <penstock/penstock.hpp>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::close_status;
using penstock::errc;
using penstock::event_bus;
using penstock::failure;
using penstock::overflow;
using penstock::runtime_options;
using penstock::shutdown_report;
using penstock::subscribe_options;
using penstock::wait_strategy;
using penstock::worker_pool;
using penstock::worker_pool_options;

namespace {

struct job {
  int value = 0;
};
struct done {
  int value = 0;
};

worker_pool_options threads(unsigned count) { return worker_pool_options().threads(count); }
runtime_options workers(unsigned count) {
  return runtime_options().pool("default", threads(count)).on_failure([](const failure&) {});
}

bool balanced(const shutdown_report& report) {
  for (const auto& each : report.subscriptions)
    if (!each.ledger.balanced()) return false;
  return true;
}

/// The error a call throws, as "code: text"; "none" when it throws nothing.
template <class Call>
std::pair<std::error_code, std::string> refusal_of(Call call) {
  try {
    call();
  } catch (const std::system_error& refused) {
    return {refused.code(), refused.what()};
  }
  return {errc::none, "nothing was thrown"};
}

std::size_t threads_of_process() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator("/proc/self/task")) ++count;
  return count;
}

}  // namespace

// --- shutdown
// ----------------------------------------------------------------------------------------------------------

TEST_CASE("shutdown drains what is queued and what handlers still publish, and reports clean", "[shutdown][T16]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  std::atomic<int> ended{0};
  gate release;
  record<int> begun;
  auto last = rt.bus().subscribe<done>("last", subscribe_options().capacity(2), [&](const done&) { ++ended; });
  auto first = rt.bus().subscribe<job>("first", [&](const job& e) {
    if (e.value == 0) begun.add(1), release.wait();
    (void)rt.bus().publish(done{e.value});
  });
  for (int i = 0; i < 500; ++i) rt.bus().publish(job{i});
  begun.wait_for(1);
  shutdown_report report;
  std::thread stopping([&] { report = rt.shutdown(25s, "the test ends"); });
  eventually([&] { return rt.bus().publish(job{1}).error() == errc::closed; });  // intake has stopped
  release.open();
  stopping.join();
  CHECK(report.drained);
  CHECK(report.clean());
  CHECK(report.reason == "the test ends");
  CHECK(report.undelivered() == 0);
  CHECK(report.stuck.empty());
  CHECK(report.abandoned_workers == 0);
  CHECK(balanced(report));
  CHECK(ended >= 500);
  REQUIRE(report.subscriptions.size() == 2);
  CHECK(report.subscriptions[0].name == "last");
  CHECK_THAT(report.subscriptions[1].event, contains_text("job"));
  CHECK_THAT(to_string(report), contains_text("clean"));
}

TEST_CASE("shutdown gives up at its deadline and names what is stuck", "[shutdown][S6][T10]") {
  const time_limit limit;
  auto rt = std::make_unique<penstock::runtime>(workers(2));
  gate release;
  record<int> begun, over;
  auto stuck = rt->bus().subscribe<job>("endless", [&](const job& e) {
    begun.add(e.value);
    release.wait();
    over.add(1);
  });
  const unsigned line = __LINE__ - 5;
  for (int i = 0; i < 4; ++i) rt->bus().publish(job{i});
  begun.wait_for(1);
  const shutdown_report report = rt->shutdown(60ms);
  CHECK_FALSE(report.drained);
  CHECK_FALSE(report.clean());
  CHECK(report.undelivered() == 3);
  CHECK(report.abandoned_workers == 1);
  CHECK(report.elapsed < 10s);
  REQUIRE(report.stuck.size() == 1);
  const auto& named = report.stuck.front();
  CHECK(named.subscription == "endless");
  CHECK_THAT(named.event, contains_text("job"));
  CHECK(named.sequence == 1);
  CHECK_THAT(named.file, contains_text("runtime_test.cpp"));
  CHECK(named.line >= line);
  CHECK(named.line <= line + 4);
  CHECK(named.at_least > 0s);
  CHECK(balanced(report));
  REQUIRE(report.subscriptions.size() == 1);
  CHECK(report.subscriptions[0].ledger.running == 1);
  CHECK(report.subscriptions[0].ledger.discarded == 3);
  for (const char* part : {"stuck: endless", "abandoned: 1", "undelivered: 3", "not drained"})
    CHECK_THAT(to_string(report), contains_text(part));
  CHECK(stuck.close() == close_status::timed_out);
  rt.reset();  // returns although the call still runs
  release.open();
  over.wait_for(1);
  eventually([&] { return stuck.close() == close_status::closed; });
  CHECK(stuck.ledger().handled == 1);
}

TEST_CASE("the forced end of a shutdown asks running calls to stop, and one that obeys is not stuck",
          "[shutdown][H3]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  record<int> begun;
  auto obedient = rt.bus().subscribe<job>("obedient", [&](const job&, const penstock::call& info) {
    gate asked;
    std::stop_callback wake(info.stop_token(), [&] { asked.open(); });
    begun.add(1);
    asked.wait();
  });
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  begun.wait_for(1);
  const auto report = rt.shutdown(sanitized ? 3s : 1s);
  CHECK_FALSE(report.drained);
  CHECK(report.stuck.empty());
  CHECK(report.abandoned_workers == 0);
  CHECK(report.undelivered() == 2);
  CHECK(balanced(report));
}

TEST_CASE("shutdown from several threads and again gives the same report", "[shutdown][T11]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  auto sub = rt.bus().subscribe<job>("counted", [](const job&) {});
  for (int i = 0; i < 100; ++i) rt.bus().publish(job{i});
  record<shutdown_report> reports;
  std::latch together(3);
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i)
    callers.emplace_back([&, i] {
      together.arrive_and_wait();
      reports.add(rt.shutdown(25s, "caller " + std::to_string(i)));
    });
  for (auto& each : callers) each.join();
  reports.add(rt.shutdown(0s));
  const auto all = reports.all();
  for (const auto& each : all) {
    CHECK(each.clean());
    CHECK(each.reason == all.front().reason);
    CHECK(each.elapsed == all.front().elapsed);
    REQUIRE(each.subscriptions.size() == 1);
    CHECK(each.subscriptions[0].ledger.handled == 100);
  }
}

TEST_CASE("shutdown in a handler begins it and returns; asked again from elsewhere it ends", "[shutdown][T11]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  record<bool> returned;
  auto sub = rt.bus().subscribe<job>("quitter", [&](const job& e) {
    if (e.value != 0) return;
    const auto moment = rt.shutdown(25s, "from a handler");
    returned.add(balanced(moment) && !moment.subscriptions.empty());
  });
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  returned.wait_for(1);
  CHECK(returned.all().front());
  CHECK(rt.bus().publish(job{9}).error() == errc::closed);
  const auto report = rt.shutdown(25s);
  CHECK(report.clean());
  REQUIRE(report.subscriptions.size() == 1);
  CHECK(report.subscriptions[0].ledger.handled >= 1);
}

TEST_CASE("shutdown from posted work, also of a pool that may wait, does not join its own thread", "[shutdown][T11]") {
  const time_limit limit;
  const std::string pool = GENERATE("default", "blocking");
  auto rt = std::make_unique<penstock::runtime>(workers(2));
  auto sub = rt->bus().subscribe<job>("counted", [](const job&) {});
  rt->bus().publish(job{1});
  gate finished;
  REQUIRE(rt->pool(pool)->post([&] {
    (void)rt->shutdown(25s);
    finished.open();
  }) == errc::none);
  finished.wait();
  const auto report = rt->shutdown(25s);
  CHECK(balanced(report));
  CHECK(report.stuck.empty());
  CHECK(report.drained);
  rt.reset();
  CHECK(sub.ledger().handled == 1);
}

TEST_CASE("a runtime may be destroyed inside its own handler", "[shutdown][D6]") {
  const time_limit limit;
  auto rt = std::make_shared<std::unique_ptr<penstock::runtime>>(std::make_unique<penstock::runtime>(workers(2)));
  const event_bus bus = (*rt)->bus();
  const auto pool = (*rt)->pool("default");
  gate gone;
  auto sub = bus.subscribe<job>("destroyer", [&](const job&) {
    rt->reset();
    gone.open();
  });
  bus.publish(job{1});
  bus.publish(job{2});
  gone.wait();
  CHECK(bus.publish(job{3}).error() == errc::closed);
  CHECK(pool->post([] {}) == errc::closed);
  eventually([&] { return sub.close() == close_status::closed; });
  const auto ledger = sub.ledger();
  CHECK(ledger.handled == 1);
  CHECK(ledger.balanced());
}

TEST_CASE("the destructor of a runtime drains like shutdown", "[shutdown]") {
  const time_limit limit;
  std::atomic<int> handled{0};
  penstock::subscription sub;
  {
    penstock::runtime rt(workers(2));
    sub = rt.bus().subscribe<job>("drained", subscribe_options().capacity(2000), [&](const job&) { ++handled; });
    for (int i = 0; i < 1500; ++i) rt.bus().publish(job{i});
  }
  CHECK(handled == 1500);
  CHECK(sub.close() == close_status::closed);
}

TEST_CASE("handlers that feed each other for ever do not hold a shutdown beyond its deadline", "[shutdown][T15]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  auto ping = rt.bus().subscribe<job>("ping", [&](const job& e) { (void)rt.bus().publish(done{e.value}); });
  auto pong = rt.bus().subscribe<done>("pong", [&](const done& e) { (void)rt.bus().publish(job{e.value}); });
  rt.bus().publish(job{1});
  const auto report = rt.shutdown(200ms);
  CHECK(report.elapsed < 10s);
  CHECK(report.stuck.empty());
  CHECK(report.abandoned_workers == 0);
  CHECK(balanced(report));
}

TEST_CASE("runtimes are independent of each other", "[shutdown]") {
  const time_limit limit;
  penstock::runtime one(workers(2)), two(workers(2));
  record<int> of_one, of_two;
  auto a = one.bus().subscribe<job>("a", [&](const job& e) { of_one.add(e.value); });
  auto b = two.bus().subscribe<job>("b", [&](const job& e) {
    of_two.add(e.value);
    (void)one.bus().publish(job{e.value + 1});
  });
  two.bus().publish(job{1});
  of_one.wait_for(1);
  (void)one.shutdown(25s);
  two.bus().publish(job{5});
  REQUIRE(two.bus().wait_idle(25s));
  CHECK(of_one.all() == std::vector{2});
  CHECK(of_two.all() == std::vector{1, 5});
}

// --- pools
// -------------------------------------------------------------------------------------------------------------

TEST_CASE("workers block all signals, carry their pool's name, and call the start hook once each", "[X1][P15]") {
  const time_limit limit;
  record<unsigned> started;
  auto pool =
      worker_pool::start("spinners-of-yarn", threads(3).on_thread_start([&](unsigned index) { started.add(index); }));
  const auto indexes = started.all();
  CHECK(std::set<unsigned>(indexes.begin(), indexes.end()) == std::set<unsigned>{0, 1, 2});
  CHECK(indexes.size() == 3);
  CHECK(pool->threads() == 3);
  CHECK(pool->name() == "spinners-of-yarn");
  record<std::string> names;
  record<int> open_signals;
  REQUIRE(pool->post([&] {
    char name[16] = {};
    pthread_getname_np(pthread_self(), name, sizeof name);
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
    for (int each = 1; each < SIGRTMAX; ++each) {
      const bool reserved = each == SIGKILL || each == SIGSTOP || (each >= 32 && each < SIGRTMIN);
      if (!reserved && sigismember(&blocked, each) == 0) open_signals.add(each);
    }
    names.add(name);
  }) == errc::none);
  names.wait_for(1);
  CHECK(open_signals.all().empty());
  CHECK_THAT(names.all().front(), contains_text("spinners-of-y"));
  sigset_t mine;
  pthread_sigmask(SIG_BLOCK, nullptr, &mine);
  CHECK(sigismember(&mine, SIGTERM) == 0);  // the starter's own mask is as before
}

TEST_CASE("a start hook that throws fails the start within a second, and no thread is left", "[X1]") {
  const time_limit limit;
  const std::size_t before = threads_of_process();
  const auto began = std::chrono::steady_clock::now();
  CHECK_THROWS_AS(worker_pool::start("hooked", threads(4).on_thread_start([](unsigned index) {
                    if (index == 2) throw std::runtime_error("no core for this one");
                  })),
                  std::runtime_error);
  const auto [code, text] = refusal_of([] {
    worker_pool::start("hooked", threads(2).on_thread_start([](unsigned) {
      throw std::system_error(std::make_error_code(std::errc::no_such_device));
    }));
  });
  CHECK(code == std::errc::no_such_device);
  CHECK_THAT(text, contains_text("hooked"));
  CHECK_THAT(text, !contains_text("thread 3 of 2"));
  CHECK_THROWS(penstock::runtime(runtime_options().pool(
      "extra", threads(1).on_thread_start([](unsigned) { throw std::runtime_error("refused"); }))));
  CHECK(std::chrono::steady_clock::now() - began < 5s);
  CHECK(threads_of_process() <= before);
}

#if !defined(TEST_THREAD_SANITIZED)  // its runtime cannot fail to start a thread
TEST_CASE("a thread that cannot start is an error within a second, never a hang", "[X1]") {
  const time_limit limit;
  const std::string status = in_child([] {
    if (getuid() == 0 && setuid(65534) != 0) return 10;  // root has no such limit
    const rlimit few{1, 1};
    if (setrlimit(RLIMIT_NPROC, &few) != 0) return 11;
    const auto began = std::chrono::steady_clock::now();
    try {
      penstock::runtime rt;
      return 12;
    } catch (const std::system_error& refused) {
      if (refused.code() != std::errc::resource_unavailable_try_again) return 13;
      if (std::string(refused.what()).find("worker pool") == std::string::npos) return 14;
    }
    return std::chrono::steady_clock::now() - began < 1s ? 0 : 15;
  });
  CHECK(status == "exit 0");
}
#endif

TEST_CASE("a pool may be stopped from anywhere: twice, from two threads, from its own worker", "[X1][T11]") {
  const time_limit limit;
  SECTION("from two threads at once, and again") {
    auto pool = worker_pool::start("stopped", threads(2));
    record<unsigned> left;
    std::thread a([&] { left.add(pool->stop(penstock::no_deadline)); });
    std::thread b([&] { left.add(pool->stop(penstock::no_deadline)); });
    a.join();
    b.join();
    left.add(pool->stop(penstock::no_deadline));
    CHECK(left.all() == std::vector(3, 0U));
    CHECK(pool->post([] {}) == errc::closed);
  }
  SECTION("from its own worker, which also drops the last handle") {
    auto pool = worker_pool::start("own", threads(2));
    auto* raw = pool.get();
    gate finished;
    REQUIRE(raw->post([&finished, held = std::move(pool)]() mutable {
      (void)held->stop(penstock::no_deadline);
      held.reset();
      finished.open();
    }) == errc::none);
    finished.wait();
  }
  SECTION("with a call that does not end") {
    gate inside, release, over;
    auto pool = worker_pool::start("stuck", threads(2));
    REQUIRE(pool->post([&] {
      inside.open();
      release.wait();
      over.open();
    }) == errc::none);
    inside.wait();
    CHECK(pool->stop(penstock::deadline_after(pool->time().now(), 5ms)) == 1);
    pool.reset();
    release.open();
    over.wait();
  }
}

TEST_CASE("no wake-up is lost when a pool stops while its workers are about to sleep", "[T13][X1]") {
  const time_limit limit;
  const auto strategy =
      GENERATE(wait_strategy::park, wait_strategy::spin_then_park, wait_strategy::adaptive);
  for (int i = 0; i < (sanitized ? 30 : 200); ++i) {
    auto pool = worker_pool::start("brief", threads(3).wait(strategy));
    std::atomic<int> ran{0};
    for (int j = 0; j < i % 5; ++j) REQUIRE(pool->post([&] { ++ran; }) == errc::none);
    CHECK(pool->stop(penstock::no_deadline) == 0);
    CHECK(ran <= i % 5);
  }
}

TEST_CASE("posted work runs once, and its closure dies with its run or with the pool", "[X1][Q7]") {
  const time_limit limit;
  auto pool = worker_pool::start("poster", threads(1).wait(wait_strategy::spin_then_park));
  auto mark = std::make_shared<std::atomic<int>>(0);
  for (int i = 0; i < 100; ++i) REQUIRE(pool->post([mark] { ++*mark; }) == errc::none);
  eventually([&] { return *mark == 100; });
  eventually([&] { return mark.use_count() == 1; });  // an idle worker keeps no captures
  gate inside, release;
  REQUIRE(pool->post([&] { inside.open(), release.wait(); }) == errc::none);
  inside.wait();
  for (int i = 0; i < 10; ++i) REQUIRE(pool->post([mark] { ++*mark; }) == errc::none);
  std::thread stopping([&] { (void)pool->stop(penstock::no_deadline); });
  eventually([&] { return pool->post([mark] { ++*mark; }) == errc::closed; });
  release.open();
  stopping.join();
  CHECK(*mark == 100);
  CHECK(mark.use_count() == 1);
  CHECK(pool->post({}) != errc::none);
}

TEST_CASE("subscriptions run on the pool they choose", "[X1]") {
  const time_limit limit;
  penstock::runtime rt(workers(1).pool("special", threads(1)));
  gate release;
  record<int> seen, begun;
  auto stuck = rt.bus().subscribe<job>("stuck", [&](const job&) { begun.add(1), release.wait(); });
  auto apart = rt.bus().subscribe<job>("apart", subscribe_options().on(rt.pool("special")),
                                       [&](const job& e) { seen.add(e.value); });
  rt.bus().publish(job{1});
  begun.wait_for(1);
  rt.bus().publish(job{2});
  seen.wait_for(2);
  release.open();
  REQUIRE(rt.bus().wait_idle(25s));
}

// --- misuse
// ------------------------------------------------------------------------------------------------------------

TEST_CASE("misuse of subscribe is a typed error whose text names the thing", "[F99][misuse]") {
  const time_limit limit;
  penstock::runtime rt(workers(1).pool("special", threads(1)));
  const auto bus = rt.bus();
  const auto nothing = [](const job&) {};
  const auto check = [&](subscribe_options options, errc code, const std::string& part) {
    const auto refused = bus.try_subscribe<job>("my mailer", std::move(options), nothing);
    CHECK(refused.error == code);
    CHECK_FALSE(refused);
    CHECK_FALSE(refused.subscription);
    CHECK_THAT(refused.text, contains_text("my mailer"));
    CHECK_THAT(refused.text, contains_text(part));
  };
  check(subscribe_options().capacity(0), errc::invalid_argument, "capacity(0)");
  check(subscribe_options().capacity(SIZE_MAX), errc::invalid_argument, "capacity");
  check(subscribe_options().concurrency(0), errc::invalid_argument, "concurrency(0)");
  check(subscribe_options().concurrency(4'000'000'000), errc::invalid_argument, "concurrency");
  check(subscribe_options().overflow(overflow::latest).capacity(5), errc::invalid_argument, "latest");
  check(subscribe_options().max_parked(SIZE_MAX), errc::invalid_argument, "max_parked");
  check(subscribe_options().on(rt.pool("blocking")), errc::invalid_argument, "blocking");
  check(subscribe_options().on_drop<done>([](const done&, penstock::drop_reason) noexcept {}),
        errc::event_type_mismatch, "on_drop");

  auto [code, text] = refusal_of([&] { auto sub = bus.subscribe<job>("", nothing); });
  CHECK(code == errc::invalid_argument);
  CHECK_THAT(text, contains_text("name"));
  std::tie(code, text) =
      refusal_of([&] { auto sub = bus.subscribe<job>("mailer", std::function<void(const job&)>()); });
  CHECK(code == errc::invalid_argument);
  CHECK_THAT(text, contains_text("mailer"));
  void (*no_function)(const job&) = nullptr;
  std::tie(code, text) = refusal_of([&] { auto sub = bus.subscribe<job>("mailer", no_function); });
  CHECK(code == errc::invalid_argument);
  CHECK(bus.subscriptions().empty());
  CHECK(bus.publish(job{}).matched() == 0);  // nothing was left half made
  auto sub = bus.subscribe<job>("latest", subscribe_options().overflow(overflow::latest).capacity(1), nothing);
  CHECK(sub);
}

TEST_CASE("a refused subscribe destroys the handler and the hook it was given", "[F99][misuse]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto mark = std::make_shared<int>(0);
  for (int i = 0; i < 3; ++i) {
    auto options =
        subscribe_options().capacity(i == 0 ? 0 : 1).on_drop<job>([mark](const job&, penstock::drop_reason) noexcept {
        });
    auto result = rt.bus().try_subscribe<job>(i == 1 ? "" : "late", std::move(options), [mark](const job&) {});
    CHECK(static_cast<bool>(result) == (i == 2));
    result.subscription.release();
  }
  CHECK(mark.use_count() == 3);
  (void)rt.shutdown(25s);
  CHECK(mark.use_count() == 1);
  (void)rt.bus().try_subscribe<job>("late", subscribe_options(), [mark](const job&) {});
  CHECK(mark.use_count() == 1);
}

TEST_CASE("misuse of pools and runtimes is a typed error whose text names the thing", "[F99][misuse][X1]") {
  const time_limit limit;
  auto [code, text] = refusal_of([] { worker_pool::start("press", threads(0)); });
  CHECK(code == errc::invalid_argument);
  CHECK_THAT(text, contains_text("press"));
  CHECK_THAT(text, contains_text("threads(0)"));
  std::tie(code, text) = refusal_of([] { worker_pool::start("press", worker_pool_options().budget(0)); });
  CHECK(code == errc::invalid_argument);
  CHECK_THAT(text, contains_text("budget(0)"));
  std::tie(code, text) = refusal_of([] { worker_pool::start(""); });
  CHECK(code == errc::invalid_argument);
  CHECK_THAT(text, contains_text("name"));
  std::tie(code, text) = refusal_of([] { penstock::runtime rt(workers(0)); });
  CHECK(code == errc::invalid_argument);
  CHECK_THAT(text, contains_text("default"));
  penstock::runtime rt(workers(1));
  std::tie(code, text) = refusal_of([&] { (void)rt.pool("cpu"); });
  CHECK(code == errc::not_found);
  CHECK_THAT(text, contains_text("cpu"));
  CHECK_THAT(text, contains_text("blocking"));
}

TEST_CASE("handles used after they were moved from answer closed or invalid_argument", "[F99][misuse]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  auto sub = rt.bus().subscribe<std::string>("reader", [](const std::string&) {});
  auto publisher = rt.bus().publisher<std::string>();
  const auto taken = std::move(publisher);
  CHECK_FALSE(publisher);
  CHECK(publisher.publish("x").error() == errc::closed);
  CHECK(publisher.try_emplace("x").error() == errc::closed);
  CHECK(publisher.publish_for(1h, "x").error() == errc::closed);
  CHECK(publisher.topic_name().empty());
  auto event = penstock::make_event<std::string>("x");
  const auto kept = std::move(event);
  CHECK_FALSE(event);
  CHECK(taken.publish(event).error() == errc::invalid_argument);
  CHECK(taken.publish(kept).accepted() == 1);
  auto moved_sub = std::move(sub);
  CHECK(sub.close() == close_status::closed);
  CHECK(moved_sub.close() == close_status::closed);
  CHECK(moved_sub.close() == close_status::closed);
  auto bus = rt.bus();
  const auto moved_bus = std::move(bus);
  CHECK(bus.publish(std::string("x")).error() == errc::none);
}

TEST_CASE("options used after they were moved from are refused or plain defaults, never a crash", "[F99][misuse]") {
  const time_limit limit;
  CHECK(in_child([] {
          worker_pool_options options;
          options.threads(1);
          const worker_pool_options taken(std::move(options));
          try {
            worker_pool::start("again", std::move(options.threads(2)));
          } catch (const std::system_error& refused) {
            return refused.code() == errc::invalid_argument ? 0 : 1;
          }
          return 0;
        }) == "exit 0");
  CHECK(in_child([] {
          runtime_options options;
          const runtime_options taken(std::move(options));
          try {
            penstock::runtime rt(std::move(options.shutdown_within(1s)));
          } catch (const std::system_error& refused) {
            return refused.code() == errc::invalid_argument ? 0 : 1;
          }
          return 0;
        }) == "exit 0");
  subscribe_options options;
  options.on_drop<job>([](const job&, penstock::drop_reason) noexcept {});
  const subscribe_options taken(std::move(options));
  penstock::runtime rt(workers(1));
  CHECK(rt.bus().try_subscribe<job>("again", std::move(options), [](const job&) {}));
}

TEST_CASE("options that are assigned take over what the other had, and let go of their own", "[misuse]") {
  const time_limit limit;
  const auto old_one = std::make_shared<int>(0), new_one = std::make_shared<int>(0);
  const auto holding = [](const std::shared_ptr<int>& held) {
    return subscribe_options()
        .on_drop<job>([held](const job&, penstock::drop_reason) noexcept {})
        .filter<job>([held](const job& e) { return e.value > 0; });
  };
  subscribe_options options = holding(old_one).capacity(7);
  options = holding(new_one).capacity(2).overflow(overflow::drop_newest);
  CHECK(old_one.use_count() == 1);
  CHECK(new_one.use_count() == 3);
  subscribe_options& itself = options;
  options = std::move(itself);
  CHECK(new_one.use_count() == 3);

  runtime_options all = workers(3);
  all = workers(1).log_from(penstock::log_level::error);
  penstock::runtime rt(std::move(all));
  gate go;
  record<int> begun;
  {
    const auto sub = rt.bus().subscribe<job>("assigned", std::move(options), [&](const job& e) {
      begun.add(e.value);
      go.wait();
    });
    rt.bus().publish(job{1});
    begun.wait_for(1);
    for (const int value : {0, 2}) CHECK(rt.bus().publish(job{value}).accepted() == 1);
    CHECK(rt.bus().publish(job{3}).dropped() == 1);
    const auto seen = rt.bus().snapshot();
    REQUIRE(seen.subscriptions.size() == 1);
    CHECK(seen.subscriptions[0].capacity == 2);
    CHECK(seen.subscriptions[0].overflow == overflow::drop_newest);
    go.open();
    REQUIRE(rt.bus().wait_idle(20s));
    CHECK(sub.ledger().filtered == 1);
    CHECK(begun.all() == std::vector<int>{1, 2});
  }
  penstock::stream_options narrow;
  narrow = penstock::stream_options().capacity(3).overflow(overflow::fail);
  penstock::topic_options second;
  second = penstock::topic_options().name("second");
  const penstock::topic_options moved(std::move(second));
  second = penstock::topic_options().name("third");
  const auto third = rt.bus().topic<job>(std::move(second));
  CHECK(third.name() == "third");
  const auto stream = third.stream("assigned", std::move(narrow));
  const auto seen = rt.bus().snapshot();
  REQUIRE(seen.subscriptions.size() == 1);
  CHECK(seen.subscriptions[0].topic == "third");
  CHECK(seen.subscriptions[0].capacity == 3);
  CHECK(seen.subscriptions[0].overflow == overflow::fail);

  worker_pool_options pool = threads(3);
  pool = threads(1);
  CHECK(worker_pool::start("assigned", std::move(pool))->threads() == 1);
}

TEST_CASE("a handle to a bus or a registry that is assigned is one to the other's from then on", "[misuse]") {
  const time_limit limit;
  penstock::runtime one(workers(1)), other(workers(1));
  record<int> seen;
  const auto sub = other.bus().subscribe<job>("sub", [&](const job& e) { seen.add(e.value); });
  event_bus bus = one.bus();
  CHECK(bus.publish(job{1}).matched() == 0);
  bus = other.bus();
  event_bus& itself = bus;
  bus = itself;
  CHECK(bus.publish(job{2}).accepted() == 1);
  penstock::task_registry tasks = one.tasks();
  tasks = other.tasks();
  CHECK(tasks.spawn("task", [] {}).wait() == penstock::task_status::completed);
  CHECK(one.tasks().counts().spawned == 0);
  CHECK(other.tasks().counts().spawned == 1);
  REQUIRE(other.bus().wait_idle(20s));
  CHECK(seen.all() == std::vector<int>{2});
}

TEST_CASE("a pool says how much work is ready and how many of its workers sleep", "[X1]") {
  const time_limit limit;
  gate go;
  record<int> begun;
  const auto pool = worker_pool::start("counted", threads(2));
  eventually([&] { return pool->parked_approx() == 2; });
  CHECK(pool->ready_approx() == 0);
  for (int i = 0; i < 2; ++i)
    REQUIRE(pool->post([&] {
      begun.add(1);
      go.wait();
    }) == errc::none);
  begun.wait_for(2);
  CHECK(pool->parked_approx() == 0);
  for (int i = 0; i < 3; ++i) REQUIRE(pool->post([&] { begun.add(2); }) == errc::none);
  CHECK(pool->ready_approx() == 3);
  go.open();
  begun.wait_for(5);
  eventually([&] { return pool->parked_approx() == 2; });
  CHECK(pool->ready_approx() == 0);
}

// --- fork and the end of the process
// -----------------------------------------------------------------------------------

TEST_CASE("after fork the child gets errc::forked from every operation, and the parent is unaffected", "[S6][P13]") {
  const time_limit limit;
  penstock::runtime rt(workers(2));
  const auto publisher = rt.bus().publisher<job>();
  const auto large = rt.bus().publisher<std::string>();
  std::atomic<int> handled{0};
  auto sub = rt.bus().subscribe<job>("parent's", [&](const job&) { ++handled; });
  auto text = rt.bus().subscribe<std::string>("parent's text", [&](const std::string&) { ++handled; });
  publisher.publish({1});
  REQUIRE(rt.bus().wait_idle(25s));
  const auto in_fork = [](auto body) { return in_child([&] { return body() ? 0 : 1; }); };
  CHECK(in_fork([&] { return publisher.publish({1}).error() == errc::forked; }) == "exit 0");
  CHECK(in_fork([&] { return publisher.publish_many(std::vector<job>(2)).error() == errc::forked; }) == "exit 0");
  CHECK(in_fork([&] { return large.publish("x").error() == errc::forked; }) == "exit 0");
  CHECK(in_fork([&] { return rt.bus().publish(job{1}).error() == errc::forked; }) == "exit 0");
  CHECK(in_fork([&] { return rt.bus().try_publish(std::string("x")).error() == errc::forked; }) == "exit 0");
  CHECK(in_fork([&] {
          return rt.bus().try_subscribe<job>("child's", subscribe_options(), [](const job&) {}).error == errc::forked;
        }) == "exit 0");
  CHECK(in_fork([&] { return refusal_of([&] { (void)rt.bus().publisher<job>(); }).first == errc::forked; }) ==
        "exit 0");
  CHECK(in_fork([&] { return rt.pool("default")->post([] {}) == errc::forked; }) == "exit 0");
  CHECK(in_fork([&] {
          return sub.close() == close_status::closed && text.close(penstock::close_mode::drain) == close_status::closed;
        }) == "exit 0");
  CHECK(in_fork([&] {
          sub.stop();
          (void)rt.bus().subscriptions();
          (void)rt.bus().wait_idle(1h);
          (void)rt.shutdown(1h);
          return true;
        }) == "exit 0");
  CHECK(in_child([&] {
          auto held = std::make_unique<penstock::subscription>(std::move(sub));
          held.reset();
          rt.~runtime();
          return 0;
        }) == "exit 0");
  publisher.publish({2});
  large.publish("y");
  REQUIRE(rt.bus().wait_idle(25s));
  CHECK(handled == 3);
}

#if !defined(TEST_THREAD_SANITIZED)  // which does not allow a child of a program with threads to start some
TEST_CASE("a runtime made in a child process works there", "[S6][P13]") {
  const time_limit limit;
  penstock::runtime rt(workers(1));
  CHECK(in_child([] {
          penstock::runtime own(workers(2));
          std::atomic<int> handled{0};
          auto sub = own.bus().subscribe<job>("child's", [&](const job&) { ++handled; });
          for (int i = 0; i < 10; ++i) own.bus().publish(job{i});
          return own.shutdown(10s).clean() && handled == 10 ? 0 : 1;
        }) == "exit 0");
}
#endif

namespace {
/// With static storage duration: its destructor runs after main, when the runtime is gone or about to be.
struct last_user {
  std::optional<penstock::publisher<job>> publisher;
  std::optional<event_bus> bus;
  penstock::subscription sub;
  std::unique_ptr<penstock::runtime> rt;
  bool runtime_first = false;
  ~last_user() {
    if (!bus) return;
    if (runtime_first) rt.reset();
    const bool closed = publisher->publish({1}).error() == (runtime_first ? errc::closed : errc::none);
    sub.stop();
    const bool ended = sub.close() == close_status::closed;
    rt.reset();
    const bool late = bus->publish(job{1}).error() == errc::closed;
    _exit(closed && ended && late ? 42 : 43);
  }
};
}  // namespace

TEST_CASE("handles in static destructors answer closed, they do not crash", "[S6][P11]") {
  const time_limit limit;
  const bool runtime_first = GENERATE(true, false);
  CHECK(in_child([&]() -> int {
          static last_user user;
          user.runtime_first = runtime_first;
          user.rt = std::make_unique<penstock::runtime>(workers(2));
          user.bus = user.rt->bus();
          user.publisher = user.bus->publisher<job>();
          user.sub = user.bus->subscribe<job>("static", [](const job&) {});
          user.publisher->publish({1});
          std::exit(0);
        }) == "exit 42");
}
