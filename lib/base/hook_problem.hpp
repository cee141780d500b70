// What is told when a hook of the user's throws: the last resort of bus and tasks.
// Floor 0, room base.
#pragma once

#include <penstock/base/failure.hpp>
#include <penstock/base/unique_function.hpp>

#include <cstdint>
#include <string_view>

namespace penstock::detail {

/// Views for the time of one call, so that saying it takes no memory on this side.
struct hook_problem {
  const char* hook = "";
  std::string_view subscription{};  ///< empty, like what follows: it was about none
  std::string_view task{};
  std::string_view pool{};
  std::string_view event{};
  std::uint64_t sequence = 0;
  const exception_record& thrown;
};

inline void tell_hook_threw(unique_function<void(const hook_problem&)>& hook, const hook_problem& problem) noexcept {
  try {
    if (hook) hook(problem);
  } catch (...) {  // it has nobody left to tell
  }
}

}  // namespace penstock::detail
