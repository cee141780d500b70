// A channel without a bus: producers and a consumer that behave as publishing threads and lanes do.
// Floor 9, room tests.
#pragma once

#include "sync/channel.hpp"
#include "sync/parker.hpp"

#include <penstock/testing/simulation.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace penstock_test {

using penstock::errc;
using penstock::sync::channel;
using penstock::testing::simulation;

/// The one event of these tests: who offered it, and the how-manieth of his it is.
struct ticket {
  std::uint32_t producer = 0;
  std::uint32_t index = 0;
  friend bool operator==(const ticket&, const ticket&) = default;
};

inline channel::config config_of(std::size_t capacity,
                                 penstock::sync::full_policy policy = penstock::sync::full_policy::block) {
  channel::config made;
  made.capacity = capacity;
  made.policy = policy;
  made.payload_bytes = sizeof(ticket);
  return made;
}

/// Where the consumer sleeps. Whoever claimed it rings, and nobody else: a second ring before it got up is an error.
class bell {
 public:
  explicit bell(simulation& sim) : sim_(sim) {}
  void ring() {
    sim_.require(penstock::sync::peek(rung_) == 0, "the sleeping consumer was claimed twice");
    rung_.store(1);
    penstock::sync::unpark_all(&rung_);
  }
  void wait() {
    while (rung_.load() == 0) penstock::sync::park(rung_, 0, penstock::no_deadline);
    rung_.store(0);
  }

 private:
  simulation& sim_;
  penstock::sync::atomic<std::uint32_t> rung_{0};
};

/// The consumer of one channel: sleeps, is claimed, drains as a lane does, sleeps again. Ends when told while asleep.
class consumer {
 public:
  consumer(simulation& sim, channel& line) : sim_(sim), line_(line), bell_(sim) {}

  void wake() { bell_.ring(); }
  template <class Seen>
  void run(Seen seen) {
    for (;;) {
      bell_.wait();
      if (over_) return;
      drain(seen);
    }
  }
  /// At rest only: lets `run` return.
  void finish() {
    sim_.require(line_.claim_sleeper(), "the consumer is not asleep at rest");
    end();
  }
  /// The same for a consumer that has found its channel stopped, and so sleeps without a word.
  void end() {
    over_ = true;
    wake();
  }

 private:
  template <class Seen>
  void drain(Seen& seen) {
    alignas(ticket) std::byte slot[sizeof(ticket)];
    for (;;) {
      std::uint64_t sequence = 0;
      const auto status = line_.take(slot, sequence);
      if (status == penstock::sync::take_status::stopped) return;
      if (status == penstock::sync::take_status::taken) {
        ticket event;
        std::memcpy(&event, slot, sizeof event);
        seen(event, sequence);
        continue;
      }
      if (line_.wants_service()) {
        line_.serve(true);
        if (line_.ready()) continue;
      }
      if (!line_.await_writer() && line_.try_sleep()) return;
    }
  }

  simulation& sim_;
  channel& line_;
  bell bell_;
  bool over_ = false;
};

/// One offer of a thread that may wait.
class offering : public penstock::sync::waiter {
 public:
  offering(simulation& sim, channel& line, consumer& reader) : sim_(sim), line_(line), reader_(reader) {
    settle = [](penstock::sync::waiter& settled) noexcept {
      auto& self = static_cast<offering&>(settled);
      const void* address = &self.told_;
      ++self.times_settled;
      self.told_.store(1);
      penstock::sync::unpark_all(address);
    };
  }

  /// Offers; true: it stands in line.
  bool offer(const ticket* events, std::size_t count,
             penstock::sync::offer_patience patience = penstock::sync::offer_patience::line) {
    const auto* bytes = reinterpret_cast<const std::byte*>(events);
    if (line_.offer_quickly(bytes, count, outcome)) {
      wake_reader();
      return false;
    }
    do {
      wake_reader();
      const std::size_t done = outcome.accepted + outcome.dropped + outcome.rejected + outcome.unmatched;
      outcome.evicted = false;
      line_.offer_slowly(bytes + done * sizeof(ticket), count - done, patience, errc::full, this,
                         reinterpret_cast<std::byte*>(&evicted_now_), outcome);
      if (outcome.evicted) evicted.push_back(evicted_now_);
    } while (outcome.again);
    wake_reader();
    return outcome.queued_in_line;
  }

  /// Waits as a publishing thread does: told, or after a while by a look of its own.
  void wait() {
    const auto look = sim_.now() + std::chrono::milliseconds(8);
    bool looked = false;
    while (told_.load() == 0) {
      if (!looked && sim_.now() >= look) {
        looked = true;
        if (line_.ask_to_be_told(*this)) return;
        continue;
      }
      penstock::sync::park(told_, 0, looked ? penstock::no_deadline : look);
    }
  }
  /// For who took himself out of the line but came too late.
  void wait_to_be_told() {
    while (told_.load() == 0) penstock::sync::park(told_, 0, penstock::no_deadline);
  }

  penstock::sync::offer_outcome outcome;
  std::vector<ticket> evicted;
  int times_settled = 0;

 private:
  void wake_reader() {
    if (outcome.wake) reader_.wake();
    outcome.wake = false;
  }

  simulation& sim_;
  channel& line_;
  consumer& reader_;
  penstock::sync::atomic<std::uint32_t> told_{0};
  ticket evicted_now_;
};

/// At rest: exactly `capacity` events fit, and one more is refused. Ends with a full channel; the consumer is claimed.
inline void require_all_seats_free(simulation& sim, channel& line, std::size_t capacity) {
  for (std::size_t i = 0; i <= capacity; ++i) {
    const ticket event{99, static_cast<std::uint32_t>(i)};
    const auto* bytes = reinterpret_cast<const std::byte*>(&event);
    penstock::sync::offer_outcome outcome;
    if (!line.offer_quickly(bytes, 1, outcome))
      line.offer_slowly(bytes, 1, penstock::sync::offer_patience::never, errc::full, nullptr, nullptr, outcome);
    if (i < capacity)
      sim.require(outcome.accepted == 1, "a seat was leaked");
    else
      sim.require(outcome.rejected == 1 && outcome.why == errc::full, "one event more than the capacity was taken");
  }
}

}  // namespace penstock_test
