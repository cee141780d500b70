// Texts of the error codes.
// Floor 0, room base.
#include <penstock/base/errc.hpp>

#include <string>

namespace penstock {
namespace {

const char* long_text(errc code) noexcept {
  switch (code) {
    case errc::none: return "no error";
    case errc::full: return "the channel is full and its overflow policy refuses";
    case errc::timed_out: return "the deadline passed first";
    case errc::cancelled: return "cancelled by the caller's stop token";
    case errc::closed: return "closed: nothing is taken any more";
    case errc::would_block: return "it would have to wait, and waiting is not allowed here";
    case errc::backpressure_cycle: return "it would wait for a channel that is emptied only when the caller goes on";
    case errc::not_enough_memory: return "not enough memory";
    case errc::event_type_mismatch: return "the event name is taken by a type of another layout";
    case errc::invalid_argument: return "an argument is out of its range";
    case errc::would_deadlock: return "it would wait for itself";
    case errc::forked: return "used in a child process after fork: make a new runtime there, or exec";
    case errc::not_found: return "there is nothing of that name";
    case errc::already_exists: return "the name is taken";
  }
  return "unknown penstock error";
}

class category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "penstock"; }
  std::string message(int code) const override { return long_text(static_cast<errc>(code)); }
  std::error_condition default_error_condition(int code) const noexcept override {
    switch (static_cast<errc>(code)) {
      case errc::timed_out: return std::errc::timed_out;
      case errc::cancelled: return std::errc::operation_canceled;
      case errc::would_block: return std::errc::operation_would_block;
      case errc::not_enough_memory: return std::errc::not_enough_memory;
      case errc::invalid_argument: return std::errc::invalid_argument;
      case errc::backpressure_cycle:
      case errc::would_deadlock: return std::errc::resource_deadlock_would_occur;
      default: return {code, *this};
    }
  }
};

}  // namespace

const std::error_category& error_category() noexcept {
  static const category instance;
  return instance;
}

const char* to_string(errc code) noexcept {
  switch (code) {
    case errc::none: return "none";
    case errc::full: return "full";
    case errc::timed_out: return "timed_out";
    case errc::cancelled: return "cancelled";
    case errc::closed: return "closed";
    case errc::would_block: return "would_block";
    case errc::backpressure_cycle: return "backpressure_cycle";
    case errc::not_enough_memory: return "not_enough_memory";
    case errc::event_type_mismatch: return "event_type_mismatch";
    case errc::invalid_argument: return "invalid_argument";
    case errc::would_deadlock: return "would_deadlock";
    case errc::forked: return "forked";
    case errc::not_found: return "not_found";
    case errc::already_exists: return "already_exists";
  }
  return "unknown";
}

}  // namespace penstock
