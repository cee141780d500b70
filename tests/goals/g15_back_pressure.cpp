// G15: a dead consumer costs its capacity and no more; a publisher that waits wakes when a seat frees, or at its
// deadline. Floor 9, room tests.
#include "../support/gate.hpp"
#include "goal.hpp"

#include <penstock/penstock.hpp>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <semaphore>
#include <string>
#include <thread>
#include <utility>

#include <sys/wait.h>
#include <unistd.h>

using namespace std::chrono_literals;
using namespace penstock_goals;
using penstock::errc;
using penstock::overflow;
using penstock::subscribe_options;
using steady = std::chrono::steady_clock;

namespace {

// --- memory ----------------------------------------------------------------------------------------------------------

/// Travels in a block of its own.
struct page {
  explicit page(std::uint64_t number) { std::memset(bytes, static_cast<int>(number % 251), sizeof bytes); }
  unsigned char bytes[4096];
};
/// Travels in its seat.
struct small {
  explicit small(std::uint64_t number) { std::memset(bytes, static_cast<int>(number % 251), sizeof bytes); }
  unsigned char bytes[64];
};

/// Resident memory in bytes, exact: `statm` may be off by some dozen pages per processor.
std::uint64_t resident() {
  std::ifstream file("/proc/self/smaps_rollup");
  std::string line;
  while (std::getline(file, line))
    if (line.rfind("Rss:", 0) == 0) return std::strtoull(line.c_str() + 4, nullptr, 10) * 1024;
  return 0;
}

enum class dead { calls_nobody_returns_from, stream_nobody_reads };
struct memory_case {
  const char* name;
  penstock::overflow policy;
  dead how;
};
constexpr memory_case memory_cases[] = {
    {"block", overflow::block, dead::calls_nobody_returns_from},
    {"fail", overflow::fail, dead::calls_nobody_returns_from},
    {"drop_newest", overflow::drop_newest, dead::calls_nobody_returns_from},
    {"drop_oldest", overflow::drop_oldest, dead::calls_nobody_returns_from},
    {"stream", overflow::drop_oldest, dead::stream_nobody_reads},
};

/// What one measurement gives; goes through a pipe.
struct growth {
  std::uint64_t before = 0, most = 0;  // resident bytes: the most without, and with the dead consumer
  std::uint64_t queued = 0;            // events that the dead consumer holds in the end
  bool sound = false;                  // ledgers balance, the healthy consumer got what it accepted
  std::uint64_t bytes() const { return most > before ? most - before : 0; }
};

template <class E>
growth measure(const memory_case& how, std::size_t capacity) {
  growth found;
  penstock_test::gate taken, release;
  std::uint64_t handled = 0, accepted = 0, number = 0;
  penstock::runtime rt(penstock::runtime_options().pool("default", penstock::worker_pool_options().threads(2)));
  auto& bus = rt.bus();
  const auto to = bus.publisher<E>();
  auto healthy = bus.subscribe<E>("healthy", subscribe_options().capacity(64), [&](const E&) { ++handled; });
  const auto publish_many = [&](std::uint64_t count, std::uint64_t& most) {
    for (std::uint64_t i = 0; i < count; ++i) {
      // `block` is not waited for: the publisher would stand still, and memory with it.
      const auto result = how.policy == overflow::block ? to.try_emplace(number++) : to.emplace(number++);
      accepted += result.accepted();
      if (i % (capacity / 4) == 0) most = std::max(most, resident());
    }
    most = std::max(most, resident());
  };
  // The same traffic without the dead consumer: what the program needs anyway, caches of the allocator included.
  publish_many(2 * capacity, found.before);
  penstock::subscription stuck;
  penstock::stream<E> unread;
  if (how.how == dead::stream_nobody_reads) {
    unread = bus.stream<E>("dead", penstock::stream_options().capacity(capacity).overflow(how.policy));
  } else {
    stuck = bus.subscribe<E>("dead", subscribe_options().capacity(capacity).overflow(how.policy), [&](const E&) {
      taken.open();
      release.wait();
    });
    accepted += to.emplace(number++).accepted();
    taken.wait();
  }
  found.most = found.before;
  publish_many(8 * capacity, found.most);
  const auto held = stuck ? stuck.ledger() : unread.ledger();
  found.queued = held.queued;
  found.sound = held.balanced() && healthy.close(penstock::close_mode::drain) == penstock::close_status::closed &&
                healthy.ledger().balanced() && healthy.ledger().handled == handled &&
                healthy.ledger().accepted + held.accepted == accepted && healthy.ledger().discarded == 0;
  release.open();
  return found;
}

/// In a child process, so that each case begins with a heap that no other one has used. Called before this process has
/// threads.
template <class E>
growth measure_apart(const memory_case& how, std::size_t capacity) {
  growth found;
  int ends[2];
  if (pipe(ends) != 0) return found;
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    alarm(most_seconds());
    const growth mine = measure<E>(how, capacity);
    _exit(write(ends[1], &mine, sizeof mine) == static_cast<ssize_t>(sizeof mine) ? 0 : 1);
  }
  close(ends[1]);
  const bool whole = child > 0 && read(ends[0], &found, sizeof found) == static_cast<ssize_t>(sizeof found);
  close(ends[0]);
  if (child > 0) waitpid(child, nullptr, 0);
  return whole ? found : growth();
}

std::string mebibytes(std::uint64_t bytes) {
  return with_digits(static_cast<double>(bytes) / (1024 * 1024), 1) + " MiB";
}

/// The largest growth over all cases, as a share of what `allowed` bytes are for this capacity.
struct largest {
  double share = 0;
  std::string text;
  bool sound = true;
};
template <class E>
void measure_all(report& out, largest& worst, std::size_t capacity, std::uint64_t allowed) {
  for (const memory_case& each : memory_cases) {
    const growth found = measure_apart<E>(each, capacity);
    const double share = 100.0 * static_cast<double>(found.bytes()) / static_cast<double>(allowed);
    const std::string text = grouped(capacity) + " x " + std::to_string(sizeof(E)) + " bytes, " + each.name + ": " +
                             mebibytes(found.bytes()) + " = " + with_digits(share, 1) + " % of " + mebibytes(allowed);
    out.note(text + "; " + grouped(found.queued) + " queued, " + mebibytes(found.before) + " before");
    // The channel is full, and the memory of what it holds was seen: else nothing was measured.
    worst.sound = worst.sound && found.sound && found.queued == capacity && share > 90;
    if (share > worst.share) worst.share = share, worst.text = text;
  }
}

void memory(report& out) {
  const std::size_t capacity = sized(6'000, 60'000);
  largest blocks;
  measure_all<page>(out, blocks, capacity, std::uint64_t{capacity} * sizeof(page));
  out.figure("G15 memory of a dead consumer", "growth of resident memory at most " + blocks.text,
             "capacity x item + 5 %; full, nothing allowed for the allocator", blocks.sound && blocks.share <= 105);
  // An event in its seat has the seat's 8 bytes beside it, and the ring has a power of two of seats.
  largest in_place;
  for (const std::size_t seats : {sized(131'072, 1'048'576), sized(100'000, 800'000)})
    measure_all<small>(out, in_place, seats, std::bit_ceil(std::uint64_t{seats}) * (sizeof(small) + 8));
  out.figure("G15 memory, events in place", "growth of resident memory at most " + in_place.text,
             "(item + 8) x capacity rounded up to a power of two + 5 %", in_place.sound && in_place.share <= 105);
}

// --- waking ----------------------------------------------------------------------------------------------------------

struct wake_up {
  times all;
  std::uint64_t accepted = 0, samples = 0;
};

/// A publisher on a thread of its own waits for a seat again and again. `pending_then_free` waits until it stands in
/// line, frees a seat, and gives the instant before it did.
template <class Free>
void wait_for_seats(penstock::event_bus& bus, std::uint64_t samples, wake_up& sum, Free pending_then_free) {
  std::binary_semaphore go{0}, back{0};
  steady::time_point woke;
  std::thread publisher([&] {
    const auto to = bus.publisher<small>();
    for (std::uint64_t i = 0; i < samples; ++i) {
      go.acquire();
      sum.accepted += to.emplace(i).accepted();
      woke = steady::now();
      back.release();
    }
  });
  for (std::uint64_t i = 0; i < samples; ++i) {
    go.release();
    const steady::time_point freed = pending_then_free();
    back.acquire();
    sum.all.add(woke - freed);
  }
  publisher.join();
  sum.samples += samples;
}

/// A reader takes the only event.
void wake_by_reader(std::uint64_t samples, wake_up& sum) {
  penstock::runtime rt;
  auto inbox = rt.bus().stream<small>("narrow", penstock::stream_options().capacity(1));
  rt.bus().publish(small(0));
  wait_for_seats(rt.bus(), samples, sum, [&] {
    penstock_test::eventually([&] { return inbox.ledger().pending == 1; });
    const auto before = steady::now();
    const auto got = inbox.receive();
    return before;
  });
}

/// A handler works off all that is queued, and its lane rests.
void wake_by_quick_handler(std::uint64_t samples, wake_up& sum) {
  constexpr std::size_t capacity = 8;
  penstock::runtime rt;
  std::counting_semaphore<> permits{0};
  auto quick = rt.bus().subscribe<small>("quick", subscribe_options().capacity(capacity),
                                         [&](const small&) { permits.acquire(); });
  const auto fill = [&] {
    rt.bus().publish(small(0));
    penstock_test::eventually([&] { return quick.ledger().running == 1 && quick.ledger().queued == 0; });
    for (std::size_t i = 0; i < capacity; ++i) rt.bus().publish(small(i));
  };
  for (std::uint64_t i = 0; i < samples; ++i) {
    fill();
    wait_for_seats(rt.bus(), 1, sum, [&] {
      penstock_test::eventually([&] { return quick.ledger().pending == 1; });
      const auto before = steady::now();
      permits.release(static_cast<std::ptrdiff_t>(capacity + 2));
      return before;
    });
    penstock_test::eventually([&] { return quick.ledger().quiescent(); });
  }
}

/// A handler's lane begins one event of many, and stays in that call: neither half the seats come free nor does it
/// rest.
void wake_by_slow_handler(std::uint64_t samples, wake_up& sum) {
  constexpr std::size_t capacity = 64;
  penstock::runtime rt;
  std::counting_semaphore<> permits{0};
  auto slow = rt.bus().subscribe<small>("slow", subscribe_options().capacity(capacity),
                                        [&](const small&) { permits.acquire(); });
  rt.bus().publish(small(0));
  penstock_test::eventually([&] { return slow.ledger().running == 1; });
  for (std::size_t i = 0; i < capacity; ++i) rt.bus().publish(small(i));
  wait_for_seats(rt.bus(), samples, sum, [&] {
    penstock_test::eventually([&] { return slow.ledger().pending == 1; });
    const auto before = steady::now();
    permits.release();
    return before;
  });
  permits.release(static_cast<std::ptrdiff_t>(capacity + samples + 2));
  (void)slow.close(penstock::close_mode::drain);
}

/// Nothing comes free: the publish fails at its deadline.
void deadlines(report& out, std::uint64_t samples) {
  penstock::runtime rt;
  auto inbox = rt.bus().stream<small>("full", penstock::stream_options().capacity(1));
  const auto to = rt.bus().publisher<small>();
  to.emplace(0);
  times late;
  std::uint64_t early = 0, timed_out = 0;
  for (std::uint64_t i = 0; i < samples; ++i) {
    const auto wait = std::chrono::microseconds(500 + i * 97 % 9'500);
    const auto due = steady::now() + wait;
    const auto result = to.publish_for(wait, small(i));
    const auto ended = steady::now();
    early += ended < due ? 1 : 0;
    timed_out += result.error() == errc::timed_out && result.accepted() == 0 && result.rejected() == 1 ? 1 : 0;
    late.add(ended - due);
  }
  const auto ledger = inbox.ledger();
  out.figure("G15 a publish fails at its deadline",
             grouped(timed_out) + " of " + grouped(samples) + " timed out, " + grouped(early) + " before the deadline",
             "all, 0",
             timed_out == samples && early == 0 && ledger.rejected.timed_out == samples && ledger.queued == 1 &&
                 ledger.balanced());
  out.time("G15 how late it fails", late.text(), "at most 5 ms; a time, no verdict", late.max() <= 5);
}

}  // namespace

int main() {
  const penstock_test::time_limit limit(most_seconds());
  report out;
  memory(out);
  wake_up quick, reader, slow;
  wake_by_quick_handler(sized(200, 5'000), quick);
  wake_by_reader(sized(100, 2'000), reader);
  wake_by_slow_handler(sized(100, 2'000), slow);
  const std::uint64_t accepted = quick.accepted + reader.accepted + slow.accepted;
  const std::uint64_t samples = quick.samples + reader.samples + slow.samples;
  out.figure("G15 a blocked publisher gets the seat that frees",
             grouped(accepted) + " of " + grouped(samples) + " accepted", "all", accepted == samples);
  const char* goal = "at most 10 ms; a time, no verdict";
  out.time("G15 waking, a handler works off its queue", quick.all.text(), goal, quick.all.max() <= 10);
  out.time("G15 waking, a reader takes the only event", reader.all.text(), goal, reader.all.max() <= 10);
  out.time("G15 waking, a handler frees one seat of 64 and stays in its call", slow.all.text(), goal,
           slow.all.max() <= 10);
  deadlines(out, sized(100, 2'000));
  return out.finish();
}
