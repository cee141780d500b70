// The bus: its table of topics, its list of subscriptions, its handles.
// Floor 5, room bus.
#include <penstock/bus/event_bus.hpp>

#include "bus/bus_core.hpp"
#include "exec/context.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <system_error>
#include <utility>

namespace penstock::detail {
namespace {

[[noreturn]] void refuse(errc code, const std::string& text) { throw std::system_error(make_error_code(code), text); }

/// A name that several files may use for different types: the type's address has to tell them apart.
bool is_private(const std::string& name) {
  return name.find("(anonymous namespace)") != std::string::npos || name.find("{lambda") != std::string::npos;
}

topic_identity identify(const event_type& type) {
  topic_identity made;
  made.name = event_display_name(type);
  made.key = type.given_name.empty() ? type.type->name() : std::string(type.given_name);
  if (type.given_name.empty() && is_private(made.name)) made.private_type = type.type;
  made.size = type.payload.size;
  made.align = type.payload.align;
  made.in_place = type.payload.in_place;
  made.schema = type.schema;
  return made;
}

std::string describe_layout(std::size_t size, std::size_t align, std::uint32_t schema) {
  return std::to_string(size) + " bytes, alignment " + std::to_string(align) + ", schema " + std::to_string(schema);
}

}  // namespace

bus_core::bus_core(std::shared_ptr<execution_environment> made, scheduler_ptr default_pool, bus_hooks hooks)
    : environment(std::move(made)), default_pool_(std::move(default_pool)), hooks_(std::move(hooks)) {}

bus_core::~bus_core() = default;

errc bus_core::admission() const noexcept {
  if (fork_.forked()) return errc::forked;
  switch (phase_.load()) {
    case phase::open: return errc::none;
    case phase::handlers_only: {
      const exec::context* current = exec::current_context();
      return current != nullptr && current->kind == exec::context_kind::lane ? errc::none : errc::closed;
    }
    case phase::closed: break;
  }
  return errc::closed;
}

ref_ptr<topic> bus_core::open_topic(const event_type& type) {
  if (forked()) refuse(errc::forked, "event bus");
  topic_identity wanted = identify(type);
  lock_guard lock(m_);
  const auto [first, last] = topics_.equal_range(wanted.key);
  for (auto each = first; each != last; ++each) {
    const topic_identity& known = each->second->identity;
    if (known.private_type != wanted.private_type) continue;
    if (known.size != wanted.size || known.align != wanted.align || known.in_place != wanted.in_place ||
        known.schema != wanted.schema)
      refuse(errc::event_type_mismatch,
             "event \"" + wanted.name + "\": known with " + describe_layout(known.size, known.align, known.schema) +
                 ", asked for with " + describe_layout(wanted.size, wanted.align, wanted.schema) +
                 "; give one of them another event_name or rebuild both from the same header");
    ++each->second->handles;
    return ref_ptr<topic>::share(each->second);
  }
  std::string key = wanted.key;
  auto made = ref_ptr<topic>::adopt(new topic(ref_ptr<bus_core>::share(this), std::move(wanted)));
  topics_.emplace(std::move(key), made.get());
  made->handles = 1;
  return made;
}

void bus_core::keep_topic(topic& kept) noexcept {
  lock_guard lock(m_);
  ++kept.handles;
}

void bus_core::drop_topic(topic& dropped) noexcept {
  lock_guard lock(m_);
  if (--dropped.handles > 0) return;
  const auto [first, last] = topics_.equal_range(dropped.identity.key);
  for (auto each = first; each != last; ++each) {
    if (each->second != &dropped) continue;
    topics_.erase(each);
    return;
  }
}

subscription bus_core::subscribe(const event_type& type, std::string_view name, subscribe_options&& options,
                                 handler_object handler, call_site where) {
  struct handler_guard {
    handler_object& object;
    ~handler_guard() {
      if (object.target != nullptr) object.destroy(object.target);
    }
  } handler_owner{handler};

  const std::string shown = "subscription \"" + std::string(name) + "\"";
  if (forked()) refuse(errc::forked, shown);
  if (phase_.load() != phase::open) refuse(errc::closed, shown + ": the bus is shutting down");
  if (name.empty()) refuse(errc::invalid_argument, "subscribe: the name is empty; give one, it appears in every report");
  if (handler.target == nullptr) refuse(errc::invalid_argument, shown + ": the handler is empty");
  const std::size_t asked = subscribe_options_access::capacity(options);
  const overflow policy = subscribe_options_access::policy(options);
  if (asked == 0) refuse(errc::invalid_argument, shown + ": capacity(0) holds no event; give at least 1");
  if (asked > (std::size_t{1} << 40))
    refuse(errc::invalid_argument, shown + ": capacity(" + std::to_string(asked) + ") is beyond 2^40");
  if (policy == overflow::latest && subscribe_options_access::capacity_set(options) && asked != 1)
    refuse(errc::invalid_argument,
           shown + ": overflow::latest has capacity 1, not " + std::to_string(asked) + "; use drop_oldest for more");
  const unsigned concurrency = subscribe_options_access::concurrency(options);
  if (concurrency == 0) refuse(errc::invalid_argument, shown + ": concurrency(0) runs no call; give at least 1");
  if (concurrency > 65536)
    refuse(errc::invalid_argument, shown + ": concurrency(" + std::to_string(concurrency) + ") is beyond 65536");
  const std::size_t max_parked = subscribe_options_access::max_parked(options);
  if (max_parked > 1'000'000)
    refuse(errc::invalid_argument, shown + ": max_parked(" + std::to_string(max_parked) + ") is beyond 1000000");
  drop_hook& hook = subscribe_options_access::hook(options);
  if (hook.invoke != nullptr && *hook.event != *type.type)
    refuse(errc::event_type_mismatch, shown + ": on_drop is for another event than " + event_display_name(type));
  scheduler_ptr pool = subscribe_options_access::pool(options);
  if (!pool) pool = default_pool_;
  if (const auto* threads = dynamic_cast<const worker_pool*>(pool.get()); threads != nullptr && threads->may_wait())
    refuse(errc::invalid_argument,
           shown + ": pool \"" + pool->name() + "\" may wait and so serves no subscription; choose another");

  sync::channel::config config;
  config.capacity = policy == overflow::latest ? 1 : asked;
  config.shared = concurrency > 1;
  config.blocks = !type.payload.in_place;
  config.payload_bytes = type.payload.in_place ? type.payload.size : sizeof(void*);
  switch (policy) {
    case overflow::block: config.policy = sync::full_policy::block; break;
    case overflow::fail: config.policy = sync::full_policy::fail; break;
    case overflow::drop_newest: config.policy = sync::full_policy::drop_newest; break;
    case overflow::drop_oldest:
    case overflow::latest: config.policy = sync::full_policy::drop_oldest; break;
  }

  subscription_core::recipe recipe;
  recipe.bus = ref_ptr<bus_core>::share(this);
  recipe.topic = open_topic(type);
  topic& joined = *recipe.topic;
  struct topic_guard {
    bus_core& bus;
    topic* held;
    ~topic_guard() {
      if (held != nullptr) bus.drop_topic(*held);
    }
  } topic_owner{*this, &joined};
  recipe.name = name;
  recipe.line = where.line;
  recipe.pool = std::move(pool);
  {
    lock_guard lock(m_);
    recipe.id = next_id_++;
    recipe.file = files_.emplace(where.file).first->c_str();
    subscriptions_.reserve(subscriptions_.size() + 1);
  }
  auto core = ref_ptr<subscription_core>::adopt(
      new subscription_core(std::move(recipe), config, concurrency, max_parked, handler, hook));
  topic_owner.held = nullptr;  // from here on `forget` drops it
  {
    lock_guard lock(m_);
    subscriptions_.push_back(ref_ptr<subscription_core>(core).release());
  }
  try {
    joined.add(*core);
  } catch (...) {
    core->stop();
    core->try_reap();
    throw;
  }
  if (phase_.load() != phase::open) {  // shutdown began meanwhile and may have missed it
    core->stop();
    core->try_reap();
    refuse(errc::closed, shown + ": the bus is shutting down");
  }
  return subscription_access::adopt(core.release());
}

void bus_core::forget(subscription_core& ended) noexcept {
  bool found = false;
  {
    lock_guard lock(m_);
    const auto place = std::find(subscriptions_.begin(), subscriptions_.end(), &ended);
    found = place != subscriptions_.end();
    if (found) subscriptions_.erase(place);
  }
  drop_topic(ended.topic());
  if (found) ended.release();  // the caller has a reference of its own
}

std::vector<ref_ptr<subscription_core>> bus_core::subscriptions() {
  std::vector<ref_ptr<subscription_core>> all;
  lock_guard lock(m_);
  all.reserve(subscriptions_.size());
  for (subscription_core* each : subscriptions_) all.push_back(ref_ptr<subscription_core>::share(each));
  return all;
}

bool bus_core::wait_idle(steady_time deadline) {
  if (forked()) return false;
  const bool may_wait = exec::current_context() == nullptr;
  std::uint64_t before = 0;
  for (bool again = false;; again = true) {
    // Two rounds in which everybody was at rest and nobody had been offered anything in between: then there was an
    // instant at which all were at rest.
    std::uint64_t offered = 0;
    bool waited = false;
    for (const auto& each : subscriptions()) {
      if (!each->ledger().quiescent()) {
        waited = true;
        if (!may_wait || !each->wait_quiescent(deadline)) return false;
      }
      offered += each->ledger().offered;
    }
    if (again && !waited && offered == before) return true;
    before = offered;
    if (time().now() >= deadline && waited) return false;
  }
}

void bus_core::report(const failure& record) noexcept {
  try {
    if (hooks_.on_failure) hooks_.on_failure(record);
  } catch (...) {
    const exception_record thrown = describe_current_exception();
    try {
      if (hooks_.log)
        hooks_.log("the failure hook threw " + thrown.type_name + ": " + thrown.what + " while told of: " + to_string(record));
    } catch (...) {  // no memory to say so
    }
  }
}

void bus_core::report_unmatched(const std::string& event) noexcept {
  exec::context* current = exec::current_context();
  if (!hooks_.on_unmatched || (current != nullptr && current->kind == exec::context_kind::hook)) return;
  exec::context hook{exec::context_kind::hook};
  exec::context_scope scope(&hook);
  try {
    hooks_.on_unmatched(event);
  } catch (...) {
    try {
      if (hooks_.log) hooks_.log("the hook for unmatched events threw on " + event);
    } catch (...) {
    }
  }
}

void bus_core::close_intake() noexcept {
  phase expected = phase::open;
  phase_.compare_exchange_strong(expected, phase::handlers_only);
  try {
    for (const auto& each : subscriptions()) each->release_callers();
  } catch (...) {  // no memory for the list: who waits is released when the subscriptions stop
  }
}

void bus_core::close() noexcept { phase_.store(phase::closed); }

// --- handles -----------------------------------------------------------------------------------------------------------

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

std::string topic_handle::name() const { return topic_ != nullptr ? topic_->identity.name : std::string(); }

}  // namespace penstock::detail

namespace penstock {

event_bus::event_bus(const event_bus& other) noexcept : core_(other.core_) { core_->retain(); }

event_bus& event_bus::operator=(const event_bus& other) noexcept {
  other.core_->retain();
  std::exchange(core_, other.core_)->release();
  return *this;
}

event_bus::~event_bus() { core_->release(); }

detail::topic_handle event_bus::open_topic(const detail::event_type& type) const {
  if (const errc refused = core_->admission(); refused != errc::none)
    throw std::system_error(make_error_code(refused), "publisher of " + detail::event_display_name(type));
  return detail::topic_handle(core_->open_topic(type).release());
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

steady_time event_bus::deadline_in(std::chrono::nanoseconds wait) const noexcept {
  return deadline_after(core_->time().now(), wait);
}

}  // namespace penstock
