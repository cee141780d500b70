// Making and publishing the dead letter of an event that failed for good.
// Floor 5, room bus.
#pragma once

#include <penstock/base/failure.hpp>
#include <penstock/bus/dead_letter.hpp>
#include <penstock/bus/topic_handle.hpp>

#include <cstdint>
#include <string_view>

namespace penstock::detail {

class subscription_core;

struct letter_of_failure {
  std::string_view reason;
  const failure* record = nullptr;  ///< of the last attempt; null: nothing was thrown, or no memory
  std::uint64_t sequence = 0;
  unsigned attempts = 1;
  wait_mode wait = wait_mode::may_wait;
};

/// Publishes the event `payload` of `failed` as a dead letter, if anybody subscribes to those. Keeps a count of the event; the
/// caller's own stays. A dead letter that fails makes none.
void bury(subscription_core& failed, const void* payload, const letter_of_failure& letter) noexcept;

}  // namespace penstock::detail
