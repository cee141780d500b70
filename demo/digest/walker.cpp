// Walks directory trees without recursion, and follows links only where it is told to.
// Floor 9, room demo.
#include "walker.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace digest {

namespace {
constexpr std::size_t chunk_bytes = 32 * 1024;
constexpr int open_flags = O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
}  // namespace

const char* kind_of(mode_t mode) noexcept {
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISLNK(mode)) return "a symbolic link";
  return "of an unknown kind";
}

tree_walker::tree_walker(file_sink found, problem_sink problem, walk_rules rules, skip_sink skip)
    : found_(std::move(found)),
      problem_(std::move(problem)),
      rules_(std::move(rules)),
      skip_(std::move(skip)),
      chunk_(std::make_unique<char[]>(chunk_bytes)) {}

void tree_walker::skip(std::string_view name, skipped why) const {
  if (skip_) skip_(name_of(name), why);
}

/// `name` ends with a zero byte.
bool tree_walker::excluded(std::string_view name) const {
  if (rules_.excludes.empty()) return false;
  const std::string way = name_of(name).substr(root_length_);
  return std::any_of(rules_.excludes.begin(), rules_.excludes.end(), [&](const std::string& glob) {
    return ::fnmatch(glob.c_str(), name.data(), 0) == 0 || ::fnmatch(glob.c_str(), way.c_str(), FNM_PATHNAME) == 0;
  });
}

std::string tree_walker::name_of(std::string_view leaf) const {
  std::string name;
  name.reserve(path_.size() + leaf.size());
  name += path_;
  name += leaf;
  return name;
}

bool tree_walker::walk(const std::string& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) {
    problem_(path, std::strerror(errno));
    return true;
  }
  if (S_ISREG(found.st_mode)) {
    file_found file;
    file.name = path;
    if (rules_.sizes) file.size = static_cast<std::uint64_t>(found.st_size);
    return found_(std::move(file));
  }
  if (!S_ISDIR(found.st_mode)) {
    problem_(path, std::string("is ") + kind_of(found.st_mode) + ", not a file: left out");
    return true;
  }

  descriptor opened(::open(path.c_str(), open_flags));
  struct stat top_is {};
  if (!opened || ::fstat(opened.get(), &top_is) != 0) {
    problem_(path, std::string("cannot be opened: ") + std::strerror(errno));
    return true;
  }
  path_ = path;
  if (path_.back() != '/') path_ += '/';
  root_length_ = path_.size();
  level top;
  top.directory = std::make_shared<const descriptor>(std::move(opened));
  top.device = top_is.st_dev;
  top.inode = top_is.st_ino;
  top.path_length = path_.size();
  levels_.push_back(std::move(top));

  while (!levels_.empty()) {
    level& innermost = levels_.back();
    if (innermost.next == innermost.entries.size() && !read_entries(innermost)) {
      leave();
      continue;
    }
    // The record stays where it is while it is taken, unless a level is entered: then its name has been copied.
    const char* const record = innermost.entries.data() + innermost.next;
    unsigned short length = 0;
    std::memcpy(&length, record + offsetof(dirent64, d_reclen), sizeof length);
    innermost.next += length;
    const std::string_view name(record + offsetof(dirent64, d_name));
    if (name == "." || name == "..") continue;
    if (!take_entry(name, static_cast<unsigned char>(record[offsetof(dirent64, d_type)]))) {
      levels_.clear();
      return false;
    }
  }
  return true;
}

/// False at the end of the directory, and when it cannot be read further.
bool tree_walker::read_entries(level& top) {
  const ssize_t count = ::getdents64(top.directory->get(), chunk_.get(), chunk_bytes);
  if (count < 0) {
    problem_(path_, std::string("cannot be read: ") + std::strerror(errno));
    return false;
  }
  top.entries.assign(chunk_.get(), chunk_.get() + count);
  top.next = 0;
  for (ssize_t at = 0; at < count;) {
    unsigned short length = 0;
    std::memcpy(&length, chunk_.get() + at + offsetof(dirent64, d_reclen), sizeof length);
    std::memcpy(&top.resume_at, chunk_.get() + at + offsetof(dirent64, d_off), sizeof top.resume_at);
    at += length;
  }
  return count != 0;
}

bool tree_walker::take_entry(std::string_view name, unsigned char type) {
  const int directory = levels_.back().directory->get();
  mode_t mode = DTTOIF(type);
  if (type == DT_UNKNOWN) {  // a file system that does not say
    struct stat found {};
    if (::fstatat(directory, name.data(), &found, AT_SYMLINK_NOFOLLOW) != 0) {
      problem_(name_of(name), std::strerror(errno));
      return true;
    }
    mode = found.st_mode;
  }
  if (excluded(name)) {
    skip(name, skipped::excluded);
    return true;
  }
  if (S_ISLNK(mode)) {
    if (rules_.follow_symlinks) return take_link(name);
    skip(name, skipped::link);
    return true;
  }
  if (S_ISDIR(mode)) {
    enter(name, false);
    return true;
  }
  if (!S_ISREG(mode)) {
    problem_(name_of(name), std::string("is ") + kind_of(mode) + ", not a file: left out");
    return true;
  }
  return take_file(name, false);
}

bool tree_walker::take_link(std::string_view name) {
  struct stat behind {};
  if (::fstatat(levels_.back().directory->get(), name.data(), &behind, 0) != 0) {
    if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)
      skip(name, skipped::dangling_link);
    else
      problem_(name_of(name), std::string("cannot be followed: ") + std::strerror(errno));
    return true;
  }
  if (S_ISDIR(behind.st_mode)) {
    enter(name, true);
    return true;
  }
  if (!S_ISREG(behind.st_mode)) {
    problem_(name_of(name), std::string("leads to what is ") + kind_of(behind.st_mode) + ", not a file: left out");
    return true;
  }
  return take_file(name, true);
}

bool tree_walker::take_file(std::string_view name, bool through_link) {
  file_found file;
  file.name = name_of(name);
  file.leaf_at = path_.size();
  file.directory = levels_.back().directory;
  file.through_link = through_link;
  if (rules_.one_file_system) file.only_device = levels_.front().device;
  struct stat is {};
  if (rules_.sizes && ::fstatat(file.directory->get(), name.data(), &is, through_link ? 0 : AT_SYMLINK_NOFOLLOW) == 0)
    file.size = static_cast<std::uint64_t>(is.st_size);
  return found_(std::move(file));
}

void tree_walker::enter(std::string_view name, bool through_link) {
  const std::size_t name_length = name.size();
  descriptor opened(
      ::openat(levels_.back().directory->get(), name.data(), open_flags | (through_link ? 0 : O_NOFOLLOW)));
  struct stat is {};
  if (!opened || ::fstat(opened.get(), &is) != 0) {
    const int error_number = errno;
    problem_(name_of(name), error_number == ELOOP || error_number == ENOTDIR
                                ? std::string("was a directory when it was found, and is none any more")
                                : std::string("cannot be opened: ") + std::strerror(error_number));
    return;
  }
  if (rules_.one_file_system && is.st_dev != levels_.front().device) {
    skip(name, skipped::other_file_system);
    return;
  }
  // Below a followed link any directory may be one that the walk is in.
  if (rules_.follow_symlinks && std::any_of(levels_.begin(), levels_.end(), [&](const level& outer) {
        return outer.device == is.st_dev && outer.inode == is.st_ino;
      })) {
    skip(name, skipped::loop);
    return;
  }
  path_.append(name.data(), name_length);
  path_ += '/';

  // What is already taken of the outer level's names need not be kept while the walk is below it.
  level& outer = levels_.back();
  std::vector<char>(outer.entries.begin() + static_cast<std::ptrdiff_t>(outer.next), outer.entries.end())
      .swap(outer.entries);
  outer.next = 0;

  level inner;
  inner.directory = std::make_shared<const descriptor>(std::move(opened));
  inner.device = is.st_dev;
  inner.inode = is.st_ino;
  inner.through_link = through_link;
  inner.path_length = path_.size();
  levels_.push_back(std::move(inner));
  close_far_levels();
}

/// The outermost directory stays open when links are followed: reopen_parent may need it.
void tree_walker::close_far_levels() noexcept {
  if (levels_.size() <= open_directories) return;
  const std::size_t far = levels_.size() - 1 - open_directories;
  if (far != 0 || !rules_.follow_symlinks) levels_[far].directory.reset();
}

/// Opens the innermost level's directory again, from what was below it. Through a link ".." leads elsewhere, so the way
/// is then gone from the nearest level above that is still open.
descriptor tree_walker::reopen_parent(const descriptor& inner, bool through_link) const {
  if (!through_link) return descriptor(::openat(inner.get(), "..", open_flags));
  std::size_t at = levels_.size() - 1;
  while (!levels_[at].directory) --at;
  descriptor opened(::openat(levels_[at].directory->get(), ".", open_flags));
  while (opened && ++at < levels_.size()) {
    const std::size_t begin = levels_[at - 1].path_length;
    const std::string name = path_.substr(begin, levels_[at].path_length - begin - 1);
    opened = descriptor(::openat(opened.get(), name.c_str(), open_flags | (levels_[at].through_link ? 0 : O_NOFOLLOW)));
  }
  return opened;
}

void tree_walker::leave() {
  const bool through_link = levels_.back().through_link;
  const std::shared_ptr<const descriptor> inner = std::move(levels_.back().directory);
  levels_.pop_back();
  if (levels_.empty()) return;
  path_.resize(levels_.back().path_length);
  level& outer = levels_.back();
  if (outer.directory) return;

  // It was closed on the way down: it is where it was, unless somebody moved it meanwhile.
  descriptor opened = reopen_parent(*inner, through_link);
  struct stat is {};
  if (opened && ::fstat(opened.get(), &is) == 0 && is.st_dev == outer.device && is.st_ino == outer.inode &&
      ::lseek(opened.get(), outer.resume_at, SEEK_SET) >= 0) {
    outer.directory = std::make_shared<const descriptor>(std::move(opened));
    return;
  }
  problem_(path_, "was moved while it was walked: the rest of it and of the directories above it is left out");
  levels_.clear();
}

}  // namespace digest
