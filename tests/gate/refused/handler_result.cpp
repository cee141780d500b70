// refused: a handler returns void, penstock::task<void>, or with <penstock/bus/asio.hpp> boost::asio::awaitable<void>
// Floor 9, room tests.
#include <penstock/penstock.hpp>
struct order { int id; };
void form(penstock::event_bus bus) { auto kept = bus.subscribe<order>("wrong", [](const order& o) { return o.id; }); }
