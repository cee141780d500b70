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

/// `use` with its kth thread failing, or none for k below zero. It throws std::system_error, or says whether all went
/// well.
template <class Use>
trial with_failing_thread(long k, std::chrono::nanoseconds& took, Use use) {
  trial seen;
  const failing_thread_start nth(k);
  const auto began = clock_type::now();
  try {
    seen.works = use();
  } catch (const std::system_error&) {
    seen.refused = true;
  }
  took = clock_type::now() - began;
  seen.failed = k >= 0 && nth.has_failed();
  return seen;
}

bool handles(penstock::runtime& rt) {
  std::atomic<int> handled{0};
  auto sub = rt.bus().subscribe<job>("handler", [&](const job&) { ++handled; });
  rt.bus().publish(job{1});
  return rt.shutdown(25s).clean() && handled == 1;
}
penstock::runtime_options three_pools() {
  return penstock::runtime_options()
      .pool("default", worker_pool_options().threads(3))
      .pool("blocking", worker_pool_options().threads(2))
      .pool("third", worker_pool_options().threads(4));
}

bool pool_works() {
  const auto pool = worker_pool::start("pool", worker_pool_options().threads(8));
  penstock_test::gate ran;
  if (pool->post([&] { ran.open(); }) != penstock::errc::none) return false;
  ran.wait();
  return pool->stop(penstock::no_deadline) == 0;
}
bool runtime_works() {
  penstock::runtime rt(three_pools());
  return handles(rt);
}
bool runtime_with_signals_works() {
  penstock::runtime rt(three_pools().stop_on_signals({SIGUSR1}));
  return handles(rt);
}
bool watcher_works() {
  penstock_test::gate told;
  const penstock::signal_watcher watcher({SIGUSR1}, [&](int, unsigned) { told.open(); });
  raise(SIGUSR1);
  told.wait();
  return true;
}

task<void> sleeps() { co_await penstock::sleep_for(1ms); }
bool timers_work(penstock::runtime& rt) {
  auto work = sleeps();
  penstock::block_on(rt.pool("default"), std::move(work));
  return true;
}
bool asio_timer_works(penstock::runtime& rt) {
  penstock_test::gate due;
  boost::asio::steady_timer timer(penstock::pool_executor(rt.pool("default")), 1ms);
  timer.async_wait([&](boost::system::error_code) { due.open(); });
  due.wait();
  return true;
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
auto made_by(bool (*make)()) {
  return [make](long k, std::chrono::nanoseconds& took) { return with_failing_thread(k, took, make); };
}

/// A part of a runtime whose thread starts with the first use; the same runtime can use it later.
auto used_by(bool (*use)(penstock::runtime&)) {
  return [use](long k, std::chrono::nanoseconds& took) {
    penstock::runtime rt(penstock::runtime_options()
                             .pool("default", worker_pool_options().threads(1))
                             .pool("blocking", worker_pool_options().threads(1)));
    trial seen = with_failing_thread(k, took, [&] { return use(rt); });
    if (seen.failed) {
      std::chrono::nanoseconds ignored{};
      seen.refused = seen.refused && with_failing_thread(-1, ignored, [&] { return use(rt); }).works && handles(rt);
    }
    return seen;
  };
}

}  // namespace

int main() {
  const penstock_test::time_limit limit(most_seconds());
  report out;
  tally all;
  sweep(out, all, "pool", 8, made_by(pool_works));
  sweep(out, all, "runtime", 9, made_by(runtime_works));
  sweep(out, all, "runtime with signals", 10, made_by(runtime_with_signals_works));
  sweep(out, all, "signal watcher", 1, made_by(watcher_works));
  sweep(out, all, "timers", 1, used_by(timers_work));
  sweep(out, all, "io_context", 1, used_by(asio_timer_works));
  out.figure("G9 threads that cannot start",
             grouped(all.refused) + " of " + grouped(all.threads) + " said by an error (" + grouped(all.parts) +
                 " kinds of parts, each of their threads in turn), 0 hangs, " + grouped(all.threads_left) +
                 " threads left behind, " + grouped(all.useless) + " parts useless afterwards",
             "all, 0, 0, 0", all.refused == all.threads && all.threads > 0 && all.threads_left + all.useless == 0);
  out.time("G9 until the error", all.took.text(), "1 s", all.took.max() <= 1000);
  return out.finish();
}
