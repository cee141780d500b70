// The engine of a simulation: simulated threads, pools, timers, virtual time, and the choice of what runs next.
// Floor 8, room testing.
#pragma once

#include "exec/watched.hpp"
#include "testing/fiber.hpp"
#include "testing/random.hpp"
#include "testing/trace.hpp"

#include <penstock/base/agent.hpp>
#include <penstock/testing/simulation.hpp>

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace penstock::testing::detail {

class simulation_core;

/// What an exploration gives its simulations: where to go when a scenario is stuck for good, and where to leave the
/// news.
struct scenario_host {
  fiber* scenario = nullptr;
  bool stuck = false;
  bool failed = false;
  std::string failure;
  std::string trace;
  std::uint64_t hash = 0;
  std::uint64_t steps = 0;
};

/// Work posted to a pool.
struct posted_work {
  unique_function<void()> body;
};

/// A pool whose workers are simulated. They exist only while they are inside a call: what makes N workers N is that no
/// more than N calls are begun.
class simulated_pool final : public worker_pool, public penstock::detail::watched_pool {
 public:
  simulated_pool(simulation_core& core, std::string name, std::uint32_t index, worker_pool_options options);
  ~simulated_pool() override;

  void schedule(runnable& item) noexcept override;
  errc post(unique_function<void()> work) override;
  const clock& time() const noexcept override;
  timer_service& timers() noexcept override;
  const std::string& name() const noexcept override { return name_; }
  std::shared_ptr<environment_parts> parts() const noexcept override;
  unsigned stop(steady_time deadline) noexcept override;
  std::size_t ready_approx() const noexcept override;
  unsigned parked_approx() const noexcept override { return threads() - busy; }
  unsigned threads() const noexcept override;
  pool_snapshot snapshot() const override;
  bool may_wait() const noexcept override;
  when_empty after_work() const noexcept override;
  penstock::detail::watched_pool* watched() noexcept override { return this; }

  // watched_pool
  void watch(std::shared_ptr<penstock::detail::worker_bell> bell) noexcept override;
  penstock::detail::pool_look look() override;
  bool rest() noexcept override;
  void ring_next() noexcept override;
  std::vector<std::string> stack_of(const penstock::detail::working_look& worker) override;
  /// On the worker, before it runs anything.
  void begin_turn() noexcept;

  unsigned budget() const noexcept;
  bool saturated() const noexcept { return busy >= threads(); }
  /// Tells the pool's hook, or the standard error stream.
  void report(const failure& record) noexcept;

  unsigned busy = 0;
  bool stopped = false;
  runnable* overflow = nullptr;  ///< lanes that there was no memory to list
  const std::uint32_t index;

 private:
  simulation_core& core_;
  const std::string name_;
  worker_pool_options options_;
  std::shared_ptr<penstock::detail::worker_bell> bell_;
  bool rings_ = false;  ///< found at rest: the next turn rings the bell
};

/// One simulated thread: the scenario itself, one started by a test, a worker inside one call, or the timer thread.
struct thread_state {
  enum class role : unsigned char { scenario, started, worker, timers };
  enum class status : unsigned char { idle, ready, running, waiting, done };

  role is = role::started;
  status now = status::idle;
  bool interruptible = false;  ///< waits at a gate or sleeps: the end of the simulation may throw into it
  bool interrupted = false;    ///< and has done so
  std::uint32_t entity = 0;
  simulation_core* core = nullptr;
  fiber* stack = nullptr;         ///< null for the scenario, and while there is nothing to run
  void* context = nullptr;        ///< its thread_slot::context while it does not run
  const void* address = nullptr;  ///< while waiting
  steady_time deadline = no_deadline;
  std::string_view place;  ///< where it waits, for reports; lives as long as the wait
  std::string name;
  unique_function<void()> body;    ///< of a started thread
  simulated_pool* pool = nullptr;  ///< of a worker
  runnable* item = nullptr;        ///< what a worker runs: this
  posted_work* posted = nullptr;   ///< or this
  std::uint64_t turn = 0;          ///< of a worker: which turn of the simulation
};

struct gate_state {
  std::shared_ptr<simulation_core> core;
  std::string place;
  bool open = false;
  std::size_t waiting = 0;
};

/// Everything lives on one operating-system thread. Code runs either in the scenario's context or on the fiber of a
/// simulated thread. Only the scenario's context chooses and resumes; a fiber that gives up control goes back there.
class simulation_core final : public agent,
                              public execution_environment,
                              public timer_service,
                              public std::enable_shared_from_this<simulation_core> {
 public:
  simulation_core(const simulation_options& options, scenario_host* host);
  ~simulation_core() override;

  // agent
  void preempt() noexcept override {
    if (++atomic_steps_ >= spin_limit_) return stop_spinning();
    if (ready_.empty() || ++contended_steps_ < next_point_) return;
    preempt_here();
  }
  void pause() noexcept override {
    if (atomic_steps_ != paused_at_) pause_here();
  }
  void wait(const void* address, steady_time deadline) override {
    wait_here(address, deadline, false, "inside the library");
  }
  void wake_one(const void* address) noexcept override;
  void wake_all(const void* address) noexcept override;
  steady_time now() const noexcept override { return now_; }

  // execution_environment
  const clock& time() const noexcept override { return clock_; }
  std::uint64_t random() noexcept override { return jitter_.next(); }
  const std::shared_ptr<environment_parts>& parts() const noexcept { return parts_; }
  scheduler_ptr make_pool(std::string_view name, worker_pool_options options) override;
  bool simulated() const noexcept override { return true; }
  unsigned stop_pools(steady_time deadline) noexcept override;

  // timer_service
  errc arm(timer_node& node) noexcept override;
  bool disarm(timer_node& node) noexcept override;

  // for pools
  void schedule(simulated_pool& pool, runnable& item) noexcept;
  errc post(simulated_pool& pool, unique_function<void()> work);
  unsigned stop_pool(simulated_pool& pool, steady_time deadline) noexcept;
  std::size_t ready_in(const simulated_pool& pool) const noexcept;
  /// Whether its pools have lanes look again before they rest, as pools of threads do. Half of the seeds.
  bool looks_again() const noexcept { return looks_again_; }
  /// A moment passes: others may go first.
  void pause_here() noexcept;
  void working_in(const simulated_pool& pool, std::vector<penstock::detail::working_look>& seen) const;
  /// What is ready, and what is queued.
  void count(const simulated_pool& pool, pool_snapshot& seen) const noexcept;

  // for the facade
  thread_state& start_thread(std::string_view name, unique_function<void()> body);
  void wait_here(const void* address, steady_time deadline, bool interruptible, std::string_view place);
  void yield_here();
  void require_scenario(const char* what) const;
  void run_until_idle();
  void run_within(std::chrono::nanoseconds wait);
  bool step();
  std::uint64_t random(std::uint64_t n) noexcept { return scenario_choices_.below(n); }
  void note(std::string_view text);
  void progress() noexcept { since_progress_ = 0, spins_ = 0; }
  void fail(std::string text);
  void fail_by_current_exception(const std::string& who);
  bool failed() const noexcept { return failed_; }
  [[noreturn]] void throw_failure();
  std::string unfinished() const;
  void require_all_done();
  std::string report() const;
  std::string trace() const;
  std::uint64_t seed() const noexcept { return options_.seed_; }
  testing::strategy strategy() const noexcept { return options_.strategy_; }
  std::uint64_t steps() const noexcept { return steps_; }
  std::uint64_t trace_hash() const noexcept { return trace_.hash(); }
  std::chrono::nanoseconds elapsed() const noexcept { return now_ - start_of_time; }

  // the end, in this order
  void begin_end() noexcept;    ///< waits at gates throw; started threads that stand elsewhere are given up
  void end_threads() noexcept;  ///< runs what is left, gives up what cannot run, forgets timers and queued work
  void leave() noexcept;        ///< gives the operating-system thread back
  bool ended() const noexcept { return ended_; }
  /// Whether the failure has been thrown into the scenario.
  bool told() const noexcept { return told_; }
  void hand_over() noexcept;  ///< tells the host what came of it
  void ask_finished();        ///< fails unless everything has ended or may be unfinished

 private:
  static constexpr steady_time start_of_time{std::chrono::hours(1)};

  struct virtual_clock final : clock {
    const simulation_core* core = nullptr;
    steady_time now() const noexcept override { return core->now_; }
  };

  /// Whoever can be chosen: a simulated thread, a lane, posted work, the timers. Numbered in order of appearance, so
  /// that no choice depends on an address.
  struct entity_info {
    enum class what : unsigned char { scenario, timers, started, lane, posted } is;
    std::uint32_t number = 0;
    std::uint32_t pool = 0;
    std::uint64_t priority = 0;
  };
  struct ready_entry {
    enum class what : unsigned char { thread, lane, posted, timers } is;
    std::uint32_t entity = 0;
    simulated_pool* pool = nullptr;
    void* subject = nullptr;
  };
  struct armed_timer {
    steady_time due;
    std::uint64_t order = 0;
    timer_node* node = nullptr;
  };

  std::uint32_t add_entity(entity_info::what kind, std::uint32_t number, std::uint32_t pool);
  void reserve_for_threads();
  bool push_ready(const ready_entry& entry) noexcept;
  void make_ready(thread_state& thread) noexcept;
  void take_overflow() noexcept;
  void drop_work(const simulated_pool* only) noexcept;

  static constexpr std::size_t nobody = static_cast<std::size_t>(-1);
  bool eligible(const ready_entry& entry) const noexcept;
  std::size_t choose();
  std::size_t choose_among(std::size_t count, const std::uint32_t* places);
  bool run_choice();
  void run_entry(const ready_entry& entry);
  void run_on_worker(simulated_pool& pool, runnable* item, posted_work* work, std::uint32_t entity);
  void resume(thread_state& thread);
  void retire(thread_state& thread) noexcept;
  static void run_job(void* thread);
  void run_body(thread_state& thread);
  void run_call(thread_state& thread);
  void fire_one_timer();

  void drive();
  void switch_away(thread_state& self);
  bool advance_time(steady_time limit);
  bool over_limit();
  void on_stuck();
  bool interrupt_waits() noexcept;
  [[noreturn]] void bail();
  void throw_if_failed() {
    if (failed_) throw_failure();
  }
  void preempt_here() noexcept;
  void stop_spinning() noexcept;
  void plan_preemptions();
  [[noreturn]] void throw_end(const thread_state& self);

  void sift_up(std::size_t at) noexcept;
  void sift_down(std::size_t at) noexcept;
  void place(std::size_t at, const armed_timer& timer) noexcept;
  void list_timers() noexcept;

  void record(trace_kind kind, std::uint32_t entity, std::uint32_t detail = 0) noexcept;
  std::string name_of(std::uint32_t entity) const;
  std::string describe(const thread_state& thread) const;
  void give_up(thread_state& thread) noexcept;
  void forget(thread_state& thread) noexcept;

  const simulation_options options_;
  scenario_host* host_;
  thread_slot slot_before_;
  virtual_clock clock_;
  steady_time now_ = start_of_time;

  random_source choices_;
  random_source scenario_choices_;
  random_source jitter_;
  const std::shared_ptr<environment_parts> parts_ = std::make_shared<environment_parts>(true);

  std::vector<entity_info> entities_;
  std::uint32_t lanes_ = 0;
  std::uint32_t posts_ = 0;
  std::uint32_t victim_ = 0;
  std::uint64_t victim_seen_ = 0;
  std::uint64_t lowest_priority_ = 1'000'000;
  std::uint64_t change_at_[2] = {};

  std::deque<thread_state> threads_;  ///< addresses stay
  thread_state* scenario_ = nullptr;
  thread_state* timers_ = nullptr;
  thread_state* current_ = nullptr;
  std::vector<thread_state*> waiting_;  ///< in order of arrival
  std::vector<thread_state*> idle_workers_;
  std::vector<std::unique_ptr<simulated_pool>> pools_;

  std::vector<ready_entry> ready_;       ///< in order of arrival
  std::vector<std::uint32_t> eligible_;  ///< scratch, used while a pool has no free worker
  unsigned saturated_pools_ = 0;
  bool overflow_ = false;       ///< a pool holds lanes that there was no memory to list
  std::uint32_t excluded_ = 0;  ///< not to be chosen next, unless it is alone; 0 is nobody

  std::vector<armed_timer> heap_;
  std::uint64_t timer_order_ = 0;
  std::size_t foreground_timers_ = 0;  ///< armed ones for whose sake time passes
  std::uint64_t turns_ = 0;
  bool timers_listed_ = false;

  std::uint64_t steps_ = 0;
  std::uint64_t step_limit_;
  std::uint64_t since_progress_ = 0;
  unsigned excesses_ = 0;
  bool spurious_wakeups_ = false;
  const bool looks_again_;

  static constexpr std::uint64_t never = static_cast<std::uint64_t>(-1);
  static constexpr std::uint64_t long_spin = 100'000;
  std::uint64_t atomic_steps_ = 0;                ///< preemption points passed
  std::uint64_t spin_limit_ = long_spin;          ///< where the running one has gone on for suspiciously long
  unsigned spins_ = 0;                            ///< how often that happened since progress
  std::uint64_t contended_steps_ = 0;             ///< preemption points passed while somebody else was ready
  std::uint64_t next_point_ = never;              ///< the next of them at which to switch
  std::vector<std::uint64_t> preemption_points_;  ///< the later ones, descending
  std::uint64_t paused_at_ = never;               ///< pauses with no preemption point between them are one

  trace_ring trace_;
  std::vector<std::string> notes_;

  bool failed_ = false;
  bool told_ = false;
  bool ending_ = false;
  bool ended_ = false;
  bool timers_stopped_ = false;
  bool must_bail_ = false;
  std::string failure_;
  std::string failure_trace_;
};

}  // namespace penstock::testing::detail
