// refused: g++ 12 destroys an aggregate temporary inside co_await twice: use async_emplace(members...)
// Floor 9, room tests.
#include <penstock/penstock.hpp>
#include <string>
struct order { std::string text; };
penstock::task<void> form(penstock::publisher<order> orders) { co_await orders.async_publish(order{"temporary"}); }
