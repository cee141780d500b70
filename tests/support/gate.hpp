// How tests wait: for a gate, for a number of records, and all of them under one limit that ends a hang.
// Floor 9, room tests.
#pragma once

#include "sanitizers.hpp"

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include <unistd.h>

namespace penstock_test {

#if defined(TEST_THREAD_SANITIZED) || defined(TEST_ADDRESS_SANITIZED)
inline constexpr unsigned give_up_seconds = 120;
inline constexpr bool sanitized = true;
#else
inline constexpr unsigned give_up_seconds = 30;
inline constexpr bool sanitized = false;
#endif

/// The one limit: the program is aborted, and Catch2 names the case, when its scope lasts longer. Waits need no other.
class time_limit {
 public:
  /// PENSTOCK_GIVE_UP_SECONDS makes it shorter, where hangs are expected: for mutants.
  explicit time_limit(unsigned seconds = give_up_seconds) {
    if (const char* given = std::getenv("PENSTOCK_GIVE_UP_SECONDS")) seconds = static_cast<unsigned>(std::atoi(given));
    std::signal(SIGALRM, [](int) {
      constexpr char text[] = "the time limit of a test case has passed: something hangs\n";
      [[maybe_unused]] const auto written = write(STDERR_FILENO, text, sizeof text - 1);
      std::abort();
    });
    alarm(seconds);
  }
  time_limit(const time_limit&) = delete;
  time_limit& operator=(const time_limit&) = delete;
  ~time_limit() { alarm(0); }
};

/// Closed until it is opened, once. Its end opens it and waits until whoever was inside `wait` has left it: a stuck
/// handler may outlive the runtime that gave it up, but not the gate it is stuck at.
class gate {
 public:
  gate() = default;
  gate(const gate&) = delete;
  gate& operator=(const gate&) = delete;
  ~gate() {
    std::unique_lock lock(m_);
    open_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return inside_ == 0; });
  }
  void open() {
    const std::lock_guard lock(m_);
    open_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(m_);
    ++inside_;
    changed_.wait(lock, [this] { return open_; });
    --inside_;
    changed_.notify_all();  // under the lock: the destructor may be waiting
  }
  bool is_open() const {
    const std::lock_guard lock(m_);
    return open_;
  }

 private:
  mutable std::mutex m_;
  std::condition_variable changed_;
  bool open_ = false;
  unsigned inside_ = 0;
};

/// Waits for what only a look from outside can tell, such as a ledger's `pending`; looks, then parks for a moment.
template <class Condition>
void eventually(Condition condition) {
  std::mutex m;
  std::condition_variable nobody;
  std::unique_lock lock(m);
  while (!condition()) nobody.wait_for(lock, std::chrono::microseconds(200));
}

/// Collects what threads saw, in order; the test asserts on it afterwards.
template <class T>
class record {
 public:
  void add(T seen) {
    const std::lock_guard lock(m_);
    all_.push_back(std::move(seen));
    changed_.notify_all();
  }
  /// Waits until at least so many have been added.
  void wait_for(std::size_t count) {
    std::unique_lock lock(m_);
    changed_.wait(lock, [&] { return all_.size() >= count; });
  }
  std::size_t size() const {
    const std::lock_guard lock(m_);
    return all_.size();
  }
  std::vector<T> all() const {
    const std::lock_guard lock(m_);
    return all_;
  }

 private:
  mutable std::mutex m_;
  std::condition_variable changed_;
  std::vector<T> all_;
};

}  // namespace penstock_test
