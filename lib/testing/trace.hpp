// What a simulation did, kept short: the last steps as records, all of them as one hash.
// Floor 8, room testing.
#pragma once

#include "testing/random.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace penstock::testing::detail {

enum class trace_kind : unsigned char {
  run_thread,
  run_lane,
  run_posted,
  fire_timer,
  scenario_goes_on,
  waits,
  wakes,
  spurious,
  preempted,
  pauses,
  thread_ends,
  time_jumps,
  note,
};

struct trace_record {
  std::uint64_t step = 0;
  std::chrono::nanoseconds time{};
  std::uint32_t entity = 0;
  std::uint32_t detail = 0;
  trace_kind kind = trace_kind::note;
};

class trace_ring {
 public:
  static constexpr std::size_t kept = 64;

  void add(const trace_record& record) noexcept { records_[count_++ % kept] = record; }
  void mix(std::uint64_t a, std::uint64_t b) noexcept {
    hash_ = mix_bits(hash_ ^ a) + mix_bits(b + 0x632be59bd9b4e019ULL);
  }
  std::uint64_t hash() const noexcept { return hash_; }

  std::size_t size() const noexcept { return count_ < kept ? count_ : kept; }
  /// From the oldest kept one on.
  const trace_record& at(std::size_t index) const noexcept { return records_[(count_ - size() + index) % kept]; }

 private:
  std::array<trace_record, kept> records_;
  std::size_t count_ = 0;
  std::uint64_t hash_ = 0;
};

}  // namespace penstock::testing::detail
