// Reads a manifest line by line, for --check.
// Floor 9, room demo.
#include "check.hpp"

#include "descriptor.hpp"
#include "signals.hpp"
#include "text.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

namespace digest {

namespace {

constexpr std::size_t piece_bytes = 64 * 1024;
constexpr std::size_t longest_line = 1024 * 1024;

/// False: stop.
bool take_line(std::string_view line, std::size_t hex_digits, manifest_summary& summary,
               const std::function<bool(file_found&&)>& found) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  if (line.empty() || line.front() == '#') return true;
  std::optional<manifest_entry> entry = parse_manifest_line(line, hex_digits);
  if (!entry) {
    ++summary.malformed;
    return true;
  }
  ++summary.entries;
  file_found file;
  file.name = std::move(entry->name);
  file.expected = std::move(entry->hex);
  return found(std::move(file));
}

}  // namespace

manifest_summary read_manifest(const std::string& path, std::size_t hex_digits, const std::stop_token& stop,
                               const std::function<bool(file_found&&)>& found) {
  manifest_summary summary;
  descriptor opened;
  int file = STDIN_FILENO;
  if (path != "-") {
    opened = descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    file = opened.get();
  }
  struct stat is {};
  if (file < 0 || ::fstat(file, &is) != 0) {
    summary.error = std::strerror(errno);
    return summary;
  }
  if (S_ISDIR(is.st_mode)) {
    summary.error = std::strerror(EISDIR);
    return summary;
  }

  const stop_descriptor stopped(stop);
  const auto piece = std::make_unique<char[]>(piece_bytes);
  std::string line;
  bool overlong = false;
  while (!stop.stop_requested()) {
    pollfd waits[] = {{file, POLLIN, 0}, {stopped.get(), POLLIN, 0}};
    if (::poll(waits, 2, -1) < 0 && errno != EINTR) {
      summary.error = std::strerror(errno);
      return summary;
    }
    if (waits[1].revents != 0) return summary;
    const ssize_t count = ::read(file, piece.get(), piece_bytes);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) {
      summary.error = std::strerror(errno);
      return summary;
    }
    if (count == 0) {
      if (overlong)
        ++summary.malformed;
      else
        take_line(line, hex_digits, summary, found);
      return summary;
    }
    std::string_view rest(piece.get(), static_cast<std::size_t>(count));
    while (!rest.empty()) {
      const std::size_t end = rest.find('\n');
      const std::string_view part = rest.substr(0, end);
      if (line.size() + part.size() > longest_line) {
        overlong = true;
        line.clear();
      }
      if (!overlong) line += part;
      if (end == std::string_view::npos) break;
      rest.remove_prefix(end + 1);
      if (overlong)
        ++summary.malformed;
      else if (!take_line(line, hex_digits, summary, found))
        return summary;
      overlong = false;
      line.clear();
    }
  }
  return summary;
}

}  // namespace digest
