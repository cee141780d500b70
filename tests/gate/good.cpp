// Forms of co_await that every compiler gets right: the gate says nothing about this file.
// Floor 9, room tests.
#include <penstock/penstock.hpp>

#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace {

using namespace std::chrono_literals;

struct order {
  std::shared_ptr<int> owner;
  std::string text;
};
struct plain {
  int id;
  double price;
};

order make_order(std::shared_ptr<int> owner) { return order{std::move(owner), "made by a function"}; }
penstock::task<int> by_value(order taken) { co_return static_cast<int>(taken.text.size()); }
penstock::task<int> by_text(std::string taken) { co_return static_cast<int>(taken.size()); }
penstock::task<bool> ready() { co_return true; }
template <class F>
penstock::task<int> call(F body) {
  co_return body();
}

penstock::task<int> forms(penstock::publisher<order> orders, penstock::publisher<plain> plains,
                          penstock::stream<plain>& inbox, bool which) {
  auto owner = std::make_shared<int>(1);
  order named{owner, "a name of its own"};
  co_await orders.async_publish(named);
  co_await orders.async_emplace(owner, "members as arguments");
  auto shared = penstock::make_event<order>(owner, "shared");
  co_await orders.async_publish(shared);
  co_await by_value(std::move(named));
  co_await by_value(make_order(owner));
  plain event{7, 2.5};
  co_await plains.async_publish(event);
  co_await by_text("text");
  co_await penstock::sleep_for(1ms);
  const bool yes = co_await ready();
  int seen = 0;
  if (yes) seen += co_await call([&] { return *owner; });
  if (which)
    seen += co_await by_text("one");
  else
    seen += co_await by_text("other");
  while (auto got = co_await inbox.next()) seen += got->id;
  co_return seen;
}

}  // namespace

int main() { static_cast<void>(forms); }
