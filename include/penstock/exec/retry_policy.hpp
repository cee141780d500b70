// How often something that failed is tried again, and how long to wait in between.
// Floor 2, room exec.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/export.hpp>

#include <chrono>
#include <cstdint>

namespace penstock {

/// Exponential back-off with jitter. Default: 3 attempts in all, 100 ms before the second, doubled each time up to a
/// minute, each lengthened by up to a tenth.
/// The setters check nothing; who takes the policy does, and names what is out of range.
class PENSTOCK_API retry_policy {
 public:
  retry_policy() noexcept;

  /// How often it is tried in all, the first time included; at least 1.
  retry_policy& attempts(unsigned count) & { return attempts_ = count, *this; }
  retry_policy&& attempts(unsigned count) && { return static_cast<retry_policy&&>(attempts(count)); }

  /// The delay before the second attempt.
  template <class Rep, class Period>
  retry_policy& backoff(std::chrono::duration<Rep, Period> first) & {
    return backoff_ = clamp_duration(first), *this;
  }
  template <class Rep, class Period>
  retry_policy&& backoff(std::chrono::duration<Rep, Period> first) && {
    return static_cast<retry_policy&&>(backoff(first));
  }
  /// By what each further delay is longer; at least 1.
  retry_policy& factor(double by) & { return factor_ = by, *this; }
  retry_policy&& factor(double by) && { return static_cast<retry_policy&&>(factor(by)); }
  /// The longest delay, before jitter.
  template <class Rep, class Period>
  retry_policy& cap(std::chrono::duration<Rep, Period> longest) & {
    return cap_ = clamp_duration(longest), *this;
  }
  template <class Rep, class Period>
  retry_policy&& cap(std::chrono::duration<Rep, Period> longest) && {
    return static_cast<retry_policy&&>(cap(longest));
  }
  /// Each delay is lengthened, never shortened, by a random share of itself up to this; 0 to 1.
  retry_policy& jitter(double share) & { return jitter_ = share, *this; }
  retry_policy&& jitter(double share) && { return static_cast<retry_policy&&>(jitter(share)); }

  unsigned attempts() const noexcept { return attempts_; }
  /// What is wrong with it; null: nothing.
  const char* complaint() const noexcept;
  /// The delay after the `failed`-th attempt has failed (from 1). `random` is anywhere in its range.
  std::chrono::nanoseconds delay(unsigned failed, std::uint64_t random) const noexcept;

 private:
  unsigned attempts_ = 3;
  std::chrono::nanoseconds backoff_ = std::chrono::milliseconds(100);
  double factor_ = 2.0;
  std::chrono::nanoseconds cap_ = std::chrono::minutes(1);
  double jitter_ = 0.1;
};

}  // namespace penstock
