// Log lines through spdlog.
// Floor 7, room runtime.
#include "runtime/log.hpp"

#include <penstock/base/failure.hpp>

#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_sinks.h>

namespace penstock {

struct log::sink {
  spdlog::logger logger{"penstock", std::make_shared<spdlog::sinks::stderr_sink_mt>()};

  // Text, not a format and its arguments: those take their compiler three seconds.
  void write(spdlog::level::level_enum level, const std::string& line) {
    const std::string escaped = escape_control_bytes(line);
    logger.log(level, spdlog::string_view_t(escaped.data(), escaped.size()));
  }
};

log::log() : sink_(std::make_unique<sink>()) {}
log::~log() = default;

void log::error(const std::string& line) noexcept {
  try {
    sink_->write(spdlog::level::err, line);
  } catch (...) {  // a line that cannot be written must not take the service down
  }
}

void log::warning(const std::string& line) noexcept {
  try {
    sink_->write(spdlog::level::warn, line);
  } catch (...) {
  }
}

}  // namespace penstock
