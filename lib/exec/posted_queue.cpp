// Posted work on moodycamel's queue.
// Floor 2, room exec.
#include "exec/posted_queue.hpp"

#include "base/mutex.hpp"

// Where it lies depends on its version and on who packaged it.
#if __has_include(<concurrentqueue/concurrentqueue.h>)
#include <concurrentqueue/concurrentqueue.h>
#elif __has_include(<concurrentqueue/moodycamel/concurrentqueue.h>)
#include <concurrentqueue/moodycamel/concurrentqueue.h>
#else
#include <moodycamel/concurrentqueue.h>
#endif

#include <array>
#include <cstddef>
#include <utility>

// The queue's internals are invisible to TSan (its free list is reported now and then), so each hand-over is announced
// here: a race inside the work itself is still found.
#if defined(__SANITIZE_THREAD__)
#define PENSTOCK_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PENSTOCK_TSAN 1
#endif
#endif
#if defined(PENSTOCK_TSAN)
extern "C" void __tsan_acquire(void*);
extern "C" void __tsan_release(void*);
#endif

namespace penstock::exec {
namespace {

void announce_push([[maybe_unused]] void* item) noexcept {
#if defined(PENSTOCK_TSAN)
  __tsan_release(item);
#endif
}
void announce_pop([[maybe_unused]] void* item) noexcept {
#if defined(PENSTOCK_TSAN)
  __tsan_acquire(item);
#endif
}

}  // namespace

struct posted_queue::queue {
  moodycamel::ConcurrentQueue<unique_function<void()>> closures;
  // Protects what follows; taken with no other lock held. One takes at a time, for two reasons. What moodycamel's queue
  // charges for a look is shared by all that is taken in one go. And its try_dequeue may come back with nothing while
  // there is something: it compares counts that it reads one after the other, and a taker that loses its core between
  // them sees only the pieces that others have taken meanwhile. A worker takes once for each piece, so that piece would
  // lie there until the next one came. Shown by the case "whoever may take posted work gets some, however many take at
  // once".
  mutex taking_m_;
  std::array<unique_function<void()>, 16> front PENSTOCK_GUARDED_BY(taking_m_);  // what was taken in one go
  std::size_t at PENSTOCK_GUARDED_BY(taking_m_) = 0;
  std::size_t end PENSTOCK_GUARDED_BY(taking_m_) = 0;
};

posted_queue::posted_queue() : queue_(std::make_unique<queue>()) {}

posted_queue::~posted_queue() {
  while (pop()) {
  }
}

bool posted_queue::push(unique_function<void()>& work) noexcept {
  announce_push(queue_.get());
  try {
    return queue_->closures.enqueue(std::move(work));  // moves only what it has a place for
  } catch (...) {  // no memory for a block
    return false;
  }
}

// Moving a closure runs no code of the user's, so it may be done under the lock.
unique_function<void()> posted_queue::pop() noexcept {
  queue& from = *queue_;
  unique_function<void()> work;
  {
    lock_guard lock(from.taking_m_);
    if (from.at == from.end) {
      from.at = 0;
      from.end = from.closures.try_dequeue_bulk(from.front.begin(), from.front.size());
      if (from.end == 0) return work;
    }
    work = std::move(from.front[from.at++]);
  }
  announce_pop(queue_.get());
  return work;
}

}  // namespace penstock::exec
