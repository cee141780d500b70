// Timers on a thread of their own.
// Floor 2, room exec.
#include "exec/timer_thread.hpp"

#include "exec/thread_start.hpp"
#include "sync/parker.hpp"

#include <new>
#include <system_error>

namespace penstock::exec {

timer_thread::~timer_thread() { stop(); }

void timer_thread::place_locked(std::size_t index, timer_node* node) noexcept {
  heap_[index] = node;
  node->heap_index = index;
}

void timer_thread::rise_locked(std::size_t index) noexcept {
  timer_node* node = heap_[index];
  while (index > 0) {
    const std::size_t parent = (index - 1) / 2;
    if (heap_[parent]->due <= node->due) break;
    place_locked(index, heap_[parent]);
    index = parent;
  }
  place_locked(index, node);
}

void timer_thread::sink_locked(std::size_t index) noexcept {
  timer_node* node = heap_[index];
  for (;;) {
    std::size_t child = 2 * index + 1;
    if (child >= heap_.size()) break;
    if (child + 1 < heap_.size() && heap_[child + 1]->due < heap_[child]->due) ++child;
    if (node->due <= heap_[child]->due) break;
    place_locked(index, heap_[child]);
    index = child;
  }
  place_locked(index, node);
}

void timer_thread::remove_locked(timer_node& node) noexcept {
  const std::size_t index = node.heap_index;
  timer_node* moved = heap_.back();
  heap_.pop_back();
  node.heap_index = timer_node::not_armed;
  if (moved == &node) return;
  place_locked(index, moved);
  rise_locked(index);
  sink_locked(moved->heap_index);
}

errc timer_thread::arm(timer_node& node) noexcept {
  if (fork_.forked()) return errc::forked;
  bool first = false;
  {
    lock_guard lock(m_);
    if (stopping_) return errc::closed;
    try {
      heap_.push_back(&node);
    } catch (const std::bad_alloc&) {
      return errc::not_enough_memory;
    }
    rise_locked(heap_.size() - 1);
    if (!thread_.joinable()) {
      try {
        thread_ = start_thread([this] { run(); });
      } catch (...) {
        remove_locked(node);
        return errc::not_enough_memory;  // of threads; the system's word for it is EAGAIN
      }
    }
    first = heap_.front() == &node;
    if (first) changes_.fetch_add(1);
  }
  if (first) sync::unpark_one(&changes_);
  return errc::none;
}

bool timer_thread::disarm(timer_node& node) noexcept {
  lock_guard lock(m_);
  if (node.heap_index == timer_node::not_armed) return false;
  remove_locked(node);
  return true;
}

void timer_thread::run() {
  name_this_thread("penstock-timer");
  bool gone = false;
  gone_ = &gone;
  for (;;) {
    timer_node* due = nullptr;
    steady_time next = no_deadline;
    const std::uint32_t seen = changes_.load();
    {
      lock_guard lock(m_);
      if (stopping_) return;
      if (!heap_.empty()) {
        if (heap_.front()->due <= time_.now()) {
          due = heap_.front();
          remove_locked(*due);
        } else {
          next = heap_.front()->due;
        }
      }
    }
    if (due == nullptr) {
      sync::park(changes_, seen, next);
      continue;
    }
    due->fire(*due);
    if (gone) return;
  }
}

// There is no thread to join, and the handle of one would end the process.
void timer_thread::leave_thread_behind() noexcept { new std::thread(std::move(thread_)); }

void timer_thread::stop() noexcept {
  if (fork_.forked()) return leave_thread_behind();
  std::thread thread;
  {
    lock_guard lock(m_);
    stopping_ = true;
    thread = std::move(thread_);
  }
  changes_.fetch_add(1);
  sync::unpark_one(&changes_);
  if (thread.joinable()) {
    if (thread.get_id() == std::this_thread::get_id()) {
      // Stopped, and perhaps destroyed, by one of its own callbacks: it ends when that returns, and touches nothing
      // here.
      *gone_ = true;
      thread.detach();
    } else {
      thread.join();
    }
  }
  // Whoever still waits is told now: nobody would ever come to it.
  for (;;) {
    timer_node* left = nullptr;
    {
      lock_guard lock(m_);
      if (heap_.empty()) return;
      left = heap_.back();
      remove_locked(*left);
    }
    left->fire(*left);
  }
}

}  // namespace penstock::exec
