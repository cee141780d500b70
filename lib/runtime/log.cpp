// Records through spdlog. The one door to it.
// Floor 7, room runtime.
#include "runtime/log.hpp"

#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <cstdio>
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

struct log::spdlog_sink {
  spdlog::logger logger{"penstock", std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  spdlog_sink() { logger.set_level(spdlog::level::trace); }
};

log::log(user_sink sink, log_level least, const clock& time) : sink_(std::move(sink)), least_(least), time_(time) {
  if (!sink_) spdlog_ = std::make_unique<spdlog_sink>();
}
log::~log() = default;

void log::write(const log_record& record) noexcept {
  if (record.level() < least_) return;
  try {
    if (sink_) return sink_(record);
    // Text, not a format and its arguments: those take their compiler three seconds.
    const std::string line = to_string(record);
    spdlog_->logger.log(level_of(record.level()), spdlog::string_view_t(line.data(), line.size()));
  } catch (...) {  // a line that cannot be written must not take the service down
    sink_failed();
  }
}

void log::sink_failed() noexcept {
  if (!sink_failed_.exchange(true)) std::fputs("penstock: the log's sink threw; this is said once\n", stderr);
}

void log::line(log_level level, const std::string& text) noexcept {
  try {
    write(log_record(level, text));
  } catch (...) {  // no memory for the record
  }
}

void log::failed(const failure& record, log_level level, const char* text) noexcept {
  try {
    const std::string& source = record.task.empty() ? record.subscription : record.task;
    log_limiter::verdict verdict;
    {
      lock_guard lock(m_);
      verdict = limiter_.ask(source, time_.now());
    }
    if (verdict.left_out > 0)
      write(log_record(level, "further failures were not told one by one")
                .with(record.task.empty() ? "subscription" : "task", source)
                .with("count", verdict.left_out));
    if (!verdict.say) return;
    log_record line(level, text);
    if (record.task.empty())
      line.with("subscription", record.subscription).with("event", record.event).with("sequence", record.sequence);
    else
      line.with("task", record.task);
    line.with("attempt", record.attempt).with("exception", record.exception.type_name);
    if (!record.exception.what.empty()) line.with("what", record.exception.what);
    for (const std::string& inner : record.exception.nested) line.with("nested", inner);
    if (!record.file.empty()) line.with("file", record.file).with("line", record.line);
    write(line);
  } catch (...) {  // no memory to say so
  }
}

}  // namespace penstock
