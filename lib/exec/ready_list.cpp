// The ready list of a pool.
// Floor 2, room exec.
#include "exec/ready_list.hpp"

#include "sync/parker.hpp"
#include "sync/processor.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

namespace penstock::exec {

// --- who is told -------------------------------------------------------------------------------------------------------

ready_list::sleeper* ready_list::claim_sleeper_locked() noexcept {
  if (looking_ > 0 || sleepers_ == nullptr) return nullptr;
  sleeper* chosen = sleepers_;
  sleepers_ = chosen->next;
  --sleeping_;
  ++looking_;
  return chosen;
}

// Something is in the list: somebody has to look.
ready_list::sleeper* ready_list::call_locked() noexcept {
  word seen = open;
  if (lookout_.load(std::memory_order_relaxed) == open && lookout_.compare_exchange_strong(seen, called))
    return nullptr;
  return claim_sleeper_locked();
}

void ready_list::wake(sleeper* chosen) noexcept {
  if (chosen == nullptr) return;
  chosen->awake.store(1);
  sync::unpark_one(&chosen->awake);
}

void ready_list::wake_measured(sleeper* chosen) noexcept {
  if (chosen == nullptr) return;
  if (adapts_) chosen->called_at = time_.now();
  wake(chosen);
}

// --- what is put in ---------------------------------------------------------------------------------------------------

// A relaxed load: a stale one only costs the way through the mutex. The exchange releases what the lane's next turn
// reads; pairs with the lookout's exchange. It comes without a look before it, which would fetch the word's line from
// the lookout to read it, and then once more to write.
bool ready_list::give(word what) noexcept {
  if (!may_look_ || (attention_.load(std::memory_order_relaxed) & 1) != 0) return false;
  word seen = open;
  return lookout_.compare_exchange_strong(seen, what);
}

// Lanes are in the list, or are so no more.
void ready_list::tell_locked() noexcept {
  const std::uint32_t now = attention_.load(std::memory_order_relaxed);
  if (((now & 1) != 0) != (first_ != nullptr)) attention_.store(now + 1, std::memory_order_relaxed);
}

void ready_list::append_locked(runnable& lane) noexcept {
  lane.next_ready = nullptr;
  (last_ != nullptr ? last_->next_ready : first_) = &lane;
  last_ = &lane;
  ++lanes_;
  tell_locked();
}

void ready_list::push_again(runnable& lane) noexcept {
  lock_guard lock(m_);
  append_locked(lane);
}

bool ready_list::push(runnable& lane) noexcept {
  if (give(reinterpret_cast<word>(&lane))) return true;
  sleeper* chosen = nullptr;
  bool taken = false;
  {
    lock_guard lock(m_);
    append_locked(lane);
    chosen = call_locked();
    taken = !stopping_;
  }
  wake_measured(chosen);
  return taken;
}

bool ready_list::push_within(runnable& lane) noexcept {
  sleeper* chosen = nullptr;
  bool taken = false;
  {
    lock_guard lock(m_);
    append_locked(lane);
    chosen = claim_sleeper_locked();
    taken = !stopping_;
  }
  wake_measured(chosen);
  return taken;
}

bool ready_list::push_posted() noexcept {
  if (lookout_.load(std::memory_order_relaxed) == open && give(posted)) return true;
  const std::uint64_t before = posted_.fetch_add(one);
  if ((before & closed) != 0) {
    posted_.fetch_sub(one);
    return false;
  }
  if (before >= one) return true;  // somebody knows of those that are there, and finds this one behind them
  sleeper* chosen = nullptr;
  {
    lock_guard lock(m_);
    if (posted_.load() >= one) chosen = call_locked();  // else it has been taken meanwhile
  }
  wake_measured(chosen);
  return true;
}

// --- what is taken out ------------------------------------------------------------------------------------------------

// Lanes and posted work take turns, so that neither starves the other.
bool ready_list::take_locked(ready& found) noexcept {
  if ((first_ == nullptr || posted_turn_) && take_posted()) {
    found.kind = what::posted;
  } else if (first_ == nullptr) {
    return false;
  } else {
    found.kind = what::lane;
    found.lane = first_;
    first_ = first_->next_ready;
    if (first_ == nullptr) last_ = nullptr;
    --lanes_;
    tell_locked();
  }
  return true;
}

bool ready_list::take_posted() noexcept {
  std::uint64_t seen = posted_.load(std::memory_order_relaxed);
  while (seen >= one)
    if (posted_.compare_exchange_weak(seen, seen - one)) return true;
  return false;
}

// Relaxed loads: a stale one costs a lane, or a bell, one more item before it.
bool ready_list::next_posted(sleeper& self) noexcept {
  if ((attention_.load(std::memory_order_relaxed) & 1) != 0 || rings_.load(std::memory_order_relaxed)) return false;
  const std::uint64_t turn = self.turn.load(std::memory_order_relaxed) + 1;
  if (turn % turns_apart == 0) return false;
  std::uint64_t seen = posted_.load(std::memory_order_relaxed);
  while (seen >= one && (seen & closed) == 0) {
    if (!posted_.compare_exchange_weak(seen, seen - one)) continue;
    self.turn.store(turn, std::memory_order_relaxed);
    return true;
  }
  return false;
}

ready_list::ready ready_list::next(sleeper& self) {
  bool looking = false;  // it is counted as looking
  bool lookout = false;  // the word is its own
  bool looked = false;   // it had its time
  bool lost = false;     // it did not have its processor all the time
  steady_time woken_at{};
  steady_time slept_from{};
  for (;;) {
    ready found{what::stopped};
    sleeper* chosen = nullptr;
    std::chrono::nanoseconds bound{};
    bool rings = false;
    {
      lock_guard lock(m_);
      self.turn.store(0, std::memory_order_relaxed);
      const word given = lookout ? close_locked() : spent;
      const bool given_lane = given > posted;
      if (self.called_at != no_deadline) {
        gauge_.slept(self.called_at - slept_from, woken_at - self.called_at);
        self.called_at = no_deadline;
      }
      if (stopping_) {
        if (given_lane) {
          auto* const back = reinterpret_cast<runnable*>(given);
          back->next_ready = first_;
          first_ = back;
          if (last_ == nullptr) last_ = back;
          ++lanes_;
        }
        if (given == posted) posted_.fetch_add(one);
        if (looking) --looking_;
        return found;
      }
      bool takes = true;
      if (given_lane) {
        found.kind = what::lane;
        found.lane = reinterpret_cast<runnable*>(given);
      } else if (given == posted) {
        found.kind = what::posted;
      } else {
        takes = take_locked(found);
      }
      if (lookout) lost ? gauge_.lost() : takes ? gauge_.caught() : gauge_.missed();
      lookout = false;
      if (takes) {
        posted_turn_ = found.kind == what::lane;
        self.turn.store(++turns_ * turns_apart, std::memory_order_relaxed);
        self.runs = found.lane;
        rings = rings_.load(std::memory_order_relaxed);
        if (rings) rings_.store(false);
        if (looking) --looking_;
        if (anything_locked()) chosen = call_locked();
      } else {
        if (!looked && !looks_out_) bound = gauge_.bound();
        if (bound > bound.zero()) {
          if (!looking) ++looking_;
          looking = lookout = looks_out_ = true;
          lookout_.store(open);
        } else {
          if (looking) --looking_;
          looking = false;
          self.awake.store(0);
          self.next = sleepers_;
          sleepers_ = &self;
          ++sleeping_;
        }
      }
    }
    if (found.kind != what::stopped) {
      wake(chosen);
      if (rings) ring();
      return found;
    }
    if (lookout) {
      looked = true;
      lost = !look_out(bound, self.looks++ % 8 == 0);
    } else {
      if (adapts_) slept_from = time_.now();
      while (self.awake.load() == 0) sync::park(self.awake, 0, no_deadline);
      if (self.called_at != no_deadline) woken_at = time_.now();
      looking = true;  // whoever woke it has counted it
      looked = lost = false;
    }
  }
}

// What the lookout was given; it is none any more. What it saw it need not write: the word stays as it is until it is
// `open` again.
ready_list::word ready_list::close_locked() noexcept {
  looks_out_ = false;
  const word seen = lookout_.load();  // pairs with `give`
  return seen != open ? seen : lookout_.exchange(spent);
}

// Until it is given something, may help, or its time is over. False: it did not have its processor meanwhile; the last
// stretch is looked at if `to_the_end`.
bool ready_list::look_out(std::chrono::nanoseconds bound, bool to_the_end) noexcept {
  steady_time before = time_.now();
  const steady_time until = deadline_after(before, bound);
  steady_time glance = before + patience;
  std::uint32_t seen = 0;
  for (unsigned turn = 1; lookout_.load(std::memory_order_relaxed) == open; ++turn) {
    sync::relax();
    if (turn % 16 != 0) continue;
    const steady_time now = time_.now();
    if (now - before > lost_after) return false;
    if (now >= until) return true;
    before = now;
    if (now < glance) continue;
    const std::uint32_t attention = attention_.load(std::memory_order_relaxed);
    if ((attention & 1) != 0 && attention == seen) return true;
    seen = attention;
    glance = now + patience;
  }
  return !to_the_end || !adapts_ || time_.now() - before <= lost_after;
}

void ready_list::stop() noexcept {
  sleeper* all = nullptr;
  {
    lock_guard lock(m_);
    stopping_ = true;
    posted_.fetch_or(closed);
    word seen = open;
    lookout_.compare_exchange_strong(seen, called);
    all = std::exchange(sleepers_, nullptr);
    looking_ += std::exchange(sleeping_, 0);
  }
  while (all != nullptr) {
    sleeper* following = all->next;  // the node may be used again as soon as it is awake
    wake(all);
    all = following;
  }
}

runnable* ready_list::take_left() noexcept {
  lock_guard lock(m_);
  runnable* left = first_;
  if (left != nullptr) {
    first_ = left->next_ready;
    if (first_ == nullptr) last_ = nullptr;
    --lanes_;
  }
  return left;
}

// --- seen by a watchdog -----------------------------------------------------------------------------------------------

void ready_list::enlist(sleeper& self, unsigned index) noexcept {
  self.index = index;
  self.thread = static_cast<pid_t>(syscall(SYS_gettid));
  lock_guard lock(m_);
  self.next_enlisted = enlisted_;
  enlisted_ = &self;
}

void ready_list::leave(sleeper& self) noexcept {
  lock_guard lock(m_);
  for (sleeper** link = &enlisted_; *link != nullptr; link = &(*link)->next_enlisted) {
    if (*link != &self) continue;
    *link = self.next_enlisted;
    return;
  }
}

void ready_list::watch(std::shared_ptr<detail::worker_bell> bell) noexcept {
  lock_guard lock(m_);
  rings_.store(false);
  bell_.swap(bell);  // what it was ends with the argument, without the mutex
}

void ready_list::ring() noexcept {
  std::shared_ptr<detail::worker_bell> bell;
  {
    lock_guard lock(m_);
    bell = bell_;
  }
  if (bell) bell->ring();
}

void ready_list::look(detail::pool_look& seen) {
  lock_guard lock(m_);
  seen.ready = lanes_ + posted_.load() / one + (given_locked() >= posted ? 1 : 0);
  for (const sleeper* each = enlisted_; each != nullptr; each = each->next_enlisted)
    if (const std::uint64_t turn = each->turn.load()) seen.working.push_back({each->index, turn, each->runs});
}

bool ready_list::rest() noexcept {
  lock_guard lock(m_);
  if (!stopping_) {
    if (anything_locked() || given_locked() >= posted) return false;
    for (const sleeper* each = enlisted_; each != nullptr; each = each->next_enlisted)
      if (each->turn.load() != 0) return false;
    rings_.store(bell_ != nullptr);
  }
  return true;
}

void ready_list::ring_next() noexcept {
  lock_guard lock(m_);
  rings_.store(bell_ != nullptr);
}

ready_list::sleeper* ready_list::find_locked(const detail::working_look& worker) noexcept {
  for (sleeper* each = enlisted_; each != nullptr; each = each->next_enlisted)
    if (each->turn.load() == worker.turn) return each;
  return nullptr;
}

bool ready_list::ask(const detail::working_look& worker, stack_question& question) noexcept {
  lock_guard lock(m_);  // while it is held the thread cannot leave
  const sleeper* found = find_locked(worker);
  return found != nullptr && question.ask(found->thread);
}

bool ready_list::in_turn(const detail::working_look& worker) noexcept {
  lock_guard lock(m_);
  return find_locked(worker) != nullptr;
}

// --- a look from outside ----------------------------------------------------------------------------------------------

void ready_list::count(pool_snapshot& seen) noexcept {
  lock_guard lock(m_);
  const word given = given_locked();
  seen.ready = lanes_ + (given > posted ? 1 : 0);
  seen.queued = posted_.load() / one + (given == posted ? 1 : 0);
  seen.parked = sleeping_;
}

std::size_t ready_list::size() noexcept {
  lock_guard lock(m_);
  return lanes_ + posted_.load() / one + (given_locked() >= posted ? 1 : 0);
}

unsigned ready_list::sleeping() noexcept {
  lock_guard lock(m_);
  return sleeping_;
}

}  // namespace penstock::exec
