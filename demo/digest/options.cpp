// The command line of penstock-digest.
// Floor 9, room demo.
#include "options.hpp"

#include "text.hpp"

#include <penstock/base/version.hpp>
#include <penstock/bus/snapshot.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <thread>
#include <utility>

namespace digest {

namespace {

constexpr std::string_view help_text = R"(usage: penstock-digest [options] PATH...
       penstock-digest [options] --check FILE

Prints the digest of every regular file below each PATH, as sha256sum does, in the order in which they are done.
A symbolic link is followed when it is itself a PATH, others only with --follow-symlinks.

  -o FILE                  write to FILE instead of standard output; FILE appears whole or not at all
  --check FILE             verify the digests a manifest claims (- is standard input)
  --algorithm NAME         sha256 (the default), sha512, or blake2b (512 bits, as b2sum)
  --exclude GLOB           leave out what GLOB matches below a PATH: the way from the PATH (* takes no slash there), or the
                           last part of the name. A directory is left out with all it holds. May be repeated.
  --follow-symlinks        follow every symbolic link, as find -L; a directory that leads back into itself is left out
  --one-file-system        only what lies on the file system of its PATH
  --workers N              how many files are hashed at once, 1 to 256; default: one for each core
  --capacity N             how many events may wait before each stage, 1 to 4096; default 64.
                           Before the hasher never more than 16, because those carry up to 128 kB each.
  --throttle STAGE=TIME    let a stage (reader, hasher, writer; events) rest before each event; may be repeated
  --report FILE            write what became of every event as JSON, also when interrupted
  --events FILE            write each file's steps (found, read, hashed, written, failed) as lines of JSON, as they come;
                           the last line says what became of all of them
  --overflow POLICY        what happens when the steps come faster than they are written, and --capacity of them wait:
                           block (the default: the stages wait), fail, drop_newest, drop_oldest or latest (one waits)
  --snapshot-every TIME    write pools, tasks and bus as a line of JSON every so often, 10ms to 24h
  --snapshot-file FILE     where to, instead of standard error
  --deadline TIME          how long the orderly end may take; default: as long as it needs, 2s after Ctrl-C
  --quiet                  no progress and no notes, only errors
  --verbose                name what is left out and why, the pools and the channels, and what became of every event
  --help, --version

TIME is a number and a unit: 250ms, 5s, 2min.
Ctrl-C stops in order and leaves no half manifest; a second one stops at once.
Exit status: 0 all well; 1 something could not be read, written or verified (it was named); 2 usage;
130 or 143 after SIGINT or SIGTERM.
)";

constexpr std::size_t largest_capacity = 4096;
constexpr unsigned most_workers = 256;
constexpr auto longest_throttle = std::chrono::hours(1);
constexpr auto shortest_snapshot = std::chrono::milliseconds(10);
constexpr auto longest_deadline = std::chrono::hours(24);

/// A whole number in a range, or a usage error that says the range.
std::size_t number_option(const char* name, const std::string& text, std::size_t lowest, std::size_t highest) {
  std::size_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stopped != end || value < lowest || value > highest)
    throw usage_error(std::string(name) + ": '" + for_terminal(text) + "' is no whole number from " +
                      std::to_string(lowest) + " to " + std::to_string(highest) + "; write for instance " + name + " " +
                      std::to_string(std::min<std::size_t>(highest, 4)));
  return value;
}

std::chrono::nanoseconds duration_option(const std::string& name, std::string_view text, const char* example,
                                         std::chrono::hours longest) {
  const std::optional<std::chrono::nanoseconds> value = parse_duration(text);
  if (!value)
    throw usage_error(name + ": '" + for_terminal(text) + "' is no duration; write a number and a unit, for instance " +
                      example);
  if (*value > longest)
    throw usage_error(name + ": '" + for_terminal(text) + "' is too long; write at most " +
                      std::to_string(longest.count()) + "h");
  return *value;
}

void throttle_option(options& made, const std::string& text) {
  const std::size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  const auto* const found = std::find(stage_names.begin(), stage_names.end(), name);
  if (found == stage_names.end())
    throw usage_error("--throttle: there is no stage '" + for_terminal(name) +
                      "'; the stages are reader, hasher and writer, and events with --events");
  if (equals == std::string::npos)
    throw usage_error("--throttle: '" + for_terminal(text) + "' has no time; write for instance " + name + "=5ms");
  made.throttle[static_cast<std::size_t>(found - stage_names.begin())] = duration_option(
      "--throttle " + name, std::string_view(text).substr(equals + 1), (name + "=5ms").c_str(), longest_throttle);
}

/// Where the bracket expression that begins at `at` ends; npos when it does not.
std::size_t end_of_brackets(std::string_view glob, std::size_t at) {
  ++at;
  if (at < glob.size() && (glob[at] == '!' || glob[at] == '^')) ++at;
  for (bool first = true; at < glob.size(); first = false, ++at) {
    if (glob[at] == ']' && !first) return at;
    if (glob[at] == '\\') {
      ++at;
    } else if (glob[at] == '[' && at + 1 < glob.size() && std::string_view(":.=").find(glob[at + 1]) != glob.npos) {
      const std::size_t end = glob.find(std::string{glob[at + 1], ']'}, at + 2);
      if (end == glob.npos) return glob.npos;
      at = end + 1;
    }
  }
  return glob.npos;
}

/// A glob that fnmatch takes as no pattern, or that nothing could match, is a mistake.
void check_glob(const std::string& glob) {
  constexpr std::size_t longest = 4096;
  const auto refuse = [&](const std::string& why) {
    throw usage_error("--exclude: '" + for_terminal(glob.substr(0, 100)) + "' " + why);
  };
  if (glob.empty()) refuse("is empty; write for instance --exclude '*.o'");
  if (glob.size() > longest) refuse("… is too long; write at most " + std::to_string(longest) + " bytes");
  if (glob.front() == '/' || glob.starts_with("./") || glob.starts_with("../"))
    refuse("can match nothing: the way is that from the PATH on; leave out what is before its first name");
  if (glob.back() == '/')
    refuse("can match nothing; leave out the slash at its end: a directory goes with all it holds");
  for (std::size_t at = 0; at < glob.size(); ++at) {
    if (glob[at] == '\\') {
      if (++at == glob.size()) refuse("ends with a backslash; write \\\\ for one that is meant");
    } else if (glob[at] == '[') {
      at = end_of_brackets(glob, at);
      if (at == glob.npos) refuse("has a [ without its ]; write \\[ for one that is meant");
    }
  }
}

penstock::overflow overflow_option(const std::string& text) {
  using penstock::overflow;
  for (const overflow policy :
       {overflow::block, overflow::fail, overflow::drop_newest, overflow::drop_oldest, overflow::latest})
    if (text == penstock::to_string(policy)) return policy;
  throw usage_error("--overflow: there is no policy '" + for_terminal(text) +
                    "'; write block, fail, drop_newest, drop_oldest or latest");
}

/// Two options that write, or read and write, one file would destroy each other's.
void check_distinct_files(const options& made) {
  const std::array<std::pair<const char*, const std::string*>, 5> files = {{{"-o", &made.output},
                                                                            {"--check", &made.check},
                                                                            {"--report", &made.report},
                                                                            {"--events", &made.events},
                                                                            {"--snapshot-file", &made.snapshot_file}}};
  for (std::size_t one = 0; one < files.size(); ++one)
    for (std::size_t other = one + 1; other < files.size(); ++other)
      if (!files[one].second->empty() && *files[one].second == *files[other].second &&
          !files[one].second->starts_with("/dev/"))
        throw usage_error(std::string(files[other].first) + ": " + for_terminal(*files[other].second) +
                          " is the file of " + files[one].first + ", too; name another one");
}

void file_option(const CLI::Option* option, const char* name, const std::string& value) {
  if (option->count() != 0 && value.empty())
    throw usage_error(std::string(name) + ": the name of the file is empty; write one");
}

}  // namespace

command parse_command_line(int count, const char* const* arguments) {
  command made;
  options& result = made.options;
  result.workers = std::clamp(std::thread::hardware_concurrency(), 1U, most_workers);

  // Everything behind `--` is a path. CLI11 gets what is before; the paths among it come back as its extras, because
  // its lists of values would split a path such as "[a,b]".
  std::vector<std::string> before;
  std::vector<std::string> after;
  bool only_paths = false;
  for (int at = 1; at < count; ++at) {
    const std::string argument = arguments[at];
    if (!only_paths && argument == "--")
      only_paths = true;
    else
      (only_paths ? after : before).push_back(argument);
  }

  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  bool help = false;
  bool version = false;
  std::string workers;
  std::string capacity;
  std::string deadline;
  std::string overflow;
  std::string snapshot_every;
  std::vector<std::string> throttles;
  app.add_flag("-h,--help", help);
  app.add_flag("--version", version);
  app.add_flag("-q,--quiet", result.quiet);
  app.add_flag("-v,--verbose", result.verbose);
  app.add_flag("--follow-symlinks", result.follow_symlinks);
  app.add_flag("--one-file-system", result.one_file_system);
  app.add_option("--exclude", result.excludes)->allow_extra_args(false);
  const CLI::Option* const output_option = app.add_option("-o,--output", result.output);
  const CLI::Option* const check_option = app.add_option("-c,--check", result.check);
  const CLI::Option* const report_option = app.add_option("--report", result.report);
  const CLI::Option* const events_option = app.add_option("--events", result.events);
  const CLI::Option* const overflow_given = app.add_option("--overflow", overflow);
  const CLI::Option* const snapshot_option = app.add_option("--snapshot-every", snapshot_every);
  const CLI::Option* const snapshot_file_option = app.add_option("--snapshot-file", result.snapshot_file);
  app.add_option("--algorithm", result.algorithm);
  const CLI::Option* const workers_option = app.add_option("--workers", workers);
  const CLI::Option* const capacity_option = app.add_option("--capacity", capacity);
  const CLI::Option* const deadline_option = app.add_option("--deadline", deadline);
  app.add_option("--throttle", throttles)->allow_extra_args(false);
  try {
    std::reverse(before.begin(), before.end());  // CLI11 takes them from the back
    app.parse(std::move(before));
  } catch (const CLI::ParseError& error) {
    throw usage_error(for_terminal(error.what()) + "; see --help");
  }

  if (help) {
    made.print = help_text;
    return made;
  }
  if (version) {
    made.print = std::string("penstock-digest ") + penstock::version() + "\n";
    return made;
  }

  for (const std::string& extra : app.remaining()) {
    if (extra.size() > 1 && extra.front() == '-')
      throw usage_error("there is no option " + for_terminal(extra) +
                        "; see --help, or write -- before a path that begins with -");
    result.paths.push_back(extra);
  }
  result.paths.insert(result.paths.end(), after.begin(), after.end());
  for (const std::string& path : result.paths)
    if (path.empty()) throw usage_error("a PATH is empty; write . for the current directory");

  file_option(output_option, "-o", result.output);
  file_option(check_option, "--check", result.check);
  file_option(report_option, "--report", result.report);
  file_option(events_option, "--events", result.events);
  file_option(snapshot_file_option, "--snapshot-file", result.snapshot_file);
  check_distinct_files(result);
  if (result.check.empty() && result.paths.empty())
    throw usage_error("no PATH was given; name at least one file or directory, for instance .");
  if (!result.check.empty() && !result.paths.empty())
    throw usage_error("--check takes the names of the files from the manifest; leave out '" +
                      for_terminal(result.paths.front()) + "'");
  if (result.quiet && result.verbose) throw usage_error("--quiet and --verbose contradict each other; leave one out");
  for (const std::string& glob : result.excludes) check_glob(glob);
  if (!result.check.empty()) {
    const char* const of_walks = !result.excludes.empty() ? "--exclude"
                                 : result.follow_symlinks ? "--follow-symlinks"
                                 : result.one_file_system ? "--one-file-system"
                                                          : nullptr;
    if (of_walks != nullptr)
      throw usage_error(std::string(of_walks) + " is for walking a PATH, and --check walks none; leave one out");
  }
  if (result.algorithm != "sha256" && result.algorithm != "sha512" && result.algorithm != "blake2b")
    throw usage_error("--algorithm: '" + for_terminal(result.algorithm) +
                      "' is not offered; write sha256, sha512 or blake2b");
  if (workers_option->count() != 0)
    result.workers = static_cast<unsigned>(number_option("--workers", workers, 1, most_workers));
  if (capacity_option->count() != 0) result.capacity = number_option("--capacity", capacity, 1, largest_capacity);
  if (deadline_option->count() != 0)
    result.deadline = duration_option("--deadline", deadline, "--deadline 5s", longest_deadline);
  for (const std::string& throttle : throttles) throttle_option(result, throttle);
  if (overflow_given->count() != 0) result.overflow = overflow_option(overflow);
  if (snapshot_option->count() != 0) {
    result.snapshot_every =
        duration_option("--snapshot-every", snapshot_every, "--snapshot-every 1s", std::chrono::hours(24));
    if (*result.snapshot_every < shortest_snapshot)
      throw usage_error("--snapshot-every: '" + for_terminal(snapshot_every) + "' is too short; write at least 10ms");
  }
  if (result.events.empty() && overflow_given->count() != 0)
    throw usage_error("--overflow is for the events that --events FILE writes; add that, or leave it out");
  if (result.events.empty() && result.throttle[static_cast<std::size_t>(stage::events)].count() != 0)
    throw usage_error("--throttle events is for the events that --events FILE writes; add that, or leave it out");
  if (!result.snapshot_every && !result.snapshot_file.empty())
    throw usage_error("--snapshot-file needs to know how often; add for instance --snapshot-every 1s");
  return made;
}

}  // namespace digest
