// Walks directory trees without recursion and without following links.
// Floor 9, room demo.
#include "walker.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

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

tree_walker::tree_walker(file_sink found, problem_sink problem)
    : found_(std::move(found)), problem_(std::move(problem)), chunk_(std::make_unique<char[]>(chunk_bytes)) {}

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
  if (S_ISLNK(mode)) return true;
  if (S_ISDIR(mode)) {
    enter(name);
    return true;
  }
  if (!S_ISREG(mode)) {
    problem_(name_of(name), std::string("is ") + kind_of(mode) + ", not a file: left out");
    return true;
  }
  file_found file;
  file.name = name_of(name);
  file.leaf_at = path_.size();
  file.directory = levels_.back().directory;
  return found_(std::move(file));
}

void tree_walker::enter(std::string_view name) {
  const std::size_t name_length = name.size();
  descriptor opened(::openat(levels_.back().directory->get(), name.data(), open_flags | O_NOFOLLOW));
  struct stat is {};
  if (!opened || ::fstat(opened.get(), &is) != 0) {
    const int error_number = errno;
    problem_(name_of(name), error_number == ELOOP || error_number == ENOTDIR
                                ? std::string("was a directory when it was found, and is none any more")
                                : std::string("cannot be opened: ") + std::strerror(error_number));
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
  inner.path_length = path_.size();
  levels_.push_back(std::move(inner));
  close_far_levels();
}

void tree_walker::close_far_levels() noexcept {
  if (levels_.size() > open_directories) levels_[levels_.size() - 1 - open_directories].directory.reset();
}

void tree_walker::leave() {
  const std::shared_ptr<const descriptor> inner = std::move(levels_.back().directory);
  levels_.pop_back();
  if (levels_.empty()) return;
  path_.resize(levels_.back().path_length);
  level& outer = levels_.back();
  if (outer.directory) return;

  // It was closed on the way down: it is the parent of where the walk was, unless somebody moved that meanwhile.
  descriptor opened(::openat(inner->get(), "..", open_flags));
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
