// The limit: two bare rings that spin, drained in batches. No bus, and nobody sleeps.
// Floor 9, bench.
#include "../event.hpp"
#include "../run_system.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bench {
namespace {

constexpr std::size_t line_bytes = 64;

/// A wait that ends also when more threads spin than there are cores.
class spinner {
 public:
  void wait() {
    constexpr unsigned spins = 256;
    if (++waited_ > spins) {
      std::this_thread::yield();
      return;
    }
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

 private:
  unsigned waited_ = 0;
};

/// Many producers, one consumer. Each cell says by a sequence number whose turn it is: `turn` = free for the producer
/// of position `turn`, `turn + 1` = full for the consumer at that position. Source: the bounded queue of Dmitry Vyukov
/// (1024cores.net), with one consumer, who needs no exchange.
template <class E>
class cell_ring {
 public:
  explicit cell_ring(std::size_t capacity) : mask_(std::bit_ceil(capacity) - 1), cells_(mask_ + 1) {
    for (std::size_t i = 0; i <= mask_; ++i) cells_[i].turn.store(i, std::memory_order_relaxed);
  }

  void push(const E& event) {
    std::uint64_t position = tail_.load(std::memory_order_relaxed);
    spinner full;
    while (true) {
      cell& mine = cells_[position & mask_];
      const std::uint64_t turn = mine.turn.load(std::memory_order_acquire);
      if (turn == position) {
        if (tail_.compare_exchange_weak(position, position + 1, std::memory_order_relaxed)) {
          mine.event = event;
          mine.turn.store(position + 1, std::memory_order_release);
          return;
        }
      } else {
        if (turn < position) full.wait();
        position = tail_.load(std::memory_order_relaxed);
      }
    }
  }

  template <class Handle>
  bool drain(Handle handle) {
    constexpr unsigned turn = 64;
    unsigned taken = 0;
    for (; taken < turn; ++taken) {
      cell& next = cells_[head_ & mask_];
      if (next.turn.load(std::memory_order_acquire) != head_ + 1) break;
      handle(next.event);
      next.turn.store(head_ + mask_ + 1, std::memory_order_release);
      ++head_;
    }
    return taken != 0;
  }

 private:
  struct alignas(line_bytes) cell {
    std::atomic<std::uint64_t> turn{0};
    E event{};
  };
  const std::size_t mask_;
  std::vector<cell> cells_;
  alignas(line_bytes) std::atomic<std::uint64_t> tail_{0};
  alignas(line_bytes) std::uint64_t head_ = 0;  // the consumer's
};

/// One producer, one consumer: each owns an index and keeps the last it saw of the other's, so that the line of an
/// index travels once per batch and not once per event. Source: the ring of Leslie Lamport (1977), with the cached
/// indices of later implementations.
template <class E>
class single_ring {
 public:
  explicit single_ring(std::size_t capacity) : mask_(std::bit_ceil(capacity) - 1), events_(mask_ + 1) {}

  void push(const E& event) {
    const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
    spinner full;
    while (tail - seen_head_ > mask_) {
      seen_head_ = head_.load(std::memory_order_acquire);
      if (tail - seen_head_ > mask_) full.wait();
    }
    events_[tail & mask_] = event;
    tail_.store(tail + 1, std::memory_order_release);
  }

  template <class Handle>
  bool drain(Handle handle) {
    constexpr std::uint64_t turn = 64;
    const std::uint64_t head = head_.load(std::memory_order_relaxed);
    if (seen_tail_ == head) seen_tail_ = tail_.load(std::memory_order_acquire);
    const std::uint64_t count = std::min(seen_tail_ - head, turn);
    for (std::uint64_t i = 0; i < count; ++i) handle(events_[(head + i) & mask_]);
    if (count != 0) head_.store(head + count, std::memory_order_release);
    return count != 0;
  }

 private:
  const std::size_t mask_;
  std::vector<E> events_;
  alignas(line_bytes) std::atomic<std::uint64_t> tail_{0};
  std::uint64_t seen_head_ = 0;  // the producer's
  alignas(line_bytes) std::atomic<std::uint64_t> head_{0};
  std::uint64_t seen_tail_ = 0;  // the consumer's
};

template <class Sink, template <class> class Ring>
class raw_ring {
 public:
  using E = typename Sink::event_type;

  raw_ring(const shape& run, std::span<Sink> sinks) : stride_(run.workers) {
    for (auto& sink : sinks) lanes_.push_back(std::make_unique<lane>(run.capacity, sink));
    for (unsigned index = 0; index < run.workers; ++index) workers_.emplace_back([this, index] { work(index); });
  }
  ~raw_ring() { finish(); }

  void publish(unsigned, E&& event) {
    for (auto& lane : lanes_) lane->ring.push(event);
  }

  std::string finish() {
    stopping_ = true;
    for (auto& worker : workers_) worker.join();
    workers_.clear();
    return {};
  }

 private:
  struct lane {
    lane(std::size_t capacity, Sink& taker) : ring(capacity), sink(&taker) {}
    Ring<E> ring;
    Sink* sink;
  };

  /// Worker i serves the subscribers i, i + workers, …
  void work(std::size_t index) {
    spinner idle;
    while (true) {
      bool any = false;
      for (std::size_t i = index; i < lanes_.size(); i += stride_) {
        lane& mine = *lanes_[i];
        any |= mine.ring.drain([&mine](const E& event) { mine.sink->take(event); });
      }
      if (any) {
        idle = {};
        continue;
      }
      if (stopping_) return;
      idle.wait();
    }
  }

  const std::size_t stride_;
  std::vector<std::unique_ptr<lane>> lanes_;
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;
};

template <class Sink>
using raw_cells = raw_ring<Sink, cell_ring>;
template <class Sink>
using raw_single = raw_ring<Sink, single_ring>;

const bool cells = register_system({
    .name = "raw ring",
    .mode = "cells",
    .kind = system_kind::reference,
    .note = "a ring of sequence cells per subscriber, for many producers; everybody spins, and yields after 256 looks",
    .stream = run_stream<raw_cells, 1>,
});
const bool single = register_system({
    .name = "raw ring",
    .mode = "one producer",
    .kind = system_kind::reference,
    .note = "a ring with cached indices per subscriber, for one producer; everybody spins, and yields after 256 looks",
    .up_to_producers = 1,
    .stream = run_stream<raw_single, 1>,
});

}  // namespace
}  // namespace bench
