// Standard error: messages by name, and one line of progress that they do not tear apart.
// Floor 9, room demo.
#pragma once

#include <mutex>
#include <string>
#include <string_view>

namespace digest {

enum class progress_style {
  none,   ///< no progress
  live,   ///< one line, drawn again and again: standard error is a terminal
  plain,  ///< a line now and then: it is a file or a pipe
};

/// Writes whole lines to standard error. A standard error that is gone is no failure of the program.
/// Threads: thread-safe.
class console {
 public:
  explicit console(progress_style style) noexcept : style_(style) {}

  progress_style style() const noexcept { return style_; }

  /// "penstock-digest: text". The text must already be safe for a terminal.
  void message(std::string_view text) noexcept;

  /// Shows where the work stands, in the console's style.
  void progress(std::string_view text) noexcept;
  /// Takes a live line away.
  void clear_progress() noexcept;

  /// Runs `write` with the live line taken away, for output that goes to the same terminal.
  template <class Write>
  void beside_progress(Write&& write) {
    const std::lock_guard hold(mutex_);
    clear_locked();
    write();
  }

 private:
  void clear_locked() noexcept;

  const progress_style style_;
  std::mutex mutex_;  // protects the terminal's last line; taken last
  bool line_shown_ = false;
};

}  // namespace digest
