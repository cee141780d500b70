// Where the manifest goes: a file that appears whole or not at all, or standard output.
// Floor 9, room demo.
#include "output.hpp"

#include "text.hpp"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace digest {

namespace {

constexpr std::size_t piece_bytes = 64 * 1024;
// A reader at the other end of a pipe sees lines soon, however slowly they come.
constexpr auto longest_delay = std::chrono::milliseconds(500);

std::string directory_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::runtime_error cannot_write(const std::string& path, int error_number, const char* remedy) {
  return std::runtime_error("cannot write " + for_terminal(path) + ": " + std::strerror(error_number) + "; " + remedy);
}

}  // namespace

output::output(const std::string& path, console& terminal) : terminal_(terminal) {
  struct stat found {};
  if (path.empty()) {
    shown_name_ = "standard output";
    number_ = STDOUT_FILENO;
    if (::fstat(number_, &found) != 0)
      throw std::runtime_error("standard output is closed; redirect it or name a file with -o");
    pipe_ = S_ISFIFO(found.st_mode);
    shares_terminal_ = ::isatty(number_) == 1;
    if (S_ISREG(found.st_mode)) own_files_.push_back({found.st_dev, found.st_ino});
    return;
  }

  shown_name_ = for_terminal(path);
  const bool exists = ::stat(path.c_str(), &found) == 0;
  if (!exists && errno != ENOENT) throw cannot_write(path, errno, "name a file in a directory you can write to");
  if (exists && S_ISDIR(found.st_mode))
    throw std::runtime_error("cannot write " + shown_name_ + ": it is a directory; name a file in it");
  if (exists && !S_ISREG(found.st_mode)) {
    // A device or a pipe has no contents to replace: renaming over it would only destroy it.
    file_ = descriptor(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY));
    if (!file_) throw cannot_write(path, errno, "name a file or a device you can write to");
    number_ = file_.get();
    pipe_ = S_ISFIFO(found.st_mode);
    shares_terminal_ = ::isatty(number_) == 1;
    return;
  }

  target_ = path;
  if (exists) {
    // Through a symbolic link the file behind it is replaced, not the link.
    const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), ::free);
    if (real) target_ = real.get();
    own_files_.push_back({found.st_dev, found.st_ino});
  }
  std::string name = directory_of(target_) + "/.penstock-digest.XXXXXX";
  file_ = descriptor(::mkostemp(name.data(), O_CLOEXEC));
  if (!file_) throw cannot_write(path, errno, "a temporary file is made beside it, so its directory must be writable");
  temporary_ = std::move(name);
  number_ = file_.get();

  const mode_t mask = ::umask(0);
  ::umask(mask);
  const mode_t mode = exists ? found.st_mode & 07777 : 0666 & ~mask;
  struct stat made {};
  if (::fchmod(number_, mode) != 0 || ::fstat(number_, &made) != 0) {
    const int error_number = errno;
    abandon();
    throw cannot_write(path, error_number, "its directory must be on a file system with permissions");
  }
  own_files_.push_back({made.st_dev, made.st_ino});
}

output::~output() {
  if (!committed_) abandon();
}

void output::abandon() const noexcept {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void output::fail(std::string_view what, int error_number) noexcept {
  if (failed_.load()) return;
  try {
    error_ = shown_name_ + ": " + std::string(what) + ": " + std::strerror(error_number);
    if (error_number == ENOSPC || error_number == EDQUOT)
      error_ += "; make room or choose another place with -o FILE";
    else if (error_number == EPIPE)
      error_ += "; whoever was to read it is gone";
  } catch (const std::exception&) {
    // The flag alone says that it failed.
  }
  failed_.store(true);
}

bool output::write_out(std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t written = ::write(number_, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) {
      // Somebody who shares the pipe made it non-blocking.
      pollfd room{number_, POLLOUT, 0};
      ::poll(&room, 1, -1);
      continue;
    }
    if (written <= 0) {
      fail("cannot write", written < 0 ? errno : EIO);
      return false;
    }
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

bool output::flush() noexcept {
  if (failed_.load()) return false;
  std::string_view rest = collected_;
  const auto write_all = [&] {
    while (!rest.empty() && !failed_.load()) {
      std::size_t piece = rest.size();
      if (pipe_ && piece > PIPE_BUF) {
        // A pipe takes up to PIPE_BUF bytes whole or not at all: pieces of whole lines never leave half a line there,
        // even if this process is killed while it waits for the reader.
        const std::size_t end = rest.rfind('\n', PIPE_BUF - 1);
        piece = end == std::string_view::npos ? rest.find('\n') + 1 : end + 1;
      }
      write_out(rest.substr(0, piece));
      rest.remove_prefix(piece);
    }
  };
  if (shares_terminal_)
    terminal_.beside_progress(write_all);
  else
    write_all();
  collected_.clear();
  flushed_at_ = std::chrono::steady_clock::now();
  return !failed_.load();
}

bool output::write(std::string_view line) noexcept {
  if (failed_.load()) return false;
  try {
    collected_ += line;
  } catch (const std::exception&) {
    fail("cannot collect a line", ENOMEM);
    return false;
  }
  if (collected_.size() >= piece_bytes || shares_terminal_) return flush();
  if (goes_out_at_once() && std::chrono::steady_clock::now() - flushed_at_ >= longest_delay) return flush();
  return true;
}

bool output::commit() noexcept {
  if (!flush()) return false;
  if (temporary_.empty()) return true;
  if (::fsync(number_) != 0) {
    fail("cannot bring it to disk", errno);
    return false;
  }
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    fail("cannot take its name", errno);
    return false;
  }
  committed_ = true;
  // The name is brought to disk as well; a directory that cannot be synchronised has the file all the same.
  const descriptor directory(::open(directory_of(target_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory) ::fsync(directory.get());
  return true;
}

}  // namespace digest
