// The accounting law.
// Floor 5, room bus.
#include <penstock/bus/ledger.hpp>

namespace penstock {

bool ledger::balanced() const noexcept {
  return offered == accepted + dropped + rejected.total() + pending &&
         accepted == handled + filtered + failed + discarded + evicted + queued + running;
}

std::string to_string(const ledger& c) {
  const auto n = [](std::uint64_t value) { return std::to_string(value); };
  return "offered " + n(c.offered) + " = accepted " + n(c.accepted) + " + dropped " + n(c.dropped) + " + rejected " +
         n(c.rejected.total()) + " + pending " + n(c.pending) + "; accepted = handled " + n(c.handled) + " + filtered " +
         n(c.filtered) + " + failed " + n(c.failed) + " + discarded " + n(c.discarded) + " + evicted " + n(c.evicted) +
         " + queued " + n(c.queued) + " + running " + n(c.running);
}

}  // namespace penstock
