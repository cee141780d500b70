// Records as text.
// Floor 7, room runtime.
#include <penstock/runtime/log.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

namespace penstock {

const char* to_string(log_level level) noexcept {
  switch (level) {
    case log_level::debug:
      return "debug";
    case log_level::info:
      return "info";
    case log_level::warning:
      return "warning";
    case log_level::error:
      return "error";
  }
  return "unknown";
}

log_record::log_record(log_level level, std::string_view text) : log_record(level, "penstock", text) {}
log_record::log_record(log_level level, std::string_view component, std::string_view text)
    : level_(level), component_(component), text_(text) {}
log_record::log_record(log_record&&) noexcept = default;
log_record::log_record(const log_record&) = default;
log_record& log_record::operator=(log_record&&) noexcept = default;
log_record& log_record::operator=(const log_record&) = default;
log_record::~log_record() = default;

namespace {

struct character {
  std::size_t bytes = 1;
  bool shown = false;  // as it is; else each of its bytes is escaped
};

/// Control characters of one and of two bytes, separators of lines, and what changes the direction of the text after
/// it.
constexpr bool obeyed_by_terminals(char32_t point) noexcept {
  return point < 0x20 || (point >= 0x7f && point <= 0x9f) || point == 0x061c || (point >= 0x200e && point <= 0x200f) ||
         (point >= 0x2028 && point <= 0x202e) || (point >= 0x2066 && point <= 0x2069);
}

/// The character at the front of a text; a byte that begins none is one by itself, and not shown.
character first_of(std::string_view text) noexcept {
  const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {1, !obeyed_by_terminals(lead)};
  const std::size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || bytes > text.size()) return {};
  char32_t point = lead & (0x7fU >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    point = point << 6 | (byte(i) & 0x3f);
  }
  constexpr char32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  if (point < least[bytes] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff)) return {};
  return {bytes, !obeyed_by_terminals(point)};
}

/// Takes text up to the length of a line; what is beyond is not even looked at.
class line_writer {
 public:
  void text(std::string_view all) { add(all, ""); }
  void key(std::string_view name) {
    piece(" ");
    while (!name.empty() && !full_) {  // a key cannot end early
      const std::size_t stop = std::min(name.find_first_of(" \"=\\"), name.size());
      text(name.substr(0, stop));
      if (stop < name.size()) piece("_");
      name.remove_prefix(std::min(stop + 1, name.size()));
    }
    piece("=");
  }
  void operator()(const std::string& value) {
    const bool plain = !value.empty() && std::find_if(value.begin(), value.end(), needs_quotes) == value.end();
    if (plain) return text(value);
    piece("\"");
    add(value, "\"\\");
    piece("\"");
  }
  void operator()(std::int64_t value) { piece(std::to_string(value)); }
  void operator()(std::uint64_t value) { piece(std::to_string(value)); }
  void operator()(double value) {
    std::array<char, 32> digits{};
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
    piece(std::string_view(digits.data(), static_cast<std::size_t>(end - digits.data())));
  }
  void operator()(bool value) { piece(value ? "true" : "false"); }
  /// In the largest unit that it reaches, to three places, cut: "1.5ms", "90s".
  void operator()(std::chrono::nanoseconds value) {
    const std::int64_t count = value.count();
    const std::uint64_t size = count < 0 ? 0 - static_cast<std::uint64_t>(count) : static_cast<std::uint64_t>(count);
    const std::uint64_t unit = size >= 1'000'000'000 ? 1'000'000'000
                               : size >= 1'000'000   ? 1'000'000
                               : size >= 1'000       ? 1'000
                                                     : 1;
    std::string places;
    if (unit > 1) places = std::to_string(1000 + size % unit / (unit / 1000)).substr(1);
    while (!places.empty() && places.back() == '0') places.pop_back();
    std::string text(count < 0 ? "-" : "");
    text += std::to_string(size / unit);
    if (!places.empty()) text.append(1, '.').append(places);
    text += unit == 1 ? "ns" : unit == 1'000 ? "us" : unit == 1'000'000 ? "ms" : "s";
    piece(text);
  }
  std::string take() && { return std::move(line_); }

 private:
  static constexpr std::string_view mark = "…";
  static bool needs_quotes(char c) noexcept {
    const auto byte = static_cast<unsigned char>(c);
    return byte <= 0x20 || byte == 0x7f || c == '"' || c == '=' || c == '\\';
  }

  void add(std::string_view all, std::string_view after_a_backslash) {
    while (!all.empty() && !full_) {
      const character next = first_of(all);
      if (!next.shown) {
        for (std::size_t i = 0; i < next.bytes; ++i) escaped(static_cast<unsigned char>(all[i]));
      } else if (after_a_backslash.find(all[0]) != std::string_view::npos) {
        const char pair[] = {'\\', all[0]};
        piece(std::string_view(pair, 2));
      } else {
        piece(all.substr(0, next.bytes));
      }
      all.remove_prefix(next.bytes);
    }
  }
  void escaped(unsigned char byte) {
    char hex[5];
    std::snprintf(hex, sizeof hex, "\\x%02x", byte);
    piece(std::string_view(hex, 4));
  }
  /// What is never cut in two.
  void piece(std::string_view whole) {
    if (full_) return;
    if (line_.size() + whole.size() > longest_log_line) {
      full_ = true;
      line_.resize(fits_);
      line_ += mark;
      return;
    }
    line_ += whole;
    if (line_.size() + mark.size() <= longest_log_line) fits_ = line_.size();
  }

  std::string line_;
  std::size_t fits_ = 0;  // where the mark still has room behind a whole piece
  bool full_ = false;
};

}  // namespace

std::string to_string(const log_record& record) {
  line_writer line;
  line.text(record.text());
  for (const log_field& each : record.fields()) {
    line.key(each.key());
    std::visit(line, each.value());
  }
  return std::move(line).take();
}

}  // namespace penstock
