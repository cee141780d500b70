// Publishes bursts under a closed gate and lets them be handled behind it: the program whose instructions are counted.
// Floor 9, room tests. A plain program; linked as a user links. `run` counts it under callgrind.
//
// The worker waits in its first call until a burst is published, and the publisher until it is handled. So no publish waits
// and no call is interrupted, each thread does the same work each time, and what two numbers of bursts differ by is
// the work per event, without start and end. Where each event is a turn of its own, the next one is published when the worker
// sleeps. The publisher is the program's second thread, the first one only looks after the others.
#include <penstock/penstock.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace std::chrono_literals;

constexpr std::size_t burst = 512;
constexpr std::size_t most_per_span = 16;

/// 64 bytes, copied into the channel.
struct small_event {
  std::uint64_t number;
  std::uint64_t filler[7];
};
/// Shared between the subscriptions, in a block of its own.
struct text_event {
  std::uint64_t number;
  std::string text;
};

struct gate {
  void open() {
    std::lock_guard lock(m);
    is_open = true;
    changed.notify_all();
  }
  void wait_open() {
    std::unique_lock lock(m);
    changed.wait(lock, [&] { return is_open; });
    is_open = false;
  }
  void handled() {
    std::lock_guard lock(m);
    ++done;
    changed.notify_all();
  }
  void wait_handled(std::uint64_t how_many) {
    std::unique_lock lock(m);
    changed.wait(lock, [&] { return done >= how_many; });
  }
  std::mutex m;
  std::condition_variable changed;
  bool is_open = false;
  std::uint64_t done = 0;
};

struct subscriber {
  std::uint64_t sum = 0;
  std::uint64_t count = 0;
};

struct form {
  unsigned subscribers = 1;
  std::size_t span = 1;
  bool single = false;  ///< each event handled before the next: a wake-up and a turn per event
  bool watchdog = true;
  bool metadata = false;
  bool filter = false;
  bool retry = false;
  bool coroutine = false;
  bool text = false;
};

template <class E>
E make(std::uint64_t number);
template <>
small_event make(std::uint64_t number) {
  small_event made{};
  made.number = number;
  return made;
}
template <>
text_event make(std::uint64_t number) {
  return {number, std::string()};
}

penstock::task<void> note_in_a_coroutine(subscriber& mine, std::uint64_t number) {
  mine.sum += number;
  co_return;
}

/// False: something was lost.
template <class E>
bool run(const form& how, std::uint64_t bursts) {
  const std::uint64_t per_burst = how.single ? 1 : burst;
  gate begin;
  gate turn;
  gate worker;
  std::function<void()> publishing;
  std::thread publisher([&] {
    begin.wait_open();
    publishing();
  });
  std::vector<subscriber> subscribers(how.subscribers);
  penstock::runtime runtime(
      penstock::runtime_options()
          .pool("default", penstock::worker_pool_options().threads(1).wait(penstock::wait_strategy::park))
          .watchdog(penstock::watchdog_options().enabled(how.watchdog)));
  auto topic = runtime.bus().topic<E>(penstock::topic_options().metadata(how.metadata ? penstock::metadata::coarse
                                                                                     : penstock::metadata::off));
  std::vector<penstock::subscription> subscriptions;
  for (unsigned i = 0; i < how.subscribers; ++i) {
    subscriber& mine = subscribers[i];
    penstock::subscribe_options options;
    options.capacity(2 * burst);
    if (how.filter) options.filter<E>([](const E&) { return true; });
    if (how.retry) options.retry(penstock::retry_policy());
    const auto note = [&mine, &worker, per_burst, holds = !how.single && i == 0](const E& event) {
      if (holds && mine.count % per_burst == 0) worker.wait_open();
      mine.sum += event.number;
      if (++mine.count % per_burst == 0) worker.handled();
    };
    const std::string name = "subscriber " + std::to_string(i);
    if (how.coroutine)
      subscriptions.push_back(topic.subscribe(name, std::move(options), [&mine, note](const E& event) {
        note(event);
        return note_in_a_coroutine(mine, 0);
      }));
    else
      subscriptions.push_back(topic.subscribe(name, std::move(options), note));
  }
  const auto events = topic.publisher();

  std::uint64_t number = 0;
  publishing = [&] {
    for (std::uint64_t round = 0; round < bursts; ++round) {
      if (how.single) {
        turn.wait_open();
        events.publish(make<E>(++number));
        continue;
      }
      if (how.span == 1) {
        for (std::uint64_t i = 0; i < burst; ++i) events.publish(make<E>(++number));
      } else if constexpr (std::is_same_v<E, small_event>) {
        std::array<small_event, most_per_span> span;
        for (std::uint64_t i = 0; i < burst; i += how.span) {
          for (std::size_t k = 0; k < how.span; ++k) span[k] = make<E>(++number);
          events.publish_many(std::span<const E>(span.data(), how.span));
        }
      }
      worker.open();
      worker.wait_handled((round + 1) * how.subscribers);
    }
  };
  begin.open();
  if (how.single) {
    for (std::uint64_t round = 0; round < bursts; ++round) {
      while (runtime.snapshot().pools.at(0).parked == 0) std::this_thread::yield();
      turn.open();
      worker.wait_handled((round + 1) * how.subscribers);
    }
  }
  publisher.join();
  const auto report = runtime.shutdown(60s, "the run is over");
  bool good = report.clean();
  for (const subscriber& each : subscribers)
    good = good && each.count == number && each.sum == number * (number + 1) / 2;
  return good;
}

/// Counts of one compiler are not another's.
int say_compiler() {
#if defined(__clang__)
  const char* const compiler = "clang++";
  const int version = __clang_major__;
#else
  const char* const compiler = "g++";
  const int version = __GNUC__;
#endif
#if defined(__x86_64__)
  const char* const machine = "x86-64";
#else
  const char* const machine = "another machine than x86-64";
#endif
#if defined(__OPTIMIZE__)
  const char* const optimized = "optimized";
#else
  const char* const optimized = "not optimized";
#endif
  std::printf("%s %d, %s, %s\n", compiler, version, machine, optimized);
  return 0;
}

int usage() {
  std::fputs("usage: instructions_bursts compiler | BURSTS [subscribers=N] [span] [single] [unwatched] [metadata] [filter] [retry] "
             "[coroutine] [text]\n",
             stderr);
  return 2;
}

}  // namespace

int main(int count, char** words) {
  if (count < 2) return usage();
  if (std::string_view(words[1]) == "compiler") return say_compiler();
  const std::uint64_t bursts = std::strtoull(words[1], nullptr, 10);
  if (bursts == 0) return usage();
  form how;
  for (int i = 2; i < count; ++i) {
    const std::string_view word = words[i];
    if (word.starts_with("subscribers="))
      how.subscribers = static_cast<unsigned>(std::max(1L, std::strtol(words[i] + 12, nullptr, 10)));
    else if (word == "span")
      how.span = most_per_span;
    else if (word == "single")
      how.single = true;
    else if (word == "unwatched")
      how.watchdog = false;
    else if (word == "metadata")
      how.metadata = true;
    else if (word == "filter")
      how.filter = true;
    else if (word == "retry")
      how.retry = true;
    else if (word == "coroutine")
      how.coroutine = true;
    else if (word == "text")
      how.text = true;
    else
      return usage();
  }
  const bool good = how.text ? run<text_event>(how, bursts) : run<small_event>(how, bursts);
  if (!good) std::fputs("instructions_bursts: events were lost\n", stderr);
  return good ? 0 : 1;
}
