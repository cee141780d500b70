// The version of penstock, for the preprocessor and at run time.
// Floor 0, room base.
#pragma once

#include <penstock/base/export.hpp>

#define PENSTOCK_VERSION_MAJOR 0
#define PENSTOCK_VERSION_MINOR 1
#define PENSTOCK_VERSION_PATCH 0

namespace penstock {

/// The version of the library that is loaded, as "0.1.0".
PENSTOCK_API const char* version() noexcept;

}  // namespace penstock
