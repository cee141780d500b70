// refused: on_drop takes a noexcept callable as (const E&, penstock::drop_reason)
// Floor 9, room tests.
#include <penstock/penstock.hpp>
struct order { int id; };
void form() { penstock::subscribe_options().on_drop<order>([](const order&, penstock::drop_reason) {}); }
