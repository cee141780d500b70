// Posted work on moodycamel's queue.
// Floor 2, room exec.
#include "exec/posted_queue.hpp"

// Where it lies depends on its version and on who packaged it.
#if __has_include(<concurrentqueue/concurrentqueue.h>)
#include <concurrentqueue/concurrentqueue.h>
#elif __has_include(<concurrentqueue/moodycamel/concurrentqueue.h>)
#include <concurrentqueue/moodycamel/concurrentqueue.h>
#else
#include <moodycamel/concurrentqueue.h>
#endif

#include <new>
#include <utility>

// The queue's internals are invisible to TSan (its free list is reported now and then), so the hand-over of each node is
// announced here: a race inside the work itself is still found.
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

struct node {
  unique_function<void()> work;
};

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
  moodycamel::ConcurrentQueue<node*> nodes;
};

posted_queue::posted_queue() : queue_(std::make_unique<queue>()) {}

posted_queue::~posted_queue() {
  while (pop()) {
  }
}

bool posted_queue::push(unique_function<void()>& work) noexcept {
  auto* made = new (std::nothrow) node{};
  if (made == nullptr) return false;
  made->work = std::move(work);
  announce_push(made);
  bool stored = false;
  try {
    stored = queue_->nodes.enqueue(made);
  } catch (...) {  // no memory for a block
  }
  if (!stored) {
    work = std::move(made->work);
    delete made;
  }
  return stored;
}

unique_function<void()> posted_queue::pop() noexcept {
  node* taken = nullptr;
  if (!queue_->nodes.try_dequeue(taken)) return {};
  announce_pop(taken);
  unique_function<void()> work = std::move(taken->work);
  delete taken;
  return work;
}

}  // namespace penstock::exec
