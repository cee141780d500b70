// G17: every part that can be started can be stopped, again and again and on many threads, and leaves no thread.
// Floor 9, room tests.
#include "../support/gate.hpp"
#include "goal.hpp"

#include <penstock/penstock.hpp>
#include <penstock/runtime/signal_watcher.hpp>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_goals;
using penstock::close_mode;
using penstock::close_status;
using penstock::task;
using penstock::task_status;
using penstock_test::gate;

namespace {

using clock_type = std::chrono::steady_clock;
constexpr std::uint64_t threads = 10;

struct job {
  int value = 0;
};

/// The parts of one kind: how many were stopped, how many well, and how long each stop took.
struct part {
  const char* name;
  std::mutex m;  // protects what follows
  std::uint64_t stopped = 0;
  std::uint64_t well = 0;
  times took{};

  template <class Stop>
  void stop(Stop how) {
    const auto began = clock_type::now();
    const bool good = how();
    const auto time = clock_type::now() - began;
    const std::lock_guard lock(m);
    ++stopped;
    well += good ? 1 : 0;
    took.add(time);
  }
};

std::size_t threads_of_process() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator("/proc/self/task")) ++count;
  return count;
}

void wait_for_stop(const std::stop_token& stop) {
  gate asked;
  std::stop_callback wake(stop, [&] { asked.open(); });
  asked.wait();
}

enum kind : std::size_t { whole, by_destructor, pool, handler, reader, function, coroutine, periodic, group, signals };

penstock::runtime_options small() {
  return penstock::runtime_options()
      .pool("default", penstock::worker_pool_options().threads(2))
      .pool("blocking", penstock::worker_pool_options().threads(2));
}

void one_cycle(std::array<part, 10>& parts, bool owns_signals) {
  {
    penstock::runtime rt(small());
    auto& bus = rt.bus();
    auto sub = bus.subscribe<job>("handler", [](const job&) {});
    auto in = bus.stream<job>("reader");
    for (int i = 0; i < 4; ++i) bus.publish(job{i});
    auto fn = rt.tasks().spawn("function", [](const std::stop_token& stop) { wait_for_stop(stop); });
    auto co = rt.tasks().spawn("coroutine", []() -> task<void> { co_await penstock::sleep_for(1h); });
    auto tick = rt.tasks().every("periodic", 1ms, [] {});
    const auto owned = rt.tasks().owner("group");
    for (int i = 0; i < 3; ++i)
      owned.spawn("one of a group", []() -> task<void> { co_await penstock::sleep_for(1h); });
    parts[handler].stop([&] { return sub.close(close_mode::drain) == close_status::closed; });
    parts[reader].stop([&] {
      in.close(close_mode::stop_now);
      return in.ledger().discarded == 4;
    });
    parts[function].stop([&] { return fn.request_cancel("over") && fn.wait() != task_status::running; });
    parts[coroutine].stop([&] { return co.request_cancel("over") && co.wait() == task_status::cancelled; });
    parts[periodic].stop([&] { return tick.request_cancel("over") && tick.wait() == task_status::cancelled; });
    parts[group].stop([&] { return owned.close(30s).clean(); });
    // Once more, for the runtime's own end.
    auto last = bus.subscribe<job>("last", [](const job&) {});
    bus.publish(job{1});
    rt.tasks().spawn("last", penstock::spawn_options().keep_until_drained(),
                     [](const std::stop_token& stop) { wait_for_stop(stop); });
    parts[whole].stop([&] {
      const auto done = rt.shutdown(30s);
      return done.drained && done.stuck.empty() && done.tasks.clean() && done.abandoned_workers == 0;
    });
  }
  {
    auto rt = std::make_unique<penstock::runtime>(small());
    rt->tasks().spawn("asleep", []() -> task<void> { co_await penstock::sleep_for(1h); });
    parts[by_destructor].stop([&] {
      rt.reset();
      return true;
    });
  }
  {
    auto alone = penstock::worker_pool::start("alone", penstock::worker_pool_options().threads(2));
    (void)alone->post([] {});
    parts[pool].stop([&] { return alone->stop(penstock::no_deadline) == 0; });
  }
  if (owns_signals) {  // they belong to the process: one watcher at a time
    auto watcher = std::make_unique<penstock::signal_watcher>(std::vector{SIGUSR1}, [](int, unsigned) {});
    parts[signals].stop([&] {
      watcher.reset();
      struct sigaction now {};
      sigaction(SIGUSR1, nullptr, &now);
      return now.sa_handler == SIG_DFL;
    });
  }
}

}  // namespace

int main() {
  const penstock_test::time_limit limit(most_seconds());
  report out;
  const std::uint64_t cycles = 50;  // as the goal names it, in CI too
  std::array<part, 10> parts{{{"runtime by shutdown", {}},
                              {"runtime by destructor", {}},
                              {"worker pool", {}},
                              {"subscription", {}},
                              {"stream", {}},
                              {"function task", {}},
                              {"coroutine task", {}},
                              {"periodic task", {}},
                              {"group of tasks", {}},
                              {"signal watcher", {}}}};
  const std::size_t before = threads_of_process();
  std::vector<std::thread> runners;
  for (std::uint64_t t = 0; t < threads; ++t)
    runners.emplace_back([&, t] {
      for (std::uint64_t i = 0; i < cycles; ++i) one_cycle(parts, t == 0);
    });
  for (auto& each : runners) each.join();
  const std::size_t left = threads_of_process() - before;
  std::uint64_t stopped = 0, well = 0;
  const std::uint64_t wanted = threads * cycles * (parts.size() - 1) + cycles;
  for (part& each : parts) {
    stopped += each.stopped, well += each.well;
    out.time("G17 stop of a " + std::string(each.name), each.took.text(), "5,000 ms", each.took.max() <= 5000.0);
  }
  out.figure("G17 start and stop",
             grouped(stopped) + " of " + grouped(wanted) + " stopped, " + grouped(well) + " of them as they should (" +
                 std::to_string(parts.size()) + " kinds, " + std::to_string(threads) + " threads x " +
                 std::to_string(cycles) + " cycles), " + std::to_string(left) + " threads left",
             "all, all, 0", stopped == wanted && well == wanted && left == 0);
  return out.finish();
}
