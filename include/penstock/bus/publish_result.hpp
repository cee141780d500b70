// What came of one publish.
// Floor 5, room bus.
#pragma once

#include <penstock/base/errc.hpp>
#include <penstock/base/export.hpp>

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <string>
#include <utility>

namespace penstock {

namespace detail {
struct refusal_list;
PENSTOCK_API void destroy_refusals(refusal_list* list) noexcept;
}  // namespace detail

/// The outcome of one publish call, per subscription that was offered the event:
/// `matched = accepted + parked + dropped + rejected`. Nothing was lost silently: what is not accepted or parked is
/// counted here and named by `refusal(i)`.
class PENSTOCK_API publish_result {
 public:
  publish_result() noexcept = default;
  explicit publish_result(errc error) noexcept : error_(error) {}
  publish_result(publish_result&& other) noexcept { swap(other); }
  publish_result& operator=(publish_result&& other) noexcept {
    publish_result taken(std::move(other));
    swap(taken);
    return *this;
  }
  publish_result(const publish_result&) = delete;
  publish_result& operator=(const publish_result&) = delete;
  ~publish_result() {
    if (refusals_ != nullptr) detail::destroy_refusals(refusals_);
  }

  std::uint64_t matched() const noexcept { return matched_; }    ///< offers made: events × subscriptions
  std::uint64_t accepted() const noexcept { return accepted_; }  ///< got a seat
  std::uint64_t parked() const noexcept { return parked_; }      ///< stand in line; the lane rests until they are in
  std::uint64_t dropped() const noexcept { return dropped_; }    ///< refused by `drop_newest`
  std::uint64_t rejected() const noexcept { return rejected_; }  ///< refused for the reasons in `refusal(i)`
  /// How many leading events of a span nobody refused; 0 or 1 for a single event.
  std::size_t prefix() const noexcept { return prefix_; }

  /// Set when the call as a whole was refused (closed, forked, not_enough_memory), or when an offer stayed undecided by
  /// its policy (timed_out, cancelled, closed, would_block). A `fail` policy's refusals are counts, not an error.
  errc error() const noexcept { return error_; }

  /// One refusal: who, and why. At most 16 are kept; `rejected()` and `dropped()` count all.
  struct refusal_view {
    const char* subscription;
    errc reason;
    std::uint64_t events;
  };
  std::size_t refusals() const noexcept;
  refusal_view refusal(std::size_t index) const noexcept;

  void swap(publish_result& other) noexcept {
    std::swap(matched_, other.matched_);
    std::swap(accepted_, other.accepted_);
    std::swap(parked_, other.parked_);
    std::swap(dropped_, other.dropped_);
    std::swap(rejected_, other.rejected_);
    std::swap(prefix_, other.prefix_);
    std::swap(error_, other.error_);
    std::swap(refusals_, other.refusals_);
  }

 private:
  friend class result_builder;
  std::uint64_t matched_ = 0;
  std::uint64_t accepted_ = 0;
  std::uint64_t parked_ = 0;
  std::uint64_t dropped_ = 0;
  std::uint64_t rejected_ = 0;
  std::size_t prefix_ = 0;
  errc error_ = errc::none;
  detail::refusal_list* refusals_ = nullptr;
};

/// "matched 2, accepted 1, rejected 1 (ledger: full)"
PENSTOCK_API std::string to_string(const publish_result& result);
PENSTOCK_API std::ostream& operator<<(std::ostream& out, const publish_result& result);

}  // namespace penstock
