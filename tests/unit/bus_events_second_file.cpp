// The second file of the test of event identity: an unnamed namespace with the same names as in the first.
// Floor 9, room tests.
#include "bus_events_second_file.hpp"

namespace {

struct private_event {
  int value = 0;
};

struct shared_here {
  int value = 0;
};

}  // namespace

template <>
struct penstock::event_name<shared_here> {
  static constexpr std::string_view value = "unit.shared";
};

namespace penstock_test {

penstock::subscription subscribe_second_private(const penstock::event_bus& bus, record<int>& seen) {
  return bus.subscribe<private_event>("second", [&seen](const private_event& e) { seen.add(e.value); });
}

penstock::publish_result publish_second_private(const penstock::event_bus& bus, int value) {
  return bus.publish(private_event{value});
}

penstock::subscription subscribe_second_shared(const penstock::event_bus& bus, record<int>& seen) {
  return bus.subscribe<shared_here>("second", [&seen](const shared_here& e) { seen.add(e.value); });
}

}  // namespace penstock_test
