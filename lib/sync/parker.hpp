// The parking seam: the one way in which the library waits.
// Floor 1, room sync.
#pragma once

#include "sync/atomic.hpp"

#include <penstock/base/clock.hpp>

#include <chrono>
#include <cstdint>

namespace penstock::sync {

/// Waits while `word` is `expected`, until somebody unparks its address or the deadline passes. May return early.
/// False: the deadline has passed. A simulated thread is suspended by its agent, any other by a futex.
bool park(const atomic<std::uint32_t>& word, std::uint32_t expected, steady_time deadline);

/// Waits for that long, or less. For what cannot be told when it is over.
void nap(std::chrono::nanoseconds duration);

/// Wakes whoever waits at this address. Never dereferences it: the object may be gone already.
void unpark_one(const void* address) noexcept;
void unpark_all(const void* address) noexcept;

}  // namespace penstock::sync
