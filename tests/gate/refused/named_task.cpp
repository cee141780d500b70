// refused: a task is awaited once: co_await std::move(it)
// Floor 9, room tests.
#include <penstock/penstock.hpp>
penstock::task<int> one() { co_return 1; }
penstock::task<int> form() {
  auto named = one();
  co_return co_await named;
}
