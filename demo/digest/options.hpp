// The command line of penstock-digest.
// Floor 9, room demo.
#pragma once

#include <penstock/bus/subscribe_options.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace digest {

/// The stages in their order, and then what looks on when --events asks for it.
enum class stage { reader, hasher, writer, events };
inline constexpr std::array<const char*, 4> stage_names = {"reader", "hasher", "writer", "events"};

struct options {
  std::vector<std::string> paths;
  std::string output;                                       ///< empty: standard output
  std::string check;                                        ///< a manifest to verify; empty: make one
  std::string report;                                       ///< empty: none
  std::string events;                                       ///< empty: none
  penstock::overflow overflow = penstock::overflow::block;  ///< of the events' subscription
  std::optional<std::chrono::nanoseconds> snapshot_every;
  std::string snapshot_file;  ///< empty: standard error
  std::string algorithm = "sha256";
  unsigned workers = 1;
  std::size_t capacity = 64;
  std::array<std::chrono::nanoseconds, 4> throttle{};  ///< by stage
  std::optional<std::chrono::nanoseconds> deadline;
  std::vector<std::string> excludes;  ///< globs
  bool follow_symlinks = false;
  bool one_file_system = false;
  bool quiet = false;
  bool verbose = false;
};

/// A command line that cannot be followed; the text names the option and what to write instead.
class usage_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What the command line asks for: work, or a text for standard output.
struct command {
  digest::options options;
  std::string print;  ///< of --help or --version; not empty: print it and do nothing else
};

/// Throws usage_error.
command parse_command_line(int count, const char* const* arguments);

}  // namespace digest
