// Workload L: what becomes of the cost when there are more subscriptions, topics, producers.
// Floor 9, bench.
#pragma once

#include "event.hpp"
#include "report.hpp"
#include "sink.hpp"
#include "workload.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace bench {

/// A subscriber among thousands, of one producer: as `checked_sink`, but of half a cache line, so that it is not the
/// checking whose memory is measured.
class alignas(32) small_sink {
 public:
  /// Reports to `line` when `until` events have come in all.
  void expect(std::uint64_t until, finish_line& line) noexcept {
    until_ = until;
    line_ = &line;
  }
  void take(const small_event& event) {
    // A wrong event leaves a sum that no right one mends.
    sum_ += event.digest() + (event.sequence == seen_ ? 0 : 0x10001);
    if (++seen_ == until_) line_->arrived();
  }
  /// Empty when events 0 to `due` came once, whole and in order.
  std::string verdict(std::uint64_t due) const {
    if (seen_ != due) return std::to_string(seen_) + " events instead of " + std::to_string(due);
    std::uint64_t sum = 0;
    for (std::uint64_t sequence = 0; sequence < due; ++sequence) sum += small_event::digest_of(0, sequence);
    return sum == sum_ ? std::string() : "the checksum is wrong or the order is";
  }

 private:
  std::uint64_t seen_ = 0;
  std::uint64_t sum_ = 0;
  std::uint64_t until_ = 0;
  finish_line* line_ = nullptr;
};
static_assert(sizeof(small_sink) == 32);

void add_growth_workloads(std::vector<workload>& all, effort how_much);
/// Goal 8.
void judge_growth(std::vector<goal>& goals, const std::vector<row>& rows);

}  // namespace bench
