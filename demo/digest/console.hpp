// Standard error: messages by name, and one line of progress that they do not tear apart.
// Floor 9, room demo.
#pragma once

#include <atomic>
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

  /// `message` without the prefix, for lines that programs read.
  void line(std::string_view text) noexcept;
  /// `message` for a thread that must not wait, not even for a terminal that takes nothing: when another thread is
  /// writing, that one shows it afterwards; when nothing can be written now, it is left out. `text` is a literal.
  void notice(const char* text) noexcept;

  /// Shows where the work stands, in the console's style.
  void progress(std::string_view text) noexcept;
  /// Takes a live line away.
  void clear_progress() noexcept;

  /// Runs `write` with the live line taken away, for output that goes to the same terminal.
  template <class Write>
  void beside_progress(Write&& write) {
    {
      const std::lock_guard hold(mutex_);
      clear_locked();
      write();
    }
    show_notice();
  }

 private:
  void clear_locked() noexcept;
  void write_line(std::string_view line) noexcept;
  void show_notice() noexcept;

  const progress_style style_;
  std::mutex mutex_;  // protects the terminal's last line; taken last
  bool line_shown_ = false;
  // Set before its thread looks whether the mutex is free; whoever held it then looks here after letting go.
  std::atomic<const char*> notice_ = nullptr;
};

}  // namespace digest
