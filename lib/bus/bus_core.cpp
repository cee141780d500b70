// The bus: its table of topics, its list of subscriptions, its hooks and its end.
// Floor 5, room bus.
#include "bus/bus_core.hpp"

#include "bus/publish_lines.hpp"
#include "exec/context.hpp"

#include <algorithm>
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

/// No type's name begins like these.
constexpr char letters_of[] = "\r";
constexpr char own_name[] = "\n";

topic_identity identify(const event_type& type) {
  topic_identity made;
  made.name = event_display_name(type);
  made.type = type.given_name.empty() ? type.type->name() : std::string(type.given_name);
  made.key = made.type;
  made.mangled = type.type->name();
  if (type.letter_of != nullptr) {
    // Found by the event it is of, whose failures know nothing of this type.
    const std::string of = type.letter_of_name.empty() ? type.letter_of->name() : std::string(type.letter_of_name);
    made.key = letters_of + of;
    if (type.letter_of_name.empty() && is_private(made.name)) made.private_type = type.letter_of;
  } else if (type.given_name.empty() && is_private(made.name)) {
    made.private_type = type.type;
  }
  made.size = type.payload.size;
  made.align = type.payload.align;
  made.in_place = type.payload.in_place;
  made.schema = type.schema;
  return made;
}

void check_topic_name(const std::string& name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
  };
  if (!name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), allowed)) return;
  refuse(errc::invalid_argument,
         "topic \"" + escape_control_bytes(name) + "\": a name has 1 to 64 of the characters A-Z a-z 0-9 _ . -");
}

std::string describe_layout(const topic_identity& of) {
  return of.name + " (" + std::to_string(of.size) + " bytes, alignment " + std::to_string(of.align) + ", schema " +
         std::to_string(of.schema) + ")";
}

bool same_type(const topic_identity& a, const topic_identity& b) noexcept {
  return a.private_type == b.private_type && a.type == b.type && a.size == b.size && a.align == b.align &&
         a.in_place == b.in_place && a.schema == b.schema;
}

const char* name_of(metadata kept) noexcept {
  switch (kept) {
    case metadata::off: return "off";
    case metadata::coarse: return "coarse";
    case metadata::precise: return "precise";
  }
  return "unknown";
}

}  // namespace

bus_core::bus_core(std::shared_ptr<execution_environment> made, scheduler_ptr default_pool, bus_hooks hooks)
    : environment(std::move(made)), default_pool_(std::move(default_pool)), hooks_(std::move(hooks)) {}

bus_core::~bus_core() = default;

errc bus_core::admission_of_phase(cargo what) const noexcept {
  if (fork_.forked()) return errc::forked;
  switch (phase_.load()) {
    case phase::open: return errc::none;
    case phase::handlers_only: {
      const exec::context* current = exec::current_context();
      const bool caused = current != nullptr && (current->kind == exec::context_kind::lane || current->under_delivery);
      return caused ? errc::none : errc::closed;
    }
    case phase::letters_only: return what == cargo::dead_letters ? errc::none : errc::closed;
    case phase::closed: break;
  }
  return errc::closed;
}

// --- topics ------------------------------------------------------------------------------------------------------------

ref_ptr<topic> bus_core::open_topic(const event_type& type, const topic_options* options) {
  if (forked()) refuse(errc::forked, "event bus");
  topic_identity wanted = identify(type);
  if (options != nullptr && topic_options_access::name_set(*options)) {
    wanted.topic = topic_options_access::name(*options);
    check_topic_name(wanted.topic);
    wanted.key = own_name + wanted.topic;
  }
  const auto settle_metadata = [&](topic& of) {
    if (options == nullptr || !topic_options_access::metadata_set(*options)) return;
    const metadata asked = topic_options_access::kept(*options);
    if (of.kept_is_settled && of.kept() != asked)
      refuse(errc::invalid_argument, "topic \"" + of.identity.shown() + "\": it keeps metadata " + name_of(of.kept()) +
                                         ", asked for " + name_of(asked) + "; ask before the first subscription");
    if (of.kept_is_settled) return;  // its log may be in use
    of.keep(asked);
    of.kept_is_settled = true;
  };
  lock_guard lock(m_);
  const auto [first, last] = topics_.equal_range(wanted.key);
  for (auto each = first; each != last; ++each) {
    const topic_identity& known = each->second->identity;
    if (wanted.topic.empty() && known.private_type != wanted.private_type) continue;
    if (!same_type(known, wanted))
      refuse(errc::event_type_mismatch,
             (wanted.topic.empty() ? "event \"" + wanted.name : "topic \"" + wanted.topic) + "\": known with " +
                 describe_layout(known) + ", asked for with " + describe_layout(wanted) + "; " +
                 (wanted.topic.empty() ? "give one of them another event_name or rebuild both from the same header"
                                       : "give one of them another topic"));
    settle_metadata(*each->second);
    ++each->second->handles;
    return ref_ptr<topic>::share(each->second);
  }
  std::string key = wanted.key;
  auto made = ref_ptr<topic>::adopt(new topic(ref_ptr<bus_core>::share(this), std::move(wanted)));
  settle_metadata(*made);
  topics_.emplace(std::move(key), made.get());
  made->handles = 1;
  return made;
}

ref_ptr<topic> bus_core::dead_letters_of(const topic_identity& event) {
  if (forked()) return {};
  const std::string key = letters_of + event.type;
  lock_guard lock(m_);
  const auto [first, last] = topics_.equal_range(key);
  for (auto each = first; each != last; ++each)
    if (each->second->identity.private_type == event.private_type) return ref_ptr<topic>::share(each->second);
  return {};
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

// --- subscriptions -----------------------------------------------------------------------------------------------------

/// What a subscription is made from; owns the user's closures and the topic until the core has taken them over.
struct bus_core::joining {
  explicit joining(bus_core& owner, ref_ptr<topic> joined, handler_object given) noexcept
      : bus(owner), topic(std::move(joined)), handler(given) {}
  ~joining() {
    if (handler.target != nullptr) handler.destroy(handler.target);
    if (topic) bus.drop_topic(*topic);
  }
  joining(const joining&) = delete;
  joining& operator=(const joining&) = delete;

  bus_core& bus;
  ref_ptr<detail::topic> topic;
  handler_object handler;
  std::unique_ptr<call_extras> extras;
  sync::channel::config config;
  subscription_core::recipe recipe;
  std::string shown;

  /// Capacity, policy and hooks: what subscriptions and streams have in common.
  void take_options(subscribe_options& options) {
    const topic_identity& event = topic->identity;
    const std::size_t asked = subscribe_options_access::capacity(options);
    const overflow policy = subscribe_options_access::policy(options);
    if (asked == 0) refuse(errc::invalid_argument, shown + ": capacity(0) holds no event; give at least 1");
    if (asked > (std::size_t{1} << 40))
      refuse(errc::invalid_argument, shown + ": capacity(" + std::to_string(asked) + ") is beyond 2^40");
    if (policy == overflow::latest && subscribe_options_access::capacity_set(options) && asked != 1)
      refuse(errc::invalid_argument,
             shown + ": overflow::latest has capacity 1, not " + std::to_string(asked) + "; use drop_oldest for more");
    config.capacity = policy == overflow::latest ? 1 : asked;
    config.blocks = !event.in_place;
    config.payload_bytes = event.in_place ? event.size : sizeof(void*);
    switch (policy) {
      case overflow::block: config.policy = sync::full_policy::block; break;
      case overflow::fail: config.policy = sync::full_policy::fail; break;
      case overflow::drop_newest: config.policy = sync::full_policy::drop_newest; break;
      case overflow::drop_oldest:
      case overflow::latest: config.policy = sync::full_policy::drop_oldest; break;
    }
    extras = std::make_unique<call_extras>();
    const auto take = [&](auto& given, auto& to, const char* what) {
      if (given && event.mangled != given.event()->name())
        refuse(errc::event_type_mismatch, shown + ": " + what + " is for another event than " + event.name);
      to = std::move(given);
    };
    take(subscribe_options_access::on_drop(options), extras->on_drop, "on_drop");
    take(subscribe_options_access::on_undelivered(options), extras->on_undelivered, "on_undelivered");
    take(subscribe_options_access::filter(options), extras->filter, "filter");
  }
};

void bus_core::check_joining(const std::string& shown, std::string_view name) const {
  if (forked()) refuse(errc::forked, shown);
  if (phase_.load() != phase::open) refuse(errc::closed, shown + ": the bus is shutting down");
  if (name.empty()) refuse(errc::invalid_argument, "subscribe: the name is empty; give one, it appears in every report");
}

ref_ptr<subscription_core> bus_core::join(joining& made) {
  topic& joined = *made.topic;
  {
    lock_guard lock(m_);
    joined.kept_is_settled = true;
    made.recipe.id = next_id_++;
    made.recipe.file = files_.emplace(made.recipe.file).first->c_str();
    subscriptions_.reserve(subscriptions_.size() + 1);
  }
  made.config.stamped = joined.kept() != metadata::off;
  if (made.recipe.concurrency == 1) made.config.log = &joined.log();
  made.recipe.bus = ref_ptr<bus_core>::share(this);
  made.recipe.topic = made.topic;
  if (made.extras && !made.extras->needed()) made.extras.reset();
  auto core = ref_ptr<subscription_core>::adopt(
      new subscription_core(std::move(made.recipe), made.config, made.handler, std::move(made.extras)));
  made.topic = {};  // from here on `forget` drops it
  const bool elsewhere = runs_elsewhere(*core);
  {
    lock_guard lock(m_);
    subscriptions_.push_back(ref_ptr<subscription_core>(core).release());
    if (elsewhere) elsewhere_.fetch_add(1);
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
    refuse(errc::closed, made.shown + ": the bus is shutting down");
  }
  // No bell rings for what is not the environment's: the default pool's wakes the watchdog, and it then stays awake.
  if (elsewhere) static_cast<void>(default_pool_->post([] {}));
  return core;
}

subscription bus_core::subscribe(const event_type& type, std::string_view name, subscribe_options&& options,
                                 handler_object handler, call_site where) {
  struct handler_guard {
    handler_object& object;
    ~handler_guard() {
      if (object.target != nullptr) object.destroy(object.target);
    }
  } guard{handler};
  ref_ptr<topic> joined = open_topic(type);
  return subscribe(std::move(joined), name, std::move(options), std::exchange(handler, {}), where);
}

subscription bus_core::subscribe(ref_ptr<topic> joined, std::string_view name, subscribe_options&& options,
                                 handler_object handler, call_site where) {
  joining made(*this, std::move(joined), handler);
  made.shown = "subscription \"" + std::string(name) + "\"";
  check_joining(made.shown, name);
  if (handler.target == nullptr) refuse(errc::invalid_argument, made.shown + ": the handler is empty");
  made.take_options(options);
  const unsigned concurrency = subscribe_options_access::concurrency(options);
  if (concurrency == 0) refuse(errc::invalid_argument, made.shown + ": concurrency(0) runs no call; give at least 1");
  if (concurrency > 65536)
    refuse(errc::invalid_argument, made.shown + ": concurrency(" + std::to_string(concurrency) + ") is beyond 65536");
  const std::size_t max_parked = subscribe_options_access::max_parked(options);
  if (max_parked > 1'000'000)
    refuse(errc::invalid_argument, made.shown + ": max_parked(" + std::to_string(max_parked) + ") is beyond 1000000");
  if (subscribe_options_access::retries(options)) {
    made.extras->retries = true;
    made.extras->retry = subscribe_options_access::retry(options);
    if (const char* wrong = made.extras->retry.complaint()) refuse(errc::invalid_argument, made.shown + ": retry: " + wrong);
  }
  made.extras->failure = subscribe_options_access::failure(options);
  if (made.extras->failure.after() == 0)
    refuse(errc::invalid_argument, made.shown + ": a failure policy after 0 failures; give at least 1");
  if (made.extras->breaks() && made.extras->failure.probe_every().count() <= 0)
    refuse(errc::invalid_argument, made.shown + ": a pause needs a time after which one event is tried; give more than 0");
  scheduler_ptr pool = subscribe_options_access::pool(options);
  if (!pool) pool = default_pool_;
  if (const auto* threads = dynamic_cast<const worker_pool*>(pool.get()); threads != nullptr && threads->may_wait())
    refuse(errc::invalid_argument,
           made.shown + ": pool \"" + pool->name() + "\" may wait and so serves no subscription; choose another");
  made.config.shared = concurrency > 1;
  made.recipe.name = name;
  made.recipe.file = where.file;
  made.recipe.line = where.line;
  made.recipe.pool = std::move(pool);
  made.recipe.concurrency = concurrency;
  made.recipe.max_parked = max_parked;
  return subscription_access::adopt(join(made).release());
}

stream_handle bus_core::add_stream(ref_ptr<topic> joined, std::string_view name, stream_options&& options,
                                   burial dead_letters, call_site where) {
  joining made(*this, std::move(joined), handler_object{});
  made.shown = "stream \"" + std::string(name) + "\"";
  check_joining(made.shown, name);
  made.take_options(stream_options_access::base(options));
  made.recipe.max_in_flight = stream_options_access::max_in_flight(options);
  made.recipe.max_attempts = stream_options_access::max_attempts(options);
  if (made.recipe.max_in_flight == 0)
    refuse(errc::invalid_argument, made.shown + ": max_in_flight(0) delivers nothing; give at least 1");
  if (made.recipe.max_attempts == 0)
    refuse(errc::invalid_argument, made.shown + ": max_attempts(0) delivers nothing; give at least 1");
  made.recipe.name = name;
  made.recipe.file = where.file;
  made.recipe.line = where.line;
  made.recipe.pool = default_pool_;  // its timers, and a place to destroy the hook
  made.recipe.concurrency = 0;
  made.recipe.dead_letters = dead_letters;
  return stream_handle(join(made).release());
}

void bus_core::forget(subscription_core& ended) noexcept {
  bool found = false;
  const bool elsewhere = runs_elsewhere(ended);
  {
    lock_guard lock(m_);
    const auto place = std::find(subscriptions_.begin(), subscriptions_.end(), &ended);
    found = place != subscriptions_.end();
    if (found) {
      subscriptions_.erase(place);
      if (elsewhere) elsewhere_.fetch_sub(1);
    }
    looks_.erase(ended.id);
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

// --- hooks -------------------------------------------------------------------------------------------------------------

void bus_core::report(const failure& record) noexcept {
  try {
    if (hooks_.on_failure) hooks_.on_failure(record);
  } catch (...) {
    const exception_record thrown = describe_current_exception();
    tell_hook_threw(hooks_.hook_threw, {.hook = "on_failure", .subscription = record.subscription, .event = record.event,
                                        .sequence = record.sequence, .thrown = thrown});
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
    const exception_record thrown = describe_current_exception();
    tell_hook_threw(hooks_.hook_threw, {.hook = "on_unmatched", .event = event, .thrown = thrown});
  }
}

void bus_core::escalate(subscription_core& failed, const failure* record) noexcept {
  close_intake();
  exec::context hook{exec::context_kind::hook};
  exec::context_scope scope(&hook);
  failure unknown;
  if (record == nullptr) {
    try {
      unknown.subscription = failed.name;
    } catch (...) {  // no memory for the name: told all the same
    }
  }
  try {
    if (hooks_.on_escalate) hooks_.on_escalate(record != nullptr ? *record : unknown);
  } catch (...) {
    const exception_record thrown = describe_current_exception();
    tell_hook_threw(hooks_.hook_threw, {.hook = "on_escalate", .subscription = failed.name, .thrown = thrown});
  }
}

void bus_core::hook_threw(const char* hook, const subscription_core& of, std::uint64_t sequence) noexcept {
  const exception_record thrown = describe_current_exception();
  tell_hook_threw(hooks_.hook_threw,
                  {.hook = hook, .subscription = of.name, .event = of.event(), .sequence = sequence, .thrown = thrown});
}

std::shared_ptr<const cause> bus_core::make_cause(cancel_kind kind, std::string_view who, std::string_view reason) noexcept {
  return detail::make_cause(kind, who, reason, time().now());
}

// --- the end -----------------------------------------------------------------------------------------------------------

void bus_core::close_intake() noexcept {
  phase expected = phase::open;
  phase_.compare_exchange_strong(expected, phase::handlers_only);
  try {
    for (const auto& each : subscriptions()) each->release_callers();
  } catch (...) {  // no memory for the list: who waits is released when the subscriptions stop
  }
}

void bus_core::begin_drain(steady_time deadline) noexcept {
  drain_deadline_.store(deadline.time_since_epoch().count(), std::memory_order_relaxed);
  try {
    for (const auto& each : subscriptions()) {
      each->look_at_lanes();
      each->notify_idle();  // one that is paused is at rest now
    }
  } catch (...) {  // no memory for the list: the delays end by themselves
  }
}

void bus_core::close() noexcept { phase_.store(phase::closed); }

}  // namespace penstock::detail
