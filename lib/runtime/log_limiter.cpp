// Counting lines by source and second.
// Floor 7, room runtime.
#include "runtime/log_limiter.hpp"

#include <algorithm>

namespace penstock {

log_limiter::window& log_limiter::window_of(log_source kind, std::string_view name) noexcept {
  if (const auto found = sources_.find(std::pair(kind, name)); found != sources_.end()) return found->second;
  if (sources_.size() >= most_sources) return others_;
  try {
    return sources_.try_emplace(key(kind, std::string(name))).first->second;
  } catch (...) {
    return others_;
  }
}

log_limiter::verdict log_limiter::ask(log_source kind, std::string_view name, steady_time now) noexcept {
  window& of = window_of(kind, name);
  if (of.said == 0 || over(of, now)) {
    of.began = now;
    of.said = 0;  // what it left out stays due
    look_at_ = std::min(look_at_, deadline_after(now, one_second));
  }
  if (of.said < most_per_second) {
    ++of.said;
    return verdict::say;
  }
  ++of.left_out;
  return verdict::leave_out;
}

std::optional<log_limiter::left_out> log_limiter::due(steady_time now) noexcept {
  if (now < look_at_) return std::nullopt;
  steady_time next = no_deadline;
  for (auto at = sources_.begin(); at != sources_.end();) {
    if (!over(at->second, now)) {
      next = std::min(next, deadline_after(at->second.began, one_second));
      ++at;
      continue;
    }
    auto ended = sources_.extract(at++);
    if (const std::uint64_t count = ended.mapped().left_out; count > 0)
      return left_out{ended.key().first, std::move(ended.key().second), count};
  }
  if (over(others_, now)) {
    const window ended = std::exchange(others_, window());
    if (ended.left_out > 0) return left_out{log_source::others, {}, ended.left_out};
  } else if (others_.said > 0) {
    next = std::min(next, deadline_after(others_.began, one_second));
  }
  look_at_ = next;
  return std::nullopt;
}

}  // namespace penstock
