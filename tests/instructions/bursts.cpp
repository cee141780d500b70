// Publishes bursts under a closed gate and lets them be handled behind it: the program whose instructions are counted.
// Floor 9, room tests. A plain program; linked as a user links. `run` counts it under callgrind.
//
// A burst begins when the worker sleeps. Its first event takes the worker into a call, where it waits until the whole burst is
// published, and the publisher waits until it is handled. So no publish waits and no call is interrupted, each thread
// does the same work each time, and what two numbers of bursts differ by is the work per event, without start and end.
// The publisher is the program's second thread, the first one only looks after the others. Their waiting for each other is luck,
// and is not counted.
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

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_TOGGLE_COLLECT static_cast<void>(0)
#define INSTRUCTIONS_UNCOUNTABLE
#endif

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

/// What its thread does meanwhile is not counted.
struct uncounted {
  uncounted() { CALLGRIND_TOGGLE_COLLECT; }
  ~uncounted() { CALLGRIND_TOGGLE_COLLECT; }
  uncounted(const uncounted&) = delete;
  uncounted& operator=(const uncounted&) = delete;
};

class gate {
 public:
  void open() {
    uncounted here;
    std::lock_guard lock(m);
    is_open = true;
    changed.notify_all();
  }
  void wait_open() {
    uncounted here;
    std::unique_lock lock(m);
    changed.wait(lock, [&] { return is_open; });
    is_open = false;
  }
  void one_done() {
    uncounted here;
    std::lock_guard lock(m);
    ++done;
    changed.notify_all();
  }
  void wait_done(std::uint64_t how_many) {
    uncounted here;
    std::unique_lock lock(m);
    changed.wait(lock, [&] { return done >= how_many; });
  }

 private:
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

/// The runtime's one worker of handlers does.
bool sleeps(penstock::runtime& runtime) {
  for (const penstock::pool_snapshot& pool : runtime.snapshot().pools)
    if (pool.name == "default") return pool.parked == pool.workers;
  return false;
}

/// False: something was lost.
template <class E>
bool run(const form& how, std::uint64_t bursts) {
  const std::uint64_t per_burst = how.single ? 1 : burst;
  gate begin;
  gate turn;
  gate entered;
  gate published;
  gate handled;
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
    const auto note = [&, per_burst, holds = !how.single && i == 0](const E& event) {
      if (holds && mine.count % per_burst == 0) {
        entered.open();
        published.wait_open();
      }
      mine.sum += event.number;
      if (++mine.count % per_burst == 0) handled.one_done();
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
  const auto publish = [&](std::uint64_t left) {
    if (how.span == 1) {
      while (left-- > 0) events.publish(make<E>(++number));
    } else if constexpr (std::is_same_v<E, small_event>) {
      std::array<small_event, most_per_span> span;
      for (; left > 0; left -= how.span) {
        for (std::size_t k = 0; k < how.span; ++k) span[k] = make<E>(++number);
        events.publish_many(std::span<const E>(span.data(), how.span));
      }
    }
  };
  publishing = [&] {
    for (std::uint64_t round = 0; round < bursts; ++round) {
      turn.wait_open();
      publish(how.span);
      if (how.single) continue;
      entered.wait_open();
      publish(burst - how.span);
      published.open();
    }
  };
  begin.open();
  for (std::uint64_t round = 0; round < bursts; ++round) {
    while (!sleeps(runtime)) std::this_thread::yield();
    turn.open();
    handled.wait_done((round + 1) * how.subscribers);
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
#if defined(INSTRUCTIONS_UNCOUNTABLE)
  std::fputs("instructions_bursts was built without valgrind/callgrind.h: install valgrind and build again\n", stderr);
  return 1;
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
