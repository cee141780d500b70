// G9: whichever thread of a part cannot start, its constructor says so at once, and nothing of it is left.
// Floor 9, room tests.
#include "../support/gate.hpp"
#include "../support/thread_starts.hpp"
#include "goal.hpp"

#include <penstock/exec/asio.hpp>
#include <penstock/penstock.hpp>
#include <penstock/runtime/signal_watcher.hpp>

#include <boost/asio/steady_timer.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

using namespace std::chrono_literals;
using namespace penstock_goals;
using penstock::task;
using penstock::worker_pool;
using penstock::worker_pool_options;
using penstock_test::failing_thread_start;

namespace {

using clock_type = std::chrono::steady_clock;

struct job {
  int value = 0;
};

std::size_t threads_of_process() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator("/proc/self/task")) ++count;
  return count;
}

/// One try with one thread failing.
struct trial {
  bool failed = false;   // the thread was asked for, and did not start
  bool refused = false;  // and that was said
  bool works = false;    // what was made does what it is for
};

/// Runs `body` with its kth thread failing, or none for k below zero.
template <class Body>
trial with_failing_thread(long k, std::chrono::nanoseconds& took, Body body) {
  trial seen;
  const failing_thread_start nth(k);
  const auto began = clock_type::now();
  try {
    body();
  } catch (const std::system_error&) {
    seen.refused = true;
  }
  took = clock_type::now() - began;
  seen.failed = k >= 0 && nth.has_failed();
  return seen;
}

bool works(worker_pool& pool) {
  penstock_test::gate ran;
  if (pool.post([&] { ran.open(); }) != penstock::errc::none) return false;
  ran.wait();
  return pool.stop(penstock::no_deadline) == 0;
}
bool works(penstock::runtime& rt) {
  std::atomic<int> handled{0};
  auto sub = rt.bus().subscribe<job>("handler", [&](const job&) { ++handled; });
  rt.bus().publish(job{1});
  return rt.shutdown(25s).clean() && handled == 1;
}
struct watched_signal {
  penstock_test::gate told;
  penstock::signal_watcher watcher{{SIGUSR1}, [this](int, unsigned) { told.open(); }};
};
bool works(watched_signal& one) {
  raise(SIGUSR1);
  one.told.wait();
  return true;
}

penstock::runtime_options three_pools() {
  return penstock::runtime_options()
      .pool("default", worker_pool_options().threads(3))
      .pool("blocking", worker_pool_options().threads(2))
      .pool("third", worker_pool_options().threads(4));
}
std::shared_ptr<worker_pool> make_pool() { return worker_pool::start("pool", worker_pool_options().threads(8)); }
std::shared_ptr<penstock::runtime> make_runtime() { return std::make_shared<penstock::runtime>(three_pools()); }
std::shared_ptr<penstock::runtime> make_runtime_with_signals() {
  return std::make_shared<penstock::runtime>(three_pools().stop_on_signals({SIGUSR1}));
}
std::shared_ptr<watched_signal> make_watcher() { return std::make_shared<watched_signal>(); }

task<void> sleeps() { co_await penstock::sleep_for(1ms); }
void use_timers(penstock::runtime& rt) {
  auto work = sleeps();
  penstock::block_on(rt.pool("default"), std::move(work));
}
void use_io_context(penstock::runtime& rt) {
  penstock_test::gate due;
  boost::asio::steady_timer timer(penstock::pool_executor(rt.pool("default")), 1ms);
  timer.async_wait([&](boost::system::error_code) { due.open(); });
  due.wait();
}

struct tally {
  std::uint64_t parts = 0, threads = 0, refused = 0, threads_left = 0, useless = 0;
  times took;
};

/// Each thread of a part in turn fails to start: `attempt(k)` is a trial with the kth, or with none for k below zero.
template <class Attempt>
void sweep(report& out, tally& all, const char* name, long threads, Attempt attempt) {
  ++all.parts;
  long k = 0;
  for (;; ++k) {
    const std::size_t before = threads_of_process();
    std::chrono::nanoseconds took{}, ignored{};
    const trial seen = attempt(k, took);
    all.threads_left += threads_of_process() != before ? 1 : 0;
    all.useless += attempt(-1, ignored).works ? 0 : 1;  // the same again, with all its threads
    if (!seen.failed) break;
    all.took.add(took);
    ++all.threads;
    all.refused += seen.refused ? 1 : 0;
    if (!seen.refused) out.note(std::string(name) + ": without its thread " + std::to_string(k) + " nothing was said");
  }
  if (k == threads) return;
  out.note(std::string(name) + ": started " + std::to_string(k) + " threads, not " + std::to_string(threads));
  ++all.useless;
}

/// A part that is made with its threads.
template <class Part>
auto made_by(std::shared_ptr<Part> (*make)()) {
  return [make](long k, std::chrono::nanoseconds& took) {
    std::shared_ptr<Part> part;
    trial seen = with_failing_thread(k, took, [&] { part = make(); });
    seen.works = part && works(*part);
    return seen;
  };
}

/// A part of a runtime whose thread starts with the first use; the same runtime can use it later.
auto used_by(void (*use)(penstock::runtime&)) {
  return [use](long k, std::chrono::nanoseconds& took) {
    penstock::runtime rt(penstock::runtime_options()
                             .pool("default", worker_pool_options().threads(1))
                             .pool("blocking", worker_pool_options().threads(1))
                             .watchdog(penstock::watchdog_options().enabled(false)));  // it uses the timers as well
    trial seen = with_failing_thread(k, took, [&] { use(rt); });
    std::chrono::nanoseconds ignored{};
    const bool later = !with_failing_thread(-1, ignored, [&] { use(rt); }).refused && works(rt);
    seen.works = later && !seen.refused;
    seen.refused = seen.refused && later;
    return seen;
  };
}

}  // namespace

int main() {
  const penstock_test::time_limit limit(most_seconds());
  report out;
  tally all;
  sweep(out, all, "pool", 8, made_by(make_pool));
  sweep(out, all, "runtime", 10, made_by(make_runtime));  // the watchdog's thread among them
  sweep(out, all, "runtime with signals", 11, made_by(make_runtime_with_signals));
  sweep(out, all, "signal watcher", 1, made_by(make_watcher));
  sweep(out, all, "timers", 1, used_by(use_timers));
  sweep(out, all, "io_context", 1, used_by(use_io_context));
  out.figure("G9 threads that cannot start",
             grouped(all.refused) + " of " + grouped(all.threads) + " said by an error (" + grouped(all.parts) +
                 " kinds of parts, each of their threads in turn), 0 hangs, " + grouped(all.threads_left) +
                 " threads left behind, " + grouped(all.useless) + " parts useless afterwards",
             "all, 0, 0, 0", all.refused == all.threads && all.threads > 0 && all.threads_left + all.useless == 0);
  out.time("G9 until the error", all.took.text(), "1 s", all.took.max() <= 1000);
  return out.finish();
}
