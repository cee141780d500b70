// An event that travels as a block, counts how many of it live, and looks at the bus when it dies; and a closure's witness.
// Floor 9, room tests.
#pragma once

#include <penstock/bus/event_bus.hpp>
#include <penstock/testing/simulation.hpp>

#include <cstdint>
#include <optional>
#include <utility>

namespace penstock_test {

/// Shared by all events of one scenario.
struct litter {
  int live = 0;
  /// While set, each event that dies takes the locks of the bus and of its channels: it deadlocks if one is held.
  std::optional<penstock::event_bus> looks_at;
  void look() const {
    if (!looks_at) return;
    for (const auto& each : looks_at->subscriptions()) static_cast<void>(each.ledger.balanced());
  }
};

struct tracked {
  tracked(litter& counted, std::uint32_t by, std::uint32_t number) : all(&counted), producer(by), index(number) { ++all->live; }
  tracked(const tracked& other) : tracked(*other.all, other.producer, other.index) {}
  tracked& operator=(const tracked&) = delete;
  ~tracked() {
    --all->live;
    all->look();
  }
  litter* all;
  std::uint32_t producer;
  std::uint32_t index;
};

/// Moved into a handler: tells when the closure has been destroyed.
class closure_witness {
 public:
  template <class OnEnd>
  explicit closure_witness(OnEnd on_end) : on_end_(std::move(on_end)) {}
  closure_witness(closure_witness&& other) noexcept : on_end_(std::exchange(other.on_end_, {})) {}
  closure_witness(const closure_witness&) = delete;
  closure_witness& operator=(const closure_witness&) = delete;
  ~closure_witness() {
    if (on_end_) on_end_();
  }

 private:
  penstock::unique_function<void()> on_end_;
};

/// A handler's call in progress, while it is in scope.
class inside_call {
 public:
  explicit inside_call(int& calls) : calls_(calls) { ++calls_; }
  ~inside_call() { --calls_; }
  inside_call(const inside_call&) = delete;
  inside_call& operator=(const inside_call&) = delete;

 private:
  int& calls_;
};

inline void require_balanced(penstock::testing::simulation& sim, const penstock::ledger& counted) {
  sim.require(counted.balanced(), "the ledger does not balance: " + penstock::to_string(counted));
}

}  // namespace penstock_test
