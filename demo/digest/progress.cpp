// Shows where the work stands while it goes on.
// Floor 9, room demo.
#include "progress.hpp"

#include "text.hpp"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <stop_token>
#include <string>

namespace digest {

std::string what_is_left(const totals& counted, std::chrono::nanoseconds elapsed) {
  const std::uint64_t done = counted.bytes.load();
  if (!counted.all_found.load() || counted.unsized.load() != 0) return "unknown";
  const std::uint64_t known = std::max(counted.bytes_known.load(), done);
  if (known == done) {
    const std::uint64_t ended =
        counted.written.load() + counted.reported.load() + counted.skipped.load() + counted.elsewhere.load();
    const std::uint64_t found = std::max(counted.found.load(), ended);
    return std::to_string(found - ended) + (found - ended == 1 ? " file" : " files");
  }
  if (done == 0) return "unknown";
  const double seconds = std::chrono::duration<double>(elapsed).count();
  return human_duration(seconds * static_cast<double>(known - done) / static_cast<double>(done));
}

progress::progress(const pipeline& stages, console& terminal) : stages_(stages), console_(terminal) {
  if (console_.style() != progress_style::none)
    thread_ = std::jthread([this](const std::stop_token& stop) { show(stop); });
}

progress::~progress() {
  if (!thread_.joinable()) return;
  thread_.request_stop();
  thread_.join();
  console_.clear_progress();
}

void progress::show(const std::stop_token& stop) {
  using namespace std::chrono_literals;
  const auto interval = console_.style() == progress_style::live ? 200ms : 2000ms;
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock hold(mutex);
  std::uint64_t bytes_before = 0;
  auto time_before = started_;
  for (;;) {
    never.wait_for(hold, stop, interval, [] { return false; });
    if (stop.stop_requested()) return;
    try {
      const auto now = std::chrono::steady_clock::now();
      const std::uint64_t bytes = stages_.counted().bytes.load();
      const double seconds = std::chrono::duration<double>(now - time_before).count();
      const auto rate = static_cast<std::uint64_t>(static_cast<double>(bytes - bytes_before) / seconds);
      std::string text = std::to_string(stages_.counted().written.load()) + " files  " + human_bytes(bytes) +
                         "  left " + what_is_left(stages_.counted(), now - started_) + "  " + human_bytes(rate) +
                         "/s  waiting:";
      const auto depths = stages_.depths();
      for (std::size_t at = 0; at < depths.size(); ++at)
        text += std::string(" ") + stage_names[at] + " " + std::to_string(depths[at].waiting) + "/" +
                std::to_string(depths[at].capacity);
      console_.progress(text);
      bytes_before = bytes;
      time_before = now;
    } catch (const std::exception&) {
      // Progress is a courtesy; the next line may find memory again.
    }
  }
}

}  // namespace digest
