// What a watchdog sees of a bus.
// Floor 5, room bus.
#include "bus/bus_core.hpp"

#include <map>
#include <utility>

namespace penstock::detail {

void subscription_core::watch(std::vector<watched_call>& calls) const {
  const steady_time now = bus_->time().now();
  for (unsigned i = 0; i < concurrency_; ++i) {
    running_call seen;
    seen.sequence = lanes_[i].running.load(std::memory_order_relaxed);
    if (seen.sequence == 0) continue;
    lanes_[i].describe(seen, now);
    if (seen.retry_wait) continue;  // between two attempts: nothing is in progress
    watched_call call;
    call.suspended = seen.suspended;
    call.owner = id;
    call.sequence = seen.sequence;
    call.runs = &lanes_[i];
    call.at_least = seen.at_least;
    call.name = name;
    call.event = event();
    call.pool = pool->name();
    call.file = file;
    call.line = line;
    calls.push_back(std::move(call));
  }
}

std::uint64_t subscription_core::progress() noexcept {
  const sync::channel_counts counts = channel.counts();
  std::uint64_t ended = 0;
  for (unsigned i = 0; i < concurrency_; ++i)
    ended += lanes_[i].handled.load(std::memory_order_relaxed) + lanes_[i].failed.load(std::memory_order_relaxed);
  // Each grows only: their sum is the same when all of them are.
  return counts.begun + counts.discarded + ended;
}

bool bus_core::runs_elsewhere(const subscription_core& core) const noexcept {
  return core.stream() == nullptr && core.pool->parts() != default_pool_->parts();
}

void bus_core::watch(std::vector<watched_call>& calls, std::vector<watched_wait>& waiting) {
  const auto all = subscriptions();
  for (const auto& each : all) each->watch(calls);
  const auto edge = [&](const subscription_core& from, subscription_core& to, bool close, std::uint64_t remaining) {
    watched_wait made;
    made.from = from.id;
    made.to = to.id;
    made.close = close;
    made.progress = (to.progress() << 16) + remaining;
    made.from_name = from.name;
    made.to_name = to.name;
    made.file = from.file;
    made.line = from.line;
    waiting.push_back(std::move(made));
  };
  // Who waits and is no handler: a task, and whoever holds a stream's delivery.
  constexpr std::size_t most_of_a_line = 16;
  std::map<std::uint64_t, const subscription_core*> streams;
  for (const auto& each : all)
    if (each->stream() != nullptr) streams.emplace(each->id, each.get());
  for (const auto& each : all) {
    sync::channel::place_in_line places[most_of_a_line];
    const std::size_t count = each->channel.line(places, most_of_a_line);
    for (std::size_t i = 0; i < count; ++i) {
      const auto stream = streams.find(places[i].origin.stream);
      if (stream != streams.end()) edge(*stream->second, *each, false, places[i].remaining);
      if (places[i].origin.task == nullptr) continue;
      edge(*each, *each, false, places[i].remaining);
      waiting.back().task = static_cast<const runnable*>(places[i].origin.task);
    }
  }
  lock_guard lock(waits.m);
  for (const auto& each : all) {
    for (lane* one = each->first_lane(); one != nullptr; one = each->lane_after(*one)) {
      for (const output_edge* output = one->edges; output != nullptr; output = output->next)
        edge(*each, *output->target, false, output->place->remaining);
      for (close_operation* closes = one->closes(); closes != nullptr; closes = close_access::next_of_lane(*closes))
        edge(*each, *close_access::core(*closes), true, 0);
    }
  }
}

}  // namespace penstock::detail
