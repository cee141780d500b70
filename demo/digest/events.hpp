// The events that join the stages: a file was found, was read, was hashed.
// Floor 9, room demo.
#pragma once

#include "buffer_pool.hpp"
#include "descriptor.hpp"

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace digest {

/// Walker (or manifest) to reader.
struct file_found {
  std::string name;                             ///< as it will stand in the manifest
  std::shared_ptr<const descriptor> directory;  ///< the open directory it was found in; null: `name` is the way to it
  std::size_t leaf_at = 0;                      ///< where the last part of `name` starts, when there is a directory
  std::string expected;                         ///< the digest a manifest claims; empty when there is none to compare
  bool through_link = false;                    ///< it was found as a symbolic link that is to be followed
  std::optional<dev_t> only_device;             ///< left out when it turns out to lie on another one
  std::optional<std::uint64_t> size;            ///< in bytes, when its finder looked
};

/// Reader to hasher. A file of up to one buffer travels whole; of a longer one the head, and the open file for the
/// rest.
struct file_read {
  std::string name;
  std::string expected;
  pooled_buffer head;
  std::size_t head_bytes = 0;
  descriptor rest;
  std::uint64_t size = 0;  ///< in bytes, as the file said when it was opened
};

/// Hasher to writer; also reader to writer when a file of a manifest could not be read.
struct file_hashed {
  std::string name;
  std::string expected;
  std::string hex;          ///< empty: it could not be read
  std::uint64_t bytes = 0;  ///< how many were hashed
};

}  // namespace digest
