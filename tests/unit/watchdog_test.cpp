// The watchdog on real threads: it names what is stuck while it is stuck.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"

#include <penstock/penstock.hpp>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <vector>

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::runtime_options;
using penstock::subscribe_options;
using penstock::watchdog_options;
using penstock::watchdog_report;
using penstock::worker_pool_options;
using what = penstock::watchdog_report::what;

namespace {

struct order {
  int number = 0;
};
struct receipt {
  int number = 0;
};

/// What a watchdog said; it outlives the runtime.
class sayings {
 public:
  watchdog_options options(std::chrono::milliseconds limit = 20ms) {
    return watchdog_options().stuck_after(limit).every(2ms).stacks(true).on_report(
        [this](const watchdog_report& r) { all_.add(r); });
  }
  /// Waits for the first report of that kind (or, `over`, that it has recovered) of that name.
  watchdog_report wait_for(what kind, const std::string& name, bool over = false) {
    return wait_until([&](const watchdog_report& r) {
      return r.of == kind && (r.kind == what::recovered) == over &&
             (r.subscription == name || r.task == name || r.pool == name);
    });
  }
  /// The same of the first with a stack: a thread may not have come to its call yet, or not have answered in time.
  watchdog_report wait_for_stack(what kind, const std::string& name) {
    return wait_until([&](const watchdog_report& r) {
      return r.kind == kind && (r.subscription == name || r.task == name) && !r.stack.empty();
    });
  }
  std::vector<watchdog_report> all() const { return all_.all(); }

 private:
  template <class Condition>
  watchdog_report wait_until(const Condition& wanted) {
    for (std::size_t looked = 0;; ++looked) {
      all_.wait_for(looked + 1);
      const watchdog_report r = all_.all()[looked];
      if (wanted(r)) return r;
    }
  }
  record<watchdog_report> all_;
};

bool holds(const std::vector<std::string>& stack, const std::string& name) {
  for (const std::string& frame : stack)
    if (frame.find(name) != std::string::npos) return true;
  return false;
}

std::atomic<int> signals_seen{0};

/// Real threads; the first timer that its watchdog arms is refused.
class first_timer_refused final : public penstock::execution_environment {
 public:
  explicit first_timer_refused(std::atomic<int>& refused) : refused_(refused) {}
  const penstock::clock& time() const noexcept override { return real_->time(); }
  std::uint64_t random() noexcept override { return real_->random(); }
  penstock::scheduler_ptr make_pool(std::string_view name, worker_pool_options options) override {
    auto made = real_->make_pool(name, std::move(options));
    if (name != "watchdog") return made;
    return std::make_shared<refusing_pool>(std::move(made), refused_);
  }
  unsigned stop_pools(penstock::steady_time deadline) noexcept override { return real_->stop_pools(deadline); }

 private:
  class refusing_pool final : public penstock::scheduler, public penstock::timer_service {
   public:
    refusing_pool(penstock::scheduler_ptr real, std::atomic<int>& refused) : real_(std::move(real)), refused_(refused) {}
    void schedule(penstock::runnable& item) noexcept override { real_->schedule(item); }
    penstock::errc post(penstock::unique_function<void()> work) override { return real_->post(std::move(work)); }
    const penstock::clock& time() const noexcept override { return real_->time(); }
    penstock::timer_service& timers() noexcept override { return *this; }
    const std::string& name() const noexcept override { return real_->name(); }
    penstock::errc arm(penstock::timer_node& node) noexcept override {
      if (refused_.exchange(1) == 0) return penstock::errc::not_enough_memory;
      return real_->timers().arm(node);
    }
    bool disarm(penstock::timer_node& node) noexcept override { return real_->timers().disarm(node); }

   private:
    const penstock::scheduler_ptr real_;
    std::atomic<int>& refused_;
  };

  const std::shared_ptr<penstock::execution_environment> real_ = penstock::real_environment();
  std::atomic<int>& refused_;
};

}  // namespace

/// Exported, so that a stack can name it.
__attribute__((noinline)) void function_that_hangs(gate& until) {
  until.wait();
  asm volatile("");  // no tail call: this function stays on the stack
}

TEST_CASE("the watchdog names a stuck handler while it is stuck: event, thread, stack, and where it was subscribed",
          "[watchdog]") {
  const time_limit limit;
  sayings said;
  gate release;
  penstock::runtime rt(runtime_options().watchdog(said.options()));
  const unsigned line = __LINE__ + 1;
  auto mail = rt.bus().subscribe<order>("mail", [&](const order& o) { if (o.number == 2) function_that_hangs(release); });
  rt.bus().publish(order{1});
  rt.bus().publish(order{2});
  const watchdog_report r = said.wait_for_stack(what::stuck_call, "mail");
  CHECK_FALSE(release.is_open());
  CHECK(r.sequence == 2);
  CHECK_THAT(r.event, contains_text("order"));
  CHECK(r.elapsed >= 20ms);
  CHECK_THAT(r.file, contains_text("watchdog_test.cpp"));
  CHECK(r.line == line);
  CHECK_THAT(r.thread, contains_text("default-"));
  CHECK_FALSE(r.suspended);
  INFO(to_string(r));
  CHECK(holds(r.stack, "function_that_hangs"));
  // It begins where the thread stood, not in the library's signal handler.
  CHECK(r.stack.front().find("libpenstock") == std::string::npos);
  release.open();
  const watchdog_report over = said.wait_for(what::stuck_call, "mail", true);
  CHECK(over.sequence == 2);
  CHECK(over.kind == what::recovered);
  CHECK(rt.shutdown(10s).clean());
}

TEST_CASE("a stuck call is told again with growing pauses while it lasts", "[watchdog]") {
  const time_limit limit;
  sayings said;
  gate release;
  penstock::runtime rt(runtime_options().watchdog(said.options(5ms).stacks(false)));
  auto mail = rt.bus().subscribe<order>("mail", [&](const order&) { release.wait(); });
  rt.bus().publish(order{1});
  eventually([&] { return said.all().size() >= 4; });
  release.open();
  const auto all = said.all();
  for (std::size_t i = 0; i + 1 < 4; ++i) {
    CHECK(all[i].kind == what::stuck_call);
    CHECK(all[i].stack.empty());
    CHECK(all[i + 1].elapsed >= 5ms * (2 << i));
  }
}

TEST_CASE("a pool without a free worker is told while work waits for one", "[watchdog]") {
  const time_limit limit;
  sayings said;
  gate release;
  record<int> begun;
  penstock::runtime rt(
      runtime_options().pool("narrow", worker_pool_options().threads(2)).watchdog(said.options().stacks(false)));
  const auto pool = rt.pool("narrow");
  for (int i = 0; i < 3; ++i)
    REQUIRE(pool->post([&] { begun.add(1), release.wait(); }) == penstock::errc::none);
  const watchdog_report r = said.wait_for(what::starved_pool, "narrow");
  CHECK(begun.size() == 2);
  CHECK(r.waiting == 1);
  CHECK_FALSE(release.is_open());
  release.open();
  CHECK(said.wait_for(what::starved_pool, "narrow", true).pool == "narrow");
}

TEST_CASE("a chain of handlers that wait for each other's channels is told in words", "[watchdog]") {
  const time_limit limit;
  sayings said;
  gate release;
  penstock::runtime rt(runtime_options().watchdog(said.options().stacks(false)));
  auto& bus = rt.bus();
  auto last = bus.subscribe<std::string>("last", subscribe_options().capacity(1),
                                         [&](const std::string&) { release.wait(); });
  auto middle = bus.subscribe<receipt>("middle", subscribe_options().capacity(1),
                                       [&](const receipt&) { static_cast<void>(bus.publish(std::string("on"))); });
  auto first = bus.subscribe<order>("first", subscribe_options().capacity(8),
                                    [&](const order&) { static_cast<void>(bus.publish(receipt{1})); });
  for (int i = 0; i < 6; ++i) bus.publish(order{i});
  const watchdog_report r = said.wait_for(what::wait_chain, "first");
  CHECK(r.chain == std::vector<std::string>{"first", "middle", "last"});
  CHECK_THAT(to_string(r), contains_text("subscription=first waits_for=middle waits_for=last"));
  release.open();
  CHECK(rt.shutdown(10s).clean());
}

TEST_CASE("a coroutine handler that waits for too long is told as suspended, on no thread", "[watchdog]") {
  const time_limit limit;
  sayings said;
  penstock::runtime rt(runtime_options().watchdog(said.options()));
  penstock::timer alarm(rt.pool("default"), 1h);
  auto slow = rt.bus().subscribe<order>("slow", [&](const order&) -> penstock::task<void> {
    static_cast<void>(co_await alarm.async_wait());
  });
  rt.bus().publish(order{1});
  const watchdog_report r = said.wait_for(what::stuck_call, "slow");
  CHECK(r.suspended);
  CHECK(r.thread.empty());
  CHECK(r.stack.empty());
  alarm.cancel();
  CHECK(said.wait_for(what::stuck_call, "slow", true).subscription == "slow");
}

TEST_CASE("a handler that runs on a pool of somebody else's is watched too, and named without a thread", "[watchdog]") {
  const time_limit limit;
  sayings said;
  gate release;
  const auto apart = penstock::worker_pool::start("apart", worker_pool_options().threads(1));
  penstock::runtime rt(runtime_options().watchdog(said.options()));
  auto mail = rt.bus().subscribe<order>("mail", subscribe_options().on(apart), [&](const order&) { release.wait(); });
  rt.bus().publish(order{1});
  const watchdog_report r = said.wait_for(what::stuck_call, "mail");
  CHECK(r.pool == "apart");
  CHECK(r.thread.empty());
  release.open();
}

TEST_CASE("a function task that takes no stop token is named while it hangs, with the stack of its thread", "[watchdog]") {
  const time_limit limit;
  sayings said;
  gate release;
  penstock::runtime rt(runtime_options().watchdog(said.options()));
  const unsigned line = __LINE__ + 1;
  rt.tasks().spawn("import", [&] { function_that_hangs(release); });
  const watchdog_report r = said.wait_for_stack(what::stuck_task, "import");
  INFO(to_string(r));
  CHECK_FALSE(release.is_open());
  CHECK(r.subscription.empty());
  CHECK(r.sequence == 1);
  CHECK(r.elapsed >= 20ms);
  CHECK(r.pool == "blocking");
  CHECK_THAT(r.thread, contains_text("blocking-"));
  CHECK_THAT(r.file, contains_text("watchdog_test.cpp"));
  CHECK(r.line == line);
  CHECK_FALSE(r.stop_requested);
  CHECK(holds(r.stack, "function_that_hangs"));
  release.open();
  CHECK(said.wait_for(what::stuck_task, "import", true).kind == what::recovered);
}

TEST_CASE("a task that may run until it is asked to stop is named when it was asked, and goes on", "[watchdog]") {
  const time_limit limit;
  sayings said;
  gate release;
  penstock::runtime rt(runtime_options().watchdog(said.options(5ms)));
  penstock::timer alarm(rt.pool("default"), 1h);
  auto service = rt.tasks().spawn("service", [&](const std::stop_token&) { function_that_hangs(release); });
  rt.tasks().spawn("sleeper", [](const penstock::timer& until) -> penstock::task<void> {
    static_cast<void>(co_await until.async_wait());
  }(alarm));
  rt.tasks().spawn("measure", [&] { release.wait(); });
  eventually([&] { return said.all().size() >= 4; });  // for at least eight times as long as would be told of the others
  for (const watchdog_report& r : said.all()) CHECK(r.task == "measure");
  service.request_cancel("enough");
  const watchdog_report r = said.wait_for_stack(what::stuck_task, "service");
  CHECK(r.stop_requested);
  CHECK(holds(r.stack, "function_that_hangs"));
  release.open();
  alarm.cancel();
}

TEST_CASE("a coroutine task that does not yield is named with its thread and stack", "[watchdog]") {
  const time_limit limit;
  sayings said;
  gate release;
  penstock::runtime rt(runtime_options().watchdog(said.options()));
  rt.tasks().spawn("greedy", [](gate& until) -> penstock::task<void> {
    co_await penstock::sleep_for(1ms);
    function_that_hangs(until);
  }(release));
  const watchdog_report r = said.wait_for_stack(what::stuck_task, "greedy");
  CHECK_FALSE(r.suspended);
  CHECK_THAT(r.thread, contains_text("default-"));
  CHECK(holds(r.stack, "function_that_hangs"));
  release.open();
  CHECK(said.wait_for(what::stuck_task, "greedy", true).kind == what::recovered);
}

TEST_CASE("a periodic task is named when a tick hangs, with the tick's number and thread", "[watchdog]") {
  const time_limit limit;
  sayings said;
  gate release;
  penstock::runtime rt(runtime_options().watchdog(said.options()));
  rt.tasks().every("sweep", 1ms, [&](const std::stop_token&) { function_that_hangs(release); });
  const watchdog_report r = said.wait_for_stack(what::stuck_task, "sweep");
  CHECK(r.sequence == 1);
  CHECK_THAT(r.thread, contains_text("blocking-"));
  CHECK(holds(r.stack, "function_that_hangs"));
  release.open();
  CHECK(said.wait_for(what::stuck_task, "sweep", true).sequence == 1);
}

TEST_CASE("a task that runs on a pool of somebody else's is watched too, however late it begins", "[watchdog]") {
  const time_limit limit;
  sayings said;
  gate release;
  gate begin;
  const auto apart = penstock::worker_pool::start("apart", worker_pool_options().threads(1));
  penstock::runtime rt(runtime_options().watchdog(said.options()));
  REQUIRE(apart->post([&] { begin.wait(); }) == penstock::errc::none);
  rt.tasks().spawn("import", penstock::spawn_options().on(apart), [&] { release.wait(); });
  // Meanwhile the watchdog looks, sees nothing in progress, and would rest if it did not know of the task.
  std::mutex m;
  std::condition_variable nobody;
  std::unique_lock lock(m);
  nobody.wait_for(lock, 50ms);
  begin.open();
  const watchdog_report r = said.wait_for(what::stuck_task, "import");
  CHECK(r.pool == "apart");
  CHECK(r.thread.empty());
  release.open();
}

TEST_CASE("a task that waits for a handler, which waits for the stream the task reads, is told as a chain", "[watchdog]") {
  const time_limit limit;
  const bool coroutine = GENERATE(true, false);
  sayings said;
  penstock::runtime rt(runtime_options().watchdog(said.options().stacks(false)));
  auto& bus = rt.bus();
  auto answers = bus.stream<receipt>("answers", penstock::stream_options().capacity(1));
  auto relay = bus.subscribe<order>("relay", subscribe_options().capacity(1),
                                    [&](const order& o) { static_cast<void>(bus.publish(receipt{o.number})); });
  const auto orders = bus.publisher<order>();
  if (coroutine)
    rt.tasks().spawn("asker", [](penstock::publisher<order> out) -> penstock::task<void> {
      for (int i = 0; i < 8; ++i) {
        const order each{i};
        static_cast<void>(co_await out.async_publish(each));
      }
    }(orders));
  else
    rt.tasks().spawn("asker", [orders](const std::stop_token& stop) {
      for (int i = 0; i < 8; ++i) static_cast<void>(orders.publish(order{i}, stop));
    });
  const watchdog_report r = said.wait_for(what::wait_chain, "asker");
  CHECK(r.task == "asker");
  CHECK(r.chain == std::vector<std::string>{"asker", "relay", "answers"});
  CHECK_THAT(r.file, contains_text("watchdog_test.cpp"));
  answers.close();
  CHECK(said.wait_for(what::wait_chain, "asker", true).kind == what::recovered);
}

TEST_CASE("a reader that answers under its delivery closes the ring of a chain", "[watchdog]") {
  const time_limit limit;
  sayings said;
  penstock::runtime rt(runtime_options().watchdog(said.options().stacks(false)));
  auto& bus = rt.bus();
  auto answers = bus.stream<receipt>("answers", penstock::stream_options().capacity(1));
  auto relay = bus.subscribe<order>("relay", subscribe_options().capacity(1),
                                    [&](const order& o) { static_cast<void>(bus.publish(receipt{o.number})); });
  bus.publish(order{0});
  rt.tasks().spawn("reader", [orders = bus.publisher<order>(), &answers](const std::stop_token& stop) {
    const auto got = answers.receive(stop);
    if (!got) return;
    got.publish_under([&] {
      for (int i = 0; i < 8; ++i) static_cast<void>(orders.publish(order{i}, stop));
    });
  });
  const watchdog_report r = said.wait_for(what::wait_chain, "reader");
  CHECK(r.chain == std::vector<std::string>{"reader", "relay", "answers", "relay"});
  answers.close();
}

TEST_CASE("without a hook the runtime's log is told, in fields", "[watchdog][log]") {
  const time_limit limit;
  record<penstock::log_record> lines;
  gate release;
  penstock::runtime rt(runtime_options()
                           .log_to([&](const penstock::log_record& line) { lines.add(line); })
                           .watchdog(watchdog_options().stuck_after(2ms).every(1ms)));
  rt.tasks().spawn("import", [&] { release.wait(); });
  lines.wait_for(1);
  const penstock::log_record line = lines.all().front();
  CHECK(line.component() == "penstock.watchdog");
  CHECK(line.level() == penstock::log_level::warning);
  CHECK(line.text() == "a task is stuck");
  CHECK_THAT(to_string(line), contains_text("task=import"));
  CHECK_THAT(to_string(line), contains_text("thread=blocking-"));
  release.open();
}

TEST_CASE("a watchdog that could not arm its timer looks when something next begins", "[watchdog]") {
  const time_limit limit;
  sayings said;
  gate release;
  std::atomic<int> refused{0};
  penstock::runtime rt(runtime_options()
                           .environment(std::make_shared<first_timer_refused>(refused))
                           .watchdog(said.options().stacks(false)));
  auto quick = rt.bus().subscribe<receipt>("quick", [](const receipt&) {});
  auto slow = rt.bus().subscribe<order>("slow", [&](const order&) { release.wait(); });
  rt.bus().publish(receipt{1});
  eventually([&] { return refused == 1; });
  CHECK(rt.bus().wait_idle(20s));
  rt.bus().publish(order{1});
  CHECK(said.wait_for(what::stuck_call, "slow").sequence == 1);
  release.open();
}

TEST_CASE("a watchdog and its hook are gone with the runtime, although a handle to a pool outlives it", "[watchdog]") {
  const time_limit limit;
  const auto owned = std::make_shared<int>(1);
  const std::weak_ptr<int> left = owned;
  penstock::scheduler_ptr pool;
  {
    penstock::runtime rt(
        runtime_options().watchdog(watchdog_options().on_report([kept = std::shared_ptr<int>(owned)](const auto&) {})));
    pool = rt.pool("default");
  }
  CHECK(left.use_count() == 1);
}

TEST_CASE("two runtimes ask for stacks at once, each of its own threads", "[watchdog]") {
  const time_limit limit;
  sayings said[2];
  gate release;
  penstock::runtime one(runtime_options().watchdog(said[0].options()));
  penstock::runtime two(runtime_options().watchdog(said[1].options().stack_signal(SIGRTMIN + 3)));
  auto first = one.bus().subscribe<order>("first", [&](const order&) { function_that_hangs(release); });
  auto second = two.bus().subscribe<order>("second", [&](const order&) { function_that_hangs(release); });
  one.bus().publish(order{1});
  two.bus().publish(order{1});
  CHECK(holds(said[0].wait_for_stack(what::stuck_call, "first").stack, "function_that_hangs"));
  CHECK(holds(said[1].wait_for_stack(what::stuck_call, "second").stack, "function_that_hangs"));
  release.open();
}

TEST_CASE("the program's own handler of the signal stays until something is stuck, is called as before, and is back in the end",
          "[watchdog]") {
  const time_limit limit;
  signals_seen.store(0);
  struct sigaction own {};
  own.sa_handler = [](int) { signals_seen.fetch_add(1); };
  struct sigaction before {};
  REQUIRE(sigaction(SIGURG, &own, &before) == 0);
  {
    sayings said;
    gate release;
    penstock::runtime rt(runtime_options().watchdog(said.options()));
    auto mail = rt.bus().subscribe<order>("mail", [&](const order&) { function_that_hangs(release); });
    struct sigaction now {};
    REQUIRE(sigaction(SIGURG, nullptr, &now) == 0);
    CHECK(now.sa_handler == own.sa_handler);
    rt.bus().publish(order{1});
    CHECK(holds(said.wait_for_stack(what::stuck_call, "mail").stack, "function_that_hangs"));
    CHECK(signals_seen.load() == 0);
    REQUIRE(raise(SIGURG) == 0);
    CHECK(signals_seen.load() == 1);
    release.open();
  }
  struct sigaction now {};
  REQUIRE(sigaction(SIGURG, &before, &now) == 0);
  CHECK(now.sa_handler == own.sa_handler);
}

TEST_CASE("workers unblock the watchdog's signal and no other, and none without stacks", "[watchdog][P15]") {
  const time_limit limit;
  const bool stacks = GENERATE(true, false);
  record<std::vector<int>> seen;
  {
    penstock::runtime rt(runtime_options().watchdog(watchdog_options().stacks(stacks)));
    REQUIRE(rt.pool("default")->post([&] {
      std::vector<int> open;
      sigset_t blocked;
      pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
      for (int each = 1; each < SIGRTMAX; ++each) {
        const bool reserved = each == SIGKILL || each == SIGSTOP || (each >= 32 && each < SIGRTMIN);
        if (!reserved && sigismember(&blocked, each) == 0) open.push_back(each);
      }
      seen.add(open);
    }) == penstock::errc::none);
    seen.wait_for(1);
  }
  CHECK(seen.all().front() == (stacks ? std::vector<int>{SIGURG} : std::vector<int>{}));
  CHECK_THROWS_AS(penstock::runtime(runtime_options().watchdog(watchdog_options().stack_signal(SIGKILL))),
                  std::system_error);
}

TEST_CASE("a watchdog at rest uses no processor time, however often it would look", "[watchdog][L2]") {
  const time_limit limit;
  sayings said;
  penstock::runtime rt(runtime_options().watchdog(said.options().every(1ms)));
  auto mail = rt.bus().subscribe<order>("mail", [](const order&) {});
  rt.bus().publish(order{1});
  REQUIRE(rt.bus().wait_idle(25s));
  const auto switches = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw;
  };
  // It looks once more after the last worker has gone to sleep. Then nobody wakes: one that looked each millisecond would
  // switch a thousand times in the second that this thread sleeps through.
  std::mutex m;
  std::condition_variable nobody;
  std::unique_lock lock(m);
  nobody.wait_for(lock, 50ms);
  const long before = switches();
  nobody.wait_for(lock, 1s);
  CHECK(switches() - before < 50);
  CHECK(said.all().empty());
}

TEST_CASE("a report hook that throws is logged, and the next report is told", "[watchdog]") {
  const time_limit limit;
  record<int> told;
  gate release;
  penstock::runtime rt(runtime_options().watchdog(
      watchdog_options().stuck_after(2ms).every(1ms).on_report([&](const watchdog_report&) {
        told.add(1);
        throw std::runtime_error("no");
      })));
  auto mail = rt.bus().subscribe<order>("mail", [&](const order&) { release.wait(); });
  rt.bus().publish(order{1});
  told.wait_for(3);
  release.open();
  CHECK(told.size() >= 3);
}

TEST_CASE("a report hook may shut the runtime down, and the stuck call is let go first", "[watchdog]") {
  const time_limit limit;
  gate release;
  record<int> told;
  penstock::runtime rt(runtime_options().watchdog(
      watchdog_options().stuck_after(2ms).every(1ms).on_report([&](const watchdog_report&) {
        static_cast<void>(rt.shutdown(20s, "stuck"));
        told.add(1);
      })));
  auto mail = rt.bus().subscribe<order>("mail", [&](const order&) { release.wait(); });
  rt.bus().publish(order{1});
  told.wait_for(1);
  CHECK(rt.bus().publish(order{2}).error() == penstock::errc::closed);
  release.open();
}
