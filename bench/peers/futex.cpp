// Reference: a thread that sleeps in a futex wait, and a store with a futex wake that ends it. Nothing a bus does.
// Floor 9, bench.
#include "../event.hpp"
#include "../further.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace bench {
namespace {

/// A ring of one producer and one consumer, and the number of events published, which is the futex. Each publish wakes,
/// whether anybody sleeps or not.
template <class Sink>
class bare_futex {
 public:
  using E = typename Sink::event_type;

  bare_futex(const shape& run, std::span<Sink> sinks)
      : slots_(run.capacity, E::stop_mark()), consumer_([this, sink = &sinks.front()] { consume(*sink); }) {}
  ~bare_futex() { finish(); }

  void publish(unsigned, E&& event) {
    const std::uint32_t place = published_.load(std::memory_order_relaxed);
    while (place - taken_.load(std::memory_order_acquire) == slots_.size()) std::this_thread::yield();
    slots_[place % slots_.size()] = std::move(event);
    published_.store(place + 1, std::memory_order_release);
    futex(FUTEX_WAKE_PRIVATE, 1);
  }

  std::string finish() {
    if (!consumer_.joinable()) return {};
    publish(0, E::stop_mark());
    consumer_.join();
    return {};
  }

 private:
  void consume(Sink& sink) {
    for (std::uint32_t next = 0;; ++next) {
      while (published_.load(std::memory_order_acquire) == next) futex(FUTEX_WAIT_PRIVATE, next);
      const E& event = slots_[next % slots_.size()];
      if (event.producer == stop_producer) return;
      sink.take(event);
      taken_.store(next + 1, std::memory_order_release);
    }
  }
  void futex(int operation, std::uint32_t value) {
    static_assert(sizeof published_ == sizeof(std::uint32_t));
    syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&published_), operation, value, nullptr, nullptr, 0);
  }

  std::vector<E> slots_;
  std::atomic<std::uint32_t> published_{0};
  std::atomic<std::uint32_t> taken_{0};
  std::thread consumer_;
};

const bool registered = register_system({
    .name = "futex",
    .mode = "bare wake",
    .kind = system_kind::reference,
    .note = "a thread asleep in a futex wait, woken by a store and a futex wake: what every sleeper pays at least",
    .further = {.paced = run_paced<bare_futex>, .ping_pong = run_ping_pong_between<bare_futex>},
});

}  // namespace
}  // namespace bench
