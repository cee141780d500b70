// Background tasks with Asio's completion tokens.
// Floor 4, room task.
#pragma once

#include <penstock/exec/asio.hpp>
#include <penstock/task/task_registry.hpp>

#include <boost/asio/async_result.hpp>

#include <tuple>
#include <utility>

namespace penstock {

namespace detail {

struct deliver_end {
  template <class Operation>
  static std::tuple<boost::system::error_code, task_status> results(Operation& decided) {
    return {to_asio(decided.gave_up() ? errc::cancelled : errc::none), decided.result()};
  }
};
struct deliver_report {
  template <class Operation>
  static std::tuple<boost::system::error_code, task_report> results(Operation& decided) {
    return {to_asio(decided.gave_up() ? errc::cancelled : errc::none), decided.result()};
  }
};
/// With public destructors for Asio's allocators.
struct token_task_wait : task_wait_operation {
  using task_wait_operation::task_wait_operation;
};
struct token_registry_close : registry_close_operation {
  using registry_close_operation::registry_close_operation;
};

}  // namespace detail

template <class Token>
auto task_handle::async_wait(Token&& token) const {
  using initiation = detail::token_initiation<detail::token_task_wait, detail::deliver_end>;
  return boost::asio::async_initiate<Token, void(boost::system::error_code, task_status)>(initiation(), token,
                                                                                          completion_pool(), entry_);
}

template <class Rep, class Period, class Token>
auto task_registry::async_close(std::chrono::duration<Rep, Period> limit, Token&& token) const {
  using initiation = detail::token_initiation<detail::token_registry_close, detail::deliver_report>;
  return boost::asio::async_initiate<Token, void(boost::system::error_code, task_report)>(
      initiation(), token, completion_pool(), core_, std::string(owner_name()), clamp_duration(limit));
}

}  // namespace penstock
