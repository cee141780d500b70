// What both peers of the C++ Actor Framework have: its scheduler, and an actor for each subscriber.
// Floor 9, bench.
#pragma once

#include <caf/all.hpp>

#include <string>
#include <utility>
#include <vector>

namespace bench {

class caf_actors_of_a_run {
 public:
  explicit caf_actors_of_a_run(unsigned workers) : config_(workers), system_(config_) {}

  caf::actor_system& system() noexcept { return system_; }
  const std::vector<caf::actor>& all() const noexcept { return actors_; }
  void add(caf::actor actor) { actors_.push_back(std::move(actor)); }

  /// Ends them, and whatever else runs in the system.
  std::string finish() {
    for (const auto& actor : actors_) caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
    actors_.clear();
    system_.await_all_actors_done();
    return {};
  }

 private:
  struct config : caf::actor_system_config {
    explicit config(unsigned workers) { set("scheduler.max-threads", workers); }
  };
  config config_;
  caf::actor_system system_;
  std::vector<caf::actor> actors_;
};

}  // namespace bench
