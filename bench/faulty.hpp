// Systems with known faults, and the list of what a self-check found.
// Floor 9, bench.
#pragma once

#include "system.hpp"

#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace bench {

enum class fault { none, loses, doubles, reorders, tears, untidy };

/// Calls the sinks directly and spoils what the last producer sends as its hundredth event.
template <class Sink, fault Fault>
class faulty {
 public:
  using E = typename Sink::event_type;
  faulty(const shape& run, std::span<Sink> sinks) : sinks_(sinks), spoiled_(run.producers - 1) {}

  void publish(unsigned producer, E&& event) {
    std::lock_guard lock(mutex_);
    if (producer == spoiled_ && event.sequence == 100) {
      if (Fault == fault::loses) return;
      if (Fault == fault::doubles) give(event);
      if constexpr (Fault == fault::tears) event.seal ^= 1;
      if (Fault == fault::reorders) {
        held_ = event;
        return;
      }
    }
    give(event);
    if (producer == spoiled_ && held_) give(*std::exchange(held_, std::nullopt));
  }
  std::string finish() { return Fault == fault::untidy ? "left something behind" : std::string(); }

 private:
  void give(const E& event) {
    for (auto& sink : sinks_) sink.take(event);
  }
  std::mutex mutex_;
  std::span<Sink> sinks_;
  const unsigned spoiled_;
  std::optional<E> held_;
};

template <class Sink>
using sound_system = faulty<Sink, fault::none>;
template <class Sink>
using losing_system = faulty<Sink, fault::loses>;
template <class Sink>
using doubling_system = faulty<Sink, fault::doubles>;
template <class Sink>
using reordering_system = faulty<Sink, fault::reorders>;
template <class Sink>
using tearing_system = faulty<Sink, fault::tears>;
template <class Sink>
using untidy_system = faulty<Sink, fault::untidy>;

class findings {
 public:
  void expect(bool holds, const std::string& statement) {
    if (!holds) failed_.push_back("does not hold: " + statement);
  }
  std::vector<std::string> take() { return std::move(failed_); }

 private:
  std::vector<std::string> failed_;
};

}  // namespace bench
