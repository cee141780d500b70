// refused: include <penstock/exec/asio.hpp>
#include <penstock/penstock.hpp>
penstock::task<void> form() { co_await std::suspend_always{}; }
