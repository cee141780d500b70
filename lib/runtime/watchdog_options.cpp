// The watchdog's options, and its reports as text.
// Floor 7, room runtime.
#include "runtime/watchdog_options.hpp"

#include <algorithm>
#include <utility>

namespace penstock {

watchdog_options::watchdog_options() : fields_(std::make_unique<fields>()) {}
watchdog_options::watchdog_options(watchdog_options&&) noexcept = default;
watchdog_options& watchdog_options::operator=(watchdog_options&&) noexcept = default;
watchdog_options::~watchdog_options() = default;

watchdog_options::fields& watchdog_options::made() {
  if (!fields_) fields_ = std::make_unique<fields>();  // set again after it was moved from
  return *fields_;
}

namespace {
constexpr std::chrono::nanoseconds shortest = std::chrono::milliseconds(1);
}

watchdog_options& watchdog_options::stuck_within(std::chrono::nanoseconds limit) {
  made().stuck_after = std::max(limit, shortest);
  return *this;
}
watchdog_options& watchdog_options::look_every(std::chrono::nanoseconds period) {
  made().every = std::max(period, shortest);
  return *this;
}
watchdog_options& watchdog_options::stacks(bool yes) & {
  made().stacks = yes;
  return *this;
}
watchdog_options&& watchdog_options::stacks(bool yes) && { return std::move(stacks(yes)); }
watchdog_options& watchdog_options::stack_signal(int number) & {
  made().signal = number;
  return *this;
}
watchdog_options&& watchdog_options::stack_signal(int number) && { return std::move(stack_signal(number)); }
watchdog_options& watchdog_options::on_report(unique_function<void(const watchdog_report&)> hook) & {
  made().on_report = std::move(hook);
  return *this;
}
watchdog_options&& watchdog_options::on_report(unique_function<void(const watchdog_report&)> hook) && {
  return std::move(on_report(std::move(hook)));
}
watchdog_options& watchdog_options::enabled(bool yes) & {
  made().enabled = yes;
  return *this;
}
watchdog_options&& watchdog_options::enabled(bool yes) && { return std::move(enabled(yes)); }

// --- reports -----------------------------------------------------------------------------------------------------------

watchdog_report::watchdog_report() = default;

const char* to_string(watchdog_report::what kind) noexcept {
  switch (kind) {
    case watchdog_report::what::stuck_call: return "stuck call";
    case watchdog_report::what::stuck_task: return "stuck task";
    case watchdog_report::what::starved_pool: return "starved pool";
    case watchdog_report::what::wait_chain: return "wait chain";
    case watchdog_report::what::recovered: return "recovered";
  }
  return "unknown";
}

std::string watchdog_report::text() const {
  const auto quoted = [](const std::string& name) { return "\"" + name + "\""; };
  const std::string time =
      std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(elapsed).count()) + " ms at least";
  std::string line_of_text = (kind == what::recovered ? "recovered from a " : "") + std::string(to_string(of)) + ": ";
  switch (of) {
    case what::stuck_call:
    case what::stuck_task:
    case what::recovered:
      line_of_text += quoted(of == what::stuck_task ? task : subscription);
      if (!event.empty()) line_of_text += " in event #" + std::to_string(sequence) + " of " + event;
      line_of_text += ", for " + time;
      if (suspended) line_of_text += ", suspended";
      break;
    case what::starved_pool:
      line_of_text += quoted(pool) + ": every worker has been inside one call for " + time + ", and " +
                      std::to_string(waiting) + " wait for one";
      break;
    case what::wait_chain:
      for (std::size_t at = 0; at < chain.size(); ++at)
        line_of_text += (at == 0 ? "" : at == 1 ? " waits for " : ", which waits for ") + quoted(chain[at]);
      line_of_text += "; nothing has moved for " + time;
      break;
  }
  if (!file.empty()) line_of_text += " (subscribed at " + file + ":" + std::to_string(line) + ")";
  if (!thread.empty()) line_of_text += ", on " + thread;
  for (std::size_t at = 0; at < stack.size(); ++at) line_of_text += (at == 0 ? ", in " : " < ") + stack[at];
  return line_of_text;
}

}  // namespace penstock
