// Options of a subscription.
// Floor 5, room bus.
#include <penstock/bus/subscribe_options.hpp>

#include <utility>

namespace penstock {

const char* to_string(drop_reason reason) noexcept {
  switch (reason) {
    case drop_reason::newest: return "newest";
    case drop_reason::oldest: return "oldest";
    case drop_reason::closed: return "closed";
    case drop_reason::timed_out: return "timed_out";
    case drop_reason::cycle: return "cycle";
  }
  return "unknown";
}

subscribe_options::subscribe_options() = default;

subscribe_options::subscribe_options(subscribe_options&& other) noexcept
    : capacity_(other.capacity_),
      capacity_set_(other.capacity_set_),
      overflow_(other.overflow_),
      concurrency_(other.concurrency_),
      max_parked_(other.max_parked_),
      pool_(std::move(other.pool_)),
      drop_hook_(std::exchange(other.drop_hook_, {})),
      filter_(std::exchange(other.filter_, {})),
      retry_(other.retry_),
      retries_(other.retries_),
      failure_(other.failure_) {}

subscribe_options& subscribe_options::operator=(subscribe_options&& other) noexcept {
  if (this == &other) return *this;
  capacity_ = other.capacity_;
  capacity_set_ = other.capacity_set_;
  overflow_ = other.overflow_;
  concurrency_ = other.concurrency_;
  max_parked_ = other.max_parked_;
  pool_ = std::move(other.pool_);
  set_drop_hook(std::exchange(other.drop_hook_, {}));
  set_filter(std::exchange(other.filter_, {}));
  retry_ = other.retry_;
  retries_ = other.retries_;
  failure_ = other.failure_;
  return *this;
}

subscribe_options::~subscribe_options() {
  set_drop_hook({});
  set_filter({});
}

void subscribe_options::set_drop_hook(detail::drop_hook hook) noexcept {
  if (drop_hook_.target != nullptr) drop_hook_.destroy(drop_hook_.target);
  drop_hook_ = hook;
}

void subscribe_options::set_filter(detail::filter_object filter) noexcept {
  if (filter_.target != nullptr) filter_.destroy(filter_.target);
  filter_ = filter;
}

}  // namespace penstock
