// refused: g++ 12 destroys an aggregate temporary inside co_await twice, and this function cannot tell one
// Floor 9, room tests.
#include <penstock/asio.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <string>
struct order { std::string text; };
boost::asio::awaitable<void> form(penstock::event_bus bus) {
  co_await bus.async_publish(order{"temporary"}, boost::asio::use_awaitable);
}
