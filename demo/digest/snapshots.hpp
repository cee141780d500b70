// The runtime as it is now, again and again, as lines of JSON.
// Floor 9, room demo.
#pragma once

#include "console.hpp"
#include "line_file.hpp"

#include <penstock/penstock.hpp>

#include <chrono>

namespace digest {

/// Where snapshots go: a file, or standard error. Outlives the runtime that it shows.
class snapshot_sink {
 public:
  /// `file` may be null: standard error.
  snapshot_sink(line_file* file, console& terminal) noexcept : file_(file), console_(terminal) {}
  void write(const penstock::runtime_snapshot& seen) noexcept;

 private:
  line_file* const file_;
  console& console_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

/// Hands a snapshot to `sink` every `period` until `pool`, which is that runtime's, ends: a task on a timer of the library, and no thread that
/// sleeps. A period that passed while the last snapshot was being written is left out.
void snapshot_every(std::chrono::nanoseconds period, const penstock::runtime& of, const penstock::scheduler_ptr& pool,
                    snapshot_sink& sink);

}  // namespace digest
