// Shows where the work stands while it goes on.
// Floor 9, room demo.
#pragma once

#include "console.hpp"
#include "pipeline.hpp"

#include <chrono>
#include <thread>

namespace digest {

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
