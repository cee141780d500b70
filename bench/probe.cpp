// The ping-pong between two cores.
// Floor 9, bench.
#include "probe.hpp"

#include "roles.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace bench {

namespace {

std::vector<int> usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE && cores.size() < 2; ++core)
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

void stay_on(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

}  // namespace

const char* to_string(core_state state) noexcept {
  switch (state) {
    case core_state::near:
      return "near";
    case core_state::far:
      return "far";
    case core_state::one_core:
      return "one core";
  }
  return "?";
}

core_state state_of(double one_way_ns) noexcept {
  return one_way_ns <= near_limit_ns ? core_state::near : core_state::far;
}

probe_result probe_cores() {
  const auto cores = usable_cores();
  if (cores.size() < 2) return {core_state::one_core, 0};

  constexpr int batches = 41;
  constexpr int trips = 200;
  struct alignas(128) line {
    std::atomic<int> turn{0};
  };
  line ball;
  // The probe is the one place that spins: what it measures is the spinning.
  const threads_named as("probe");
  std::thread answering([&] {
    stay_on(cores[1]);
    for (int trip = 0; trip < batches * trips; ++trip) {
      while (ball.turn.load(std::memory_order_acquire) != 2 * trip + 1) {
      }
      ball.turn.store(2 * trip + 2, std::memory_order_release);
    }
  });
  std::vector<double> one_way;
  std::thread asking([&] {
    stay_on(cores[0]);
    int trip = 0;
    for (int batch = 0; batch < batches; ++batch) {
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < trips; ++i, ++trip) {
        ball.turn.store(2 * trip + 1, std::memory_order_release);
        while (ball.turn.load(std::memory_order_acquire) != 2 * trip + 2) {
        }
      }
      const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
      one_way.push_back(took.count() / (2.0 * trips));
    }
  });
  asking.join();
  answering.join();
  std::nth_element(one_way.begin(), one_way.begin() + batches / 4, one_way.end());
  const double lower_quartile = one_way[batches / 4];
  return {state_of(lower_quartile), lower_quartile};
}

}  // namespace bench
