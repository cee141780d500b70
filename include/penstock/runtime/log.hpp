// What a runtime has to say: records with fields, for spdlog or for a sink of one's own.
// Floor 7, room runtime.
#pragma once

#include <penstock/base/export.hpp>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace penstock {

enum class log_level : unsigned char { debug, info, warning, error };
PENSTOCK_API const char* to_string(log_level level) noexcept;

/// One named value of a record.
class PENSTOCK_API log_field {
 public:
  using value_type = std::variant<std::string, std::int64_t, std::uint64_t, double, bool, std::chrono::nanoseconds>;
  log_field(std::string_view key, std::string_view value) : key_(key), value_(std::string(value)) {}
  log_field(std::string_view key, const char* value) : log_field(key, std::string_view(value)) {}
  log_field(std::string_view key, const std::string& value) : log_field(key, std::string_view(value)) {}
  log_field(std::string_view key, double value) : key_(key), value_(value) {}
  log_field(std::string_view key, std::chrono::nanoseconds value) : key_(key), value_(value) {}
  template <std::same_as<bool> Bool>
  log_field(std::string_view key, Bool value) : key_(key), value_(static_cast<bool>(value)) {}
  template <std::integral Integer>
    requires(!std::same_as<Integer, bool>)
  log_field(std::string_view key, Integer value) : key_(key), value_(as_number(value)) {}

  const std::string& key() const noexcept { return key_; }
  const value_type& value() const noexcept { return value_; }

 private:
  template <class Integer>
  static value_type as_number(Integer value) noexcept {
    if constexpr (std::is_signed_v<Integer>)
      return static_cast<std::int64_t>(value);
    else
      return static_cast<std::uint64_t>(value);
  }
  std::string key_;
  value_type value_;
};

/// One thing to say. Host-owned text only; never the payload of an event.
class PENSTOCK_API log_record {
 public:
  log_record(log_level level, std::string_view text);  ///< of the component "penstock"
  log_record(log_level level, std::string_view component, std::string_view text);
  log_record(log_record&&) noexcept;
  log_record(const log_record&);
  log_record& operator=(log_record&&) noexcept;
  log_record& operator=(const log_record&);
  ~log_record();

  log_level level() const noexcept { return level_; }
  /// Which part of penstock says it: "penstock.bus", "penstock.task", "penstock.pool", "penstock.runtime",
  /// "penstock.watchdog".
  const std::string& component() const noexcept { return component_; }
  /// What happened, in words that never depend on names or on what was thrown: those are fields, as they came, unescaped.
  const std::string& text() const noexcept { return text_; }
  const std::vector<log_field>& fields() const noexcept { return fields_; }

  template <class Value>
  log_record& with(std::string_view key, const Value& value) & {
    fields_.emplace_back(key, value);
    return *this;
  }
  template <class Value>
  log_record&& with(std::string_view key, const Value& value) && {
    return std::move(with(key, value));
  }

 private:
  log_level level_;
  std::string component_;
  std::string text_;
  std::vector<log_field> fields_;
};

/// The most bytes of one line.
inline constexpr std::size_t longest_log_line = 4096;

/// One line: the text, then key=value for each field; a value with a space, a quote or nothing in it stands in quotes. Bytes that
/// a terminal would obey are escaped as \xNN: control characters, also the two-byte ones, line separators and changes of
/// direction; and so is what is not UTF-8. What is longer than `longest_log_line` is cut between characters and ends in "…".
PENSTOCK_API std::string to_string(const log_record& record);

}  // namespace penstock
