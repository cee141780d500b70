// refused: g++ 12 destroys an aggregate temporary inside co_await twice: use async_emplace(members...)
// Floor 9, room tests.
#include <penstock/penstock.hpp>
#include <string>
struct order { std::string text; };
penstock::task<void> form(penstock::event_bus bus) { co_await bus.async_publish(order{"temporary"}); }
