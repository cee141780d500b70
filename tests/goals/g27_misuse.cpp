// G27: each documented misuse, in a process of its own, ends in a defined error or an abort with a message; none hangs.
// Floor 9, room tests.
#include "../support/child.hpp"
#include "../support/gate.hpp"
#include "../support/refusal.hpp"
#include "goal.hpp"

#include <penstock/penstock.hpp>
#include <penstock/runtime/signal_watcher.hpp>
#include <penstock/testing/simulation.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <pthread.h>
#include <unistd.h>

using namespace std::chrono_literals;
using namespace penstock;
using namespace penstock_goals;
using penstock_test::eventually;
using penstock_test::gate;
using penstock_test::refusal_of;

namespace {

struct job {
  int value = 0;
};
struct other {
  int value = 0;
};

runtime_options quiet() {
  return runtime_options()
      .pool("default", worker_pool_options().threads(2))
      .pool("blocking", worker_pool_options().threads(2))
      .on_failure([](const failure&) {});
}

/// The error is the library's, with this code, and its text names the thing.
template <class Call>
bool refused(errc code, const char* part, Call call) {
  const auto [got, text] = refusal_of(call);
  return got == code && text.find(part) != std::string::npos;
}

/// Subscribing so is refused.
bool bad_options(errc code, const char* part, subscribe_options options) {
  runtime rt(quiet());
  return refused(code, part,
                 [&] { auto sub = rt.bus().subscribe<job>("the mailer", std::move(options), [](const job&) {}); });
}
template <class Handler>
bool bad_handler(Handler handler) {
  runtime rt(quiet());
  return refused(errc::invalid_argument, "the mailer",
                 [&] { auto sub = rt.bus().subscribe<job>("the mailer", std::move(handler)); });
}
bool bad_pool(const char* name, const char* part, worker_pool_options options) {
  return refused(errc::invalid_argument, part, [&] { worker_pool::start(name, std::move(options)); });
}
bool bad_topic(const char* name) {
  runtime rt(quiet());
  return refused(errc::invalid_argument, "topic", [&] { auto made = rt.bus().topic<job>(name); });
}

/// What `call` gives inside a handler; the runtime ends cleanly afterwards.
bool in_handler(const std::function<bool(runtime&)>& call) {
  runtime rt(quiet());
  std::atomic<bool> good{false};
  auto sub = rt.bus().subscribe<job>("handler", [&](const job&) { good = call(rt); });
  rt.bus().publish(job{1});
  return rt.bus().wait_idle(10s) && good && rt.shutdown(10s).stuck.empty();
}

task<void> nothing() { co_return; }
task<void> sleeps() { co_await sleep_for(std::chrono::nanoseconds::max()); }
task<int> awaits_twice() {
  auto once = nothing();
  co_await std::move(once);
  try {
    co_await std::move(once);
  } catch (const std::system_error& e) {
    co_return e.code() == errc::invalid_argument ? 1 : 2;
  }
  co_return 3;
}

bool awaits_its_own_close() {
  runtime rt(quiet());
  subscription sub;
  gate made, over;
  std::atomic<bool> said{false};
  sub = rt.bus().subscribe<job>("own end", [&](const job&) -> task<void> {
    made.wait();
    const close_status status = co_await sub.async_close();
    said = status == close_status::would_deadlock;
    over.open();
  });
  made.open();
  rt.bus().publish(job{1});
  over.wait();
  eventually([&] { return sub.close() == close_status::closed; });
  return said.load();
}

struct misuse {
  const char* what;
  bool (*body)();
};

const std::vector<misuse> misuses = {
    {"subscribe without a name",
     [] {
       runtime rt(quiet());
       return refused(errc::invalid_argument, "name",
                      [&] { auto sub = rt.bus().subscribe<job>("", [](const job&) {}); });
     }},
    {"subscribe an empty std::function", [] { return bad_handler(std::function<void(const job&)>()); }},
    {"subscribe a null function",
     [] {
       void (*none)(const job&) = nullptr;
       return bad_handler(none);
     }},
    {"capacity 0", [] { return bad_options(errc::invalid_argument, "capacity(0)", subscribe_options().capacity(0)); }},
    {"a capacity beyond all memory",
     [] { return bad_options(errc::invalid_argument, "capacity", subscribe_options().capacity(SIZE_MAX)); }},
    {"concurrency 0",
     [] { return bad_options(errc::invalid_argument, "concurrency(0)", subscribe_options().concurrency(0)); }},
    {"latest with another capacity than 1",
     [] {
       return bad_options(errc::invalid_argument, "latest", subscribe_options().overflow(overflow::latest).capacity(5));
     }},
    {"on_drop of another event",
     [] {
       return bad_options(errc::event_type_mismatch, "on_drop",
                          subscribe_options().on_drop<other>([](const other&, drop_reason) noexcept {}));
     }},
    {"a filter of another event",
     [] {
       return bad_options(errc::event_type_mismatch, "filter",
                          subscribe_options().filter<other>([](const other&) { return true; }));
     }},
    {"a retry policy without attempts",
     [] {
       return bad_options(errc::invalid_argument, "attempts", subscribe_options().retry(retry_policy().attempts(0)));
     }},
    {"a breaker after no failure",
     [] {
       return bad_options(errc::invalid_argument, "the mailer",
                          subscribe_options().on_failure(failure_policy::pause(0, 1s)));
     }},
    {"a handler on the pool for blocking work",
     [] {
       runtime rt(quiet());
       return refused(errc::invalid_argument, "blocking", [&] {
         auto sub =
             rt.bus().subscribe<job>("the mailer", subscribe_options().on(rt.pool("blocking")), [](const job&) {});
       });
     }},
    {"a pool without threads", [] { return bad_pool("press", "threads(0)", worker_pool_options().threads(0)); }},
    {"a pool without budget", [] { return bad_pool("press", "budget(0)", worker_pool_options().budget(0)); }},
    {"a pool without a name", [] { return bad_pool("", "name", worker_pool_options()); }},
    {"pool options after they were moved from",
     [] {
       worker_pool_options options;
       const worker_pool_options taken(std::move(options));
       return refused(errc::invalid_argument, "press", [&] { worker_pool::start("press", std::move(options)); });
     }},
    {"a pool that no runtime has",
     [] {
       runtime rt(quiet());
       return refused(errc::not_found, "cpu", [&] { static_cast<void>(rt.pool("cpu")); });
     }},
    {"a topic's empty name", [] { return bad_topic(""); }},
    {"a topic's name with a space", [] { return bad_topic("two words"); }},
    {"a topic's name of another event",
     [] {
       runtime rt(quiet());
       const auto taken = rt.bus().topic<job>("orders");
       return refused(errc::event_type_mismatch, "orders", [&] { auto made = rt.bus().topic<other>("orders"); });
     }},
    {"a stream without capacity",
     [] {
       runtime rt(quiet());
       return refused(errc::invalid_argument, "inbox",
                      [&] { auto made = rt.bus().stream<job>("inbox", stream_options().capacity(0)); });
     }},
    {"a publish through an empty publisher", [] { return publisher<job>().publish(job{1}).error() == errc::closed; }},
    {"a publish through a publisher that was moved from",
     [] {
       runtime rt(quiet());
       auto orders = rt.bus().publisher<job>();
       const auto taken = std::move(orders);
       return orders.publish(job{1}).error() == errc::closed && taken.publish(job{1}).error() == errc::none;
     }},
    {"a publish of an empty event_ptr",
     [] {
       runtime rt(quiet());
       return rt.bus().publisher<std::string>().publish(event_ptr<std::string>()).error() == errc::invalid_argument;
     }},
    {"a publish after the shutdown",
     [] {
       runtime rt(quiet());
       static_cast<void>(rt.shutdown(10s));
       return rt.bus().publish(job{1}).error() == errc::closed;
     }},
    {"every handle after the runtime's end",
     [] {
       auto rt = std::make_unique<runtime>(quiet());
       const event_bus bus = rt->bus();
       const task_registry tasks = rt->tasks();
       auto sub = bus.subscribe<job>("the mailer", [](const job&) {});
       const auto inbox = bus.stream<job>("inbox");
       rt.reset();
       return bus.publish(job{1}).error() == errc::closed && !inbox.receive() && sub.close() == close_status::closed &&
              refused(errc::closed, "", [&] { tasks.spawn("late", [] {}); });
     }},
    {"a publish that would wait, in posted work",
     [] {
       runtime rt(quiet());
       gate inside, release, over;
       auto sub = rt.bus().subscribe<job>("full", subscribe_options().capacity(1), [&](const job&) {
         inside.open();
         release.wait();
       });
       rt.bus().publish(job{1});
       inside.wait();
       rt.bus().publish(job{2});
       errc said = errc::none;
       static_cast<void>(rt.pool("default")->post([&] {
         said = rt.bus().publish(job{3}).error();
         over.open();
       }));
       over.wait();
       release.open();
       return said == errc::would_block && rt.shutdown(10s).clean();
     }},
    {"a handler whose output would wait for itself",
     [] {
       std::atomic<int> cycles{0};
       runtime rt(quiet());
       auto sub = rt.bus().subscribe<job>("own tail", subscribe_options().capacity(1), [&](const job& e) {
         if (e.value > 0) return;
         for (int i = 1; i <= 3; ++i)
           if (rt.bus().publish(job{i}).error() == errc::backpressure_cycle) ++cycles;
       });
       rt.bus().publish(job{0});
       return rt.bus().wait_idle(10s) && cycles == 2 && sub.ledger().balanced();
     }},
    {"block_on in a handler",
     [] {
       return in_handler([](runtime& rt) {
         return refused(errc::would_deadlock, "", [&] {
           auto work = nothing();
           block_on(rt.pool("default"), std::move(work));
         });
       });
     }},
    {"waiting for a task in a handler",
     [] {
       return in_handler([](runtime& rt) {
         const auto task = rt.tasks().spawn("asleep", sleeps());
         return refused(errc::would_deadlock, "", [&] { task.wait(); }) && task.request_cancel();
       });
     }},
    {"waiting for the shutdown in a handler",
     [] {
       return in_handler([](runtime& rt) {
         return refused(errc::would_deadlock, "", [&] { static_cast<void>(rt.wait_for_shutdown()); });
       });
     }},
    {"waiting until the bus is idle in a handler",
     [] { return in_handler([](runtime& rt) { return !rt.bus().wait_idle(1h); }); }},
    {"a shutdown in a handler",
     [] {
       return in_handler([](runtime& rt) {
         static_cast<void>(rt.shutdown(10s));
         return rt.shutdown_requested();
       });
     }},
    {"a handler that closes its own subscription, twice",
     [] {
       runtime rt(quiet());
       subscription sub;
       gate made, over;
       bool closing = false;
       sub = rt.bus().subscribe<job>("own end", [&](const job&) {
         made.wait();
         closing = sub.close() == close_status::closing && sub.close() == close_status::closing;
         over.open();
       });
       made.open();
       rt.bus().publish(job{1});
       over.wait();
       eventually([&] { return sub.close() == close_status::closed; });
       return closing && sub.close() == close_status::closed;
     }},
    {"a coroutine handler that awaits its own close", awaits_its_own_close},
    {"a runtime that is destroyed in its own handler",
     [] {
       auto rt = std::make_unique<runtime>(quiet());
       const event_bus bus = rt->bus();
       gate gone;
       auto sub = bus.subscribe<job>("destroyer", [&](const job&) {
         rt.reset();
         gone.open();
       });
       bus.publish(job{1});
       gone.wait();
       return bus.publish(job{2}).error() == errc::closed;
     }},
    {"a handler that ends its thread",
     [] {
       runtime rt(quiet());
       auto sub = rt.bus().subscribe<job>("leaving", [](const job& e) {
         if (e.value == 0) pthread_exit(nullptr);
       });
       rt.bus().publish(job{0});
       rt.bus().publish(job{1});
       return rt.bus().wait_idle(10s) && sub.ledger().failed == 1 && sub.ledger().handled == 1;
     }},
    {"a failure hook that throws",
     [] {
       runtime rt(quiet().on_failure([](const failure&) { throw 1; }).log_to([](const log_record&) {}));
       auto sub = rt.bus().subscribe<job>("failing", [](const job&) { throw std::runtime_error("as planned"); });
       for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
       return rt.bus().wait_idle(10s) && sub.ledger().failed == 3;
     }},
    {"a log sink that throws",
     [] {
       runtime rt(runtime_options().log_to([](const log_record&) { throw 1; }));
       auto sub = rt.bus().subscribe<job>("failing", [](const job&) { throw std::runtime_error("as planned"); });
       rt.bus().publish(job{1});
       return rt.bus().wait_idle(10s) && rt.lost_log_records() == 1;
     }},
    {"a task that is awaited twice",
     [] {
       runtime rt(quiet());
       auto work = awaits_twice();
       return block_on(rt.pool("default"), std::move(work)) == 1;
     }},
    {"an empty task",
     [] {
       runtime rt(quiet());
       return refused(errc::invalid_argument, "", [&] { block_on(rt.pool("default"), task<int>()); });
     }},
    {"a task without a pool",
     [] {
       return refused(errc::invalid_argument, "", [] {
         auto work = nothing();
         block_on(scheduler_ptr(), std::move(work));
       });
     }},
    {"a timer without a pool", [] { return refused(errc::invalid_argument, "", [] { timer none{scheduler_ptr()}; }); }},
    {"a background task without a name",
     [] {
       runtime rt(quiet());
       return refused(errc::invalid_argument, "name", [&] { rt.tasks().spawn("", [] {}); });
     }},
    {"an empty background function",
     [] {
       runtime rt(quiet());
       return refused(errc::invalid_argument, "janitor", [&] { rt.tasks().spawn("janitor", std::function<void()>()); });
     }},
    {"a coroutine that is to be started again",
     [] {
       runtime rt(quiet());
       return refused(errc::invalid_argument, "janitor",
                      [&] { rt.tasks().spawn("janitor", spawn_options().restart(restart_policy()), nothing()); });
     }},
    {"a period of zero",
     [] {
       runtime rt(quiet());
       return refused(errc::invalid_argument, "janitor", [&] { rt.tasks().every("janitor", 0ms, [] {}); });
     }},
    {"a background task after the close of its group",
     [] {
       runtime rt(quiet());
       const auto group = rt.tasks().owner("plugin");
       static_cast<void>(group.close(10s));
       return refused(errc::closed, "janitor", [&] { group.spawn("janitor", [] {}); });
     }},
    {"a second watcher of signals",
     [] {
       const signal_watcher first({SIGUSR1}, [](int, unsigned) {});
       return refused(errc::already_exists, "signal_watcher",
                      [] { const signal_watcher second({SIGUSR2}, [](int, unsigned) {}); });
     }},
    {"a watcher of a signal that nobody can handle",
     [] {
       return refused(errc::invalid_argument, "signal_watcher",
                      [] { const signal_watcher none({SIGKILL}, [](int, unsigned) {}); });
     }},
    {"a bus that came through fork",
     [] {
       runtime rt(quiet());
       const auto orders = rt.bus().publisher<job>();
       return penstock_test::in_child([&] { return orders.publish(job{1}).error() == errc::forked ? 0 : 1; }) ==
              "exit 0";
     }},
    {"a simulation whose failure nobody was told of",
     [] {
       testing::simulation sim;
       sim.thread("failing", [&sim] { sim.require(false, "as planned"); });
       try {
         sim.run_until_idle();
       } catch (const testing::simulation_failure&) {
         return true;
       }
       return false;
     }},
    {"a simulation that ends with a failure unseen",
     [] {
       testing::simulation sim;
       sim.thread("failing", [] { throw std::runtime_error("as planned"); });
       return true;  // its destructor finds out, and ends the program with the text
     }},
};

struct tally {
  std::uint64_t errors = 0, aborts = 0, hangs = 0, undefined = 0;
};

void try_misuse(report& out, const misuse& one, tally& all) {
  std::FILE* said = std::tmpfile();
  const std::string status = penstock_test::in_child([&] {
    dup2(fileno(said), STDERR_FILENO);
    return one.body() ? 0 : 1;
  });
  std::fseek(said, 0, SEEK_END);
  const bool has_text = std::ftell(said) > 0;
  std::fclose(said);
  if (status == "exit 0")
    ++all.errors;
  else if (status == "signal " + std::to_string(SIGABRT) && has_text)
    ++all.aborts;
  else {
    ++(status == "signal " + std::to_string(SIGALRM) ? all.hangs : all.undefined);
    out.note(std::string(one.what) + ": " + status);
  }
}

}  // namespace

int main() {
  const penstock_test::time_limit limit(most_seconds());
  report out;
  tally all;
  for (const misuse& each : misuses) try_misuse(out, each, all);
  out.figure("G27 misuse",
             grouped(all.errors) + " gave the documented error and " + grouped(all.aborts) +
                 " ended the process with a message, of " + grouped(misuses.size()) + " misuses; " +
                 grouped(all.hangs) + " hung, " + grouped(all.undefined) + " did something else",
             "all of at least 30, 0, 0", all.errors + all.aborts == misuses.size() && misuses.size() >= 30);
  return out.finish();
}
