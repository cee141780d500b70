// The ready list of a pool.
// Floor 2, room exec.
#include "exec/ready_list.hpp"

#include "sync/parker.hpp"

#include <utility>

namespace penstock::exec {
namespace {

void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

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
    {
      lock_guard lock(m_);
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
        relax();
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
