// The atomics of the library: std::atomic, and a preemption point in the model build.
// Floor 1, room sync.
#pragma once

#include <penstock/base/agent.hpp>

#include <atomic>

namespace penstock::sync {

#if defined(PENSTOCK_MODEL)

/// std::atomic whose every operation first lets the simulation switch to another simulated thread.
template <class T>
class atomic {
 public:
  atomic() noexcept = default;
  constexpr atomic(T value) noexcept : value_(value) {}

  T load(std::memory_order order = std::memory_order_seq_cst) const noexcept { return point(), value_.load(order); }
  void store(T value, std::memory_order order = std::memory_order_seq_cst) noexcept {
    point();
    value_.store(value, order);
  }
  T exchange(T value, std::memory_order order = std::memory_order_seq_cst) noexcept {
    return point(), value_.exchange(value, order);
  }
  bool compare_exchange_strong(T& expected, T wanted,
                               std::memory_order order = std::memory_order_seq_cst) noexcept {
    return point(), value_.compare_exchange_strong(expected, wanted, order);
  }
  bool compare_exchange_weak(T& expected, T wanted, std::memory_order order = std::memory_order_seq_cst) noexcept {
    return point(), value_.compare_exchange_strong(expected, wanted, order);
  }
  T fetch_add(T value, std::memory_order order = std::memory_order_seq_cst) noexcept {
    return point(), value_.fetch_add(value, order);
  }
  T fetch_sub(T value, std::memory_order order = std::memory_order_seq_cst) noexcept {
    return point(), value_.fetch_sub(value, order);
  }
  T fetch_or(T value, std::memory_order order = std::memory_order_seq_cst) noexcept {
    return point(), value_.fetch_or(value, order);
  }
  T fetch_and(T value, std::memory_order order = std::memory_order_seq_cst) noexcept {
    return point(), value_.fetch_and(value, order);
  }
  /// A load that is no preemption point, for the check just before a wait.
  T peek() const noexcept { return value_.load(); }

 private:
  static void point() noexcept {
    if (agent* simulated = this_thread_slot().simulated_by) simulated->preempt();
  }
  std::atomic<T> value_{};
};

template <class T>
T peek(const atomic<T>& word) noexcept {
  return word.peek();
}

#else

template <class T>
using atomic = std::atomic<T>;

template <class T>
T peek(const atomic<T>& word) noexcept {
  return word.load();
}

#endif

}  // namespace penstock::sync
