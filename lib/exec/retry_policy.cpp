// Back-off with jitter.
// Floor 2, room exec.
#include <penstock/exec/retry_policy.hpp>

namespace penstock {

retry_policy::retry_policy() noexcept = default;

const char* retry_policy::complaint() const noexcept {
  if (attempts_ == 0) return "attempts(0) tries nothing; give at least 1";
  if (backoff_.count() < 0) return "a negative backoff; give 0 or more";
  if (cap_.count() < 0) return "a negative cap; give 0 or more";
  if (!(factor_ >= 1.0) || factor_ > 1e6) return "factor must be from 1 to 1000000";
  if (!(jitter_ >= 0.0) || jitter_ > 1.0) return "jitter must be from 0 to 1";
  return nullptr;
}

std::chrono::nanoseconds retry_policy::delay(unsigned failed, std::uint64_t random) const noexcept {
  double wait = static_cast<double>(backoff_.count());
  const double longest = static_cast<double>(cap_.count());
  for (unsigned i = 1; i < failed && wait < longest; ++i) wait *= factor_;
  if (wait > longest) wait = longest;
  const double share = static_cast<double>(random >> 11) * 0x1p-53;  // 0 to 1, 1 excluded
  wait *= 1.0 + jitter_ * share;
  return clamp_duration(std::chrono::duration<double, std::nano>(wait));
}

}  // namespace penstock
