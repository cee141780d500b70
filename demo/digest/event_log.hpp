// What happened to each file, step by step, as lines of JSON.
// Floor 9, room demo.
#pragma once

#include "line_file.hpp"

#include <penstock/bus/ledger.hpp>
#include <penstock/bus/subscribe_options.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace digest {

/// One step of one file: an event of its own, so that whoever looks on holds nothing of the files.
struct file_step {
  enum class kind { found, read, hashed, written, failed };
  kind what = kind::found;
  const char* stage = "";  ///< a literal
  std::string name;
  std::optional<std::uint64_t> bytes;  ///< what the stage had of the file then; none: nobody has looked
  std::string error;                   ///< of a failed one
  std::chrono::steady_clock::time_point when = std::chrono::steady_clock::now();
};

/// Threads: one at a time.
class event_log {
 public:
  explicit event_log(line_file& file) noexcept : file_(file) {}
  /// Bytes of a name that are no UTF-8 appear as U+FFFD.
  void write(const file_step& step);
  /// The last line: what became of all steps that were offered to the subscription.
  void finish(const penstock::ledger& counts, penstock::overflow policy, std::size_t capacity);

 private:
  line_file& file_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

}  // namespace digest
