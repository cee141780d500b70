// A stranger's program: subscribes, publishes, shuts down, and exits with 0 only if every event was handled.
// Floor 9, room tests. Built by tests/consumer/run against an installed penstock, in each way a stranger would.
#include <penstock/penstock.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>

struct parcel_sent {
  std::uint64_t id;
};

int main() {
  using namespace std::chrono_literals;
  constexpr std::uint64_t parcels = 1000;
  std::atomic<std::uint64_t> seen = 0;

  penstock::runtime rt;
  auto counter = rt.bus().subscribe<parcel_sent>("counter", [&](const parcel_sent&) { ++seen; });
  auto outbox = rt.bus().publisher<parcel_sent>();
  for (std::uint64_t id = 1; id <= parcels; ++id)
    if (outbox.publish(parcel_sent{id}).accepted() != 1) return 2;

  const penstock::shutdown_report report = rt.shutdown(30s);
  std::printf("penstock %s: %llu of %llu parcels seen\n", penstock::version(),
              static_cast<unsigned long long>(seen.load()), static_cast<unsigned long long>(parcels));
  return report.clean() && seen == parcels ? 0 : 1;
}
