// What is measured: the systems (penstock and its peers), each registered by its own file.
// Floor 9, bench.
#pragma once

#include "event.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bench {

/// The mode of penstock that goals are judged in, and that features are measured with: what a user gets without asking.
inline constexpr const char* default_mode = "adaptive";

/// What a system promises; a goal compares with the bounded ones that park.
enum class system_kind {
  subject,          ///< penstock itself
  bounded_parking,  ///< bounded, ordered per producer, sleeps when there is nothing to do
  unbounded,        ///< takes whatever comes: no back-pressure
  synchronous,      ///< calls the subscribers on the producer's thread: no queue
  reference,        ///< a bare queue that spins: a limit, not a bus
};
const char* to_string(system_kind kind) noexcept;

/// The shape of one run.
struct shape {
  unsigned producers = 1;
  unsigned subscribers = 1;
  unsigned workers = 1;         ///< consumer threads; never more than subscribers
  std::uint64_t events = 0;     ///< per producer
  std::size_t capacity = 1024;  ///< seats per subscriber
  bool count_allocations = false;  ///< from the first publish to the last delivery; the run's times mean little then
  std::chrono::milliseconds give_up{60'000};
};

/// What came of one run. `problem` is not empty when the run was wrong; then the figures mean nothing.
struct stream_outcome {
  std::string problem;
  bool stuck = false;            ///< threads of the system are still inside: the process cannot go on
  double seconds = 0;            ///< first publish to last delivery
  double publisher_seconds = 0;  ///< mean over producers of first publish to return of the last one
  double allocations = 0;        ///< of the whole process, if the shape asked for it
};

struct allocation_outcome {
  std::string problem;
  bool stuck = false;
  double per_publish = 0;  ///< of the whole process, consumers included
};

/// What a subscription that got nothing yet weighs.
struct idle_outcome {
  std::string problem;
  double heap_bytes = 0;      ///< per subscription, taken from the allocator and not given back
  double resident_bytes = 0;  ///< per subscription, growth of the process's resident memory
  std::string blocks;         ///< what the heap bytes consist of, in words
};

enum class payload { small, text };

/// What came of events one at a time.
struct latency_outcome {
  std::string problem;
  bool stuck = false;
  std::vector<std::int64_t> ns;  ///< of each event
  double cpu = 0;                ///< processor seconds per second, of the process without the thread that paces
  double pacing_cpu = 0;         ///< of that thread
  double publish_ns = 0;         ///< mean of a publish call
};

struct back_pressure_outcome {
  std::string problem;
  bool stuck = false;
  double part = 0;             ///< throughput / what the handler does when it is called directly
  double resident_growth = 0;  ///< bytes of resident memory, at most, above what they were early in the run
};

/// What subscriptions cost while nothing is published.
struct rest_outcome {
  std::string problem;
  double cpu = 0;  ///< processor seconds per second
};

/// The runs beyond `stream`; null: not measured. `further.hpp` makes all of them of one class template.
struct further_runs {
  /// Publish to handler start, one event per `interval`.
  latency_outcome (*paced)(const shape& run, std::chrono::nanoseconds interval) = nullptr;
  /// Round trips between two of the system, each with its own consumer thread; one message on the way.
  latency_outcome (*ping_pong)(const shape& run) = nullptr;
  back_pressure_outcome (*back_pressure)(const shape& run) = nullptr;
  stream_outcome (*texts)(const shape& run) = nullptr;
  rest_outcome (*rest)(const shape& run, std::chrono::milliseconds how_long) = nullptr;
};

/// Divides the counts of a workload that has fixed ones, for a system that would take seconds. The figure is per event
/// and stays.
struct fewer_events {
  unsigned to_one = 1;  ///< with one subscriber
  unsigned to_several = 1;
};

/// Empty tasks, spawned by one thread that is none of the workers, and joined.
struct task_run {
  unsigned workers = 2;
  std::uint64_t tasks = 0;
  std::chrono::milliseconds give_up{60'000};
};

struct task_outcome {
  std::string problem;
  bool stuck = false;
  std::uint64_t tasks = 0;          ///< how many there were: a slow system may take fewer
  double seconds = 0;               ///< first spawn to the end of the last task
  double allocations_per_task = 0;  ///< of the whole process
};

/// How many of what there are, and what is asked of them.
struct growth_run {
  unsigned subscriptions = 1;  ///< of each topic
  unsigned topics = 1;
  std::uint64_t events = 0;  ///< to the first topic; as many as the capacity go to every topic before, untimed
  std::size_t capacity = 1024;
  unsigned workers = 2;
  unsigned changes = 0;  ///< subscriptions that come and go while a publisher is busy
  std::chrono::milliseconds give_up{60'000};
};

struct growth_outcome {
  std::string problem;
  bool stuck = false;
  double seconds = 0;         ///< first timed publish to last delivery
  double subscribe_us = 0;    ///< median of the changes
  double unsubscribe_us = 0;  ///< the same
};

/// One system in one mode. `registered` are ordered by kind, then name, then mode.
struct system_entry {
  std::string name;
  std::string mode;
  system_kind kind = system_kind::reference;
  std::string note;      ///< one sentence for the reader of the figures
  unsigned span = 1;     ///< events per publish call
  bool feature = false;  ///< penstock with something optional on: measured in workload K only
  /// Why events are not measured one at a time although it is bounded and parks; empty: they are.
  std::string apart = {};
  bool own_memory = false;  ///< its memory comes from a pool that the counter of allocations does not see
  /// It has no place for more.
  unsigned up_to_producers = most_producers;
  fewer_events divided = {};
  stream_outcome (*stream)(const shape& run) = nullptr;                          ///< null: not measured
  allocation_outcome (*allocations)(const shape& run, payload what) = nullptr;   ///< null: not measured
  idle_outcome (*idle)(unsigned subscriptions, std::size_t capacity) = nullptr;  ///< null: not measured
  task_outcome (*functions)(const task_run& run) = nullptr;                      ///< null: not measured
  task_outcome (*coroutines)(const task_run& run) = nullptr;                     ///< null: not measured
  growth_outcome (*growth)(const growth_run& run) = nullptr;                     ///< null: not measured
  growth_outcome (*changes)(const growth_run& run) = nullptr;                    ///< null: not measured
  further_runs further = {};
  /// Round trips between two subscriptions on one pool; null: not measured.
  latency_outcome (*ping_pong_inside)(const shape& run) = nullptr;
};

/// Called from a static initialiser in the system's file.
bool register_system(system_entry entry);
std::vector<system_entry> registered_systems();

/// A peer without figures, or without some of them.
struct missing_peer {
  std::string name;
  std::string package;  ///< the Debian package to install; empty when none helps
  std::string why;
  bool awaited = true;  ///< it could be here and be the best: goals that compare with the best peer have no answer
};
/// Those this program was built without.
std::vector<missing_peer> missing_peers();
/// And those that stand apart in E.
std::vector<missing_peer> left_out();

}  // namespace bench
