// What came of one publish.
// Floor 5, room bus.
#pragma once

#include <penstock/base/errc.hpp>
#include <penstock/base/export.hpp>

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <string>

namespace penstock {

namespace detail {
class subscription_core;
/// Who refused: keeps the name alive, nothing else.
struct refusal {
  subscription_core* who;
  errc reason;
  std::uint64_t events;
};
}  // namespace detail

/// The outcome of one publish call, per subscription that was offered the event:
/// `matched = accepted + parked + dropped + rejected`. Nothing was lost silently: what is not accepted or parked is
/// counted here and named by `refusal(i)`.
class PENSTOCK_API publish_result {
 public:
  publish_result() noexcept = default;
  explicit publish_result(errc error) noexcept : error_(error) {}
  publish_result(publish_result&& other) noexcept { take(other); }
  publish_result& operator=(publish_result&& other) noexcept {
    if (this != &other) {
      forget_refusals();
      take(other);
    }
    return *this;
  }
  publish_result(const publish_result&) = delete;
  publish_result& operator=(const publish_result&) = delete;
  ~publish_result() { forget_refusals(); }

  std::uint64_t matched() const noexcept { return matched_; }    ///< offers made: events × subscriptions
  std::uint64_t accepted() const noexcept { return accepted_; }  ///< got a seat
  std::uint64_t parked() const noexcept { return parked_; }      ///< stand in line; the lane rests until they are in
  std::uint64_t dropped() const noexcept { return dropped_; }    ///< refused by `drop_newest`
  std::uint64_t rejected() const noexcept { return rejected_; }  ///< refused for the reasons in `refusal(i)`, which names drops too
  /// How many leading events of a span nobody refused; 0 or 1 for a single event.
  std::size_t prefix() const noexcept { return prefix_; }

  /// Set when the call as a whole was refused (closed, forked, not_enough_memory), or when an offer stayed undecided by
  /// its policy (timed_out, cancelled, closed, would_block). A `fail` policy's refusals are counts, not an error.
  errc error() const noexcept { return error_; }

  /// One refusal or drop: who, and why. At most 16 are kept; `rejected()` and `dropped()` count all.
  /// Cost: two are kept in the result itself, more take one allocation.
  struct refusal_view {
    const char* subscription;
    errc reason;
    std::uint64_t events;
  };
  std::size_t refusals() const noexcept { return refusals_; }
  refusal_view refusal(std::size_t index) const noexcept;

 private:
  friend class result_builder;
  void take(publish_result& other) noexcept {
    matched_ = other.matched_;
    accepted_ = other.accepted_;
    parked_ = other.parked_;
    dropped_ = other.dropped_;
    rejected_ = other.rejected_;
    prefix_ = other.prefix_;
    error_ = other.error_;
    if (other.refusals_ != 0) take_refusals(other);
  }
  void take_refusals(publish_result& other) noexcept;
  void forget_refusals() noexcept {
    if (refusals_ != 0) release_refusals();
  }
  void release_refusals() noexcept;

  std::uint64_t matched_ = 0;
  std::uint64_t accepted_ = 0;
  std::uint64_t parked_ = 0;
  std::uint64_t dropped_ = 0;
  std::uint64_t rejected_ = 0;
  std::size_t prefix_ = 0;
  errc error_ = errc::none;
  std::uint32_t refusals_ = 0;
  detail::refusal near_[2];  // the first refusals_ of them
  detail::refusal* far_;     // the further ones, when there are more than two
};

/// "matched 2, accepted 1, rejected 1 (ledger: full)"
PENSTOCK_API std::string to_string(const publish_result& result);
PENSTOCK_API std::ostream& operator<<(std::ostream& out, const publish_result& result);

}  // namespace penstock
