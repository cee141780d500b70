// The export macro: what the shared object shows. Everything else is hidden.
// Floor 0, room base.
#pragma once

#if defined(PENSTOCK_STATIC)
#define PENSTOCK_API
#else
#define PENSTOCK_API [[gnu::visibility("default")]]
#endif
