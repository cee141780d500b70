// Records through spdlog. The one door to it.
// Floor 7, room runtime.
#include "runtime/log.hpp"

#include <spdlog/details/log_msg.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <cstdio>
#include <new>
#include <utility>

namespace penstock {
namespace {

spdlog::level::level_enum level_of(log_level level) noexcept {
  switch (level) {
    case log_level::debug: return spdlog::level::debug;
    case log_level::info: return spdlog::level::info;
    case log_level::warning: return spdlog::level::warn;
    case log_level::error: break;
  }
  return spdlog::level::err;
}

}  // namespace

// The sink without a logger: a logger keeps to itself what its sink throws, and says it in its own words.
struct log::spdlog_sink {
  spdlog::sinks::stderr_sink_mt lines;

  // Text, not a format and its arguments: those take their compiler three seconds.
  void write(const log_record& record) {
    const std::string line = to_string(record);
    lines.log(spdlog::details::log_msg(spdlog::string_view_t(record.component().data(), record.component().size()),
                                       level_of(record.level()), spdlog::string_view_t(line.data(), line.size())));
  }
};

log::log(user_sink sink, log_level least, const clock& time) : sink_(std::move(sink)), least_(least), time_(time) {
  if (!sink_) spdlog_ = std::make_unique<spdlog_sink>();
}
log::~log() = default;

void log::write(const log_record& record) noexcept {
  if (record.level() < least_) return;
  try {
    if (sink_)
      sink_(record);
    else
      spdlog_->write(record);
  } catch (const std::bad_alloc&) {
    lose("there was no memory for a log record");
  } catch (...) {  // a line that cannot be written must not take the service down
    lose("the log's sink threw");
  }
}

void log::lose(const char* why) noexcept {
  if (lost_.fetch_add(1) == 0)
    std::fprintf(stderr, "penstock: %s; this is said once, lost_log_records() counts on\n", why);
}

}  // namespace penstock
