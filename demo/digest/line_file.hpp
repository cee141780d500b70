// A file that takes lines as they come, for --events and --snapshot-file.
// Floor 9, room demo.
#pragma once

#include "descriptor.hpp"
#include "output.hpp"

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace digest {

/// Unlike `output` it has its name from the start, so that others can follow it, and keeps what it has when the program
/// is interrupted. A failed write ends it and nothing else. Threads: one at a time.
class line_file {
 public:
  /// Empties the file, or makes it. `option` is named in errors. Throws usage_error when it cannot be written, or is
  /// one of `taken`.
  line_file(std::string option, const std::string& path, const std::vector<file_identity>& taken);

  /// Adds a newline. What is collected goes out at once when the last that went out is 200 ms old.
  void write(std::string_view line) noexcept;
  void flush() noexcept;

  /// Why not everything could be written; empty: it was.
  const std::string& error() const noexcept { return error_; }
  const file_identity& identity() const noexcept { return identity_; }

 private:
  void fail(int error_number) noexcept;

  const std::string option_;
  std::string shown_name_;
  descriptor file_;
  file_identity identity_;
  std::string collected_;
  std::string error_;
  bool failed_ = false;
  std::chrono::steady_clock::time_point flushed_at_{};
};

}  // namespace digest
