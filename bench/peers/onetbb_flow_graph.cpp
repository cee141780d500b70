// Peer: oneTBB's flow graph, a limiter_node and a serial function_node per subscriber, in an arena.
// Floor 9, bench.
#include "../event.hpp"
#include "../further.hpp"

#include <oneapi/tbb/flow_graph.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace bench {
namespace {

/// The limiter refuses what is too much and has nothing to wait with: the producer sleeps on a count that the
/// subscriber moves on. It is told every 32 events only, for each wake-up costs the subscriber more than the events.
template <class Sink>
class onetbb_flow_graph {
 public:
  using E = typename Sink::event_type;

  // Of the threads that oneTBB is allowed one is the caller's, which enters the arena only to build the graph and to
  // end it.
  onetbb_flow_graph(const shape& run, std::span<Sink> sinks)
      : threads_(tbb::global_control::max_allowed_parallelism, run.workers + 1),
        arena_(static_cast<int>(run.workers), 0) {
    // A graph runs in the arena it was made in.
    arena_.execute([this] { graph_.emplace(); });
    for (auto& sink : sinks) lanes_.push_back(std::make_unique<lane>(*graph_, run.capacity, sink));
  }
  ~onetbb_flow_graph() { finish(); }

  void publish(unsigned, E&& event) {
    for (auto& lane : lanes_) lane->put(event);
  }

  std::string finish() {
    graph_->wait_for_all();
    return {};
  }

 private:
  class lane {
   public:
    lane(tbb::flow::graph& graph, std::size_t capacity, Sink& sink)
        : limiter_(graph, capacity), handler_(graph, tbb::flow::serial, [this, taker = &sink](const E& event) {
            taker->take(event);
            limiter_.decrementer().try_put(tbb::flow::continue_msg());
            freed();
            return tbb::flow::continue_msg();
          }) {
      tbb::flow::make_edge(limiter_, handler_);
    }

    void put(const E& event) {
      while (true) {
        // A full lane ends many turns after this look, so the wait ends.
        const int seen = turns_.load();
        if (limiter_.try_put(event)) return;
        turns_.wait(seen);
      }
    }

   private:
    void freed() {
      constexpr unsigned turn = 32;
      if (++taken_ % turn != 0) return;
      turns_.fetch_add(1);
      turns_.notify_all();
    }

    tbb::flow::limiter_node<E> limiter_;
    std::atomic<int> turns_{0};
    unsigned taken_ = 0;  // the handler's
    tbb::flow::function_node<E, tbb::flow::continue_msg> handler_;
  };

  tbb::global_control threads_;
  tbb::task_arena arena_;
  std::optional<tbb::flow::graph> graph_;
  std::vector<std::unique_ptr<lane>> lanes_;
};

const bool registered = register_system({
    .name = "oneTBB flow graph",
    .mode = "limiter",
    .kind = system_kind::bounded_parking,
    .note = "a limiter_node and a serial function_node per subscriber; allocates from a pool of its own, so its "
            "allocations are not counted",
    .own_memory = true,
    .divided = {.to_one = 4, .to_several = 2},
    .stream = run_stream<onetbb_flow_graph, 1>,
    // No ping-pong: the threads that are allowed are allowed to the process, so that two graphs share one.
    .further = {.paced = run_paced<onetbb_flow_graph>,
                .back_pressure = run_back_pressure<onetbb_flow_graph>,
                .texts = run_stream<onetbb_flow_graph, 1, text_event>,
                .rest = run_rest<onetbb_flow_graph>},
});

}  // namespace
}  // namespace bench
