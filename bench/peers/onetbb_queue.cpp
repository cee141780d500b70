// Peer: oneTBB's concurrent_bounded_queue, one per subscriber, with consumer threads.
// Floor 9, bench.
#include "../event.hpp"
#include "../further.hpp"

#include <oneapi/tbb/concurrent_queue.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace bench {
namespace {

template <class Sink>
class onetbb_queue {
 public:
  using E = typename Sink::event_type;

  onetbb_queue(const shape& run, std::span<Sink> sinks) : stride_(run.workers) {
    for (auto& sink : sinks) lanes_.push_back(std::make_unique<lane>(run, sink));
    for (unsigned index = 0; index < run.workers; ++index) workers_.emplace_back([this, index] { work(index); });
  }
  ~onetbb_queue() { finish(); }

  void publish(unsigned, E&& event) {
    const std::size_t last = lanes_.size() - 1;
    for (std::size_t i = 0; i < last; ++i) lanes_[i]->queue.push(event);
    lanes_[last]->queue.push(std::move(event));
  }

  std::string finish() {
    if (workers_.empty()) return {};
    for (std::size_t index = 0; index < stride_; ++index) lanes_[watched(index)]->queue.push(E::stop_mark());
    for (auto& worker : workers_) worker.join();
    workers_.clear();
    return {};
  }

 private:
  struct lane {
    lane(const shape& run, Sink& taker) : sink(&taker) {
      queue.set_capacity(static_cast<typename tbb::concurrent_bounded_queue<E>::size_type>(run.capacity));
    }
    tbb::concurrent_bounded_queue<E> queue;
    Sink* sink;
    std::uint64_t handled = 0;  // the worker's
  };

  /// Of the queues a worker serves, the one that is fed last: whoever finds an event there finds it in the others too.
  /// So the others are never more than one event of each producer ahead of it, and none is full while the worker
  /// sleeps.
  std::size_t watched(std::size_t index) const { return index + (lanes_.size() - 1 - index) / stride_ * stride_; }

  /// Worker i serves the subscribers i, i + workers, … and sleeps on one queue only; a queue knows no other way. There
  /// is no pop of several events, so a turn is a loop.
  void work(std::size_t index) {
    constexpr unsigned turn = 64;
    lane& slept_on = *lanes_[watched(index)];
    E event = E::stop_mark();
    while (true) {
      slept_on.queue.pop(event);
      bool stopping = event.producer == stop_producer;
      for (unsigned taken = 0; !stopping;) {
        take(slept_on, event);
        if (++taken == turn || !slept_on.queue.try_pop(event)) break;
        stopping = event.producer == stop_producer;
      }
      for (std::size_t i = index; i < watched(index); i += stride_)
        while (lanes_[i]->handled < slept_on.handled)
          if (lanes_[i]->queue.try_pop(event)) take(*lanes_[i], event);
      if (stopping) return;
    }
  }

  static void take(lane& mine, const E& event) {
    mine.sink->take(event);
    ++mine.handled;
  }

  const std::size_t stride_;
  std::vector<std::unique_ptr<lane>> lanes_;
  std::vector<std::thread> workers_;
};

const bool registered = register_system({
    .name = "oneTBB queue",
    .mode = "blocking",
    .kind = system_kind::bounded_parking,
    .note = "a concurrent_bounded_queue per subscriber, push and pop wait; allocates from a pool of its own, so its "
            "allocations are not counted",
    .own_memory = true,
    .divided = {.to_one = 4, .to_several = 5},
    .stream = run_stream<onetbb_queue, 1>,
    .further = further_runs_of<onetbb_queue>(),
});

}  // namespace
}  // namespace bench
