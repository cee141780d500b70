// The text forms of the demo: manifest lines as sha256sum writes them, names for a terminal, durations, sizes.
// Floor 9, room demo.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace digest {

/// One line as `sha256sum` (coreutils 9.1) prints it, with its newline. A name with a backslash, newline or carriage
/// return is escaped, and the line then starts with a backslash.
std::string manifest_line(std::string_view hex, std::string_view name);

/// `\\`, `\n` and `\r` in place of those three bytes; every other byte stays.
std::string escape_name(std::string_view name);

/// The opposite of `escape_name`. Nothing when a backslash is followed by anything else, or by nothing.
std::optional<std::string> unescape_name(std::string_view text);

/// What one line of a manifest says.
struct manifest_entry {
  std::string hex;  ///< lower case
  std::string name;
};

/// Reads one line without its newline; both `hex  name` and `hex *name`. Nothing when it is malformed or when its
/// digest has not exactly `hex_digits` digits.
std::optional<manifest_entry> parse_manifest_line(std::string_view line, std::size_t hex_digits);

/// One line of `sha256sum -c`, with its newline: "name: OK". Only a name with a newline is escaped there.
std::string verdict_line(std::string_view name, std::string_view verdict);

/// A name that can do nothing to a terminal: control characters, bytes that are no UTF-8, the characters that
/// change the direction of writing, and the backslash appear as \xNN or `\\`.
std::string for_terminal(std::string_view name);

/// "250ms", "5s", "1.5min": a decimal number and one of ns, us, ms, s, min, h. Nothing when it is anything else, or
/// beyond 290 years.
std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text);

/// "12.3 MB": three digits and a decimal unit.
std::string human_bytes(std::uint64_t bytes);

/// "8 s", "2 min 5 s", "3 h 20 min": rounded up to whole seconds.
std::string human_duration(double seconds);

}  // namespace digest
