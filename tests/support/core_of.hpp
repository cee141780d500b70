// What a handle to a subscription hides, for tests that are linked as insiders.
// Floor 9, room tests.
#pragma once

#include "bus/subscription_core.hpp"
#include "bus/topic.hpp"

#include <penstock/bus/subscription.hpp>

#include <cstdint>
#include <cstring>

namespace penstock_test {

inline penstock::detail::subscription_core& core_of(const penstock::subscription& handle) {
  static_assert(sizeof handle == sizeof(penstock::detail::subscription_core*));
  penstock::detail::subscription_core* core = nullptr;
  std::memcpy(&core, static_cast<const void*>(&handle), sizeof core);
  return *core;
}

/// How many events were ever written into the log of its topic.
inline std::uint64_t logged(const penstock::subscription& handle) { return core_of(handle).topic().log().position(); }

}  // namespace penstock_test
