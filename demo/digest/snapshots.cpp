// The runtime as it is now, again and again, as lines of JSON.
// Floor 9, room demo.
#include "snapshots.hpp"

#include "report.hpp"

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

namespace digest {

void snapshot_sink::write(const penstock::runtime_snapshot& seen) noexcept {
  try {
    const std::string json = penstock::to_json(seen, penstock::json_form::line);
    const double since = milliseconds(std::chrono::steady_clock::now() - started_);
    const std::string text = "{\"since_start_ms\":" + std::to_string(since) + "," + json.substr(1);
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

penstock::task<void> take_snapshots(std::chrono::nanoseconds period, const penstock::runtime& of,
                                    penstock::scheduler_ptr pool, snapshot_sink& sink) {
  penstock::timer tick(std::move(pool), period);
  for (;;) {
    const bool came = co_await tick.async_wait();
    if (!came) co_return;
    sink.write(of.snapshot());
    tick.expires_at(std::max(tick.expiry() + period, std::chrono::steady_clock::now()));
  }
}

}  // namespace

void snapshot_every(std::chrono::nanoseconds period, const penstock::runtime& of, const penstock::scheduler_ptr& pool,
                    snapshot_sink& sink) {
  // It ends with its pool, and has nothing to tell then.
  penstock::start_task(pool, take_snapshots(period, of, pool, sink), [](penstock::outcome<void>&&) noexcept {});
}

}  // namespace digest
