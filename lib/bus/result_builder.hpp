// Fills a publish_result.
// Floor 5, room bus.
#pragma once

#include <penstock/bus/publish_result.hpp>

#include <cstddef>
#include <cstdint>

namespace penstock {

class result_builder {
 public:
  explicit result_builder(std::size_t events) noexcept { result_.prefix_ = events; }
  /// The result of a publish that everybody had a seat for.
  static publish_result all_accepted(std::size_t events, std::uint64_t offers) noexcept {
    publish_result result;
    result.matched_ = result.accepted_ = offers;
    result.prefix_ = events;
    return result;
  }
  /// Goes on with one that was made before.
  explicit result_builder(publish_result&& begun) noexcept : result_(static_cast<publish_result&&>(begun)) {}

  void accepted(std::uint64_t events) noexcept {
    result_.matched_ += events;
    result_.accepted_ += events;
  }
  void parked(std::uint64_t events) noexcept {
    result_.matched_ += events;
    result_.parked_ += events;
  }
  void dropped(detail::subscription_core& subscription, std::uint64_t events) noexcept {
    result_.matched_ += events;
    result_.dropped_ += events;
    name(subscription, errc::full, events);
  }
  void rejected(detail::subscription_core& subscription, errc why, std::uint64_t events) noexcept {
    result_.matched_ += events;
    result_.rejected_ += events;
    name(subscription, why, events);
  }
  /// One member refused all events from `index` on.
  void refused_from(std::size_t index) noexcept {
    if (index < result_.prefix_) result_.prefix_ = index;
  }
  /// The first one stays.
  void error(errc why) noexcept {
    if (result_.error_ == errc::none) result_.error_ = why;
  }
  publish_result take() noexcept { return static_cast<publish_result&&>(result_); }

 private:
  void name(detail::subscription_core& subscription, errc why, std::uint64_t events) noexcept;
  publish_result result_;
};

}  // namespace penstock
