// Shows where the work stands while it goes on.
// Floor 9, room demo.
#pragma once

#include "console.hpp"
#include "pipeline.hpp"

#include <chrono>
#include <string>
#include <thread>

namespace digest {

/// What is left, from what is known: "unknown" until the last file has been found and every size is known, then a time
/// at the average speed so far, then how many files have yet to be written.
std::string what_is_left(const totals& counted, std::chrono::nanoseconds elapsed);

/// Five times a second on a terminal, every two seconds elsewhere; a thread of its own, none when nothing is shown.
class progress {
 public:
  /// Throws std::system_error when the thread cannot start.
  progress(const pipeline& stages, console& terminal);
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;
  /// Ends the thread and takes the line away.
  ~progress();

 private:
  void show(const std::stop_token& stop);

  const pipeline& stages_;
  console& console_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::jthread thread_;
};

}  // namespace digest
