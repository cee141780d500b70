// Where in the user's program a call stands (std::source_location that every supported compiler has).
// Floor 0, room base.
#pragma once

namespace penstock {

/// A file and line of the caller; use `call_site::here()` as a default argument. The core copies the text.
struct call_site {
  const char* file = "";
  unsigned line = 0;
  static constexpr call_site here(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) noexcept {
    return {file, line};
  }
};

}  // namespace penstock
