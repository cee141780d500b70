// Posted work on its way to a worker. The one door to moodycamel's queue is the source of this file.
// Floor 2, room exec.
#pragma once

#include <penstock/base/unique_function.hpp>

#include <memory>

namespace penstock::exec {

/// An unbounded queue of closures, which anybody may take: up to sixteen of them, taken in one go, lie ready for
/// whoever comes next, whichever worker took them. Order: per producer only, and not promised. Threads: thread-safe.
class posted_queue {
 public:
  posted_queue();
  ~posted_queue();
  posted_queue(const posted_queue&) = delete;
  posted_queue& operator=(const posted_queue&) = delete;

  /// False: no memory; `work` is untouched then.
  bool push(unique_function<void()>& work) noexcept;
  /// Empty only when there is none: whoever has seen a push return, and takes no more often than was pushed, gets some.
  unique_function<void()> pop() noexcept;

 private:
  struct queue;
  std::unique_ptr<queue> queue_;
};

}  // namespace penstock::exec
