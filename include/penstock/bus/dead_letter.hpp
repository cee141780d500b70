// What becomes of an event that failed for good.
// Floor 5, room bus.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/bus/event.hpp>

#include <cstdint>
#include <string>
#include <utility>

namespace penstock {

namespace detail {

/// The part of a dead letter that does not depend on the event's type.
struct dead_letter_text {
  std::string topic;         ///< the topic it was published on
  std::string subscription;  ///< whose call failed
  std::string reason;        ///< "failed", "closed", "shutdown", or what `delivery::fail` was told
  std::string text;          ///< what was thrown: type and text
  std::uint64_t sequence = 0;
  unsigned attempts = 1;
};

}  // namespace detail

/// An event that failed for good, published on the topic of `dead_letter<E>`; subscribe to it as to any other. A dead letter
/// that fails makes no dead letter. Made only when somebody subscribes to it.
template <event E>
class dead_letter {
 public:
  using event_type = E;
  dead_letter(event_ptr<E> failed, detail::dead_letter_text&& text) noexcept
      : event_(std::move(failed)), text_(std::move(text)) {}
  const E& event() const noexcept { return *event_; }
  const event_ptr<E>& share() const noexcept { return event_; }
  const std::string& topic() const noexcept { return text_.topic; }
  const std::string& subscription() const noexcept { return text_.subscription; }
  const std::string& reason() const noexcept { return text_.reason; }
  const std::string& text() const noexcept { return text_.text; }
  std::uint64_t sequence() const noexcept { return text_.sequence; }
  unsigned attempts() const noexcept { return text_.attempts; }

 private:
  event_ptr<E> event_;
  detail::dead_letter_text text_;
};

namespace detail {


/// Makes a dead letter around an event: takes over one reference to the event's block and gives the letter's block, or null
/// when there is no memory. Comes with each subscription to dead letters, so that other events need nothing for them.
using burial = void* (*)(void* event_block, dead_letter_text&& text) noexcept;

template <event E>
burial burial_of() noexcept {
  if constexpr (!is_dead_letter<E>) {
    return nullptr;
  } else {
    return [](void* event_block, dead_letter_text&& text) noexcept -> void* {
      auto failed = event_ptr<typename E::event_type>::adopt(event_block);
      void* memory = allocate_block(describe_event<E>().payload);
      if (memory != nullptr) ::new (memory) E(std::move(failed), std::move(text));
      return memory;
    };
  }
}

}  // namespace detail
}  // namespace penstock
