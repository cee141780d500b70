// Lets the nth thread of this program fail to start, as when the system has no more of them. One file of a program
// includes it. Floor 9, room tests.
#pragma once

#include <atomic>
#include <cerrno>

#include <dlfcn.h>
#include <pthread.h>

namespace penstock_test {

/// How many threads may still start before one fails; below zero none does.
inline std::atomic<long> thread_starts_left{-1};

/// While it lives, the nth start from now on fails, counted from 0, and those after it do not.
class failing_thread_start {
 public:
  explicit failing_thread_start(long n) noexcept { thread_starts_left = n; }
  failing_thread_start(const failing_thread_start&) = delete;
  failing_thread_start& operator=(const failing_thread_start&) = delete;
  ~failing_thread_start() { thread_starts_left = -1; }
  bool has_failed() const noexcept { return thread_starts_left < 0; }
};

}  // namespace penstock_test

// The executable's symbol comes first, for the shared libraries too.
extern "C" [[gnu::visibility("default")]] int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                                                             void* (*body)(void*), void* argument) {
  using start = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const start real = reinterpret_cast<start>(dlsym(RTLD_NEXT, "pthread_create"));
  if (penstock_test::thread_starts_left.load() >= 0 && penstock_test::thread_starts_left.fetch_sub(1) == 0)
    return EAGAIN;
  return real(thread, attributes, body, argument);
}
