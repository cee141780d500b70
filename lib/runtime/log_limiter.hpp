// How many failures of one source are told. Pure: the time is an argument.
// Floor 7, room runtime.
#pragma once

#include "base/line_window.hpp"

#include <penstock/base/clock.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace penstock {

/// What a failure is counted under.
enum class log_source : std::uint8_t { subscription, task, pool, hook, others };

/// Lets so many lines of one source through in each second and counts the rest of it. A source's second begins with its
/// first line. Every line is either let through or in exactly one `left_out`. Nothing of it throws. Threads:
/// per-object.
class log_limiter {
 public:
  static constexpr unsigned most_per_second = line_window::most_per_second;
  static constexpr std::size_t most_sources =
      1024;  ///< in one second; further ones, and all without memory, share one count
  static constexpr std::chrono::nanoseconds one_second = line_window::one_second;

  enum class verdict : std::uint8_t { say, leave_out };
  struct left_out {
    log_source kind = log_source::others;
    std::string name;
    std::uint64_t count = 0;
  };

  verdict ask(log_source kind, std::string_view name, steady_time now) noexcept;
  /// What a second that has ended kept back, one source at a time; forgets the sources that are quiet. `no_deadline`
  /// ends all seconds. Ask it before `ask`, until it has nothing.
  std::optional<left_out> due(steady_time now) noexcept;
  std::size_t sources() const noexcept { return sources_.size(); }

 private:
  using key = std::pair<log_source, std::string>;
  struct by_key {
    using is_transparent = void;
    template <class One, class Other>
    bool operator()(const One& one, const Other& other) const noexcept {
      if (one.first != other.first) return one.first < other.first;
      return std::string_view(one.second) < std::string_view(other.second);
    }
  };
  line_window& window_of(log_source kind, std::string_view name) noexcept;

  std::map<key, line_window, by_key> sources_;
  line_window others_;
  steady_time look_at_ = no_deadline;  // no second ends before
};

}  // namespace penstock
