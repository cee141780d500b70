// What the workers of a pool share; outlives the pool's handle while a worker is in a call.
// Floor 2, room exec.
#pragma once

#include "base/fork_mark.hpp"
#include "base/line_window.hpp"
#include "base/mutex.hpp"
#include "exec/posted_queue.hpp"
#include "exec/ready_list.hpp"
#include "exec/watched.hpp"
#include "exec/worker_pool_options.hpp"

#include <penstock/exec/pool_snapshot.hpp>

#include <atomic>
#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace penstock::exec {

class pool_core final : public detail::watched_pool, public std::enable_shared_from_this<pool_core> {
 public:
  pool_core(std::string name, worker_pool_options options, const clock& time);

  /// Throws std::system_error, or what the start hook threw; then no thread is left.
  void start_workers();
  unsigned stop(steady_time deadline) noexcept;
  /// Takes `work` unless it fails.
  errc post(unique_function<void()>& work) noexcept;
  /// After the list has stopped: tells what is left that nobody will run it.
  void drop_left() noexcept;
  /// Throws std::bad_alloc.
  pool_snapshot snapshot();

  // watched_pool
  void watch(std::shared_ptr<detail::worker_bell> bell) noexcept override { list.watch(std::move(bell)); }
  detail::pool_look look() override;
  bool rest() noexcept override { return list.rest(); }
  void ring_next() noexcept override { list.ring_next(); }
  std::vector<std::string> stack_of(const detail::working_look& worker) override;

  const std::string name;
  worker_pool_options::fields options;
  const clock& time;
  const fork_mark fork;
  ready_list list;
  posted_queue posted;

 private:
  struct worker {
    unsigned index = 0;
    std::thread thread;
    ready_list::sleeper sleeper;
    std::atomic<bool> in_call{false};  // it may run code of the user's
    bool ended = false;                // guarded by workers_m_
  };
  void start_one(unsigned index);
  void run_worker(worker& self);
  void run_posted(worker& self);
  void worker_lost(worker& self) noexcept;
  void report(const failure& record) noexcept;
  void tell_left_out(std::uint64_t count) const noexcept;

  mutex workers_m_;  // protects what follows; taken with no other lock held
  std::list<worker> workers_ PENSTOCK_GUARDED_BY(workers_m_);
  unsigned started_ PENSTOCK_GUARDED_BY(workers_m_) = 0;
  unsigned start_error_at_ PENSTOCK_GUARDED_BY(workers_m_) = 0;
  std::exception_ptr start_error_ PENSTOCK_GUARDED_BY(workers_m_);
  sync::atomic<std::uint32_t> changes_{0};  // moves when a worker has started or ended
  mutex lines_m_;  // protects lines_; taken with no other lock held
  line_window lines_ PENSTOCK_GUARDED_BY(lines_m_);  // of a pool without an on_failure of its own
};

/// Starts a pool on a given clock and timer service. Throws what `worker_pool::start` throws.
std::shared_ptr<worker_pool> start_pool(std::string_view name, worker_pool_options options, const clock& time,
                                        std::shared_ptr<timer_service> timers, std::shared_ptr<environment_parts> parts);
/// For one that `start_pool` made: it takes nothing more, and its workers end with the calls they are in. Waits: never.
void begin_stop(worker_pool& pool) noexcept;

}  // namespace penstock::exec
