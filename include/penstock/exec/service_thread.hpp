// A thread of the library's own, for headers that need one.
// Floor 2, room exec.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/base/unique_function.hpp>

#include <memory>

namespace penstock::detail {

/// Blocks all signals and carries a name. Joined by `join` or its destructor; called on itself they let it end by itself.
class PENSTOCK_API service_thread {
 public:
  service_thread() noexcept;
  /// Throws std::system_error when it cannot start.
  service_thread(const char* name, unique_function<void()> body);
  service_thread(service_thread&& other) noexcept;
  service_thread& operator=(service_thread&& other) noexcept;
  ~service_thread();
  /// False: called on itself, it was left to end by itself.
  bool join() noexcept;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace penstock::detail
