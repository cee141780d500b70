// What an await throws in a task that has been asked to stop, and why it was asked.
// Floor 2, room exec.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/export.hpp>

#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace penstock {

/// What kind of request a cancellation was.
enum class cancel_kind : unsigned char {
  requested,  ///< somebody asked by name: `close(cancel)`, `request_cancel`
  timed_out,  ///< a deadline passed
  shutdown,   ///< the runtime ends
  closed,     ///< what the task stood on has gone
};
PENSTOCK_API const char* to_string(cancel_kind kind) noexcept;

/// Why something was cancelled. Host-owned text only.
struct cause {
  cause(cancel_kind made, std::string by, std::string why, steady_time at)
      : kind(made), who(std::move(by)), reason(std::move(why)), instant(at) {}
  cancel_kind kind;
  std::string who;     ///< who asked: the name of a subscription, a runtime, a caller
  std::string reason;  ///< in words; may be empty
  steady_time instant;
};

namespace detail {

/// Without memory for its text there is a cause all the same, with none.
PENSTOCK_API std::shared_ptr<const cause> make_cause(cancel_kind kind, std::string_view who, std::string_view reason,
                                                     steady_time at) noexcept;

}  // namespace detail

/// Thrown by each await of a task while a request to stop it is in force. Not a `std::exception`: a
/// `catch (const std::exception&)` does not swallow it. `catch (...)` does, and then the next await throws it again.
class PENSTOCK_API cancelled {
 public:
  explicit cancelled(std::shared_ptr<const cause> why) noexcept;
  cancelled(const cancelled&) noexcept;
  cancelled& operator=(const cancelled&) noexcept;
  ~cancelled();
  /// Valid as long as this object.
  const cause& why() const noexcept;

 private:
  std::shared_ptr<const cause> why_;
};

}  // namespace penstock
