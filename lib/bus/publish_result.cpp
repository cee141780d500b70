// The outcome of one publish, with the names of who refused.
// Floor 5, room bus.
#include <penstock/bus/publish_result.hpp>

#include "bus/result_builder.hpp"
#include "bus/subscription_core.hpp"

#include <penstock/base/failure.hpp>

#include <new>
#include <ostream>
#include <utility>

namespace penstock {
namespace {

constexpr std::size_t near_refusals = 2;
constexpr std::size_t most_refusals = 16;

}  // namespace

void result_builder::name(detail::subscription_core& subscription, errc why, std::uint64_t events) noexcept {
  const std::size_t index = result_.refusals_;
  if (index == most_refusals) return;  // counted all the same
  if (index == near_refusals) {
    result_.far_ = new (std::nothrow) detail::refusal[most_refusals - near_refusals];
    if (result_.far_ == nullptr) return;
  }
  subscription.retain();
  (index < near_refusals ? result_.near_[index] : result_.far_[index - near_refusals]) = {&subscription, why, events};
  ++result_.refusals_;
}

void publish_result::take_refusals(publish_result& other) noexcept {
  refusals_ = std::exchange(other.refusals_, 0);
  near_[0] = other.near_[0];
  if (refusals_ > 1) near_[1] = other.near_[1];
  if (refusals_ > near_refusals) far_ = other.far_;
}

void publish_result::release_refusals() noexcept {
  for (std::size_t i = 0; i < refusals_; ++i) (i < near_refusals ? near_[i] : far_[i - near_refusals]).who->release();
  if (refusals_ > near_refusals) delete[] far_;
  refusals_ = 0;
}

publish_result::refusal_view publish_result::refusal(std::size_t index) const noexcept {
  if (index >= refusals_) return {"", errc::none, 0};
  const detail::refusal& item = index < near_refusals ? near_[index] : far_[index - near_refusals];
  return {item.who->name.c_str(), item.reason, item.events};
}

std::string to_string(const publish_result& result) {
  std::string text = "matched " + std::to_string(result.matched()) + ", accepted " + std::to_string(result.accepted());
  if (result.parked() > 0) text += ", parked " + std::to_string(result.parked());
  if (result.dropped() > 0) text += ", dropped " + std::to_string(result.dropped());
  if (result.rejected() > 0) text += ", rejected " + std::to_string(result.rejected());
  for (std::size_t i = 0; i < result.refusals(); ++i) {
    const auto each = result.refusal(i);
    text += i == 0 ? " (" : ", ";
    text += escape_control_bytes(each.subscription);
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
