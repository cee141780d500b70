// Peer: moodycamel::BlockingConcurrentQueue, one per subscriber, with producer and consumer tokens. Unbounded as it is.
// Floor 9, bench.
#include "../event.hpp"
#include "../further.hpp"

#if __has_include(<concurrentqueue/blockingconcurrentqueue.h>)
#include <concurrentqueue/blockingconcurrentqueue.h>
#elif __has_include(<concurrentqueue/moodycamel/blockingconcurrentqueue.h>)
#include <concurrentqueue/moodycamel/blockingconcurrentqueue.h>
#else
#include <moodycamel/blockingconcurrentqueue.h>
#endif

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
class moodycamel_queue {
 public:
  using E = typename Sink::event_type;

  moodycamel_queue(const shape& run, std::span<Sink> sinks) : stride_(run.workers) {
    for (auto& sink : sinks) lanes_.push_back(std::make_unique<lane>(run, sink));
    for (unsigned index = 0; index < run.workers; ++index) workers_.emplace_back([this, index] { work(index); });
  }
  ~moodycamel_queue() { finish(); }

  void publish(unsigned producer, E&& event) {
    const std::size_t last = lanes_.size() - 1;
    for (std::size_t i = 0; i < last; ++i) lanes_[i]->queue.enqueue(lanes_[i]->tokens[producer], event);
    lanes_[last]->queue.enqueue(lanes_[last]->tokens[producer], std::move(event));
  }

  std::string finish() {
    if (workers_.empty()) return {};
    for (std::size_t index = 0; index < stride_; ++index) lanes_[watched(index)]->queue.enqueue(E::stop_mark());
    for (auto& worker : workers_) worker.join();
    workers_.clear();
    return {};
  }

 private:
  using queue_type = moodycamel::BlockingConcurrentQueue<E>;

  struct lane {
    lane(const shape& run, Sink& taker) : queue(run.capacity), consumer(queue), sink(&taker) {
      for (unsigned i = 0; i < run.producers; ++i) tokens.emplace_back(queue);
    }
    queue_type queue;
    std::vector<moodycamel::ProducerToken> tokens;
    moodycamel::ConsumerToken consumer;
    Sink* sink;
    std::uint64_t handled = 0;  // the worker's
  };

  /// Of the queues a worker serves, the one that is fed last: whoever finds an event there finds it in the others too.
  std::size_t watched(std::size_t index) const { return index + (lanes_.size() - 1 - index) / stride_ * stride_; }

  /// Worker i serves the subscribers i, i + workers, … and sleeps on one queue only; a queue knows no other way.
  void work(std::size_t index) {
    constexpr std::size_t turn = 64;
    std::vector<E> batch(turn, E::stop_mark());
    const std::size_t slept_on = watched(index);
    bool stopping = false;
    while (!stopping) {
      stopping = handle(*lanes_[slept_on], batch,
                        lanes_[slept_on]->queue.wait_dequeue_bulk(lanes_[slept_on]->consumer, batch.begin(), turn));
      for (std::size_t i = index; i < slept_on; i += stride_) {
        lane& mine = *lanes_[i];
        while (mine.handled < lanes_[slept_on]->handled)
          handle(mine, batch, mine.queue.try_dequeue_bulk(mine.consumer, batch.begin(), turn));
      }
    }
  }

  static bool handle(lane& mine, const std::vector<E>& batch, std::size_t count) {
    bool stop = false;
    for (std::size_t i = 0; i < count; ++i) {
      if (batch[i].producer == stop_producer)
        stop = true;
      else
        mine.sink->take(batch[i]), ++mine.handled;
    }
    return stop;
  }

  const std::size_t stride_;
  std::vector<std::unique_ptr<lane>> lanes_;
  std::vector<std::thread> workers_;
};

const bool registered = register_system({
    .name = "moodycamel",
    .mode = "blocking",
    .kind = system_kind::unbounded,
    .note = "a BlockingConcurrentQueue per subscriber, tokens, bulk dequeue; spins 10,000 times before it sleeps, and "
            "no publish ever waits",
    .stream = run_stream<moodycamel_queue, 1>,
    .allocations = run_allocations<moodycamel_queue>,
    .further = further_runs_of<moodycamel_queue>(),
});

}  // namespace
}  // namespace bench
