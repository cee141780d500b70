// The outcome of one publish, with the names of who refused.
// Floor 5, room bus.
#include <penstock/bus/publish_result.hpp>

#include "bus/result_builder.hpp"

#include <cstring>
#include <new>
#include <ostream>

namespace penstock {
namespace detail {

struct refusal_list {
  static constexpr std::size_t most = 16;
  static constexpr std::size_t longest_name = 63;
  struct item {
    char name[longest_name + 1];
    errc reason;
    std::uint64_t events;
  };
  std::size_t count = 0;
  item items[most];
};

void destroy_refusals(refusal_list* list) noexcept { delete list; }

}  // namespace detail

void result_builder::name(const std::string& subscription, errc why, std::uint64_t events) noexcept {
  if (result_.refusals_ == nullptr) result_.refusals_ = new (std::nothrow) detail::refusal_list;
  detail::refusal_list* list = result_.refusals_;
  if (list == nullptr || list->count == detail::refusal_list::most) return;  // counted all the same
  auto& item = list->items[list->count++];
  const std::size_t length = subscription.copy(item.name, detail::refusal_list::longest_name);
  item.name[length] = '\0';
  item.reason = why;
  item.events = events;
}

std::size_t publish_result::refusals() const noexcept { return refusals_ != nullptr ? refusals_->count : 0; }

publish_result::refusal_view publish_result::refusal(std::size_t index) const noexcept {
  if (index >= refusals()) return {"", errc::none, 0};
  const auto& item = refusals_->items[index];
  return {item.name, item.reason, item.events};
}

std::string to_string(const publish_result& result) {
  std::string text = "matched " + std::to_string(result.matched()) + ", accepted " + std::to_string(result.accepted());
  if (result.parked() > 0) text += ", parked " + std::to_string(result.parked());
  if (result.dropped() > 0) text += ", dropped " + std::to_string(result.dropped());
  if (result.rejected() > 0) text += ", rejected " + std::to_string(result.rejected());
  for (std::size_t i = 0; i < result.refusals(); ++i) {
    const auto each = result.refusal(i);
    text += i == 0 ? " (" : ", ";
    text += each.subscription;
    text += ": ";
    text += to_string(each.reason);
  }
  if (result.refusals() > 0) text += ")";
  if (result.error() != errc::none) {
    text += "; error ";
    text += to_string(result.error());
  }
  return text;
}

std::ostream& operator<<(std::ostream& out, const publish_result& result) { return out << to_string(result); }

}  // namespace penstock
