// Background tasks in words.
// Floor 4, room task.
#include <penstock/task/task_report.hpp>

#include <penstock/base/failure.hpp>

namespace penstock {

const char* to_string(task_status status) noexcept {
  switch (status) {
    case task_status::running: return "running";
    case task_status::completed: return "completed";
    case task_status::failed: return "failed";
    case task_status::cancelled: return "cancelled";
    case task_status::closed: return "closed";
  }
  return "unknown";
}

task_report::task_report() = default;

namespace {

std::size_t count(const std::vector<task_info>& tasks, task_status status) noexcept {
  std::size_t found = 0;
  for (const task_info& each : tasks) found += each.status == status ? 1 : 0;
  return found;
}

}  // namespace

std::size_t task_report::left() const noexcept { return count(tasks, task_status::running); }
std::size_t task_report::cut_off() const noexcept { return count(tasks, task_status::closed); }
bool task_report::clean() const noexcept { return left() == 0; }

namespace {

std::string milliseconds(std::chrono::nanoseconds time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(time).count()) + " ms";
}

}  // namespace

std::string to_string(const task_info& task) {
  std::string text = "task \"" + task.name + "\"";
  if (!task.owner.empty()) text += " of \"" + task.owner + "\"";
  text += std::string(": ") + to_string(task.status);
  if (task.status == task_status::running) {
    if (!task.started)
      text += ", not begun";
    else if (task.pausing)
      text += ", pausing after a failure";
    else
      text += ", in it for " + milliseconds(task.running) + (task.suspended ? ", suspended" : "");
  }
  text += ", spawned " + milliseconds(task.age) + " ago";
  if (!task.file.empty()) text += " at " + task.file + ":" + std::to_string(task.line);
  if (task.failures > 0) text += ", failures " + std::to_string(task.failures) + " (last: " + task.last_failure + ")";
  if (task.ticks > 0) text += ", ticks " + std::to_string(task.ticks);
  if (task.missed > 0) text += ", missed " + std::to_string(task.missed);
  if (task.stop_requested) {
    text += std::string(", asked to stop (") + penstock::to_string(task.stop_kind);
    if (!task.stop_by.empty()) text += " by " + task.stop_by;
    if (!task.stop_reason.empty()) text += ": " + task.stop_reason;
    text += ")";
  }
  return escape_control_bytes(text);
}

std::string to_string(const task_counts& counts) {
  return "spawned " + std::to_string(counts.spawned) + " = completed " + std::to_string(counts.completed) + " + failed " +
         std::to_string(counts.failed) + " + cancelled " + std::to_string(counts.cancelled) + " + closed " +
         std::to_string(counts.closed) + " + running " + std::to_string(counts.running) + "; refused " +
         std::to_string(counts.refused);
}

std::string to_string(const task_report& report) {
  std::string text = "tasks: " + to_string(report.counts) + "\n";
  for (const bool left : {true, false})
    for (const task_info& each : report.tasks)
      if ((each.status == task_status::running) == left) text += "  " + to_string(each) + "\n";
  return text;
}

}  // namespace penstock
