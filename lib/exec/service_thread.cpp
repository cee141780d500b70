// A thread of the library's own.
// Floor 2, room exec.
#include <penstock/exec/service_thread.hpp>

#include "base/fork_mark.hpp"
#include "exec/thread_start.hpp"

#include <thread>
#include <utility>

namespace penstock::detail {

struct service_thread::state {
  fork_mark fork;
  std::thread thread;
};

service_thread::service_thread() noexcept = default;

service_thread::service_thread(const char* name, unique_function<void()> body) : state_(std::make_unique<state>()) {
  state_->thread = exec::start_thread([named = std::string(name), run = std::move(body)]() mutable {
    exec::name_this_thread(named);
    run();
  });
}

service_thread::service_thread(service_thread&& other) noexcept = default;
service_thread& service_thread::operator=(service_thread&& other) noexcept {
  static_cast<void>(join());
  state_ = std::move(other.state_);
  return *this;
}
service_thread::~service_thread() { static_cast<void>(join()); }

bool service_thread::join() noexcept {
  if (!state_ || !state_->thread.joinable()) return true;
  if (state_->fork.forked()) {  // it did not come along, and the handle of one would end the process
    static_cast<void>(state_.release());
    return false;
  }
  if (state_->thread.get_id() == std::this_thread::get_id()) {
    state_->thread.detach();
    return false;
  }
  state_->thread.join();
  return true;
}

}  // namespace penstock::detail
