// Workload L and goal 8: the curves, and each curve's worst rise in one run.
// Floor 9, bench.
#include "growth.hpp"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

namespace bench {

namespace {

/// A feature's row is measured in K only.
bool grows(const system_entry& system) { return system.growth != nullptr; }
bool changes(const system_entry& system) { return system.changes != nullptr; }
bool streams(const system_entry& system) { return !system.feature && system.stream != nullptr && system.span == 1; }

/// ns per delivery, or the problem.
measurement cost(const system_entry& system, const growth_run& run) {
  const growth_outcome outcome = system.growth(run);
  if (!outcome.problem.empty()) return failed_run(outcome.problem, outcome.stuck);
  measurement done;
  done.value = outcome.seconds * 1e9 / (static_cast<double>(run.events) * run.subscriptions);
  return done;
}

workload cost_workload(std::string id, std::string what, std::string unit, const growth_run& run) {
  workload made;
  made.id = std::move(id);
  made.group = std::string(1, 'L');
  made.what = std::move(what);
  made.unit = std::move(unit);
  made.direction = better::lower;
  made.applies = grows;
  made.run = [run](const system_entry& system) { return cost(system, run); };
  return made;
}

/// Both sizes twice in one run, turned round, so that they are compared under the same conditions.
workload rise_workload(std::string id, std::string what, const growth_run& few, const growth_run& many) {
  workload made;
  made.id = std::move(id);
  made.group = std::string(1, 'L');
  made.what = std::move(what);
  made.unit = std::string("ratio");
  made.direction = better::lower;
  made.applies = grows;
  made.run = [few, many](const system_entry& system) {
    double of_few = 0;
    double of_many = 0;
    for (const bool larger : {false, true, true, false}) {
      const measurement one = cost(system, larger ? many : few);
      if (!one.problem.empty()) return one;
      (larger ? of_many : of_few) += one.value;
    }
    measurement done;
    done.value = of_many / of_few;
    return done;
  };
  return made;
}

workload change_workload(std::string id, std::string what, double growth_outcome::*figure, const growth_run& run) {
  workload made;
  made.id = std::move(id);
  made.group = std::string(1, 'L');
  made.what = std::move(what);
  made.unit = std::string("us/call");
  made.direction = better::lower;
  made.applies = changes;
  made.run = [figure, run](const system_entry& system) {
    const growth_outcome outcome = system.changes(run);
    if (!outcome.problem.empty()) return failed_run(outcome.problem, outcome.stuck);
    measurement done;
    done.value = outcome.*figure;
    return done;
  };
  return made;
}

std::string many(unsigned count, const char* what) {
  std::string text;
  if (count >= 1000) {
    text += std::to_string(count / 1000);
    text += ',';
    text += std::to_string(count % 1000 + 1000).substr(1);
  } else {
    text += std::to_string(count);
  }
  text += ' ';
  text += what;
  if (count != 1) text += 's';
  return text;
}

}  // namespace

void add_growth_workloads(std::vector<workload>& all, effort how_much) {
  const std::uint64_t part = how_much == effort::full ? 1 : 20;
  const auto with_subscriptions = [&](unsigned count) {
    growth_run run;
    run.subscriptions = count;
    run.workers = count > 1 ? 2 : 1;
    // Rings of 10,000 subscriptions that hold 1024 events each would be 700 MB.
    run.capacity = 64;
    run.events = 6'000'000 / part / count;
    return run;
  };
  const auto with_topics = [&](unsigned count) {
    growth_run run;
    run.topics = count;
    run.workers = 1;
    run.events = 2'000'000 / part;
    return run;
  };

  for (const unsigned count : {1U, 10U, 100U, 1000U, 10'000U}) {
    all.push_back(cost_workload("L.subscriptions." + std::to_string(count),
                                "1 producer -> " + many(count, "subscription") + " of one topic, capacity 64",
                                "ns/delivery", with_subscriptions(count)));
  }
  all.push_back(rise_workload("L.subscriptions.rise", "cost per delivery with 10,000 subscriptions / with 10",
                              with_subscriptions(10), with_subscriptions(10'000)));

  for (const unsigned count : {1U, 10U, 100U, 1000U, 10'000U}) {
    all.push_back(cost_workload("L.topics." + std::to_string(count),
                                "1 producer -> 1 subscription of one of " + many(count, "topic"), "ns/event",
                                with_topics(count)));
  }
  all.push_back(rise_workload("L.topics.rise", "cost per event with 10,000 topics / with 1", with_topics(1),
                              with_topics(10'000)));

  for (const unsigned count : {1U, 2U, 4U, 8U, 16U, 32U, 64U}) {
    const std::string id = "L.producers." + std::to_string(count);
    const std::string what = many(count, "producer") + " -> 1 subscriber";
    workload producers =
        stream_workload(id.c_str(), what.c_str(), "M events/s", shaped(count, 1, 2'000'000 / part / count));
    producers.group = std::string(1, 'L');
    producers.applies = [count](const system_entry& system) {
      return streams(system) && count <= system.up_to_producers;
    };
    all.push_back(std::move(producers));
  }

  for (const unsigned count : {1U, 100U, 10'000U}) {
    growth_run run;
    run.subscriptions = count;
    run.capacity = 64;
    run.changes = how_much == effort::full ? 200 : 20;
    const std::string beside = many(count, "other subscription") + " and a busy publisher beside it";
    all.push_back(change_workload("L.subscribe." + std::to_string(count), "subscribe, with " + beside,
                                  &growth_outcome::subscribe_us, run));
    all.push_back(change_workload("L.unsubscribe." + std::to_string(count), "close of a subscription, with " + beside,
                                  &growth_outcome::unsubscribe_us, run));
  }
}

void judge_growth(std::vector<goal>& goals, const std::vector<row>& rows) {
  const auto rise = [&](const char* id, const char* what, const char* workload) {
    goal made;
    made.id = id;
    made.what = what;
    made.target = 1.3;
    if (const row* one = find_row(rows, workload, "penstock", default_mode); one != nullptr && one->figure) {
      made.measured = one->figure->median;
      made.met = *made.measured <= made.target;
    }
    goals.push_back(std::move(made));
  };
  rise("8a", "L: cost per delivery with 10,000 subscriptions / with 10, at most", "L.subscriptions.rise");
  rise("8b", "L: cost per event with 10,000 topics / with 1, at most", "L.topics.rise");
}

}  // namespace bench
