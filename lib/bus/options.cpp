// Options of a subscription.
// Floor 5, room bus.
#include <penstock/bus/subscribe_options.hpp>

namespace penstock {

const char* to_string(drop_reason reason) noexcept {
  switch (reason) {
    case drop_reason::newest: return "newest";
    case drop_reason::oldest: return "oldest";
    case drop_reason::closed: return "closed";
    case drop_reason::timed_out: return "timed_out";
    case drop_reason::cycle: return "cycle";
  }
  return "unknown";
}

const char* to_string(undelivered_reason reason) noexcept {
  switch (reason) {
    case undelivered_reason::closed:
      return "closed";
    case undelivered_reason::shutdown:
      return "shutdown";
  }
  return "unknown";
}

subscribe_options::subscribe_options() = default;
subscribe_options::subscribe_options(subscribe_options&&) noexcept = default;
subscribe_options& subscribe_options::operator=(subscribe_options&&) noexcept = default;
subscribe_options::~subscribe_options() = default;

}  // namespace penstock
