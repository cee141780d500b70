// refused: a handler's destructor must not throw
// Floor 9, room tests.
#include <penstock/penstock.hpp>
struct order { int id; };
struct handler {
  void operator()(const order&) const {}
  ~handler() noexcept(false) {}
};
void form(penstock::event_bus bus) { auto kept = bus.subscribe<order>("wrong", handler()); }
