// refused: g++ 12 destroys an aggregate temporary inside co_await twice: name it first
// Floor 9, room tests.
#include <penstock/penstock.hpp>
#include <string>
struct line { std::string text; };
struct order { line first; };
penstock::task<void> form(penstock::publisher<order> orders) { co_await orders.async_emplace(line{"temporary"}); }
