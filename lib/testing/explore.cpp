// Running a scenario under many seeds, and telling how to run the one that failed again.
// Floor 8, room testing.
#include <penstock/testing/simulation.hpp>

#include "testing/crash_note.hpp"
#include "testing/simulation_core.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <utility>

namespace penstock::testing {

explore_options::explore_options() noexcept = default;

namespace detail {
namespace {

std::optional<std::uint64_t> number_from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  char* end = nullptr;
  errno = 0;
  const std::uint64_t value = std::strtoull(text, &end, 10);
  if (errno != 0 || *end != '\0' || *text < '0' || *text > '9')
    throw std::invalid_argument(std::string(name) + "=" + text +
                                " is not a number: give a seed or a count in decimal digits");
  return value;
}

std::string shell_quoted(const std::string& word) {
  constexpr const char* harmless = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
  if (!word.empty() && word.find_first_not_of(harmless) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) {
    if (c == '\'')
      quoted += "'\\''";
    else
      quoted += c;
  }
  return quoted + "'";
}

/// How this program was called, quoted for a shell.
std::string own_command_line() {
  std::string words;
  if (std::FILE* file = std::fopen("/proc/self/cmdline", "rb")) {
    char buffer[4096];
    for (std::size_t got = 0; (got = std::fread(buffer, 1, sizeof buffer, file)) != 0;) words.append(buffer, got);
    std::fclose(file);
  }
  std::string line;
  for (std::size_t at = 0; at < words.size();) {
    const std::string word = words.c_str() + at;
    line += " " + shell_quoted(word);
    at += word.size() + 1;
  }
  return line;
}

/// The portfolio: of sixteen seeds seven are uniform, five change priorities, three starve one, and one is plain fifo,
/// the easiest to read.
strategy strategy_of(std::uint64_t seed) noexcept {
  switch (seed % 16) {
    case 1:
      return strategy::fifo;
    case 4:
    case 9:
    case 14:
      return strategy::starve_one;
    case 2:
    case 5:
    case 8:
    case 11:
    case 15:
      return strategy::priority_change;
    default:
      return strategy::random;
  }
}

}  // namespace

struct exploration_plan {
  const explore_options& options;
  unique_function<void(simulation&)>& scenario;
  const std::string command = own_command_line();
  crash_note note{command};

  struct run {
    exploration_plan* plan;
    simulation_options options;
    std::unique_ptr<scenario_host> host;
  };

  simulation_options options_for(std::uint64_t seed) const {
    simulation_options each = options.each_;
    each.seed(seed).strategy(options.all_strategies_ ? strategy_of(seed) : options.strategy_);
    return each;
  }

  static void run_scenario(void* argument) {
    run& self = *static_cast<run*>(argument);
    scenario_host& host = *self.host;
    std::shared_ptr<simulation_core> core;
    try {
      core = std::make_shared<simulation_core>(self.options, &host);
    } catch (const std::exception& failed) {
      host.failed = true;
      host.failure = failed.what();
      return;
    }
    simulation sim(core);
    try {
      self.plan->scenario(sim);
    } catch (...) {
      core->fail_by_current_exception("the scenario");
    }
    core->ask_finished();
    sim.end();
    core->hand_over();
  }

  /// One run in a new simulation, on a stack of its own that can be left behind.
  std::unique_ptr<scenario_host> run_once(std::uint64_t seed) {
    const thread_slot before = this_thread_slot();
    fiber* stack = fiber::acquire(stack_size::scenario);
    run self{this, options_for(seed), std::make_unique<scenario_host>()};
    self.host->scenario = stack;
    stack->assign(&run_scenario, &self);
    stack->resume();
    if (self.host->stuck) {
      fiber::abandon(stack);
      this_thread_slot() = before;
    } else {
      fiber::release(stack);
    }
    return std::move(self.host);
  }

  [[noreturn]] void fail(std::uint64_t seed, const std::string& what, const std::string& trace) const {
    const std::string replay = "replay it with:\n  PENSTOCK_SEED=" + std::to_string(seed) + command + "\n";
    std::fputs(("penstock: " + replay).c_str(), stderr);  // whole: Catch2 3 breaks long lines of an exception's text
    throw simulation_failure("seed " + std::to_string(seed) + ", strategy " + to_string(options_for(seed).strategy_) +
                             ": " + what + "\nlast steps:\n" + trace + replay);
  }

  void run_seed(std::uint64_t seed, bool twice, exploration& done) {
    note.seed(seed);
    const auto first = run_once(seed);
    ++done.schedules;
    done.steps += first->steps;
    if (first->failed) fail(seed, first->failure, first->trace);
    if (!twice) return;
    const auto second = run_once(seed);
    ++done.schedules;
    ++done.replays;
    done.steps += second->steps;
    if (second->failed) fail(seed, "the first run passed, the second failed: " + second->failure, second->trace);
    if (first->hash != second->hash || first->steps != second->steps)
      fail(seed,
           "two runs of this seed differ (" + std::to_string(first->steps) + " and " + std::to_string(second->steps) +
               " steps): the scenario depends on something besides the simulation, such as real time, an address, "
               "another "
               "thread, or a variable that lives longer than one run",
           second->trace);
  }

  exploration run_all() {
    if (this_thread_slot().simulated_by != nullptr)
      throw std::logic_error("explore cannot be called inside a simulation");
    if (!scenario) throw std::invalid_argument("explore: the scenario is empty");
    exploration done;
    if (const auto only = number_from_environment("PENSTOCK_SEED")) {
      run_seed(*only, options.replay_every_ != 0, done);
      return done;
    }
    const std::uint64_t count = number_from_environment("PENSTOCK_SEEDS").value_or(options.seeds_);
    for (std::uint64_t i = 0; i < count; ++i)
      run_seed(options.first_seed_ + i, options.replay_every_ != 0 && i % options.replay_every_ == 0, done);
    return done;
  }
};

/// Adds the exploration to the file that PENSTOCK_EXPLORED names, in one write: several programs may share it.
void note_explored(const exploration& done) {
  const char* path = std::getenv("PENSTOCK_EXPLORED");
  std::FILE* file = path != nullptr && *path != '\0' ? std::fopen(path, "a") : nullptr;
  if (file == nullptr) return;
  std::fprintf(file, "%llu %llu %llu\n", static_cast<unsigned long long>(done.schedules),
               static_cast<unsigned long long>(done.replays), static_cast<unsigned long long>(done.steps));
  std::fclose(file);
}

}  // namespace detail

exploration explore(const explore_options& options, unique_function<void(simulation&)> scenario) {
  detail::exploration_plan plan{options, scenario};
  const exploration done = plan.run_all();
  detail::note_explored(done);
  return done;
}

exploration explore(std::uint64_t seeds, unique_function<void(simulation&)> scenario) {
  return explore(explore_options().seeds(seeds), std::move(scenario));
}

}  // namespace penstock::testing
