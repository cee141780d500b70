// The bus as it is now, again and again, as lines of JSON.
// Floor 9, room demo.
#include "snapshots.hpp"

#include "report.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

namespace digest {

void snapshot_sink::write(const penstock::bus_snapshot& seen) noexcept {
  using json = nlohmann::ordered_json;
  try {
    // to_json is for people, on many lines; one line each is for programs that follow.
    const json line = {{"since_start_ms", milliseconds(std::chrono::steady_clock::now() - started_)},
                       {"bus", json::parse(penstock::to_json(seen))}};
    const std::string text = line.dump(-1, ' ', false, json::error_handler_t::replace);
    if (file_ == nullptr) {
      console_.line(text);
      return;
    }
    file_->write(text);
    file_->flush();
  } catch (const std::exception&) {
    console_.message("a snapshot was left out: out of memory");
  }
}

namespace {

penstock::task<void> take_snapshots(std::chrono::nanoseconds period, penstock::event_bus bus,
                                    penstock::scheduler_ptr pool, snapshot_sink& sink) {
  penstock::timer tick(std::move(pool), period);
  for (;;) {
    const bool came = co_await tick.async_wait();
    if (!came) co_return;
    sink.write(bus.snapshot());
    tick.expires_at(std::max(tick.expiry() + period, std::chrono::steady_clock::now()));
  }
}

}  // namespace

void snapshot_every(std::chrono::nanoseconds period, const penstock::event_bus& bus,
                    const penstock::scheduler_ptr& pool, snapshot_sink& sink) {
  // It ends with its pool, and has nothing to tell then.
  penstock::start_task(pool, take_snapshots(period, bus, pool, sink), [](penstock::outcome<void>&&) noexcept {});
}

}  // namespace digest
