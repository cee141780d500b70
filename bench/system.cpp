// The list of systems.
// Floor 9, bench.
#include "system.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

namespace bench {

namespace {
std::vector<system_entry>& list() {
  static std::vector<system_entry> entries;
  return entries;
}
}  // namespace

const char* to_string(system_kind kind) noexcept {
  switch (kind) {
    case system_kind::subject:
      return "penstock";
    case system_kind::bounded_parking:
      return "bounded, parks";
    case system_kind::unbounded:
      return "unbounded";
    case system_kind::synchronous:
      return "synchronous";
    case system_kind::reference:
      return "reference";
  }
  return "?";
}

bool register_system(system_entry entry) {
  list().push_back(std::move(entry));
  return true;
}

std::vector<system_entry> registered_systems() {
  auto entries = list();
  std::sort(entries.begin(), entries.end(), [](const system_entry& a, const system_entry& b) {
    return std::tie(a.kind, a.span, a.name, a.mode) < std::tie(b.kind, b.span, b.name, b.mode);
  });
  return entries;
}

// The build says what it left out, as initialisers; see meson.build.
std::vector<missing_peer> missing_peers() { return {BENCH_MISSING}; }

std::vector<missing_peer> left_out() {
  auto all = missing_peers();
  for (const auto& one : registered_systems())
    if (!one.apart.empty()) all.push_back({one.name + " (" + one.mode + ") in E.paced, E.rare", "", one.apart, false});
  return all;
}

}  // namespace bench
