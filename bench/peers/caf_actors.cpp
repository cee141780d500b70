// Peer: actors of the C++ Actor Framework 0.17, one per subscriber, with the unbounded mailboxes they have.
// Floor 9, bench.
#include "../event.hpp"
#include "../further.hpp"
#include "caf_parts.hpp"

#include <caf/all.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

// Never sent to another process.
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(bench::small_event)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(bench::text_event)

namespace bench {
namespace {

template <class Sink>
class caf_actors {
 public:
  using E = typename Sink::event_type;

  caf_actors(const shape& run, std::span<Sink> sinks) : actors_(run.workers) {
    for (auto& sink : sinks)
      actors_.add(actors_.system().spawn([taker = &sink](caf::event_based_actor*) {
        return caf::behavior{[taker](const E& event) { taker->take(event); }};
      }));
  }
  ~caf_actors() { finish(); }

  /// Several subscribers get one message, whose count is shared; one gets the event within its letter.
  void publish(unsigned, E&& event) {
    const auto& actors = actors_.all();
    if (actors.size() == 1) return caf::anon_send(actors.front(), std::move(event));
    const caf::message message = caf::make_message(std::move(event));
    for (const auto& actor : actors) caf::anon_send(actor, message);
  }

  std::string finish() { return actors_.finish(); }

 private:
  caf_actors_of_a_run actors_;
};

const bool registered = register_system({
    .name = "CAF actors",
    .mode = "0.17",
    .kind = system_kind::unbounded,
    .note =
        "an actor per subscriber on the work-stealing scheduler, which polls before it sleeps; a mailbox takes what "
        "comes, and no send ever waits",
    .divided = {.to_one = 3, .to_several = 4},
    .stream = run_stream<caf_actors, 1>,
    .allocations = run_allocations<caf_actors>,
    .further = further_runs_of<caf_actors>(),
});

}  // namespace
}  // namespace bench
