// The version as a text.
// Floor 0, room base.
#include <penstock/base/version.hpp>

#define PENSTOCK_TEXT_OF(x) #x
#define PENSTOCK_TEXT(x) PENSTOCK_TEXT_OF(x)

namespace penstock {

const char* version() noexcept {
  return PENSTOCK_TEXT(PENSTOCK_VERSION_MAJOR) "." PENSTOCK_TEXT(PENSTOCK_VERSION_MINOR) "." PENSTOCK_TEXT(
      PENSTOCK_VERSION_PATCH);
}

}  // namespace penstock
