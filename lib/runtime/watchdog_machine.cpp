// What is stuck, since when, and what is to be said of it.
// Floor 7, room runtime.
#include "runtime/watchdog_machine.hpp"

#include <algorithm>
#include <iterator>
#include <set>

namespace penstock {
namespace {

using what = watchdog_report::what;

/// The worker that has a call in hand.
std::pair<std::size_t, detail::working_look> worker_of(const watchdog_view& view, const runnable* runs) {
  if (runs != nullptr)
    for (std::size_t at = 0; at < view.pools.size(); ++at)
      for (const detail::working_look& worker : view.pools[at].working)
        if (worker.runs == runs) return {at, worker};
  return {watchdog_finding::no_pool, {}};
}

}  // namespace

std::vector<watchdog_finding> watchdog_machine::look(const watchdog_view& view, steady_time now) {
  found_.clear();
  look_at_calls(view, now);
  look_at_pools(view, now);
  look_at_waits(view, now);
  return std::exchange(found_, {});
}

steady_time watchdog_machine::due() const noexcept {
  steady_time first = no_deadline;
  for (const auto& [key, each] : calls_) first = std::min(first, each.due());
  for (const auto& [key, each] : pools_) first = std::min(first, each.due());
  for (const auto& [key, each] : chains_) first = std::min(first, each.due());
  // An edge that is old enough is in a chain, which is due by itself.
  for (const auto& [key, each] : edges_)
    if (each.wait == nullptr) first = std::min(first, deadline_after(each.since, limit_));
  return first;
}

void watchdog_machine::go_on(watched& of, watchdog_report&& report, steady_time now, std::size_t pool,
                             const detail::working_look& worker) {
  report.elapsed = now - of.since;
  of.last = report;
  of.last.stack.clear();
  if (report.elapsed < of.next) return;
  of.reported = true;
  while (of.next <= report.elapsed) {
    const auto most = std::chrono::nanoseconds::max();
    of.next = of.next > most / 2 ? most : of.next * 2;
    if (of.next == most) break;
  }
  watchdog_finding made;
  made.report = std::move(report);
  made.pool = pool;
  made.worker = worker;
  found_.push_back(std::move(made));
}

void watchdog_machine::tell_if_reported(watched& over) {
  if (!over.reported) return;
  watchdog_finding made;
  made.report = std::move(over.last);
  made.report.kind = what::recovered;
  found_.push_back(std::move(made));
}

template <class Key>
void watchdog_machine::end_unseen(std::map<Key, watched>& all) {
  for (auto each = all.begin(); each != all.end();) {
    watched& over = each->second;
    if (std::exchange(over.seen, false)) {
      ++each;
      continue;
    }
    tell_if_reported(over);
    each = all.erase(each);
  }
}

void watchdog_machine::look_at_calls(const watchdog_view& view, steady_time now) {
  using span = detail::watched_call::span;
  for (const detail::watched_call& call : view.calls) {
    if (call.counts == span::none) continue;
    const auto [pool, worker] = worker_of(view, call.runs);
    if (call.counts == span::one_turn && pool == watchdog_finding::no_pool) continue;
    watched& of = calls_.try_emplace({call.task, call.owner, call.sequence}, watched{now, limit_, false, true, {}, 0})
                      .first->second;
    if (call.counts == span::one_turn && std::exchange(of.turn, worker.turn) != worker.turn) {
      tell_if_reported(of);
      of = watched{now, limit_, false, true, {}, worker.turn};
    }
    of.seen = true;
    of.since = std::min(of.since, now - std::min(call.at_least, now.time_since_epoch()));
    watchdog_report report;
    report.kind = report.of = call.task ? what::stuck_task : what::stuck_call;
    (call.task ? report.task : report.subscription) = call.name;
    report.pool = call.pool;
    report.event = call.event;
    report.sequence = call.sequence;
    report.stop_requested = call.stop_requested;
    report.suspended = call.suspended && pool == watchdog_finding::no_pool;
    report.file = call.file;
    report.line = call.line;
    if (pool != watchdog_finding::no_pool)
      report.thread = view.pools[pool].name + "-" + std::to_string(worker.index + 1);
    go_on(of, std::move(report), now, pool, worker);
  }
  end_unseen(calls_);
}

void watchdog_machine::look_at_pools(const watchdog_view& view, steady_time now) {
  for (std::size_t at = 0; at < view.pools.size(); ++at) {
    const detail::pool_look& pool = view.pools[at];
    steady_time since{};  // when the last of its workers went into what it is inside of
    for (const detail::working_look& worker : pool.working) {
      unit_key unit{at, worker.turn, 0, false};
      if (worker.runs != nullptr)
        for (const detail::watched_call& call : view.calls)
          if (call.runs == worker.runs) unit = {at, call.owner, call.sequence, true};
      auto& known = units_.try_emplace(unit, now, true).first->second;
      known.second = true;
      since = std::max(since, known.first);
    }
    if (pool.working.size() < pool.threads || pool.ready == 0) continue;
    watched& of = pools_.try_emplace(at, watched{since, limit_, false, true, {}, 0}).first->second;
    of.seen = of.since == since;
    if (!of.seen) {  // somebody has gone on meanwhile: told as over, counted anew
      tell_if_reported(of);
      of = watched{since, limit_, false, true, {}, 0};
    }
    watchdog_report report;
    report.kind = report.of = what::starved_pool;
    report.pool = pool.name;
    report.waiting = pool.ready;
    go_on(of, std::move(report), now, watchdog_finding::no_pool, {});
  }
  for (auto each = units_.begin(); each != units_.end();)
    each = std::exchange(each->second.second, false) ? std::next(each) : units_.erase(each);
  end_unseen(pools_);
}

// A task that waits is known by what runs it; one that has ended meanwhile waits no more.
void watchdog_machine::name_tasks(const watchdog_view& view) {
  constexpr std::uint64_t of_a_task = std::uint64_t{1} << 63;  // no subscription has such a number
  waits_.clear();
  for (const detail::watched_wait& wait : view.waits) {
    if (wait.task == nullptr) {
      waits_.push_back(wait);
      continue;
    }
    const auto found = std::find_if(view.calls.begin(), view.calls.end(), [&](const detail::watched_call& call) {
      return call.task && call.runs == wait.task;
    });
    if (found == view.calls.end()) continue;
    detail::watched_wait& named = waits_.emplace_back(wait);
    named.from = of_a_task | found->owner;
    named.from_name = found->name;
    named.file = found->file;
    named.line = found->line;
  }
}

void watchdog_machine::look_at_waits(const watchdog_view& view, steady_time now) {
  name_tasks(view);
  std::map<edge_key, std::vector<std::uint64_t>> seen;
  std::map<edge_key, const detail::watched_wait*> first;
  for (const detail::watched_wait& wait : waits_) {
    const edge_key key{wait.from, wait.to, wait.close};
    seen[key].push_back(wait.progress);
    first.try_emplace(key, &wait);
  }
  std::erase_if(edges_, [&](const auto& each) { return !seen.contains(each.first); });
  for (auto& [key, progress] : seen) {
    std::sort(progress.begin(), progress.end());  // the bus tells them in no promised order
    edge& of = edges_[key];
    if (of.progress != progress) {
      of.progress = std::move(progress);
      of.since = now;
    }
    of.wait = now - of.since >= limit_ ? first[key] : nullptr;
  }
  chains(now);
  end_unseen(chains_);
}

// The edges that have not moved, gathered by where following them ends: at one that waits for nobody, or in a ring, which is
// known by its lowest number. Of all that end there the longest chain is told.
void watchdog_machine::chains(steady_time now) {
  std::map<std::uint64_t, std::vector<const edge*>> from;
  for (const auto& [key, each] : edges_)
    if (each.wait != nullptr) from[std::get<0>(key)].push_back(&each);
  struct ending {
    std::vector<const edge*> longest;
    std::uint64_t waiting = 0;
  };
  std::map<std::uint64_t, ending> ends;
  for (const auto& [start, outgoing] : from) {
    std::vector<const edge*> way;
    std::set<std::uint64_t> passed;
    std::uint64_t at = start;
    for (;;) {
      if (!passed.insert(at).second) break;  // a ring
      const auto next = from.find(at);
      if (next == from.end()) break;
      way.push_back(next->second.front());
      at = next->second.front()->wait->to;
    }
    std::uint64_t end = at;
    if (from.contains(at)) {  // in a ring: its lowest number
      std::uint64_t other = at;
      do {
        other = from[other].front()->wait->to;
        end = std::min(end, other);
      } while (other != at);
    }
    ending& known = ends[end];
    ++known.waiting;
    if (way.size() > known.longest.size()) known.longest = std::move(way);
  }
  for (const auto& [end, found] : ends) {
    steady_time since{};
    for (const edge* each : found.longest) since = std::max(since, each->since);
    watched& of = chains_.try_emplace(end, watched{since, limit_, false, true, {}, 0}).first->second;
    of.seen = true;
    const detail::watched_wait& first = *found.longest.front()->wait;
    watchdog_report report;
    report.kind = report.of = what::wait_chain;
    (first.task != nullptr ? report.task : report.subscription) = first.from_name;
    report.file = first.file;
    report.line = first.line;
    report.waiting = found.waiting;
    report.chain.push_back(first.from_name);
    for (const edge* each : found.longest) report.chain.push_back(each->wait->to_name);
    go_on(of, std::move(report), now, watchdog_finding::no_pool, {});
  }
  // Kept: only that it is in a chain. What it pointed to is gone with the look.
}

}  // namespace penstock
