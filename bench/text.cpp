// Workload G: an event that lives on the heap, to many.
// Floor 9, bench.
#include "allocation_counter.hpp"
#include "workload.hpp"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bench {

namespace {

constexpr unsigned subscribers = 8;

measurement deliveries(const system_entry& system, std::uint64_t events) {
  const stream_outcome outcome = system.further.texts(shaped(1, subscribers, events));
  if (!outcome.problem.empty()) return failed_run(outcome.problem, outcome.stuck);
  measurement done;
  done.value = static_cast<double>(events) * subscribers / outcome.seconds / 1e6;
  return done;
}

/// The producer makes each event with one allocation, its text's; that one is not the system's.
measurement allocations(const system_entry& system, std::uint64_t events) {
  shape run = shaped(1, subscribers, events);
  run.count_allocations = true;
  const stream_outcome outcome = system.further.texts(run);
  if (!outcome.problem.empty()) return failed_run(outcome.problem, outcome.stuck);
  measurement done;
  done.value = outcome.allocations / static_cast<double>(events) - 1;
  return done;
}

bool takes_texts(const system_entry& system) { return system.further.texts != nullptr; }

}  // namespace

void add_text(std::vector<workload>& all, effort how_much) {
  const std::uint64_t events = how_much == effort::full ? 200'000 : 10'000;
  workload made;
  made.id = std::string(1, 'G');
  made.group = made.id;
  made.what = "a std::string of 256 bytes, 1 producer -> 8 subscribers on 2 workers";
  made.unit = "M deliveries/s";
  made.applies = takes_texts;
  made.run = [events](const system_entry& system) { return deliveries(system, events); };
  made.warm_up = [events](const system_entry& system) { return deliveries(system, events / 20 + 1); };
  all.push_back(std::move(made));

  if (!allocation_counter::available()) return;
  workload counting;
  counting.id = "G.allocations";
  counting.group = std::string(1, 'G');
  counting.what = "the same, unpaced: allocations per publish besides the text's own";
  counting.unit = "allocations/publish";
  counting.direction = better::lower;
  counting.depends_on = dependence::none;
  counting.applies = [](const system_entry& system) { return takes_texts(system) && !system.own_memory; };
  counting.run = [events](const system_entry& system) { return allocations(system, events / 4); };
  all.push_back(std::move(counting));
}

}  // namespace bench
