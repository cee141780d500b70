// A look at a bus from outside.
// Floor 5, room bus.
#include <penstock/bus/snapshot.hpp>

#include "bus/bus_core.hpp"

#include <utility>

namespace penstock {

const char* to_string(overflow policy) noexcept {
  switch (policy) {
    case overflow::block:
      return "block";
    case overflow::fail:
      return "fail";
    case overflow::drop_newest:
      return "drop_newest";
    case overflow::drop_oldest:
      return "drop_oldest";
    case overflow::latest:
      return "latest";
  }
  return "unknown";
}

namespace detail {

subscription_snapshot subscription_core::snapshot() {
  subscription_snapshot seen;
  seen.name = name;
  seen.topic = topic_->identity.shown();
  seen.event = event();
  if (stream_ == nullptr) seen.pool = pool->name();
  seen.file = file;
  seen.line = line;
  seen.state = state();
  switch (channel.policy()) {
    case sync::full_policy::block:
      seen.overflow = overflow::block;
      break;
    case sync::full_policy::fail:
      seen.overflow = overflow::fail;
      break;
    case sync::full_policy::drop_newest:
      seen.overflow = overflow::drop_newest;
      break;
    case sync::full_policy::drop_oldest:
      seen.overflow = channel.capacity() == 1 ? overflow::latest : overflow::drop_oldest;
      break;
  }
  seen.capacity = channel.capacity();
  seen.concurrency = concurrency_;
  seen.ordered = concurrency_ == 1;
  seen.ledger = ledger();
  const steady_time now = bus_->time().now();
  for (unsigned i = 0; i < concurrency_; ++i) {
    running_call call;
    call.sequence = lanes_[i].running.load(std::memory_order_relaxed);
    if (call.sequence == 0) continue;
    lanes_[i].describe(call, now);
    seen.running.push_back(call);
  }
  if (stream_) seen.readers = stream_->waiting();
  return seen;
}

bus_snapshot bus_core::snapshot() {
  bus_snapshot seen;
  std::vector<ref_ptr<topic>> topics;
  {
    lock_guard lock(m_);
    for (const auto& [key, each] : topics_) {
      topics.push_back(ref_ptr<topic>::share(each));
      seen.topics.push_back({each->identity.shown(), each->identity.name, each->members(), each->handles});
    }
  }
  const auto all = subscriptions();
  for (const auto& each : all) {
    seen.subscriptions.push_back(each->snapshot());
    // A call first seen running by an earlier look has been running at least since then.
    look_again(*each, seen.subscriptions.back());
  }
  {
    lock_guard lock(waits.m);
    for (const auto& each : all) {
      for (lane* one = each->first_lane(); one != nullptr; one = each->lane_after(*one)) {
        for (const output_edge* edge = one->edges; edge != nullptr; edge = edge->next)
          seen.waits.push_back({each->name, edge->target->name, wait_edge::why::output, edge->place->remaining});
        for (close_operation* closes = one->closes(); closes != nullptr; closes = close_access::next_of_lane(*closes))
          seen.waits.push_back({each->name, close_access::core(*closes)->name, wait_edge::why::close, 0});
      }
    }
  }
  return seen;
}

void bus_core::look_again(subscription_core& core, subscription_snapshot& seen) {
  const sync::channel_counts counts = core.channel.counts();
  const steady_time now = time().now();
  lock_guard lock(m_);
  earlier_looks& before = looks_[core.id];
  look_at_running(before, seen, now);
  look_at_queue(before, seen, counts, now);
  if (before.running.empty() && before.last_seat.empty()) looks_.erase(core.id);
}

void bus_core::look_at_running(earlier_looks& before, subscription_snapshot& seen, steady_time now) {
  std::map<std::uint64_t, steady_time> still;
  for (running_call& call : seen.running) {
    const auto found = before.running.find(call.sequence);
    const steady_time since = found != before.running.end() ? found->second : now;
    still.emplace(call.sequence, since);
    if (now - since > call.at_least) call.at_least = now - since;
  }
  before.running = std::move(still);
}

// The oldest event in line has the seat after those that have begun: it stood there at the first look that saw so many
// seats taken.
void bus_core::look_at_queue(earlier_looks& before, subscription_snapshot& seen, const sync::channel_counts& counts,
                             steady_time now) {
  constexpr std::size_t most = 64;  // dropping a look makes a later answer smaller, never wrong
  auto& looks = before.last_seat;
  std::erase_if(looks, [&](const auto& each) { return counts.discarded > 0 || each.first <= counts.begun; });
  if (counts.discarded == 0 && counts.tail > counts.begun && (looks.empty() || looks.back().first < counts.tail)) {
    if (looks.size() == most) looks.pop_back();
    looks.emplace_back(counts.tail, now);
  }
  if (!looks.empty()) seen.oldest_at_least = now - looks.front().second;
}

}  // namespace detail
}  // namespace penstock
