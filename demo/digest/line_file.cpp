// A file that takes lines as they come, for --events and --snapshot-file.
// Floor 9, room demo.
#include "line_file.hpp"

#include "options.hpp"
#include "text.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <utility>

namespace digest {

namespace {

constexpr std::size_t piece_bytes = 64 * 1024;
constexpr auto longest_delay = std::chrono::milliseconds(200);

}  // namespace

line_file::line_file(std::string option, const std::string& path, const std::vector<file_identity>& taken)
    : option_(std::move(option)), shown_name_(for_terminal(path)) {
  const auto refuse = [&](int error_number) {
    throw usage_error(option_ + ": cannot write " + shown_name_ + ": " + std::strerror(error_number) + "; " +
                      (error_number == EISDIR  ? "name a file in it"
                       : error_number == ENXIO ? "start its reader first, or name a file"
                                               : "name a file in a directory you can write to"));
  };
  struct stat is {};
  const auto identify = [&] { identity_ = {is.st_dev, is.st_ino}; };
  if (::stat(path.c_str(), &is) == 0) {
    identify();
    if (S_ISREG(is.st_mode) && std::find(taken.begin(), taken.end(), identity_) != taken.end())
      throw usage_error(option_ + ": " + shown_name_ + " is already written by another option; name another file");
  }
  // Without O_NONBLOCK the opening of a FIFO that nobody reads would wait.
  file_ = descriptor(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, 0666));
  if (!file_) refuse(errno);
  if (::fcntl(file_.get(), F_SETFL, O_APPEND) != 0 || ::fstat(file_.get(), &is) != 0) refuse(errno);
  identify();
}

void line_file::fail(int error_number) noexcept {
  failed_ = true;
  try {
    error_ = option_ + ": cannot write " + shown_name_ + ": " + std::strerror(error_number) + "; it is not complete";
  } catch (const std::exception&) {
    // It stays without a reason.
  }
}

void line_file::write(std::string_view line) noexcept {
  if (failed_) return;
  try {
    collected_ += line;
    collected_ += '\n';
  } catch (const std::exception&) {
    fail(ENOMEM);
    return;
  }
  if (collected_.size() >= piece_bytes || std::chrono::steady_clock::now() - flushed_at_ >= longest_delay) flush();
}

void line_file::flush() noexcept {
  std::string_view rest = collected_;
  while (!rest.empty() && !failed_) {
    const ssize_t written = ::write(file_.get(), rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0)
      fail(written < 0 ? errno : EIO);
    else
      rest.remove_prefix(static_cast<std::size_t>(written));
  }
  collected_.clear();
  flushed_at_ = std::chrono::steady_clock::now();
}

}  // namespace digest
