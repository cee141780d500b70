// Standard error: messages by name, and one line of progress that they do not tear apart.
// Floor 9, room demo.
#include "console.hpp"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace digest {

namespace {

void write_to_stderr(std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

std::size_t terminal_columns() noexcept {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 2) return 80;
  return size.ws_col;
}

}  // namespace

void console::message(std::string_view text) noexcept {
  try {
    std::string line = "penstock-digest: ";
    line += text;
    line += '\n';
    write_line(line);
  } catch (const std::exception&) {
    write_line("penstock-digest: out of memory while reporting\n");
  }
}

void console::line(std::string_view text) noexcept {
  try {
    write_line(std::string(text) + '\n');
  } catch (const std::exception&) {
    write_line("penstock-digest: out of memory while reporting\n");
  }
}

void console::write_line(std::string_view line) noexcept {
  {
    const std::lock_guard hold(mutex_);
    clear_locked();
    write_to_stderr(line);
  }
  show_notice();
}

void console::notice(const char* text) noexcept {
  notice_.store(text);
  show_notice();
}

void console::show_notice() noexcept {
  while (notice_.load() != nullptr) {
    const std::unique_lock hold(mutex_, std::try_to_lock);
    if (!hold) return;
    const char* const text = notice_.exchange(nullptr);
    pollfd room{STDERR_FILENO, POLLOUT, 0};
    // A pipe with room takes a short line whole; a stopped terminal has none.
    if (text == nullptr || ::poll(&room, 1, 0) != 1 || (room.revents & POLLOUT) == 0) continue;
    clear_locked();
    write_to_stderr("penstock-digest: ");
    write_to_stderr(text);
    write_to_stderr("\n");
  }
}

void console::progress(std::string_view text) noexcept {
  if (style_ == progress_style::none) return;
  try {
    std::string line;
    if (style_ == progress_style::live) {
      // One column stays free: a terminal that wraps there would leave lines behind.
      line = "\r\033[K";
      line += text.substr(0, std::min(text.size(), terminal_columns() - 1));
    } else {
      line = "penstock-digest: ";
      line += text;
      line += '\n';
    }
    {
      const std::lock_guard hold(mutex_);
      write_to_stderr(line);
      line_shown_ = style_ == progress_style::live;
    }
    show_notice();
  } catch (const std::exception&) {
    // Progress is a courtesy; the next one may find memory again.
  }
}

void console::clear_progress() noexcept {
  beside_progress([] {});
}

void console::clear_locked() noexcept {
  if (!line_shown_) return;
  write_to_stderr("\r\033[K");
  line_shown_ = false;
}

}  // namespace digest
