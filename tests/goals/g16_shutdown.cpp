// G16: a shutdown returns by its deadline whatever the handlers and tasks do, and names whoever has not ended.
// Floor 9, room tests.
#include "../support/gate.hpp"
#include "goal.hpp"

#include <penstock/penstock.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <set>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_goals;
using penstock::close_status;
using penstock::spawn_options;
using penstock::subscribe_options;
using penstock::task;
using penstock_test::eventually;
using penstock_test::gate;

namespace {

using clock_type = std::chrono::steady_clock;
#if defined(TEST_THREAD_SANITIZED)
constexpr std::chrono::milliseconds allowed{250};  // beyond the deadline
#else
constexpr std::chrono::milliseconds allowed{50};
#endif

struct job {
  std::uint64_t number = 0;
};
struct echo {
  std::uint64_t number = 0;
};

struct tally {
  std::uint64_t returned = 0, drained = 0, stuck_calls = 0, deaf_tasks = 0;
  std::uint64_t named = 0, unnamed = 0, named_wrongly = 0, not_balanced = 0, not_ended = 0;
  times overshoot;
};

void wait_for_stop(const std::stop_token& stop) {
  gate asked;
  std::stop_callback wake(stop, [&] { asked.open(); });
  asked.wait();
}

void run_trial(report& out, std::uint64_t seed, tally& all) {
  std::mt19937_64 random(seed);
  const auto chance = [&](unsigned of) { return random() % of == 0; };
  gate release, stuck_inside, deaf_inside;
  penstock::runtime rt(penstock::runtime_options()
                           .pool("default", penstock::worker_pool_options().threads(3))
                           .pool("blocking", penstock::worker_pool_options().threads(4))
                           .on_failure([](const penstock::failure&) {}));
  auto& bus = rt.bus();
  std::vector<penstock::subscription> subscriptions;
  const auto keep = [&](penstock::subscription made) { subscriptions.push_back(std::move(made)); };
  keep(bus.subscribe<echo>("idle", [](const echo&) {}));
  if (chance(2))
    keep(bus.subscribe<job>("busy", subscribe_options().capacity(8), [&](const job& e) {
      volatile std::uint64_t work = e.number;
      for (int i = 0; i < 20'000; ++i) work = work + 1;
    }));
  if (chance(2))
    keep(bus.subscribe<job>("throwing", subscribe_options().capacity(8), [](const job& e) {
      if (e.number % 2 == 0) throw std::runtime_error("as planned");
    }));
  if (chance(2))
    keep(bus.subscribe<job>("self-publishing", subscribe_options().capacity(8),
                            [&bus](const job& e) { (void)bus.try_publish(job{e.number + 1}); }));
  if (chance(2))
    keep(bus.subscribe<job>("suspended", subscribe_options().capacity(8).overflow(penstock::overflow::drop_oldest),
                            [](const job&) -> task<void> { co_await penstock::sleep_for(1h); }));
  const bool has_stuck = chance(3);
  if (has_stuck)
    keep(bus.subscribe<job>("stuck", subscribe_options().capacity(8).overflow(penstock::overflow::drop_newest),
                            [&](const job&) {
                              stuck_inside.open();
                              release.wait();
                            }));
  std::vector<penstock::task_handle> tasks;
  const auto tasks_of = rt.tasks();
  const auto order = [&] { return chance(2) ? spawn_options().keep_until_drained() : spawn_options(); };
  if (chance(2)) tasks.push_back(tasks_of.spawn("obedient", order(), [](const std::stop_token& s) { wait_for_stop(s); }));
  if (chance(2))
    tasks.push_back(tasks_of.spawn("asleep", order(), []() -> task<void> { co_await penstock::sleep_for(1h); }));
  if (chance(2)) tasks.push_back(tasks_of.every("ticking", 1ms, [] {}));
  if (chance(2))
    tasks.push_back(tasks_of.spawn("publishing", [&bus](const std::stop_token& stop) {
      for (std::uint64_t i = 0; !stop.stop_requested() && i < 50; ++i) (void)bus.try_publish(job{i});
      (void)bus.try_publish(job{1});
    }));
  const bool has_deaf = chance(4);
  if (has_deaf)
    tasks.push_back(tasks_of.spawn("deaf", order(), [&] {
      deaf_inside.open();
      release.wait();
    }));
  const auto jobs = bus.publisher<job>();
  for (std::uint64_t i = 0; i < 8; ++i) (void)jobs.publish_for(1ms, job{i});
  if (has_stuck) stuck_inside.wait();
  if (has_deaf) deaf_inside.wait();

  const auto budget = std::chrono::milliseconds(1 + random() % 5);
  const auto began = clock_type::now();
  const auto done = rt.shutdown(budget);
  const auto took = clock_type::now() - began;
  ++all.returned;
  all.drained += done.drained ? 1 : 0;
  all.overshoot.add(std::max<clock_type::duration>(took - budget, 0ns));

  std::set<std::string> named, due;
  for (const auto& each : done.stuck) named.insert(each.subscription);
  for (const auto& each : done.tasks.tasks)
    if (each.status == penstock::task_status::running) named.insert(each.name);
  if (has_stuck) due.insert("stuck"), ++all.stuck_calls;
  if (has_deaf) due.insert("deaf"), ++all.deaf_tasks;
  for (const auto& each : done.subscriptions) {
    all.not_balanced += each.ledger.balanced() && each.ledger.queued == 0 && each.ledger.pending == 0 ? 0 : 1;
    if (each.ledger.running > 0) due.insert(each.name);
  }
  for (const auto& each : due) ++(named.count(each) == 1 ? all.named : all.unnamed);
  // Those that obey may have been busy at the deadline; the idle one was not.
  all.named_wrongly += named.count("idle");

  release.open();
  for (auto& each : subscriptions) eventually([&] { return each.close() == close_status::closed; });
  for (const auto& each : tasks) eventually([&] { return each.done(); });
  for (const auto& each : subscriptions) {
    const auto ledger = each.ledger();
    if (ledger.balanced() && ledger.quiescent()) continue;
    ++all.not_ended;
    out.note("seed " + std::to_string(seed) + ": " + to_string(ledger));
  }
  if (!rt.tasks().counts().balanced() || rt.tasks().counts().running != 0) ++all.not_ended;
}

}  // namespace

int main() {
  const penstock_test::time_limit limit(most_seconds());
  report out;
  tally all;
  const std::uint64_t trials = sized(2'000, 10'000);
  for (std::uint64_t seed = 1; seed <= trials; ++seed) run_trial(out, seed, all);
  out.figure("G16 shutdown returns",
             grouped(all.returned) + " of " + grouped(trials) + " returned, " + grouped(trials - all.returned) +
                 " hangs (" + grouped(all.drained) + " drained, " + grouped(all.stuck_calls) + " with a stuck call, " +
                 grouped(all.deaf_tasks) + " with a deaf task; budgets of 1 to 5 ms)",
             "all, 0 hangs", all.returned == trials);
  out.figure("G16 unfinished ones are named",
             grouped(all.named) + " of " + grouped(all.named + all.unnamed) + " named, " + grouped(all.named_wrongly) +
                 " idle ones named, " + grouped(all.not_balanced) + " ledgers off in the reports, " +
                 grouped(all.not_ended) + " off or open when all had ended",
             "all, 0, 0, 0",
             all.unnamed + all.named_wrongly + all.not_balanced + all.not_ended == 0 &&
                 all.named >= all.stuck_calls + all.deaf_tasks);
  const auto most = std::chrono::duration<double, std::milli>(allowed).count();
  out.time("G16 beyond the deadline", all.overshoot.text_to_thousandths(), "p99.9 at most " + with_digits(most, 0) + " ms",
           all.overshoot.thousandth() <= most);
  return out.finish();
}
