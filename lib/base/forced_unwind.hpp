// What pthread_cancel and pthread_exit throw through a handler, and how to let it pass.
// Floor 0, room base.
#pragma once

#include <cxxabi.h>

namespace penstock {

/// Caught and thrown again, never swallowed: the C library ends the process otherwise.
using forced_unwind = abi::__forced_unwind;

}  // namespace penstock

/// For functions that catch it. The run-time library hands its handler a reference to nothing, on purpose, and the
/// undefined-behaviour sanitizer objects to that.
#define PENSTOCK_CATCHES_FORCED_UNWIND __attribute__((no_sanitize("null")))
