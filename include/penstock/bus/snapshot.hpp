// A bus as seen from outside at one moment, as a value and as JSON.
// Floor 5, room bus.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/bus/ledger.hpp>
#include <penstock/bus/subscribe_options.hpp>
#include <penstock/bus/subscription.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace penstock {

/// One call that has begun and not ended.
struct running_call {
  std::uint64_t sequence = 0;
  unsigned attempt = 1;
  /// How long, at least: since the call was first seen running by a snapshot, or since its coroutine first waited.
  std::chrono::nanoseconds at_least{};
  bool suspended = false;   ///< a coroutine that waits
  bool retry_wait = false;  ///< between two attempts
};

/// One subscription or stream.
struct subscription_snapshot {
  std::string name;
  std::string topic;
  std::string event;
  std::string pool;  ///< empty for a stream
  std::string file;
  unsigned line = 0;
  subscription_state state = subscription_state::open;
  penstock::overflow overflow = penstock::overflow::block;
  std::size_t capacity = 0;
  unsigned concurrency = 1;  ///< 0: a stream
  bool ordered = true;       ///< one call at a time, in order
  penstock::ledger ledger;
  std::vector<running_call> running;
  std::size_t readers = 0;  ///< of a stream: how many wait
  /// How long the oldest event has been in line, at least: since the first snapshot that saw it there. Zero: none waits, or
  /// none did when a snapshot last looked.
  std::chrono::nanoseconds oldest_at_least{};
};

/// `from` cannot go on before `to` has a seat free: a handler's parked outputs, and who waits for a subscription's end.
struct wait_edge {
  enum class why : unsigned char { output, close };
  std::string from;
  std::string to;
  why reason = why::output;
  std::uint64_t events = 0;
};

/// One topic that somebody holds.
struct topic_snapshot {
  std::string name;
  std::string event;
  std::size_t subscriptions = 0;
  std::size_t handles = 0;
};

struct bus_snapshot {
  std::vector<topic_snapshot> topics;
  std::vector<subscription_snapshot> subscriptions;
  std::vector<wait_edge> waits;
};

/// How JSON is laid out.
enum class json_form : unsigned char {
  indented,  ///< for people: by two spaces, on many lines
  line,      ///< for programs that follow: on one line, without its end
};

/// {"topics": […], "subscriptions": […], "waits": [{"from", "to", "why": "output" | "close", "events"}]}, the members of the values
/// above by their names, always all and in their order; a time's name ends in "_ms", milliseconds with fractions.
/// Names that are no UTF-8 are shown with replacement characters. Throws std::bad_alloc; but the JSON library behind it cannot
/// clean up without memory, and may end the process then: where memory may run out, look at the value instead.
PENSTOCK_API std::string to_json(const bus_snapshot& seen, json_form form = json_form::indented);
PENSTOCK_API const char* to_string(overflow policy) noexcept;

}  // namespace penstock
