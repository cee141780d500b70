// Peer: Boost.Signals2, the slots called on the producer's own thread. No queue: the floor of a publish.
// Floor 9, bench.
#include "../event.hpp"
#include "../further.hpp"

#include <boost/signals2/signal.hpp>

#include <span>
#include <string>

namespace bench {
namespace {

template <class Sink>
class signals2 {
 public:
  using E = typename Sink::event_type;

  signals2(const shape&, std::span<Sink> sinks) {
    for (auto& sink : sinks) signal_.connect([taker = &sink](const E& event) { taker->take(event); });
  }

  void publish(unsigned, E&& event) { signal_(event); }
  std::string finish() { return {}; }

 private:
  boost::signals2::signal<void(const E&)> signal_;
};

const bool registered = register_system({
    .name = "Boost.Signals2",
    .mode = "direct call",
    .kind = system_kind::synchronous,
    .note = "no queue and no other thread; producers call the same slot at once, which nothing serialises",
    .stream = run_stream<signals2, 1>,
    .allocations = run_allocations<signals2>,
    // No ping-pong: each call would be inside the one before. Nothing to say about rest either.
    .further = {.paced = run_paced<signals2>,
                .back_pressure = run_back_pressure<signals2>,
                .texts = run_stream<signals2, 1, text_event>},
});

}  // namespace
}  // namespace bench
