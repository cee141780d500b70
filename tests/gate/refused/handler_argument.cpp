// refused: a handler is callable as (const E&) or (const E&, const penstock::call&)
// Floor 9, room tests.
#include <penstock/penstock.hpp>
struct order { int id; };
void form(penstock::event_bus bus) { auto kept = bus.subscribe<order>("wrong", [](order&) {}); }
