// refused: include <penstock/exec/asio.hpp>
// Floor 9, room tests.
#include <penstock/penstock.hpp>
penstock::task<void> form() { co_await std::suspend_always{}; }
