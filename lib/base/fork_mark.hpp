// Tells a child process that its threads did not come along.
// Floor 0, room base.
#pragma once

namespace penstock {

/// A page that the kernel empties in a child: `forked` costs a load, no system call.
class fork_mark {
 public:
  /// Throws std::system_error when there is no page to be had.
  fork_mark();
  ~fork_mark();
  fork_mark(const fork_mark&) = delete;
  fork_mark& operator=(const fork_mark&) = delete;
  bool forked() const noexcept { return page_ != nullptr && *page_ == 0; }

 private:
  volatile unsigned char* page_ = nullptr;
};

}  // namespace penstock
