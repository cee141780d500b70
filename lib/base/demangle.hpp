// Readable type names.
// Floor 0, room base.
#pragma once

#include <string>

namespace penstock {

/// The demangled form, or the input when it is no mangled name. Throws std::bad_alloc.
std::string demangle(const char* mangled);

}  // namespace penstock
