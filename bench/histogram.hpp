// Latencies: the percentiles of one run, and the shape of many runs in few numbers.
// Floor 9, bench. No clock, no threads: tested by itself.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace bench {

/// Counts in log-linear buckets: sixteen to each doubling, so that a bucket is at most 1/16 of its lower bound wide.
/// Below 32 each value has its own.
class histogram {
 public:
  void add(std::int64_t ns, std::uint64_t count = 1) { counts_[lower_bound(ns)] += count; }
  void add(const histogram& other) {
    for (const auto& [ns, count] : other.counts_) counts_[ns] += count;
  }
  /// Of the bucket `ns` falls into. What is negative counts as 0.
  static std::int64_t lower_bound(std::int64_t ns) noexcept;

  bool empty() const noexcept { return counts_.empty(); }
  /// Lower bound and count of each bucket that has any, in order.
  const std::map<std::int64_t, std::uint64_t>& buckets() const noexcept { return counts_; }

 private:
  std::map<std::int64_t, std::uint64_t> counts_;
};

/// What the run's own values say; no bucket rounds it.
struct percentiles {
  double p50 = 0;
  double p99 = 0;
  double p999 = 0;
  double max = 0;
};
/// Of at least one value. p99 is the smallest value that 99 % of all do not exceed.
percentiles percentiles_of(std::vector<std::int64_t> values);

}  // namespace bench
