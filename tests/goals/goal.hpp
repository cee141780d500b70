// How a goal becomes a figure: sizes, times in order, and the TAP lines that say what was measured and what was wanted.
// Floor 9, room tests.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace penstock_goals {

/// PENSTOCK_GOALS=full asks for the sizes that the goals name; without it a size that a CI run has time for.
inline bool full_size() {
  const char* given = std::getenv("PENSTOCK_GOALS");
  return given != nullptr && std::string_view(given) == "full";
}
inline std::uint64_t sized(std::uint64_t brief, std::uint64_t full) { return full_size() ? full : brief; }
/// For `penstock_test::time_limit`: a hang ends the program, and so misses the goal.
inline unsigned most_seconds() { return full_size() ? 3600 : 120; }

/// 1234567 as "1,234,567".
inline std::string grouped(std::uint64_t number) {
  const std::string digits = std::to_string(number);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text.push_back(',');
    text.push_back(digits[i]);
  }
  return text;
}
inline std::string with_digits(double number, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, number);
  return text;
}
/// How much of `whole` it is. Never rounded up to all of it.
inline std::string percent(std::uint64_t part, std::uint64_t whole) {
  if (part == whole) return "100 %";
  const auto share = std::min(99.99, 100.0 * static_cast<double>(part) / static_cast<double>(whole));
  return with_digits(share, 2) + " %";
}

/// Measured durations.
class times {
 public:
  void add(std::chrono::nanoseconds one) { all_.push_back(std::chrono::duration<double, std::milli>(one).count()); }
  double max() const { return at(1.0); }
  /// What one in a thousand exceeds.
  double thousandth() const { return at(0.999); }
  /// "p50 0.02, p99 0.10, max 0.31 ms of 200"
  std::string text() const {
    return "p50 " + with_digits(at(0.5), 2) + ", p99 " + with_digits(at(0.99), 2) + ", max " + with_digits(at(1.0), 2) +
           " ms of " + grouped(all_.size());
  }
  /// The same with the longest thousandth for the longest hundredth.
  std::string text_to_thousandths() const {
    return "p50 " + with_digits(at(0.5), 2) + ", p99.9 " + with_digits(at(0.999), 2) + ", max " +
           with_digits(at(1.0), 2) + " ms of " + grouped(all_.size());
  }

 private:
  double at(double share) const {
    std::vector<double> sorted = all_;
    if (sorted.empty()) return 1e9;  // nothing was measured: no goal is met
    std::sort(sorted.begin(), sorted.end());
    return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))];
  }
  std::vector<double> all_;
};

/// Prints one TAP line for each figure: "ok 1 - G12 throwing handlers: … (goal: …): met". Threads: per-object.
class report {
 public:
  /// A count or an amount of memory: missing it is a failure.
  void figure(std::string_view name, const std::string& measured, const std::string& goal, bool met) {
    line(met, name, measured, goal, met ? "met" : "not met");
  }
  /// A time: said, and never a verdict, for it is the machine's as much as the library's.
  void time(std::string_view name, const std::string& measured, const std::string& goal, bool met) {
    line(true, name, measured, goal, met ? "met" : "not met");
  }
  /// Something that a reader of a missed goal wants to know.
  void note(const std::string& text) { std::printf("# %s\n", text.c_str()); }
  /// The plan, and what `main` returns.
  int finish() {
    std::printf("1..%d\n", lines_);
    return failed_ == 0 && lines_ > 0 ? 0 : 1;
  }

 private:
  void line(bool good, std::string_view name, const std::string& measured, const std::string& goal,
            const char* verdict) {
    ++lines_;
    failed_ += good ? 0 : 1;
    std::printf("%s %d - %.*s: %s (goal: %s): %s\n", good ? "ok" : "not ok", lines_, static_cast<int>(name.size()),
                name.data(), measured.c_str(), goal.c_str(), verdict);
    std::fflush(stdout);
  }
  int lines_ = 0;
  int failed_ = 0;
};

}  // namespace penstock_goals
