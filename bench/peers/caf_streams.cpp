// Peer: streams of the C++ Actor Framework 0.17, which its flows replaced later: batches between actors, on credit.
// Floor 9, bench.
#include "../event.hpp"
#include "../further.hpp"
#include "caf_parts.hpp"

#include <caf/all.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <vector>

// Never sent to another process.
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(bench::small_event)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(std::vector<bench::small_event>)

namespace bench {
namespace {

/// A source is asked for events when there is credit, and cannot be pushed into from outside. So a producer is a
/// source, an actor with a thread of its own, and the producer's thread of the run sleeps until that source has sent
/// everything.
template <class Sink>
class caf_streams {
 public:
  using E = typename Sink::event_type;

  caf_streams(const shape& run, std::span<Sink> sinks) : actors_(run.workers) {
    for (auto& sink : sinks)
      actors_.add(actors_.system().spawn([taker = &sink](caf::event_based_actor* self) {
        return caf::behavior{[self, taker](caf::stream<E> in) {
          return caf::attach_stream_sink(
              self, in, [](caf::unit_t&) {},
              [taker](caf::unit_t&, std::vector<E>& batch) {
                for (const E& event : batch) taker->take(event);
              });
        }};
      }));
  }
  ~caf_streams() { finish(); }

  void produce(unsigned producer, std::uint64_t events, std::int64_t now_ns) {
    auto sent = std::make_shared<std::promise<void>>();
    actors_.system().template spawn<caf::detached>(
        [this, producer, events, now_ns, sent](caf::event_based_actor* self) {
          auto source = caf::attach_stream_source(
              self, actors_.all().front(), [](std::uint64_t& sequence) { sequence = 0; },
              [producer, events, now_ns](std::uint64_t& sequence, caf::downstream<E>& out, std::size_t wanted) {
                const std::uint64_t end = std::min<std::uint64_t>(events, sequence + wanted);
                while (sequence < end) out.push(E::make(producer, sequence++, now_ns));
              },
              [events](const std::uint64_t& sequence) { return sequence == events; },
              [sent](std::uint64_t&, const caf::error&) { sent->set_value(); });
          for (std::size_t i = 1; i < actors_.all().size(); ++i) source.ptr()->add_outbound_path(actors_.all()[i]);
        });
    sent->get_future().wait();
  }

  std::string finish() { return actors_.finish(); }

 private:
  caf_actors_of_a_run actors_;
};

const bool registered = register_system({
    .name = "CAF streams",
    .mode = "0.17",
    .kind = system_kind::bounded_parking,
    .note = "a source actor with a thread per producer, a sink actor per subscriber; the framework chooses batches and "
            "credit, which bound what is on the way instead of the capacity",
    .apart = "a source is asked for events by the framework, in batches; nobody can say when an event is published",
    .stream = run_stream<caf_streams, 1>,
    .further = {.back_pressure = run_back_pressure<caf_streams>, .rest = run_rest<caf_streams>},
});

}  // namespace
}  // namespace bench
