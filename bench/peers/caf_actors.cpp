// Peer: actors of the C++ Actor Framework 0.17, one per subscriber, with the unbounded mailboxes they have.
// Floor 9, bench.
#include "../event.hpp"
#include "../further.hpp"

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

struct config : caf::actor_system_config {
  explicit config(unsigned workers) { set("scheduler.max-threads", workers); }
};

template <class Sink>
class caf_actors {
 public:
  using E = typename Sink::event_type;

  caf_actors(const shape& run, std::span<Sink> sinks) : config_(run.workers), system_(config_) {
    for (auto& sink : sinks)
      actors_.push_back(system_.spawn([taker = &sink](caf::event_based_actor*) {
        return caf::behavior{[taker](const E& event) { taker->take(event); }};
      }));
  }
  ~caf_actors() { finish(); }

  /// Several subscribers get one message, whose count is shared; one gets the event within its letter.
  void publish(unsigned, E&& event) {
    if (actors_.size() == 1) return caf::anon_send(actors_.front(), std::move(event));
    const caf::message message = caf::make_message(std::move(event));
    for (const auto& actor : actors_) caf::anon_send(actor, message);
  }

  std::string finish() {
    for (const auto& actor : actors_) caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
    actors_.clear();
    system_.await_all_actors_done();
    return {};
  }

 private:
  config config_;
  caf::actor_system system_;
  std::vector<caf::actor> actors_;
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
