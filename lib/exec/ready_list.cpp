// The ready list of a pool.
// Floor 2, room exec.
#include "exec/ready_list.hpp"

#include "sync/parker.hpp"
#include "sync/processor.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

namespace penstock::exec {
ready_list::sleeper* ready_list::claim_sleeper_locked() noexcept {
  if (looking_ > 0 || sleepers_ == nullptr) return nullptr;
  sleeper* chosen = sleepers_;
  sleepers_ = chosen->next;
  --sleeping_;
  ++looking_;
  return chosen;
}

void ready_list::wake(sleeper* chosen) noexcept {
  if (chosen == nullptr) return;
  chosen->awake.store(1);
  sync::unpark_one(&chosen->awake);
}

void ready_list::append_locked(runnable& lane) noexcept {
  lane.next_ready = nullptr;
  (last_ != nullptr ? last_->next_ready : first_) = &lane;
  last_ = &lane;
  ++lanes_;
  attention_.store(1, std::memory_order_relaxed);  // a hint for spinners; they look again under the mutex
}

void ready_list::push_again(runnable& lane) noexcept {
  lock_guard lock(m_);
  append_locked(lane);
}

void ready_list::push(runnable& lane) noexcept {
  sleeper* chosen = nullptr;
  {
    lock_guard lock(m_);
    append_locked(lane);
    chosen = claim_sleeper_locked();
  }
  wake(chosen);
}

bool ready_list::push_posted() noexcept {
  sleeper* chosen = nullptr;
  {
    lock_guard lock(m_);
    if (stopping_) return false;
    ++posted_;
    attention_.store(1, std::memory_order_relaxed);
    chosen = claim_sleeper_locked();
  }
  wake(chosen);
  return true;
}

ready_list::ready ready_list::next(sleeper& self) {
  bool looking = false;
  bool spun = false;
  for (;;) {
    ready found{what::stopped};
    sleeper* chosen = nullptr;
    bool sleep = false;
    bool rings = false;
    {
      lock_guard lock(m_);
      self.turn = 0;
      if (stopping_) {
        if (looking) --looking_;
        return found;
      }
      if (anything_locked()) {
        // Lanes and posted work take turns, so that neither starves the other.
        const bool posted = posted_ > 0 && (first_ == nullptr || posted_turn_);
        posted_turn_ = !posted;
        if (posted) {
          --posted_;
          found.kind = what::posted;
        } else {
          found.kind = what::lane;
          found.lane = first_;
          first_ = first_->next_ready;
          if (first_ == nullptr) last_ = nullptr;
          --lanes_;
        }
        self.turn = ++turns_;
        self.runs = found.lane;
        rings = std::exchange(rings_, false);
        if (looking) --looking_;
        if (anything_locked())
          chosen = claim_sleeper_locked();
        else
          attention_.store(0, std::memory_order_relaxed);
      } else if (spin_.count() > 0 && !spun && this_thread_slot().simulated_by == nullptr) {
        if (!looking) ++looking_;
        looking = true;
      } else {
        if (looking) --looking_;
        looking = false;
        self.awake.store(0);
        self.next = sleepers_;
        sleepers_ = &self;
        ++sleeping_;
        sleep = true;
      }
    }
    if (found.kind != what::stopped) {
      wake(chosen);
      if (rings) ring();
      return found;
    }
    if (sleep) {
      while (self.awake.load() == 0) sync::park(self.awake, 0, no_deadline);
      looking = true;  // whoever woke it has counted it
      spun = false;
    } else {
      spun = true;
      const steady_time until = deadline_after(time_.now(), spin_);
      for (unsigned turn = 1; attention_.load(std::memory_order_relaxed) == 0; ++turn) {
        sync::relax();
        if (turn % 64 == 0 && time_.now() >= until) break;
      }
    }
  }
}

void ready_list::stop() noexcept {
  sleeper* all = nullptr;
  {
    lock_guard lock(m_);
    stopping_ = true;
    attention_.store(1, std::memory_order_relaxed);
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

// --- seen by a watchdog ------------------------------------------------------------------------------------------------

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
  rings_ = false;
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
  seen.ready = lanes_ + posted_;
  for (const sleeper* each = enlisted_; each != nullptr; each = each->next_enlisted)
    if (each->turn != 0) seen.working.push_back({each->index, each->turn, each->runs});
}

bool ready_list::rest() noexcept {
  lock_guard lock(m_);
  if (!stopping_) {
    if (anything_locked()) return false;
    for (const sleeper* each = enlisted_; each != nullptr; each = each->next_enlisted)
      if (each->turn != 0) return false;
    rings_ = bell_ != nullptr;
  }
  return true;
}

void ready_list::ring_next() noexcept {
  lock_guard lock(m_);
  rings_ = bell_ != nullptr;
}

ready_list::sleeper* ready_list::find_locked(const detail::working_look& worker) noexcept {
  for (sleeper* each = enlisted_; each != nullptr; each = each->next_enlisted)
    if (each->turn == worker.turn) return each;
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

// --- a look from outside -----------------------------------------------------------------------------------------------

void ready_list::count(pool_snapshot& seen) noexcept {
  lock_guard lock(m_);
  seen.ready = lanes_;
  seen.queued = posted_;
  seen.parked = sleeping_;
}

std::size_t ready_list::size() noexcept {
  lock_guard lock(m_);
  return lanes_ + posted_;
}

unsigned ready_list::sleeping() noexcept {
  lock_guard lock(m_);
  return sleeping_;
}

bool ready_list::stopping() noexcept {
  lock_guard lock(m_);
  return stopping_;
}

}  // namespace penstock::exec
