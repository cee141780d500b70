// The drain of a shutdown: until everything is at rest, or has been fed by itself for too long.
// Floor 5, room bus.
#include "bus/drain.hpp"

#include "bus/bus_core.hpp"
#include "bus/topic.hpp"
#include "exec/context.hpp"
#include "sync/parker.hpp"

#include <algorithm>
#include <map>
#include <utility>

namespace penstock::detail {

drain_watch::drain_watch(std::vector<ref_ptr<subscription_core>> all) : all_(std::move(all)), marks_(all_.size()) {
  begin_generation();
}

bool drain_watch::all_at_rest() noexcept {
  for (int rounds = 0; rounds < 3; ++rounds) {  // the rest of one, and two whole ones
    for (; rest_at_ < all_.size(); ++rest_at_) {
      if (!all_[rest_at_]->at_rest()) {
        rest_whole_ = false;
        return false;
      }
      offered_ += all_[rest_at_]->ledger().offered;
    }
    if (rest_whole_ && before_known_ && offered_ == offered_before_) return true;
    before_known_ = std::exchange(rest_whole_, true);
    offered_before_ = std::exchange(offered_, 0);
    rest_at_ = 0;
  }
  return false;  // whoever was offered something meanwhile tells when its lane's turn ends
}

void drain_watch::begin_generation() noexcept {
  for (std::size_t i = 0; i < all_.size(); ++i) {
    const ledger seen = all_[i]->ledger();
    marks_[i] = seen.accepted + seen.pending;
  }
  generation_at_ = 0;
}

unsigned drain_watch::generations() noexcept {
  while (generation_at_ < all_.size() && all_[generation_at_]->ended_through(marks_[generation_at_])) ++generation_at_;
  if (generation_at_ == all_.size()) {
    ++passed_;
    begin_generation();
  }
  return passed_;
}

std::vector<std::string> drain_watch::fed() const {
  std::vector<std::string> names;
  for (const auto& each : all_)
    if (!each->at_rest()) names.push_back(each->name);
  return names;
}

std::vector<std::string> find_loop(const std::vector<ref_ptr<subscription_core>>& all, const feeding_edges& edges) {
  std::vector<const subscription_core*> feeders;  // nobody else can be in a ring
  for (const auto& each : all) {
    const auto first = edges.lower_bound({each.get(), nullptr});
    if (first != edges.end() && first->first == each.get()) feeders.push_back(each.get());
  }
  std::map<const topic*, std::vector<std::size_t>> members;
  for (std::size_t i = 0; i < feeders.size(); ++i) members[&feeders[i]->topic()].push_back(i);
  constexpr auto none = static_cast<std::size_t>(-1);
  for (std::size_t start = 0; start < feeders.size(); ++start) {
    // Breadth first, until somebody feeds `start`.
    std::vector<std::size_t> reached{start};
    std::vector<std::size_t> fed_by(feeders.size(), none);
    for (std::size_t i = 0; i < reached.size(); ++i) {
      const subscription_core* feeder = feeders[reached[i]];
      for (auto edge = edges.lower_bound({feeder, nullptr}); edge != edges.end() && edge->first == feeder; ++edge) {
        for (const std::size_t to : members[edge->second]) {
          if (to == start) {
            std::vector<std::string> names;
            for (std::size_t at = reached[i]; at != none; at = fed_by[at]) names.push_back(feeders[at]->name);
            std::reverse(names.begin(), names.end());
            return names;
          }
          if (fed_by[to] != none) continue;
          fed_by[to] = reached[i];
          reached.push_back(to);
        }
      }
    }
  }
  return {};
}

// --- the bus's part ----------------------------------------------------------------------------------------------------

void bus_core::note_feeding(const topic& fed) noexcept {
  const exec::context* current = exec::current_context();
  if (current == nullptr || current->kind != exec::context_kind::lane) return;
  const subscription_core* feeder = static_cast<const lane*>(current->lane)->core;
  try {
    lock_guard lock(feeding_m_);
    feeding_.emplace(feeder, &fed);
  } catch (...) {  // no memory: the loop is named by those that were fed
  }
}

std::vector<std::string> bus_core::loop() {
  lock_guard lock(feeding_m_);
  return loop_;
}

void bus_core::cut_loop(const drain_watch& drain) {
  feeding_edges edges;
  {
    lock_guard lock(feeding_m_);
    edges = feeding_;
  }
  std::vector<std::string> names = find_loop(subscriptions(), edges);
  if (names.empty()) names = drain.fed();
  {
    lock_guard lock(feeding_m_);
    loop_ = std::move(names);
  }
  phase expected = phase::handlers_only;
  phase_.compare_exchange_strong(expected, phase::letters_only);
}

bool bus_core::wait_drained(steady_time deadline, const std::atomic<bool>& give_up) {
  drain_watch drain(subscriptions());
  struct watching {
    std::atomic<std::uint32_t>& count;
    explicit watching(std::atomic<std::uint32_t>& counted) noexcept : count(counted) { count.fetch_add(1); }
    ~watching() { count.fetch_sub(1); }
  } told(drain_watchers_);
  for (;;) {
    const std::uint32_t seen = drain_changes_.load();
    if (drain.all_at_rest()) return true;
    if (give_up.load() || time().now() >= deadline) return false;
    const unsigned passed = drain.generations();
    if (passed >= most_generations / 2) traces_feeding_.store(true);
    if (passed >= most_generations && phase_.load() == phase::handlers_only) cut_loop(drain);
    sync::park(drain_changes_, seen, deadline);
  }
}

void bus_core::wake_drain() noexcept {
  drain_changes_.fetch_add(1);
  sync::unpark_all(&drain_changes_);
}

}  // namespace penstock::detail
