// Each marked line holds a form that the gate has to find, under the name after the mark. Never compiled by g++.
// Floor 9, room tests.
#include <penstock/penstock.hpp>

#include <memory>
#include <string>
#include <vector>

namespace {

struct order {
  std::shared_ptr<int> owner;
  std::string text;
};
struct defaulted {
  std::shared_ptr<int> owner = nullptr;
  std::string text = "none";
};

penstock::task<int> by_value(order taken) { co_return static_cast<int>(taken.text.size()); }
penstock::task<int> with_default(defaulted taken) { co_return static_cast<int>(taken.text.size()); }
penstock::task<int> by_text(std::string taken) { co_return static_cast<int>(taken.size()); }
penstock::task<int> by_list(std::vector<std::string> taken) { co_return static_cast<int>(taken.size()); }
penstock::task<bool> ready() { co_return true; }
template <class F>
penstock::task<int> call(F body) {
  co_return body();
}

penstock::task<void> forms(bool which, std::string one, std::string other) {
  std::shared_ptr<int> owner = std::make_shared<int>(1);
  co_await by_value(order{owner, "temporary"});             // bad: aggregate
  co_await by_value({owner, "braced"});                     // bad: aggregate
  co_await by_value({.owner = owner, .text = "designated"});  // bad: aggregate
  co_await call([owner] { return *owner; });                // bad: lambda
  co_await call([copy = owner] { return *copy; });          // bad: lambda
  co_await by_text(which ? one : other + "x");              // bad: conditional
  co_await by_list({one, other});                           // bad: list
  co_await with_default(defaulted{});                       // bad: aggregate
  const order built{owner, std::to_string(co_await by_text(one))};  // bad: in_braces
  static_cast<void>(built);
}

penstock::task<int> condition() {
  if (co_await ready()) co_return 1;                        // bad: condition
  switch (co_await by_text("text")) {                       // bad: condition
    case 4: co_return 2;
    default: co_return 3;
  }
}

}  // namespace

int main() {
  static_cast<void>(forms);
  static_cast<void>(condition);
}
