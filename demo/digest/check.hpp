// Reads a manifest line by line, for --check.
// Floor 9, room demo.
#pragma once

#include "events.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>

namespace digest {

/// What a manifest held.
struct manifest_summary {
  std::uint64_t entries = 0;    ///< well-formed lines
  std::uint64_t malformed = 0;  ///< other lines; empty ones and comments (#) do not count
  std::string error;            ///< why it could not be read; empty: it was read, or `found` ended it
};

/// Hands each entry of the manifest to `found` until that returns false or `stop` is requested. Waits for a pipe or
/// a terminal without missing `stop`. Memory does not grow with the manifest; a line beyond 1 MB is malformed.
/// Throws std::system_error when the machine has no descriptors left.
manifest_summary read_manifest(const std::string& path, std::size_t hex_digits, const std::stop_token& stop,
                               const std::function<bool(file_found&&)>& found);

}  // namespace digest
