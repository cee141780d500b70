// Counting lines by source and second.
// Floor 7, room runtime.
#include "runtime/log_limiter.hpp"

#include <algorithm>

namespace penstock {

line_window& log_limiter::window_of(log_source kind, std::string_view name) noexcept {
  if (const auto found = sources_.find(std::pair(kind, name)); found != sources_.end()) return found->second;
  if (sources_.size() >= most_sources) return others_;
  try {
    return sources_.try_emplace(key(kind, std::string(name))).first->second;
  } catch (...) {
    return others_;
  }
}

log_limiter::verdict log_limiter::ask(log_source kind, std::string_view name, steady_time now) noexcept {
  line_window& of = window_of(kind, name);
  const bool tell = of.ask(now);
  look_at_ = std::min(look_at_, of.ends());
  return tell ? verdict::say : verdict::leave_out;
}

std::optional<log_limiter::left_out> log_limiter::due(steady_time now) noexcept {
  if (now < look_at_) return std::nullopt;
  steady_time next = no_deadline;
  for (auto at = sources_.begin(); at != sources_.end();) {
    if (!at->second.over(now)) {
      next = std::min(next, at->second.ends());
      ++at;
      continue;
    }
    auto ended = sources_.extract(at++);
    if (const std::uint64_t count = ended.mapped().left_out(); count > 0)
      return left_out{ended.key().first, std::move(ended.key().second), count};
  }
  if (others_.over(now)) {
    const line_window ended = std::exchange(others_, line_window());
    if (ended.left_out() > 0) return left_out{log_source::others, {}, ended.left_out()};
  } else if (!others_.quiet()) {
    next = std::min(next, others_.ends());
  }
  look_at_ = next;
  return std::nullopt;
}

}  // namespace penstock
