// The account of a shutdown.
// Floor 7, room runtime.
#include <penstock/runtime/shutdown_report.hpp>

#include <penstock/base/failure.hpp>

namespace penstock {

shutdown_report::shutdown_report() = default;

std::uint64_t shutdown_report::undelivered() const noexcept {
  std::uint64_t events = 0;
  for (const subscription_report& each : subscriptions) events += each.ledger.discarded + each.ledger.queued;
  return events;
}

bool shutdown_report::clean() const noexcept {
  return drained && stuck.empty() && loop.empty() && tasks.clean() && tasks.cut_off() == 0 && undelivered() == 0;
}

namespace {

const char* what_became_of(const task_info& task) noexcept {
  if (task.status == task_status::closed) return "  cut off: ";
  if (task.status != task_status::running) return "  ";
  return task.suspended ? "  abandoned: " : "  left: ";
}

}  // namespace

std::string to_string(const shutdown_report& report) {
  const auto milliseconds = [](std::chrono::nanoseconds time) {
    return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(time).count()) + " ms";
  };
  std::string text = "shutdown (" + escape_control_bytes(report.reason) + ") took " + milliseconds(report.elapsed) +
                     (report.clean() ? ", clean" : report.drained ? ", drained" : ", not drained") +
                     (report.forced ? ", forced" : "") + "\n";
  for (const subscription_report& each : report.subscriptions)
    text += "  " + escape_control_bytes(each.name) + " [" + each.event + "]: " + to_string(each.ledger) + "\n";
  for (const stuck_call& each : report.stuck)
    text += "  stuck: " + escape_control_bytes(each.subscription) + " in event #" + std::to_string(each.sequence) +
            " of " + each.event + ", for " + milliseconds(each.at_least) + " at least (subscribed at " + each.file + ":" +
            std::to_string(each.line) + ")\n";
  if (!report.loop.empty()) {
    text += "  loop: ";
    for (const std::string& each : report.loop) text += escape_control_bytes(each) + " feeds ";
    text += escape_control_bytes(report.loop.front()) + "; what they published after 64 generations was refused\n";
  }
  for (const task_info& each : report.tasks.tasks) text += what_became_of(each) + to_string(each) + "\n";
  if (report.undelivered() > 0) text += "  undelivered: " + std::to_string(report.undelivered()) + " events\n";
  if (report.abandoned_workers > 0)
    text += "  abandoned: " + std::to_string(report.abandoned_workers) + " worker threads\n";
  return text;
}

}  // namespace penstock
