// One publish as the core sees it, and the compiled handle behind publishers.
// Floor 5, room bus.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/errc.hpp>
#include <penstock/base/export.hpp>
#include <penstock/bus/publish_result.hpp>
#include <penstock/exec/scheduler.hpp>

#include <chrono>
#include <cstddef>
#include <memory>
#include <stop_token>
#include <string>
#include <utility>

namespace penstock::detail {

class topic;
class publish_operation;

enum class wait_mode : unsigned char { never, may_wait };

/// One publish as the core sees it.
struct publish_request {
  const void* events = nullptr;  ///< the events one behind the other, or for blocks an array of payload pointers
  std::size_t count = 0;
  wait_mode wait = wait_mode::may_wait;
  steady_time deadline = no_deadline;
  const std::stop_token* stop = nullptr;
  publish_operation* operation = nullptr;  ///< waits in this instead of on the caller's stack
  bool dead_letter = false;                ///< taken until a shutdown's drain ends
};

/// Keeps a topic alive; compiled, so that the veneer stays thin.
class PENSTOCK_API topic_handle {
 public:
  topic_handle() noexcept = default;
  explicit topic_handle(topic* adopted) noexcept : topic_(adopted) {}
  /// A handle to no topic, which answers with this.
  explicit topic_handle(errc refused) noexcept : refused_(refused) {}
  topic_handle(const topic_handle& other) noexcept;
  topic_handle(topic_handle&& other) noexcept
      : topic_(std::exchange(other.topic_, nullptr)), refused_(other.refused_) {}
  topic_handle& operator=(topic_handle other) noexcept {
    std::swap(topic_, other.topic_);
    std::swap(refused_, other.refused_);
    return *this;
  }
  ~topic_handle();

  publish_result publish(const publish_request& request) const;
  /// Whether anybody would be offered an event now.
  bool matched() const noexcept;
  /// The result of a publish that nobody subscribed to, told to the hook.
  publish_result publish_unmatched(std::size_t count) const noexcept;
  steady_time deadline_after(std::chrono::nanoseconds wait) const noexcept;
  std::string name() const;
  explicit operator bool() const noexcept { return topic_ != nullptr; }
  topic* get() const noexcept { return topic_; }
  /// Where a completion without an executor of its own goes; null without a topic.
  std::shared_ptr<scheduler> pool() const noexcept;

 private:
  topic* topic_ = nullptr;
  errc refused_ = errc::closed;
};

}  // namespace penstock::detail
