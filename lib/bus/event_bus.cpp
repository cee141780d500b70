// The handles of a bus and its topics.
// Floor 5, room bus.
#include <penstock/bus/event_bus.hpp>

#include "bus/bus_core.hpp"

#include <system_error>
#include <utility>

namespace penstock {

topic_options::topic_options() = default;
topic_options::topic_options(topic_options&&) noexcept = default;
topic_options& topic_options::operator=(topic_options&&) noexcept = default;
topic_options::~topic_options() = default;

namespace detail {

topic_handle::topic_handle(const topic_handle& other) noexcept : topic_(other.topic_), refused_(other.refused_) {
  if (topic_ == nullptr) return;
  if (!topic_->bus().forked()) topic_->bus().keep_topic(*topic_);
  topic_->retain();
}

topic_handle::~topic_handle() {
  if (topic_ == nullptr) return;
  if (!topic_->bus().forked()) topic_->bus().drop_topic(*topic_);
  topic_->release();
}

publish_result topic_handle::publish(const publish_request& request) const {
  if (topic_ == nullptr) return publish_result(refused_);
  return topic_->publish(request);
}

bool topic_handle::matched() const noexcept { return topic_ != nullptr && topic_->matched(); }

publish_result topic_handle::publish_unmatched(std::size_t count) const noexcept {
  if (topic_ == nullptr) return publish_result(refused_);
  return topic_->publish_unmatched(count);
}

steady_time topic_handle::deadline_after(std::chrono::nanoseconds wait) const noexcept {
  return topic_ != nullptr ? penstock::deadline_after(topic_->bus().time().now(), wait) : steady_time{};
}

scheduler_ptr topic_handle::pool() const noexcept {
  return topic_ != nullptr ? topic_->bus().default_pool() : nullptr;
}

std::string topic_handle::name() const { return topic_ != nullptr ? topic_->identity.shown() : std::string(); }

namespace {

/// The topic of a handle, with a count of its own.
ref_ptr<topic> another_count(const topic_handle& handle) {
  topic* of = handle.get();
  if (of == nullptr) throw std::system_error(make_error_code(errc::closed), "subscribe: the topic's handle is empty");
  of->bus().keep_topic(*of);
  return ref_ptr<topic>::share(of);
}

}  // namespace

subscription subscribe_to(const topic_handle& topic, std::string_view name, subscribe_options&& options,
                          handler_object handler, call_site where) {
  if (topic.get() == nullptr && handler.target != nullptr) handler.destroy(handler.target);
  ref_ptr<detail::topic> joined = another_count(topic);
  bus_core& bus = joined->bus();
  return bus.subscribe(std::move(joined), name, std::move(options), handler, where);
}

stream_handle stream_from(const topic_handle& topic, std::string_view name, stream_options&& options, burial dead_letters,
                          call_site where) {
  ref_ptr<detail::topic> joined = another_count(topic);
  bus_core& bus = joined->bus();
  return bus.add_stream(std::move(joined), name, std::move(options), dead_letters, where);
}

}  // namespace detail

event_bus::event_bus(const event_bus& other) noexcept : core_(other.core_) { core_->retain(); }

event_bus& event_bus::operator=(const event_bus& other) noexcept {
  other.core_->retain();
  std::exchange(core_, other.core_)->release();
  return *this;
}

event_bus::~event_bus() { core_->release(); }

detail::topic_handle event_bus::open_topic(const detail::event_type& type, const topic_options* options) const {
  if (const errc refused = core_->admission(); refused != errc::none)
    throw std::system_error(make_error_code(refused), "topic of " + detail::event_display_name(type));
  return detail::topic_handle(core_->open_topic(type, options).release());
}

detail::topic_handle event_bus::find_topic(const detail::event_type& type) const {
  if (const errc refused = core_->admission(); refused != errc::none) return detail::topic_handle(refused);
  return detail::topic_handle(core_->open_topic(type).release());
}

subscription event_bus::add(const detail::event_type& type, std::string_view name, subscribe_options options,
                            detail::handler_object handler, call_site where) const {
  return core_->subscribe(type, name, std::move(options), handler, where);
}

subscribe_result event_bus::try_add(const detail::event_type& type, std::string_view name, subscribe_options options,
                                    detail::handler_object handler, call_site where) const {
  subscribe_result result;
  try {
    result.subscription = core_->subscribe(type, name, std::move(options), handler, where);
  } catch (const std::system_error& refused) {
    result.error = refused.code().category() == error_category() ? static_cast<errc>(refused.code().value())
                                                                  : errc::invalid_argument;
    result.text = refused.what();
  } catch (const std::bad_alloc&) {
    result.error = errc::not_enough_memory;
  }
  return result;
}

bool event_bus::wait_idle_until(steady_time deadline) const { return core_->wait_idle(deadline); }

std::vector<subscription_info> event_bus::subscriptions() const {
  std::vector<subscription_info> all;
  if (core_->forked()) return all;
  for (const auto& each : core_->subscriptions())
    all.push_back({each->name, each->event(), each->ledger(), each->channel.capacity()});
  return all;
}

scheduler_ptr event_bus::default_pool() const noexcept { return core_->default_pool(); }

bus_snapshot event_bus::snapshot() const { return core_->forked() ? bus_snapshot{} : core_->snapshot(); }

steady_time event_bus::deadline_in(std::chrono::nanoseconds wait) const noexcept {
  return deadline_after(core_->time().now(), wait);
}

}  // namespace penstock
