// penstock-digest: digests of whole trees through three stages with back-pressure. README.md beside it tells how to use
// it. Floor 9, room demo.
#include "check.hpp"
#include "console.hpp"
#include "event_log.hpp"
#include "line_file.hpp"
#include "options.hpp"
#include "output.hpp"
#include "pipeline.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "signals.hpp"
#include "snapshots.hpp"
#include "text.hpp"
#include "walker.hpp"

#include <malloc.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

namespace digest {

namespace {

enum exit_code : int { all_well = 0, something_failed = 1, wrong_usage = 2 };

// How long an orderly end may take after a signal when --deadline says nothing: somebody is waiting at the terminal.
constexpr auto interrupted_deadline = std::chrono::seconds(2);

/// Descriptors wait in events: a directory for each found file at worst, an open file for each read one.
void provide_descriptors(const options& chosen) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const std::size_t needed = chosen.capacity + chosen.workers + tree_walker::open_directories + 64;
  if (limit.rlim_cur < needed)
    throw usage_error("--capacity " + std::to_string(chosen.capacity) + " with --workers " +
                      std::to_string(chosen.workers) + " may need " + std::to_string(needed) +
                      " open files, and this process may have " + std::to_string(limit.rlim_cur) +
                      "; choose less, or raise `ulimit -n`");
}

/// glibc gives each thread an arena of its own, and each keeps what it once freed: memory would grow with the threads
/// and with chance. Two are enough here, where the large buffers are pooled and events are small.
void limit_arenas() noexcept { ::mallopt(M_ARENA_MAX, 2); }

progress_style style_for(const options& chosen) noexcept {
  if (chosen.quiet) return progress_style::none;
  return ::isatty(STDERR_FILENO) == 1 ? progress_style::live : progress_style::plain;
}

std::string counted(std::uint64_t count, const char* one, const char* many) {
  return std::to_string(count) + " " + (count == 1 ? one : many);
}

walk_rules rules_for(const options& chosen) {
  walk_rules made;
  made.excludes = chosen.excludes;
  made.follow_symlinks = chosen.follow_symlinks;
  made.one_file_system = chosen.one_file_system;
  made.sizes = !chosen.quiet || !chosen.events.empty();
  return made;
}

/// A loop is worth a note in any case: what it leads to is there under another name.
void note_skipped(const options& chosen, std::string_view name, skipped why, console& terminal) {
  if (chosen.quiet || (!chosen.verbose && why != skipped::loop)) return;
  const auto text = [&] {
    switch (why) {
      case skipped::excluded:
        return "is excluded: left out";
      case skipped::link:
        return "is a symbolic link: left out; --follow-symlinks would follow it";
      case skipped::dangling_link:
        return "is a symbolic link that leads nowhere: left out";
      case skipped::loop:
        return "leads back to a directory that it lies in: left out";
      case skipped::other_file_system:
        return "lies on another file system: left out";
    }
    return "is left out";
  };
  terminal.message("note: " + for_terminal(name) + " " + text());
}

/// The producers: they run on the main thread, and wait in `submit` when the stages are behind.
void walk_trees(const options& chosen, pipeline& stages, console& terminal) {
  tree_walker walker([&](file_found&& file) { return stages.submit(std::move(file)); },
                     [&](std::string_view name, std::string_view text) { stages.report_problem(name, text); },
                     rules_for(chosen),
                     [&](std::string_view name, skipped why) { note_skipped(chosen, name, why, terminal); });
  for (const std::string& path : chosen.paths) {
    struct stat named {};
    if (!chosen.quiet && ::lstat(path.c_str(), &named) == 0 && S_ISLNK(named.st_mode))
      terminal.message("note: " + for_terminal(path) + " is a symbolic link; it is followed because it was named");
    if (!walker.walk(path)) return;
  }
}

/// Tells what a manifest's check came to, as sha256sum does. False: it failed.
bool conclude_check(const std::string& path, std::size_t hex_digits, const manifest_summary& summary,
                    const totals& totals, console& terminal) {
  const std::string name = path == "-" ? "standard input" : for_terminal(path);
  if (!summary.error.empty()) {
    terminal.message(name + ": " + summary.error);
    return false;
  }
  if (summary.entries == 0) {
    terminal.message(name + ": no properly formatted checksum lines found; was it made with another --algorithm?");
    return false;
  }
  const std::uint64_t unreadable = totals.unreadable.load();
  const std::uint64_t mismatched = totals.mismatched.load();
  if (summary.malformed != 0)
    terminal.message("WARNING: " + counted(summary.malformed, "line is", "lines are") + " improperly formatted");
  if (unreadable != 0)
    terminal.message("WARNING: " + counted(unreadable, "listed file", "listed files") + " could not be read");
  if (mismatched != 0)
    terminal.message("WARNING: " + counted(mismatched, "computed checksum", "computed checksums") + " did NOT match");
  if (mismatched != 0 && mismatched == summary.entries && hex_digits == 128)
    terminal.message("sha512 and blake2b have digests of one length; was it made with the other --algorithm?");
  return summary.malformed + unreadable + mismatched == 0;
}

/// The events' own account, as their last line.
void finish_events(event_log& log, const penstock::shutdown_report& report, const options& chosen,
                   const pipeline& stages) {
  for (const penstock::subscription_report& each : report.subscriptions)
    // A call that is left behind may still be writing; another stage's does no harm here.
    if (each.name == "events" && each.ledger.running == 0)
      log.finish(each.ledger, chosen.overflow, stages.events_depth().capacity);
}

int run(const options& chosen) {
  const auto started = std::chrono::steady_clock::now();
  provide_descriptors(chosen);
  console terminal(style_for(chosen));
  output manifest(chosen.output, terminal);
  std::vector<file_identity> own_files = manifest.own_files();
  std::optional<line_file> event_file;
  std::optional<line_file> snapshot_file;
  if (!chosen.events.empty()) own_files.push_back(event_file.emplace("--events", chosen.events, own_files).identity());
  if (!chosen.snapshot_file.empty())
    own_files.push_back(snapshot_file.emplace("--snapshot-file", chosen.snapshot_file, own_files).identity());
  std::optional<event_log> log;
  if (event_file) log.emplace(*event_file);
  snapshot_sink snapshots(snapshot_file ? &*snapshot_file : nullptr, terminal);
  std::stop_source stop;
  const signal_watch signals(
      stop, [&] { terminal.notice("stopping in order; once more stops at once"); },
      [&](int number) { leave_at_once(128 + number, [&] { manifest.abandon(); }); });

  pipeline stages(chosen, manifest, terminal, stop, log ? &*log : nullptr, own_files);
  if (chosen.verbose) terminal.message(stages.description());
  if (chosen.snapshot_every) stages.take_snapshots(*chosen.snapshot_every, snapshots);
  std::optional<progress> shown(std::in_place, stages, terminal);
  manifest_summary summary;
  if (chosen.check.empty())
    walk_trees(chosen, stages, terminal);
  else
    summary = read_manifest(chosen.check, stages.hex_digits(), stop.get_token(),
                            [&](file_found&& file) { return stages.submit(std::move(file)); });

  stages.all_found();

  // A normal end takes the time it needs, unless there is a deadline; a signal or a failed output cuts it short.
  using namespace std::chrono_literals;
  const std::stop_token stopping = stop.get_token();
  if (!chosen.deadline)
    while (!stopping.stop_requested() && !stages.wait_idle(100ms)) {
    }
  const bool cut_short = stopping.stop_requested();
  const std::chrono::nanoseconds limit = chosen.deadline.value_or(interrupted_deadline);
  const penstock::shutdown_report report = stages.shutdown(limit, signals.received() != 0 ? "interrupted"
                                                                  : cut_short             ? "output failed"
                                                                                          : "finished");
  shown.reset();

  int code = all_well;
  if (chosen.verbose || !report.clean())
    for (const penstock::subscription_report& each : report.subscriptions)
      terminal.message("stage " + each.name + ": " + penstock::to_string(each.ledger));
  if (!chosen.report.empty()) {
    const std::string error = write_report(chosen.report, report_json(report));
    if (!error.empty()) {
      terminal.message(error);
      code = something_failed;
    }
  }

  const totals& totals = stages.counted();
  const std::uint64_t ended =
      totals.written.load() + totals.reported.load() + totals.skipped.load() + totals.elsewhere.load();
  const std::uint64_t unfinished = totals.found.load() - std::min(totals.found.load(), ended) + totals.given_up.load();
  const bool writer_stuck = !report.stuck.empty() || report.abandoned_workers != 0;
  const int signal = signals.received();
  if (log) finish_events(*log, report, chosen, stages);
  for (const std::optional<line_file>* file : {&event_file, &snapshot_file}) {
    if (writer_stuck || !*file || (*file)->error().empty()) continue;
    terminal.message((*file)->error());
    code = something_failed;
  }
  if (signal != 0) {
    if (!writer_stuck && manifest.goes_out_at_once()) manifest.flush();
    terminal.message("interrupted: " + counted(totals.written.load(), "file", "files") + " done, " +
                     std::to_string(unfinished) + " left unfinished" +
                     (chosen.output.empty() ? "" : "; " + for_terminal(chosen.output) + " was not written"));
    code = 128 + signal;
  } else if (manifest.failed()) {
    terminal.message(manifest.error());
    code = something_failed;
  } else if (unfinished != 0 || writer_stuck || !report.drained) {
    if (!writer_stuck && manifest.goes_out_at_once()) manifest.flush();
    terminal.message(counted(unfinished, "file was", "files were") + " not finished within the deadline" +
                     (chosen.output.empty() ? "" : ": " + for_terminal(chosen.output) + " was not written") +
                     "; give a longer --deadline, or none");
    code = something_failed;
  } else if (!manifest.commit()) {
    terminal.message(manifest.error());
    code = something_failed;
  } else {
    if (!chosen.check.empty() && !conclude_check(chosen.check, stages.hex_digits(), summary, totals, terminal))
      code = something_failed;
    if (totals.problems.load() != 0) code = something_failed;
    if (!chosen.quiet) {
      if (totals.skipped.load() != 0) terminal.message("note: the output itself lies in the tree and was left out");
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
      char elapsed[32];
      std::snprintf(elapsed, sizeof elapsed, "%.2f s", seconds);
      terminal.message(counted(totals.written.load(), "file", "files") + ", " + human_bytes(totals.bytes.load()) +
                       " in " + elapsed);
    }
  }

  if (writer_stuck) {
    // A call that ignored its cancellation still runs on a thread: what it uses must not be destroyed under it.
    for (const penstock::stuck_call& call : report.stuck)
      terminal.message("stuck: a call of stage " + call.subscription + "; it was left behind");
    manifest.abandon();
    ::_exit(code);
  }
  return code;
}

int print(const std::string& text) {
  console silent(progress_style::none);
  output standard({}, silent);
  if (standard.write(text) && standard.commit()) return all_well;
  silent.message(standard.error());
  return something_failed;
}

}  // namespace

}  // namespace digest

int main(int count, char** arguments) {
  using namespace digest;
  console terminal(progress_style::none);
  try {
    block_signals();
    limit_arenas();
    const command asked = parse_command_line(count, arguments);
    return asked.print.empty() ? run(asked.options) : print(asked.print);
  } catch (const usage_error& error) {
    terminal.message(error.what());
    return wrong_usage;
  } catch (const std::exception& error) {
    terminal.message(error.what());
    return something_failed;
  }
}
