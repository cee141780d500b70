// Turning a live exception into a record that outlives the code that threw it.
// Floor 0, room base.
#include <penstock/base/failure.hpp>

#include "base/demangle.hpp"
#include "base/forced_unwind.hpp"

#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <typeinfo>

namespace penstock {

exception_record::exception_record() = default;
failure::failure() = default;

std::string demangle(const char* mangled) {
  int status = 0;
  char* text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  if (status != 0 || text == nullptr) return mangled;
  struct freed {
    char* text;
    ~freed() { std::free(text); }
  } owner{text};
  return text;
}

namespace {

constexpr std::size_t deepest_nesting = 16;

PENSTOCK_CATCHES_FORCED_UNWIND
void collect_nested(const std::exception& outer, exception_record& record) {
  if (record.nested.size() >= deepest_nesting) return;
  try {
    std::rethrow_if_nested(outer);
  } catch (const forced_unwind&) {
    throw;
  } catch (const std::exception& inner) {
    record.nested.emplace_back(inner.what());
    collect_nested(inner, record);
  } catch (...) {
    record.nested.emplace_back("unknown exception");
  }
}

}  // namespace

exception_record describe_current_exception() noexcept {
  exception_record record;
  try {
    const std::type_info* type = abi::__cxa_current_exception_type();
    record.type_name = type != nullptr ? demangle(type->name()) : "unknown exception";
    try {
      throw;
    } catch (const std::exception& caught) {
      record.what = caught.what();
      collect_nested(caught, record);
    } catch (...) {
    }
  } catch (...) {  // no memory for the text: the record stays partly empty
  }
  return record;
}

std::string escape_control_bytes(const std::string& text) {
  std::string escaped;
  escaped.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      char hex[5];
      std::snprintf(hex, sizeof hex, "\\x%02x", byte);
      escaped += hex;
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string to_string(const failure& record) {
  std::string text =
      record.task.empty() ? "handler \"" + record.subscription + "\" failed on " + record.event + " #" +
                                std::to_string(record.sequence) + ", attempt " + std::to_string(record.attempt) + ": "
                          : "task \"" + record.task + "\" failed in run " + std::to_string(record.attempt) + ": ";
  text += record.exception.type_name;
  if (!record.exception.what.empty()) text += ": " + record.exception.what;
  for (const std::string& inner : record.exception.nested) text += " <- " + inner;
  if (!record.file.empty()) text += (record.task.empty() ? " (subscribed at " : " (spawned at ") + record.file + ":" + std::to_string(record.line) + ")";
  return escape_control_bytes(text);
}

}  // namespace penstock
