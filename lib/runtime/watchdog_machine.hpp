// The decisions of the watchdog: what was seen, and when, in; reports out. No clock, no thread, no lock.
// Floor 7, room runtime.
#pragma once

#include "exec/watched.hpp"

#include <penstock/base/clock.hpp>
#include <penstock/runtime/watchdog.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

namespace penstock {

/// Everything that one look sees.
struct watchdog_view {
  std::vector<detail::watched_call> calls;
  std::vector<detail::watched_wait> waits;
  std::vector<detail::pool_look> pools;
};

/// A report, and the worker whose stack belongs into it.
struct watchdog_finding {
  static constexpr std::size_t no_pool = static_cast<std::size_t>(-1);
  watchdog_report report;
  std::size_t pool = no_pool;  ///< which of the view's
  detail::working_look worker;
};

/// What it sees it has not seen before, it counts from then on. Each thing that has gone on for the limit is reported, again
/// at twice, four times, … the limit, and once when it is over. Threads: one.
class watchdog_machine {
 public:
  explicit watchdog_machine(std::chrono::nanoseconds limit) noexcept : limit_(limit) {}
  /// Throws std::bad_alloc; then the next look sees everything again, and at worst an end is not told.
  std::vector<watchdog_finding> look(const watchdog_view& view, steady_time now);
  /// When it has to look again at the latest, for what it knows; `no_deadline`: for nothing.
  steady_time due() const noexcept;

 private:
  /// Something that goes on: since when, when it is to be reported next, and the report that says it is over.
  struct watched {
    steady_time since{};
    std::chrono::nanoseconds next{};  ///< how old it is when it is reported
    bool reported = false;
    bool seen = true;
    watchdog_report last;
    std::uint64_t turn = 0;  ///< of what counts in one turn only: which one
    steady_time due() const noexcept { return deadline_after(since, next); }
  };
  using call_key = std::tuple<bool, std::uint64_t, std::uint64_t>;       // task, owner, sequence
  using unit_key = std::tuple<std::size_t, std::uint64_t, std::uint64_t, bool>;  // pool, owner or turn, sequence, a call
  using edge_key = std::tuple<std::uint64_t, std::uint64_t, bool>;       // from, to, close
  struct edge {
    std::vector<std::uint64_t> progress;  ///< of all waits between the two
    steady_time since{};
    bool seen = true;
    const detail::watched_wait* wait = nullptr;  ///< of the look that goes on
  };

  void look_at_calls(const watchdog_view& view, steady_time now);
  void look_at_pools(const watchdog_view& view, steady_time now);
  void look_at_waits(const watchdog_view& view, steady_time now);
  void name_tasks(const watchdog_view& view);
  void chains(steady_time now);
  void go_on(watched& of, watchdog_report&& report, steady_time now, std::size_t pool, const detail::working_look& worker);
  void tell_if_reported(watched& over);
  template <class Key>
  void end_unseen(std::map<Key, watched>& all);

  const std::chrono::nanoseconds limit_;
  std::map<call_key, watched> calls_;
  std::map<unit_key, std::pair<steady_time, bool>> units_;  // since when a worker has been inside it; seen
  std::map<std::size_t, watched> pools_;                    // those that are short of workers now
  std::map<edge_key, edge> edges_;
  std::map<std::uint64_t, watched> chains_;  // by where they end
  std::vector<detail::watched_wait> waits_;  // of the look that goes on; those of tasks have their names
  std::vector<watchdog_finding> found_;
};

}  // namespace penstock
