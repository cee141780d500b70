// Records as text, and how many of one source are said.
// Floor 7, room runtime.
#include <penstock/runtime/log.hpp>

#include "runtime/log.hpp"

#include <array>
#include <charconv>
#include <chrono>

namespace penstock {

const char* to_string(log_level level) noexcept {
  switch (level) {
    case log_level::debug: return "debug";
    case log_level::info: return "info";
    case log_level::warning: return "warning";
    case log_level::error: return "error";
  }
  return "unknown";
}

log_record::log_record(log_level level, std::string_view text) : level_(level), text_(text) {}
log_record::log_record(log_record&&) noexcept = default;
log_record::log_record(const log_record&) = default;
log_record& log_record::operator=(log_record&&) noexcept = default;
log_record& log_record::operator=(const log_record&) = default;
log_record::~log_record() = default;

namespace {

std::string number(double value) {
  std::array<char, 32> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  return std::string(digits.data(), end);
}

struct as_text {
  std::string operator()(const std::string& value) const {
    const bool plain = !value.empty() && value.find_first_of(" \"=\\") == std::string::npos;
    if (plain) return value;
    std::string quoted = "\"";
    for (const char c : value) {
      if (c == '"' || c == '\\') quoted += '\\';
      quoted += c;
    }
    return quoted + "\"";
  }
  std::string operator()(std::int64_t value) const { return std::to_string(value); }
  std::string operator()(std::uint64_t value) const { return std::to_string(value); }
  std::string operator()(double value) const { return number(value); }
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(std::chrono::nanoseconds value) const {
    return number(std::chrono::duration<double, std::milli>(value).count()) + "ms";
  }
};

constexpr std::size_t longest_line = 4096;

void cut(std::string& line) {
  constexpr std::string_view mark = "…";
  if (line.size() <= longest_line) return;
  std::size_t end = longest_line - mark.size();
  while (end > 0 && (static_cast<unsigned char>(line[end]) & 0xc0) == 0x80) --end;  // within a UTF-8 character
  line.resize(end);
  line += mark;
}

}  // namespace

std::string to_string(const log_record& record) {
  std::string line = record.text();
  for (const log_field& each : record.fields()) line += " " + each.key() + "=" + std::visit(as_text{}, each.value());
  line = escape_control_bytes(line);
  cut(line);
  return line;
}

log_limiter::verdict log_limiter::ask(const std::string& source, steady_time now) {
  const bool known = sources_.contains(source) || sources_.size() < most_sources;
  count& of = sources_[known ? source : std::string("(others)")];
  verdict answer;
  if (of.said == 0 || now - of.second >= std::chrono::seconds(1)) {
    answer.left_out = of.left_out;
    of = count{now, 0, 0};
  }
  if (of.said < most_per_second) {
    ++of.said;
  } else {
    answer.say = false;
    ++of.left_out;
  }
  return answer;
}

}  // namespace penstock
