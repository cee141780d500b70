// Signals as calls on a thread, for a program that wants them so.
// Floor 7, room runtime.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/base/unique_function.hpp>

#include <memory>
#include <vector>

namespace penstock {

/// Handles signals on a thread of its own, "penstock-signals": the handler itself only writes a byte. Signal actions belong to the
/// process, so there is one watcher in it at a time. Its end restores the actions that were before. In a child after `fork` the
/// signals have their default effect.
class PENSTOCK_API signal_watcher {
 public:
  /// `told` gets the signal and how many have come, this one among them. It may wait, and end the watcher;
  /// what it throws is dropped.
  /// Throws std::system_error: `already_exists` while there is another, `invalid_argument` for a signal that cannot be
  /// handled, the system's code when no pipe or thread can be had.
  signal_watcher(const std::vector<int>& signals, unique_function<void(int signal, unsigned times)> told);
  signal_watcher(const signal_watcher&) = delete;
  signal_watcher& operator=(const signal_watcher&) = delete;
  ~signal_watcher();

  /// From now on the signal has its default effect, until the watcher's end.
  static void restore_default(int signal) noexcept;

 private:
  struct state;
  std::shared_ptr<state> state_;  // its thread's as well
};

}  // namespace penstock
