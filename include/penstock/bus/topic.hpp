// A topic by its name, and what it keeps about its events.
// Floor 5, room bus.
#pragma once

#include <penstock/base/call_site.hpp>
#include <penstock/base/export.hpp>
#include <penstock/bus/event.hpp>
#include <penstock/bus/handler.hpp>
#include <penstock/bus/publisher.hpp>
#include <penstock/bus/stream.hpp>
#include <penstock/bus/subscribe_options.hpp>
#include <penstock/bus/subscription.hpp>

#include <string>
#include <string_view>
#include <utility>

namespace penstock {

/// What a topic keeps with each event, for `call::published` and `call::dropped_before`.
enum class metadata : unsigned char {
  off,      ///< nothing: no byte and no time is spent
  coarse,   ///< the time of the system's coarse clock: one tick old at most, 4 ms on Debian, unless the machine is held up
  precise,  ///< the time, for a clock read per publish
};

/// Which topic of an event type, and how it is to be.
class PENSTOCK_API topic_options {
 public:
  topic_options();
  topic_options(topic_options&&) noexcept;
  topic_options& operator=(topic_options&&) noexcept;
  ~topic_options();
  /// Another topic than the type's own: 1 to 64 letters, digits, `_`, `.`, `-`.
  topic_options& name(std::string_view text) & { return name_ = text, name_set_ = true, *this; }
  topic_options&& name(std::string_view text) && { return std::move(name(text)); }
  /// Default: what the topic has, `off` when it is new.
  topic_options& metadata(penstock::metadata kept) & { return metadata_ = kept, metadata_set_ = true, *this; }
  topic_options&& metadata(penstock::metadata kept) && { return std::move(metadata(kept)); }

 private:
  friend class topic_options_access;
  std::string name_;
  bool name_set_ = false;
  penstock::metadata metadata_ = penstock::metadata::off;
  bool metadata_set_ = false;
};

namespace detail {

/// The compiled half of subscribing to one topic. The handler and the options are taken over.
PENSTOCK_API subscription subscribe_to(const topic_handle& topic, std::string_view name, subscribe_options&& options,
                                       handler_object handler, call_site where);
PENSTOCK_API stream_handle stream_from(const topic_handle& topic, std::string_view name, stream_options&& options,
                                       burial dead_letters, call_site where);

}  // namespace detail

/// One topic of event type E, as `event_bus::topic` gives it. Keeps the topic while it lives. Copyable; thread-safe.
template <event E>
class topic {
 public:
  explicit topic(detail::topic_handle handle) noexcept : handle_(std::move(handle)) {}

  penstock::publisher<E> publisher() const { return penstock::publisher<E>(handle_); }
  /// As `event_bus::subscribe`.
  template <class F>
  [[nodiscard]] penstock::subscription subscribe(std::string_view name, subscribe_options options, F&& handler,
                                                 call_site where = call_site::here()) const {
    return detail::subscribe_to(handle_, name, std::move(options), detail::erase_handler<E>(std::forward<F>(handler)), where);
  }
  template <class F>
  [[nodiscard]] penstock::subscription subscribe(std::string_view name, F&& handler,
                                                 call_site where = call_site::here()) const {
    return subscribe(name, subscribe_options(), std::forward<F>(handler), where);
  }
  /// As `event_bus::stream`.
  [[nodiscard]] penstock::stream<E> stream(std::string_view name, stream_options options = stream_options(),
                                           call_site where = call_site::here()) const {
    return penstock::stream<E>(
        detail::stream_from(handle_, name, std::move(options), detail::burial_of<E>(), where));
  }
  std::string name() const { return handle_.name(); }

 private:
  detail::topic_handle handle_;
};

}  // namespace penstock
