// Walks directory trees without recursion, and follows links only where it is told to.
// Floor 9, room demo.
#pragma once

#include "events.hpp"

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace digest {

/// Why the walk left something out that is no problem.
enum class skipped { excluded, link, dangling_link, loop, other_file_system };

/// What a walk takes. As it is: what `find PATH -type f` finds.
struct walk_rules {
  /// Globs (fnmatch) of names below the PATH that are left out, directories with all they hold: matched with the way
  /// from the PATH, where `*` takes no slash, and with the last part of the name.
  std::vector<std::string> excludes;
  bool follow_symlinks = false;  ///< as `find -L`
  bool one_file_system = false;  ///< only what lies on the device of its PATH
  bool sizes = false;            ///< look up how large each file is
};

/// Finds the regular files below a path, as `find PATH -type f` does, in no particular order.
///
/// Each directory is opened relative to its parent, so neither the length of a path nor a directory that is exchanged
/// for a link meanwhile leads astray. Cost: memory for one level at a time, with at most 32 KiB of names each; at most
/// `open_directories` descriptors beside those that unread events hold, however deep the tree is.
class tree_walker {
 public:
  /// Takes a found file; false ends the walk.
  using file_sink = std::function<bool(file_found&&)>;
  /// Told of what could not be walked or is no file: its name, and why.
  using problem_sink = std::function<void(std::string_view name, std::string_view text)>;

  /// Told of what the rules leave out: its name, and why.
  using skip_sink = std::function<void(std::string_view name, skipped why)>;

  static constexpr std::size_t open_directories = 64;

  tree_walker(file_sink found, problem_sink problem, walk_rules rules = {}, skip_sink skip = nullptr);

  /// Walks one argument. A symbolic link is followed when it is the argument itself, and elsewhere only when the rules
  /// say so; a directory that is being walked already is not entered again. False: the sink ended the walk.
  bool walk(const std::string& path);

 private:
  /// One directory on the way from the argument to where the walk is.
  struct level {
    std::shared_ptr<const descriptor> directory;  // null while the walk is far below it, see close_far_levels
    dev_t device = 0;
    ino_t inode = 0;
    bool through_link = false;    // its parent is not where ".." leads
    std::size_t path_length = 0;  // of path_ while this is the innermost level
    std::vector<char> entries;    // records of getdents64 that were read and not all taken
    std::size_t next = 0;         // the first record not taken
    off_t resume_at = 0;          // where the kernel goes on after `entries`
  };

  bool read_entries(level& top);
  bool take_entry(std::string_view name, unsigned char type);
  bool take_link(std::string_view name);
  bool take_file(std::string_view name, bool through_link);
  void enter(std::string_view name, bool through_link);
  bool excluded(std::string_view name) const;
  void skip(std::string_view name, skipped why) const;
  void leave();
  descriptor reopen_parent(const descriptor& inner, bool through_link) const;
  void close_far_levels() noexcept;
  std::string name_of(std::string_view leaf) const;

  file_sink found_;
  problem_sink problem_;
  walk_rules rules_;
  skip_sink skip_;
  std::vector<level> levels_;
  std::size_t root_length_ = 0;  // of the argument in path_, its slash included
  std::string path_;             // the name of the innermost directory, ending where a leaf may be appended
  std::unique_ptr<char[]> chunk_;
};

/// "a FIFO", "a socket", … for a mode as stat gives it.
const char* kind_of(mode_t mode) noexcept;

}  // namespace digest
