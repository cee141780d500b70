// The self-check that no goal is answered while something it needs is missing, and that no peer is missing in silence.
// Floor 9, bench.
#include "report.hpp"
#include "smoke.hpp"

#include <algorithm>
#include <initializer_list>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace bench {

namespace {

using ids = std::set<std::string>;

/// One row for whatever a goal needs, so that each has an answer.
std::vector<row> complete_rows() {
  using enum system_kind;
  std::vector<row> rows;
  const auto add = [&](const std::string& workload, const char* system, const char* mode, system_kind kind) {
    rows.push_back(made_row(workload, system, mode, kind, 1, "near"));
    rows.back().one_way_ns = 50;
  };
  const auto of_penstock = [&](std::initializer_list<const char*> all, const char* system = "penstock") {
    for (const char* one : all) add(one, system, default_mode, subject);
  };
  for (const char* one : {"A", "B", "C", "D"}) {
    of_penstock({one});
    of_penstock({one}, "penstock spans of 16");
    add(one, "ring", "x", bounded_parking);
    add(one, "queue", "x", unbounded);
    add(one, "bare", "x", reference);
  }
  for (const char* one : {"E.paced.p50", "E.paced.p99.9", "E.idle"}) {
    of_penstock({one});
    add(one, "ring", "x", bounded_parking);
  }
  for (const char* one : {"E.paced.p50", "E.paced.p99"}) {
    add(one, "penstock", "park", subject);
    add(one, "futex", "bare wake", reference);
  }
  add("E.paced.p50", "penstock", "spin_then_park 100 us", subject);
  add("E.rare.cpu", "penstock", "park", subject);
  of_penstock({"fanout", "E.rare.cpu", "E.pingpong.pool.p50", "F.part", "F.growth", "J", "I.event.1", "I.event.8",
               "I.text.1", "I.text.8", "I.idle", "L.subscriptions.rise", "L.topics.rise"});
  for (const char* one : {"H.functions", "H.coroutines"}) {
    of_penstock({one});
    add(one, "Boost.Asio", "thread_pool", bounded_parking);
  }
  of_penstock({"H.functions.allocations"});
  for (const char* one : {"K.A.cost", "K.B.cost", "K.C.cost", "K.D.cost"})
    for (const char* system : {"penstock", "penstock + metadata", "penstock + metrics"}) of_penstock({one}, system);
  of_penstock({"K.A.cost"}, "penstock, features elsewhere");
  return rows;
}

ids unanswered_of(const std::vector<row>& rows, const std::vector<missing_peer>& missing = {}) {
  ids found;
  for (const auto& one : judge(rows, missing))
    if (!one.met) found.insert(one.id);
  return found;
}

std::string told(const ids& all) {
  std::string text;
  for (const auto& one : all) text += " " + one;
  return text.empty() ? " none" : text;
}

std::vector<row> without(const char* system) {
  auto rows = complete_rows();
  std::erase_if(rows, [&](const row& one) { return one.system.name == system; });
  return rows;
}

void check_needs(findings& found) {
  const auto rows = complete_rows();
  found.expect(unanswered_of(rows).empty(),
               "with all that they need the goals have answers; not these:" + told(unanswered_of(rows)));

  ids compared{"3d", "3e", "3h"};
  ids first;
  for (const char* how : {"", ".many"})
    for (const char* letter : {"1A", "1B", "1C", "1D"}) {
      first.insert(std::string(letter) + how);
      for (const char* other : {"", ".unbounded", ".reference"}) compared.insert(std::string(letter) + how + other);
    }
  const std::vector<missing_peer> not_there{{"queue", "libqueue-dev", "not installed"}};
  const std::vector<missing_peer> sanitized{{"queue", "", "left out under a sanitizer"}};
  found.expect(unanswered_of(rows, not_there) == compared,
               "a peer that is not installed leaves the goals that compare with the best of them unanswered, not" +
                   told(unanswered_of(rows, not_there)));
  found.expect(unanswered_of(rows, sanitized) == compared, "so does a peer that is left out");
  found.expect(unanswered_of(rows, {{"flows", "", "of a later version", false}}).empty(),
               "a peer that cannot be had does not");

  const auto expect_needed = [&](const char* system, const ids& by) {
    const ids open = unanswered_of(without(system));
    found.expect(open == by, std::string("without the rows of ") + system + " there is no answer for" + told(by) +
                                 ", and not for" + told(open));
  };
  ids by_ring = first;
  by_ring.insert({"3d", "3e", "3h"});
  expect_needed("ring", by_ring);
  expect_needed("Boost.Asio", {"6a", "6c"});
  expect_needed("futex", {"3a", "3b"});

  for (std::size_t index = 0; index < rows.size(); ++index) {
    auto fewer = rows;
    fewer[index].figure.reset();
    fewer[index].state = "not counted";
    found.expect(!unanswered_of(fewer).empty(), "a goal has no answer without the figure of " + rows[index].workload +
                                                    ", " + rows[index].system.name + ", " + rows[index].system.mode);
  }
}

/// A peer that a later change leaves out, of the build or of E, is noticed here.
void check_peers(findings& found) {
  const auto systems = registered_systems();
  const auto missing = missing_peers();
  for (const char* name : {"mutex ring", "Asio channel", "oneTBB queue", "oneTBB flow graph", "CAF streams",
                           "CAF actors", "moodycamel", "Boost.Signals2", "raw ring", "futex"}) {
    const auto has_its_name = [&](const auto& one) { return one.name == name; };
    found.expect(std::any_of(systems.begin(), systems.end(), has_its_name) ||
                     std::any_of(missing.begin(), missing.end(), has_its_name),
                 std::string(name) + " is measured or named as missing");
  }
  for (const auto& one : systems) {
    if (one.kind != system_kind::bounded_parking || one.stream == nullptr) continue;
    const std::string who = one.name + " (" + one.mode + ")";
    found.expect((one.further.paced != nullptr) == one.apart.empty(),
                 who + " takes part in E.paced and E.rare, or says why not");
    found.expect(one.further.rest != nullptr || !one.apart.empty(), who + " takes part in E.idle, or says why not");
  }
}

}  // namespace

void check_missing(findings& found) {
  check_needs(found);
  check_peers(found);
}

}  // namespace bench
