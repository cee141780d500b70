// Names of event types.
// Floor 5, room bus.
#include <penstock/bus/event.hpp>

#include "base/demangle.hpp"

namespace penstock::detail {

std::string event_display_name(const event_type& type) {
  if (!type.given_name.empty()) return std::string(type.given_name);
  return demangle(type.type->name());
}

}  // namespace penstock::detail
