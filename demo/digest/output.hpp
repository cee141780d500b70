// Where the manifest goes: a file that appears whole or not at all, or standard output.
// Floor 9, room demo.
#pragma once

#include "console.hpp"
#include "descriptor.hpp"

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace digest {

/// Which file something is, whatever its name.
struct file_identity {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const file_identity&) const = default;
};

/// Collects lines and writes them in large pieces that end at a line's end.
///
/// A named regular file is written under a temporary name beside it, and takes its name in `commit` after an fsync; a
/// device or a pipe is written as it is. Threads: one at a time, except `abandon`, which any thread may call.
class output {
 public:
  /// An empty path is standard output. Throws std::runtime_error, naming the file and the remedy.
  output(const std::string& path, console& terminal);
  output(const output&) = delete;
  output& operator=(const output&) = delete;
  /// Removes the temporary file unless `commit` was successful.
  ~output();

  /// False: this write or one before failed, and `error` says why. `line` ends with a newline.
  bool write(std::string_view line) noexcept;
  /// Writes out what is collected.
  bool flush() noexcept;
  /// Flushes; a named file is then synchronised and takes its name.
  bool commit() noexcept;
  /// Removes the temporary file and nothing else: for a thread that is about to end the process.
  void abandon() const noexcept;

  /// Whether what was written so far is of use although more should have followed: lines on standard output or a
  /// device.
  bool goes_out_at_once() const noexcept { return temporary_.empty(); }

  bool failed() const noexcept { return failed_.load(); }
  /// For people: what went wrong, with the name and the remedy. Read it after `failed()`.
  const std::string& error() const noexcept { return error_; }

  /// Files that must not be hashed because this program is writing them.
  const std::vector<file_identity>& own_files() const noexcept { return own_files_; }

 private:
  void fail(std::string_view what, int error_number) noexcept;
  bool write_out(std::string_view text) noexcept;

  console& terminal_;
  std::string shown_name_;  // for messages
  std::string target_;      // the name to take; empty when there is none to take
  std::string temporary_;   // set in the constructor, constant afterwards
  descriptor file_;
  int number_ = -1;
  bool pipe_ = false;
  bool shares_terminal_ = false;
  std::vector<file_identity> own_files_;

  std::string collected_;
  std::chrono::steady_clock::time_point flushed_at_ = std::chrono::steady_clock::now();
  std::string error_;
  std::atomic<bool> failed_ = false;  // set once, after error_ was written
  bool committed_ = false;
};

}  // namespace digest
