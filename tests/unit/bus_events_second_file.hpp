// What the second file of the test of event identity offers to the first one.
// Floor 9, room tests.
#pragma once

#include "../support/gate.hpp"

#include <penstock/bus/event_bus.hpp>

namespace penstock_test {

/// Subscribes to, and publishes, the `private_event` of the second file's unnamed namespace.
penstock::subscription subscribe_second_private(const penstock::event_bus& bus, record<int>& seen);
penstock::publish_result publish_second_private(const penstock::event_bus& bus, int value);

/// Subscribes to an event of the second file that carries the name "unit.shared" like one of the first.
penstock::subscription subscribe_second_shared(const penstock::event_bus& bus, record<int>& seen);

}  // namespace penstock_test
