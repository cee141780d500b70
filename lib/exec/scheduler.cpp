// Anchors of the scheduler seam, and what an environment keeps.
// Floor 2, room exec.
#include <penstock/exec/scheduler.hpp>

#include "base/fork_mark.hpp"
#include "base/mutex.hpp"
#include "exec/timer_thread.hpp"
#include "exec/watched.hpp"

#include <penstock/exec/environment.hpp>

#include <atomic>
#include <map>
#include <string>
#include <system_error>
#include <vector>

namespace penstock {

detail::worker_bell::~worker_bell() = default;
detail::watched_pool::~watched_pool() = default;
timer_service::~timer_service() = default;
void timer_service::stop() noexcept {}
scheduler::~scheduler() = default;
execution_environment::~execution_environment() = default;

environment_part::~environment_part() = default;
void environment_part::stop() noexcept {}
const char* environment_part::complaint() noexcept { return nullptr; }

struct environment_parts::state {
  explicit state(bool is_simulated) noexcept : simulated(is_simulated) {}
  const bool simulated;
  const fork_mark fork;
  std::atomic<bool> any{false};
  mutex m;  // protects what follows; taken with no other lock held
  bool stopped PENSTOCK_GUARDED_BY(m) = false;
  std::map<std::string, std::shared_ptr<environment_part>, std::less<>> parts PENSTOCK_GUARDED_BY(m);
};

environment_parts::environment_parts(bool simulated) : state_(std::make_unique<state>(simulated)) {}
environment_parts::~environment_parts() { stop(); }
bool environment_parts::simulated() const noexcept { return state_->simulated; }

std::shared_ptr<environment_part> environment_parts::find(
    const char* name, std::shared_ptr<environment_part> (*make)(environment_parts&)) {
  if (state_->fork.forked())
    throw std::system_error(make_error_code(errc::forked),
                            std::string(name) + ": this process has none of the runtime's threads");
  const auto look = [&](std::shared_ptr<environment_part> made) {
    lock_guard lock(state_->m);
    if (state_->stopped)
      throw std::system_error(make_error_code(errc::closed), std::string(name) + ": the runtime has ended");
    const auto found = state_->parts.find(name);
    if (found != state_->parts.end()) return found->second;
    if (made) {
      state_->parts.emplace(name, made);
      state_->any.store(true);
    }
    return made;
  };
  if (auto found = look(nullptr)) return found;
  std::shared_ptr<environment_part> made = make(*this);  // may start a thread: no lock is held
  std::shared_ptr<environment_part> kept;
  try {
    kept = look(made);
  } catch (...) {
    made->stop();
    throw;
  }
  if (kept != made) made->stop();
  return kept;
}

void environment_parts::stop() noexcept {
  std::map<std::string, std::shared_ptr<environment_part>, std::less<>> parts;
  {
    lock_guard lock(state_->m);
    state_->stopped = true;
    parts.swap(state_->parts);
  }
  for (const auto& [name, part] : parts) part->stop();
}

const char* environment_parts::complaint() noexcept {
  if (!state_->any.load()) return nullptr;
  lock_guard lock(state_->m);
  for (const auto& [name, part] : state_->parts)
    if (const char* wrong = part->complaint()) return wrong;
  return nullptr;
}

std::shared_ptr<timer_service> real_timers() { return std::make_shared<exec::timer_thread>(real_clock()); }

}  // namespace penstock
