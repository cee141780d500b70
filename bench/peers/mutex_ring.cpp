// Peer: a bounded ring under a mutex per subscriber, with condition variables; popping singly, and swapping batches.
// Floor 9, bench.
#include "../event.hpp"
#include "../further.hpp"

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace bench {
namespace {

enum class pop { singly, batches };

/// Wakes one worker that serves several rings; asked only by a producer that found the worker's mark in a ring.
class bell {
 public:
  void ring() {
    {
      std::lock_guard lock(mutex_);
      if (rung_) return;
      rung_ = true;
    }
    heard_.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    heard_.wait(lock, [&] { return rung_; });
    rung_ = false;
  }

 private:
  std::mutex mutex_;  // protects rung_
  std::condition_variable heard_;
  bool rung_ = false;
};

/// The ring of one subscriber.
template <class E, pop Pop>
class ring {
 public:
  explicit ring(std::size_t capacity) : capacity_(capacity) {
    waiting_.reserve(capacity);
    taken_.reserve(capacity);
    if constexpr (Pop == pop::singly) waiting_.resize(capacity, E::stop_mark());
  }

  /// True when the worker sleeps, or is about to, and has to be woken.
  bool push(E&& event) {
    std::unique_lock lock(mutex_);
    while (count_ == capacity_) {
      ++stalled_;
      room_.wait(lock);
      --stalled_;
    }
    if constexpr (Pop == pop::singly)
      waiting_[wrapped(first_ + count_)] = std::move(event);
    else
      waiting_.push_back(std::move(event));
    ++count_;
    return std::exchange(sleeper_, false);
  }

  /// Hands what is there, at most a turn's worth, to `handle`; false when there was nothing.
  template <class Handle>
  bool drain(Handle handle) {
    constexpr unsigned turn = 64;
    if constexpr (Pop == pop::singly) {
      for (unsigned handled = 0; handled < turn; ++handled) {
        std::unique_lock lock(mutex_);
        if (count_ == 0) return handled != 0;
        const E event = std::move(waiting_[first_]);
        first_ = wrapped(first_ + 1);
        --count_;
        const bool wake = stalled_ != 0;
        lock.unlock();
        if (wake) room_.notify_one();
        handle(event);
      }
      return true;
    } else {
      bool wake = false;
      {
        std::lock_guard lock(mutex_);
        if (count_ == 0) return false;
        std::swap(waiting_, taken_);
        count_ = 0;
        wake = stalled_ != 0;
      }
      if (wake) room_.notify_all();
      for (const E& event : taken_) handle(event);
      taken_.clear();
      return true;
    }
  }

  /// Leaves the mark of a worker that is about to sleep; false when there is something to do.
  bool mark_if_empty() {
    std::lock_guard lock(mutex_);
    sleeper_ = count_ == 0;
    return sleeper_;
  }

 private:
  std::size_t wrapped(std::size_t index) const noexcept { return index < capacity_ ? index : index - capacity_; }

  std::mutex mutex_;  // protects all but taken_, which is the worker's
  std::condition_variable room_;
  std::vector<E> waiting_;
  std::vector<E> taken_;
  const std::size_t capacity_;
  std::size_t first_ = 0;
  std::size_t count_ = 0;
  unsigned stalled_ = 0;
  bool sleeper_ = false;
};

template <class Sink, pop Pop>
class mutex_ring {
 public:
  using E = typename Sink::event_type;

  mutex_ring(const shape& run, std::span<Sink> sinks) : bells_(run.workers) {
    for (auto& sink : sinks) lanes_.push_back(std::make_unique<lane>(run.capacity, sink));
    for (unsigned index = 0; index < run.workers; ++index) workers_.emplace_back([this, index] { work(index); });
  }
  ~mutex_ring() { finish(); }

  void publish(unsigned, E&& event) {
    const std::size_t last = lanes_.size() - 1;
    for (std::size_t i = 0; i < last; ++i)
      if (lanes_[i]->queue.push(E(event))) bells_[i % bells_.size()].ring();
    if (lanes_[last]->queue.push(std::move(event))) bells_[last % bells_.size()].ring();
  }

  std::string finish() {
    stopping_ = true;
    for (auto& bell : bells_) bell.ring();
    for (auto& worker : workers_) worker.join();
    workers_.clear();
    return {};
  }

 private:
  struct lane {
    lane(std::size_t capacity, Sink& taker) : queue(capacity), sink(&taker) {}
    ring<E, Pop> queue;
    Sink* sink;
  };

  /// Worker i serves the subscribers i, i + workers, …
  void work(std::size_t index) {
    while (true) {
      bool any = false;
      for (std::size_t i = index; i < lanes_.size(); i += bells_.size()) {
        lane& mine = *lanes_[i];
        any |= mine.queue.drain([&mine](const E& event) { mine.sink->take(event); });
      }
      if (any) continue;
      if (stopping_) return;
      if (all_marked(index)) bells_[index].wait();
    }
  }

  bool all_marked(std::size_t index) {
    for (std::size_t i = index; i < lanes_.size(); i += bells_.size())
      if (!lanes_[i]->queue.mark_if_empty()) return false;
    return true;
  }

  std::vector<std::unique_ptr<lane>> lanes_;
  std::vector<bell> bells_;
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;
};

template <class Sink>
using mutex_ring_singly = mutex_ring<Sink, pop::singly>;
template <class Sink>
using mutex_ring_batches = mutex_ring<Sink, pop::batches>;

const bool singly = register_system({
    .name = "mutex ring",
    .mode = "singly",
    .kind = system_kind::bounded_parking,
    .note = "a ring, a mutex and a condition variable per subscriber; the consumer takes one event per lock",
    .divided = {.to_several = 2},
    .stream = run_stream<mutex_ring_singly, 1>,
    .allocations = run_allocations<mutex_ring_singly>,
    .further = further_runs_of<mutex_ring_singly>(),
});
const bool batches = register_system({
    .name = "mutex ring",
    .mode = "batches",
    .kind = system_kind::bounded_parking,
    .note = "the same, the consumer swaps the whole ring for an empty one (so up to twice the capacity is on the way)",
    .stream = run_stream<mutex_ring_batches, 1>,
    .allocations = run_allocations<mutex_ring_batches>,
    .further = further_runs_of<mutex_ring_batches>(),
});

}  // namespace
}  // namespace bench
