// The text forms of the demo: manifest lines as sha256sum writes them, names for a terminal, durations, sizes.
// Floor 9, room demo.
#include "text.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace digest {

namespace {

constexpr std::string_view hex_digits_lower = "0123456789abcdef";

void append_hex_byte(std::string& out, unsigned char byte) {
  out += "\\x";
  out += hex_digits_lower[byte >> 4];
  out += hex_digits_lower[byte & 15];
}

/// The length of the UTF-8 sequence at the start of `text` and its code point; length 0 when there is none.
struct decoded {
  std::size_t length = 0;
  std::uint32_t code = 0;
};

decoded decode_utf8(std::string_view text) {
  const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {1, lead};
  std::size_t length = 0;
  std::uint32_t code = 0;
  std::uint32_t smallest = 0;  // a longer form of a smaller code is no UTF-8
  if ((lead & 0xe0) == 0xc0) {
    length = 2, code = lead & 0x1f, smallest = 0x80;
  } else if ((lead & 0xf0) == 0xe0) {
    length = 3, code = lead & 0x0f, smallest = 0x800;
  } else if ((lead & 0xf8) == 0xf0) {
    length = 4, code = lead & 0x07, smallest = 0x10000;
  } else {
    return {};
  }
  if (text.size() < length) return {};
  for (std::size_t at = 1; at < length; ++at) {
    if ((byte(at) & 0xc0) != 0x80) return {};
    code = code << 6 | (byte(at) & 0x3f);
  }
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  if (code < smallest || code > 0x10ffff || surrogate) return {};
  return {length, code};
}

bool harmless(std::uint32_t code) {
  if (code < 0x20 || (code >= 0x7f && code < 0xa0)) return false;
  const bool line_or_direction = (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
  const bool mark = code == 0x200e || code == 0x200f || code == 0x061c;
  return !line_or_direction && !mark;
}

}  // namespace

std::string escape_name(std::string_view name) {
  std::string out;
  out.reserve(name.size() + 8);
  for (const char c : name) {
    if (c == '\\')
      out += "\\\\";
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else
      out += c;
  }
  return out;
}

std::optional<std::string> unescape_name(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '\\') {
      out += text[at];
      continue;
    }
    if (++at == text.size()) return std::nullopt;
    if (text[at] == '\\')
      out += '\\';
    else if (text[at] == 'n')
      out += '\n';
    else if (text[at] == 'r')
      out += '\r';
    else
      return std::nullopt;
  }
  return out;
}

std::string manifest_line(std::string_view hex, std::string_view name) {
  const bool escaped = name.find_first_of("\\\n\r") != std::string_view::npos;
  std::string line;
  line.reserve(hex.size() + name.size() + 8);
  if (escaped) line += '\\';
  line += hex;
  line += "  ";
  if (escaped)
    line += escape_name(name);
  else
    line += name;
  line += '\n';
  return line;
}

std::optional<manifest_entry> parse_manifest_line(std::string_view line, std::size_t hex_digits) {
  const std::size_t start = line.find_first_not_of(" \t");
  if (start == std::string_view::npos) return std::nullopt;
  line.remove_prefix(start);
  const bool escaped = line.front() == '\\';
  if (escaped) line.remove_prefix(1);
  if (line.size() < hex_digits + 3) return std::nullopt;  // two separators and a name of one byte

  manifest_entry entry;
  entry.hex.reserve(hex_digits);
  for (char c : line.substr(0, hex_digits)) {
    if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
    if (hex_digits_lower.find(c) == std::string_view::npos) return std::nullopt;
    entry.hex += c;
  }
  const std::string_view separator = line.substr(hex_digits, 2);
  if (separator != "  " && separator != " *") return std::nullopt;
  const std::string_view name = line.substr(hex_digits + 2);
  if (name.find('\0') != std::string_view::npos) return std::nullopt;  // no file can have that name
  if (escaped) {
    std::optional<std::string> plain = unescape_name(name);
    if (!plain) return std::nullopt;
    entry.name = std::move(*plain);
  } else {
    entry.name = name;
  }
  return entry;
}

std::string verdict_line(std::string_view name, std::string_view verdict) {
  std::string line;
  if (name.find('\n') != std::string_view::npos) {
    line += '\\';
    line += escape_name(name);
  } else {
    line += name;
  }
  line += ": ";
  line += verdict;
  line += '\n';
  return line;
}

std::string for_terminal(std::string_view name) {
  std::string out;
  out.reserve(name.size() + 8);
  while (!name.empty()) {
    const decoded next = decode_utf8(name);
    const std::size_t length = next.length == 0 ? 1 : next.length;
    if (name.front() == '\\') {
      out += "\\\\";
    } else if (next.length != 0 && harmless(next.code)) {
      out += name.substr(0, length);
    } else {
      for (const char c : name.substr(0, length)) append_hex_byte(out, static_cast<unsigned char>(c));
    }
    name.remove_prefix(length);
  }
  return out;
}

std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  if (text.empty() || !(text.front() >= '0' && text.front() <= '9')) return std::nullopt;  // no sign, no "inf"
  double amount = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), amount, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(amount)) return std::nullopt;
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  double nanoseconds_each = 0;
  if (unit == "ns")
    nanoseconds_each = 1;
  else if (unit == "us")
    nanoseconds_each = 1e3;
  else if (unit == "ms")
    nanoseconds_each = 1e6;
  else if (unit == "s")
    nanoseconds_each = 1e9;
  else if (unit == "min")
    nanoseconds_each = 60e9;
  else if (unit == "h")
    nanoseconds_each = 3600e9;
  else
    return std::nullopt;
  const double total = amount * nanoseconds_each;
  if (total > 9e18) return std::nullopt;
  return std::chrono::nanoseconds(static_cast<std::int64_t>(total));
}

std::string human_bytes(std::uint64_t bytes) {
  static constexpr const char* units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  double amount = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (amount >= 999.5 && unit + 1 < std::size(units)) {
    amount /= 1000;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, amount < 99.95 && unit != 0 ? "%.1f %s" : "%.0f %s", amount, units[unit]);
  return text;
}

std::string human_duration(double seconds) {
  constexpr double longest = 1e9;  // three decades; nobody waits for the exact number
  const auto whole = static_cast<std::uint64_t>(std::ceil(std::clamp(seconds, 0.0, longest)));
  if (whole < 60) return std::to_string(whole) + " s";
  if (whole < 3600) return std::to_string(whole / 60) + " min " + std::to_string(whole % 60) + " s";
  return std::to_string(whole / 3600) + " h " + std::to_string(whole / 60 % 60) + " min";
}

}  // namespace digest
