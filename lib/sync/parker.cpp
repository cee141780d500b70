// Parking on a futex, or in a simulation.
// Floor 1, room sync.
#include "sync/parker.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <ctime>

namespace penstock::sync {
namespace {

void wake(const void* address, int count) noexcept {
  syscall(SYS_futex, address, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, count, nullptr, nullptr, 0);
}

}  // namespace

bool park(const atomic<std::uint32_t>& word, std::uint32_t expected, steady_time deadline) {
  if (agent* simulated = this_thread_slot().simulated_by) {
    if (peek(word) != expected) return true;
    if (simulated->now() >= deadline) return false;
    simulated->wait(&word, deadline);
    return simulated->now() < deadline;
  }
  // The steady clock of libstdc++ is CLOCK_MONOTONIC, which is what an absolute futex deadline is measured by.
  timespec until{};
  const timespec* limit = nullptr;
  if (deadline != no_deadline) {
    auto since = deadline.time_since_epoch();
    if (since < since.zero()) since = since.zero();
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since);
    until.tv_sec = static_cast<time_t>(seconds.count());
    until.tv_nsec = static_cast<long>((since - seconds).count());
    limit = &until;
  }
  const long result = syscall(SYS_futex, static_cast<const void*>(&word), FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG,
                              expected, limit, nullptr, FUTEX_BITSET_MATCH_ANY);
  return !(result == -1 && errno == ETIMEDOUT);
}

void nap(std::chrono::nanoseconds duration) {
  const std::uint32_t word = 0;
  if (agent* simulated = this_thread_slot().simulated_by) return simulated->wait(&word, simulated->now() + duration);
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(duration);
  timespec length{};
  length.tv_sec = static_cast<time_t>(seconds.count());
  length.tv_nsec = static_cast<long>((duration - seconds).count());
  syscall(SYS_futex, static_cast<const void*>(&word), FUTEX_WAIT | FUTEX_PRIVATE_FLAG, word, &length, nullptr, 0);
}

void unpark_one(const void* address) noexcept {
  if (agent* simulated = this_thread_slot().simulated_by)
    simulated->wake_one(address);
  else
    wake(address, 1);
}

void unpark_all(const void* address) noexcept {
  if (agent* simulated = this_thread_slot().simulated_by)
    simulated->wake_all(address);
  else
    wake(address, INT_MAX);
}

}  // namespace penstock::sync
