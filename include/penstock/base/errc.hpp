// The error codes of penstock, as a std::error_code category.
// Floor 0, room base.
#pragma once

#include <penstock/base/export.hpp>

#include <system_error>

namespace penstock {

/// Why an operation was refused or gave up. Convertible to `std::error_code`.
enum class errc {
  none = 0,             ///< nothing went wrong
  full,                 ///< a channel had no seat and its policy refuses
  timed_out,            ///< the deadline passed first
  cancelled,            ///< the caller's stop token asked to give up
  closed,               ///< the subscription, bus, pool or runtime no longer takes this
  would_block,          ///< it would have to wait, where waiting is not allowed
  backpressure_cycle,   ///< it would wait for a channel that only empties when the caller goes on
  not_enough_memory,    ///< an allocation failed; nothing was changed unless the operation says otherwise
  event_type_mismatch,  ///< the name is taken by an event type of another layout
  invalid_argument,     ///< an option or name is out of its range; the text says which
  would_deadlock,       ///< the caller would wait for itself
  forked,               ///< used in a child process after fork; threads did not come along
  not_found,            ///< there is nothing of that name
  already_exists,       ///< the name is taken
};

/// The category behind `errc`; its name is "penstock".
PENSTOCK_API const std::error_category& error_category() noexcept;

inline std::error_code make_error_code(errc code) noexcept {
  return {static_cast<int>(code), error_category()};
}

/// A one-word text for a code, as it appears in reports: "full", "closed", …
PENSTOCK_API const char* to_string(errc code) noexcept;

}  // namespace penstock

template <>
struct std::is_error_code_enum<penstock::errc> : std::true_type {};
