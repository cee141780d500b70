// Tests of the demo's parts that need no process around them: names, manifest lines, durations, options, the walk.
// Floor 9, room tests.
#include "check.hpp"
#include "console.hpp"
#include "message_digest.hpp"
#include "options.hpp"
#include "output.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "support/catch.hpp"
#include "text.hpp"
#include "walker.hpp"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <set>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

using namespace std::chrono_literals;
using namespace std::string_literals;
namespace fs = std::filesystem;
using penstock_test::contains_text;

namespace {

const std::string hex64(64, 'a');

/// A directory that is gone afterwards.
class scratch {
 public:
  scratch() {
    std::string name = (fs::temp_directory_path() / "penstock-parts-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  scratch(const scratch&) = delete;
  scratch& operator=(const scratch&) = delete;

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string write(const std::string& name, const std::string& text) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
    return *this / name;
  }
  std::string read(const std::string& name) const {
    std::ifstream file(path_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

digest::command parse(std::initializer_list<const char*> words) {
  std::vector<const char*> arguments = {"penstock-digest"};
  arguments.insert(arguments.end(), words);
  return digest::parse_command_line(static_cast<int>(arguments.size()), arguments.data());
}

std::string message_of(std::initializer_list<const char*> words) {
  try {
    parse(words);
    return "accepted";
  } catch (const digest::usage_error& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("a plain name stands in a manifest line as it is") {
  CHECK(digest::manifest_line(hex64, "a b\t\xff") == hex64 + "  a b\t\xff\n");
}

TEST_CASE("backslash, newline and carriage return are escaped, and the line begins with a backslash") {
  CHECK(digest::manifest_line(hex64, "a\nb") == "\\" + hex64 + "  a\\nb\n");
  CHECK(digest::manifest_line(hex64, "a\rb") == "\\" + hex64 + "  a\\rb\n");
  CHECK(digest::manifest_line(hex64, "a\\b") == "\\" + hex64 + "  a\\\\b\n");
}

TEST_CASE("every name of up to three odd bytes survives a line and its reading") {
  const std::string alphabet = "\\\n\rn x*\xff";
  std::vector<std::string> names = {""};
  for (std::size_t first = 0, length = 0; length < 3; ++length) {
    const std::size_t end = names.size();
    for (; first < end; ++first)
      for (const char c : alphabet) names.push_back(names[first] + c);
  }
  names.erase(names.begin());  // no file has an empty name
  CHECK(names.size() == 8 + 64 + 512);
  for (const std::string& name : names) {
    std::string line = digest::manifest_line(hex64, name);
    REQUIRE(line.back() == '\n');
    line.pop_back();
    REQUIRE(line.find_first_of("\n\r") == std::string::npos);
    const auto entry = digest::parse_manifest_line(line, 64);
    REQUIRE(entry);
    REQUIRE(entry->name == name);
    REQUIRE(entry->hex == hex64);
  }
}

TEST_CASE("an escape that sha256sum does not write is malformed") {
  for (const char* text : {"\\", "a\\", "\\t", "\\x41", "\\N"}) CHECK_FALSE(digest::unescape_name(text));
  CHECK(digest::unescape_name("\\\\n") == "\\n"s);
}

TEST_CASE("both separators, upper case and leading blanks are read") {
  for (const std::string& line :
       {hex64 + "  name", hex64 + " *name", "  " + hex64 + "  name", std::string(64, 'A') + "  name"}) {
    const auto entry = digest::parse_manifest_line(line, 64);
    REQUIRE(entry);
    CHECK(entry->name == "name");
    CHECK(entry->hex == hex64);
  }
  CHECK(digest::parse_manifest_line(hex64 + "   name", 64)->name == " name");
  CHECK(digest::parse_manifest_line(hex64 + "  a\\nb", 64)->name == "a\\nb");  // not marked as escaped
}

TEST_CASE("a line that is no entry is malformed") {
  const std::string nul("a\0b", 3);
  for (const std::string& line : {""s, " "s, "\\"s, hex64, hex64 + "  ", hex64 + " name", hex64 + "\t\tname",
                                  hex64.substr(1) + "  name", "a" + hex64 + "  name", "g" + hex64.substr(1) + "  name",
                                  "\\" + hex64 + "  a\\q", hex64 + "  " + nul, "\\\\" + hex64 + "  name"}) {
    INFO(line);
    CHECK_FALSE(digest::parse_manifest_line(line, 64));
  }
  CHECK_FALSE(digest::parse_manifest_line(hex64 + "  name", 128));
}

TEST_CASE("a verdict escapes only a name with a newline, as sha256sum does") {
  CHECK(digest::verdict_line("a\\b", "OK") == "a\\b: OK\n");
  CHECK(digest::verdict_line("a\\\nb", "FAILED") == "\\a\\\\\\nb: FAILED\n");
}

TEST_CASE("a name on a terminal does nothing to it") {
  CHECK(digest::for_terminal("größe €😀") == "größe €😀");
  CHECK(digest::for_terminal("a\x1b[31m\n\x7f") == "a\\x1b[31m\\x0a\\x7f");
  CHECK(digest::for_terminal("\xff\xc3") == "\\xff\\xc3");
  CHECK(digest::for_terminal("\xc2\x9b") == "\\xc2\\x9b");           // a control character in two bytes
  CHECK(digest::for_terminal("\xe2\x80\xae") == "\\xe2\\x80\\xae");  // writes backwards
  CHECK(digest::for_terminal("\xc0\xaf\xed\xa0\x80") == "\\xc0\\xaf\\xed\\xa0\\x80");  // overlong, surrogate
  CHECK(digest::for_terminal("\\x41") == "\\\\x41");
}

TEST_CASE("durations are a number and a unit") {
  CHECK(digest::parse_duration("250ms") == 250ms);
  CHECK(digest::parse_duration("5s") == 5s);
  CHECK(digest::parse_duration("2min") == 2min);
  CHECK(digest::parse_duration("1.5h") == 90min);
  CHECK(digest::parse_duration("0us") == 0ns);
  CHECK(digest::parse_duration("7ns") == 7ns);
  for (const char* text : {"", "5", "s", "5 s", "-5s", "+5s", "5sec", "5S", "inf", "infs", "nans", "1e3s", ".5s", "5s ",
                           "99999999999h", "0x5s"})
    CHECK_FALSE(digest::parse_duration(text));
}

TEST_CASE("times to come are rounded up, and the longer the coarser") {
  CHECK(digest::human_duration(0) == "0 s");
  CHECK(digest::human_duration(0.1) == "1 s");
  CHECK(digest::human_duration(59.5) == "1 min 0 s");
  CHECK(digest::human_duration(3599) == "59 min 59 s");
  CHECK(digest::human_duration(7260) == "2 h 1 min");
  CHECK(digest::human_duration(1e300) == "277777 h 46 min");
}

TEST_CASE("what is left is unknown, then a time by the bytes, then files") {
  digest::totals counted;
  counted.found = 10;
  counted.bytes = 1000;
  counted.bytes_known = 4000;
  CHECK(digest::what_is_left(counted, 5s) == "unknown");  // the walk goes on
  counted.all_found = true;
  CHECK(digest::what_is_left(counted, 5s) == "15 s");
  counted.unsized = 1;
  CHECK(digest::what_is_left(counted, 5s) == "unknown");
  counted.unsized = 0;
  counted.bytes = 0;
  CHECK(digest::what_is_left(counted, 5s) == "unknown");  // no speed yet
  counted.bytes = 4000;
  counted.written = 5;
  counted.reported = 2;
  counted.skipped = 1;
  counted.elsewhere = 1;
  CHECK(digest::what_is_left(counted, 5s) == "1 file");
  counted.bytes = 5000;  // a file that grew
  CHECK(digest::what_is_left(counted, 5s) == "1 file");
}

TEST_CASE("sizes have three digits") {
  CHECK(digest::human_bytes(0) == "0 B");
  CHECK(digest::human_bytes(999) == "999 B");
  CHECK(digest::human_bytes(1000) == "1.0 kB");
  CHECK(digest::human_bytes(999'999) == "1.0 MB");
  CHECK(digest::human_bytes(123'456'789) == "123 MB");
  CHECK(digest::human_bytes(~std::uint64_t{0}) == "18.4 EB");
}

TEST_CASE("digests of nothing and of abc are the published ones") {
  const digest::algorithm sha256("sha256");
  const digest::algorithm sha512("sha512");
  CHECK(digest::message_digest(sha256).finish() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  digest::message_digest abc(sha512);
  const std::string text = "abc";
  abc.update(std::as_bytes(std::span(text.data(), 1)));
  abc.update(std::as_bytes(std::span(text.data() + 1, 2)));
  CHECK(abc.finish().substr(0, 32) == "ddaf35a193617abacc417349ae204131");
  CHECK(sha256.hex_digits() == 64);
  CHECK(sha512.hex_digits() == 128);
  const digest::algorithm blake2b("blake2b");
  CHECK(digest::message_digest(blake2b).finish().substr(0, 32) == "786a02f742015903c6c6fd852552d272");
  CHECK(blake2b.hex_digits() == 128);
  CHECK_THROWS_WITH(digest::algorithm("md77"), contains_text("md77"));
}

TEST_CASE("options are read in any order, attached or apart, and paths may be anything") {
  const digest::options made =
      parse({"one", "--throttle", "writer=5ms", "-ofile", "--throttle=reader=2s", "[a,b]", "--workers=3", "-",
             "--capacity", "7", "--deadline", "2min", "--", "-x", "--quiet"})
          .options;
  CHECK(made.paths == std::vector<std::string>{"one", "[a,b]", "-", "-x", "--quiet"});
  CHECK(made.output == "file");
  CHECK(made.throttle == std::array<std::chrono::nanoseconds, 4>{2s, 0ns, 5ms, 0ns});
  CHECK(made.workers == 3);
  CHECK(made.capacity == 7);
  CHECK(made.deadline == 2min);
  CHECK_FALSE(made.quiet);
}

TEST_CASE("globs may be repeated and hold anything a glob may") {
  CHECK(parse({"--exclude", "[a,b]", "--exclude=*.o", "p", "--exclude", "[]x]*", "--exclude", "\\[", "--exclude",
               "\\\\[!a]", "--exclude", "[[:digit:]]"})
            .options.excludes == std::vector<std::string>{"[a,b]", "*.o", "[]x]*", "\\[", "\\\\[!a]", "[[:digit:]]"});
  CHECK_THAT(message_of({"--exclude", "\\\\[a", "p"}), contains_text("without its ]"));
  CHECK_THAT(message_of({"--exclude", "[]", "p"}), contains_text("without its ]"));
}

TEST_CASE("without options there are defaults") {
  const digest::options made = parse({"p"}).options;
  CHECK(made.algorithm == "sha256");
  CHECK(made.capacity == 64);
  CHECK(made.workers >= 1);
  CHECK_FALSE(made.deadline);
  CHECK(made.output.empty());
}

TEST_CASE("a usage error names the option, what was written, and what to write") {
  CHECK(message_of({"--workers", "0", "p"}) ==
        "--workers: '0' is no whole number from 1 to 256; write for instance --workers 4");
  CHECK_THAT(message_of({"--throttle", "walker=5ms", "p"}),
             contains_text("'walker'") && contains_text("reader, hasher and writer"));
  CHECK_THAT(message_of({"--deadline", "5", "p"}), contains_text("--deadline: '5' is no duration"));
  CHECK_THAT(message_of({"--speed", "p"}), contains_text("--speed"));
  CHECK_THAT(message_of({"--workers", "\x1b[2J", "p"}), contains_text("\\x1b"));
  CHECK_THAT(message_of({"--workers", "1", "--workers", "2", "p"}), contains_text("--workers"));
}

TEST_CASE("the walk finds what find -type f finds, and names what is no file") {
  const scratch place;
  std::set<std::string> expected;
  for (const char* name : {"a", "d/b", "d/e/f/c", "d/\n", "z/1", "z/2"}) expected.insert(place.write(name, name));
  fs::create_directories(place.path() / "empty");
  fs::create_symlink("a", place.path() / "link");
  fs::create_directory_symlink("..", place.path() / "d/up");
  REQUIRE(::mkfifo((place / "d/fifo").c_str(), 0600) == 0);

  std::set<std::string> found;
  std::vector<std::string> problems;
  digest::tree_walker walker(
      [&](digest::file_found&& file) {
        REQUIRE(file.directory);
        // The event alone leads to the file.
        const digest::descriptor opened(::openat(file.directory->get(), file.name.c_str() + file.leaf_at, O_RDONLY));
        REQUIRE(opened);
        return found.insert(file.name).second;
      },
      [&](std::string_view name, std::string_view text) {
        problems.push_back(std::string(name) + ": " + std::string(text));
      });
  CHECK(walker.walk(place.path().string()));
  CHECK(found == expected);
  CHECK(problems == std::vector{place / "d/fifo" + ": is a FIFO, not a file: left out"});
}

TEST_CASE("the walk ends when nobody wants more files, and can begin again") {
  const scratch place;
  for (int number = 0; number < 10; ++number) place.write("d/" + std::to_string(number), "x");
  int taken = 0;
  int limit = 3;
  digest::tree_walker walker([&](digest::file_found&&) { return ++taken < limit; },
                             [](std::string_view, std::string_view) { FAIL("a problem"); });
  CHECK_FALSE(walker.walk(place.path().string()));
  CHECK(taken == 3);
  limit = 1000;
  CHECK(walker.walk(place.path().string()));
  CHECK(taken == 13);
}

TEST_CASE("a directory with more names than one reading gives, and directories among them, is walked once") {
  const scratch place;
  std::set<std::string> expected;
  for (int number = 0; number < 3000; ++number) {
    const std::string name = "a long name to fill the records " + std::to_string(number);
    expected.insert(place.write(number % 10 == 0 ? name + "/inner" : name, ""));
  }
  std::set<std::string> found;
  digest::tree_walker walker([&](digest::file_found&& file) { return found.insert(std::move(file.name)).second; },
                             [](std::string_view name, std::string_view) { FAIL(name); });
  CHECK(walker.walk(place.path().string()));
  CHECK(found == expected);
}

TEST_CASE("a tree deeper than the walk keeps open is walked to its end on every level") {
  const scratch place;
  const std::size_t depth = 3 * digest::tree_walker::open_directories + 5;
  std::string way;
  std::set<std::string> expected;
  for (std::size_t level = 0; level < depth; ++level) {
    expected.insert(place.write(way + "a", ""));
    expected.insert(place.write(way + "zz/b", ""));
    way += "m/";
  }
  std::set<std::string> found;
  std::vector<std::shared_ptr<const digest::descriptor>> kept;
  digest::tree_walker walker([&](digest::file_found&& file) { return found.insert(std::move(file.name)).second; },
                             [](std::string_view name, std::string_view) { FAIL(name); });
  CHECK(walker.walk(place.path().string()));
  CHECK(found == expected);
}

TEST_CASE("links are followed to the end and back, also further than the walk keeps open") {
  // Each directory is reached through a link from the one above, and none of them lies in another.
  const scratch place;
  const std::size_t depth = 3 * digest::tree_walker::open_directories + 5;
  std::string way;
  std::set<std::string> expected;
  for (std::size_t level = 0; level < depth; ++level) {
    const std::string here = "flat/" + std::to_string(level) + "/";
    place.write(here + "a", "");
    place.write(here + "zz/b", "");
    if (level + 1 < depth)
      fs::create_directory_symlink("../" + std::to_string(level + 1), place.path() / (here + "m"));
    else
      fs::create_directory_symlink("../0", place.path() / (here + "m"));  // a loop
    const std::string top = place / "flat/0/";
    expected.insert(top + way + "a");
    expected.insert(top + way + "zz/b");
    way += "m/";
  }
  std::set<std::string> found;
  std::vector<std::string> skipped;
  digest::walk_rules rules;
  rules.follow_symlinks = true;
  digest::tree_walker walker([&](digest::file_found&& file) { return found.insert(std::move(file.name)).second; },
                             [](std::string_view name, std::string_view text) { FAIL(name << ": " << text); }, rules,
                             [&](std::string_view name, digest::skipped why) {
                               CHECK(why == digest::skipped::loop);
                               skipped.emplace_back(name);
                             });
  CHECK(walker.walk(place / "flat/0"));
  CHECK(found == expected);
  REQUIRE(skipped.size() == 1);
}

TEST_CASE("the walk looks up sizes only when it is told to") {
  const scratch place;
  place.write("file", "12345");
  for (const bool sizes : {false, true}) {
    digest::walk_rules rules;
    rules.sizes = sizes;
    int files = 0;
    digest::tree_walker walker(
        [&](digest::file_found&& file) {
          CHECK(file.size.has_value() == sizes);
          CHECK(file.size.value_or(5) == 5);
          return ++files != 0;
        },
        [](std::string_view name, std::string_view) { FAIL(name); }, rules);
    CHECK(walker.walk(place.path().string()));
    CHECK(walker.walk(place / "file"));
    CHECK(files == 2);
  }
}

TEST_CASE("a directory that is moved while the walk is deep below it is named") {
  const scratch place;
  std::string way = "top/";
  for (std::size_t level = 0; level < 2 * digest::tree_walker::open_directories; ++level) way += "m/";
  place.write(way + "bottom", "");
  std::vector<std::string> problems;
  digest::tree_walker walker(
      [&](digest::file_found&&) {
        // Its parent is closed by now, so the walk comes back through "..", and arrives elsewhere.
        fs::rename(place.path() / "top/m/m", place.path() / "moved");
        return true;
      },
      [&](std::string_view name, std::string_view text) {
        problems.push_back(std::string(name) + ": " + std::string(text));
      });
  CHECK(walker.walk(place / "top"));
  REQUIRE(problems.size() == 1);
  CHECK_THAT(problems.front(), contains_text("top/m/: was moved while it was walked"));
}

TEST_CASE("an output takes its name when it is committed, and leaves nothing when it is not") {
  const scratch place;
  digest::console quiet(digest::progress_style::none);
  {
    digest::output file(place / "SUMS", quiet);
    CHECK(file.write("line\n"));
    CHECK_FALSE(fs::exists(place / "SUMS"));
    CHECK(file.commit());
  }
  CHECK(place.read("SUMS") == "line\n");
  {
    digest::output file(place / "SUMS", quiet);
    CHECK(file.write("other\n"));
    CHECK(file.own_files().size() == 2);
  }
  CHECK(place.read("SUMS") == "line\n");
  CHECK(std::distance(fs::directory_iterator(place.path()), fs::directory_iterator()) == 1);
  CHECK_THROWS_WITH(digest::output(place.path().string(), quiet), contains_text("is a directory"));
  CHECK_THROWS_WITH(digest::output(place / "none/SUMS", quiet), contains_text("No such file"));
}

TEST_CASE("an output on a full device fails once and says so") {
  digest::console quiet(digest::progress_style::none);
  digest::output file("/dev/full", quiet);
  CHECK(file.write("line\n"));
  CHECK_FALSE(file.flush());
  CHECK_FALSE(file.write("line\n"));
  CHECK_FALSE(file.commit());
  CHECK_THAT(file.error(), contains_text("/dev/full") && contains_text("No space left"));
}

TEST_CASE("a manifest is read entry by entry, without its last newline, and an endless line is malformed") {
  const scratch place;
  const std::string file = place.write("SUMS", "# comment\n" + hex64 + "  one\n\n" + hex64 + " *two\r\n" +
                                                   std::string(3'000'000, 'x') + "\nbad\n\\" + hex64 + "  a\\nb");
  std::vector<std::string> names;
  const std::stop_source stop;
  digest::manifest_summary summary = digest::read_manifest(file, 64, stop.get_token(), [&](digest::file_found&& entry) {
    CHECK(entry.expected == hex64);
    CHECK_FALSE(entry.directory);
    names.push_back(entry.name);
    return true;
  });
  CHECK(names == std::vector<std::string>{"one", "two", "a\nb"});
  CHECK(summary.entries == 3);
  CHECK(summary.malformed == 2);
  CHECK(summary.error.empty());

  summary = digest::read_manifest(place / "none", 64, stop.get_token(), [](digest::file_found&&) { return true; });
  CHECK(summary.error == "No such file or directory");
}

TEST_CASE("a report with names that are no UTF-8 is JSON, and totals its refusals") {
  penstock::shutdown_report report;
  report.reason = "odd \xff\n";
  penstock::subscription_report row;
  row.name = "wri\xc3";
  row.ledger.offered = 10;
  row.ledger.accepted = 7;
  row.ledger.rejected.full = 2;
  row.ledger.rejected.closed = 1;
  report.subscriptions.push_back(row);
  const std::string text = digest::report_json(report);
  CHECK_THAT(text, contains_text("\"reason\": \"odd \xef\xbf\xbd\\n\""));
  CHECK_THAT(text, contains_text("\"rejected\": 3"));
  CHECK_THAT(text, contains_text("\"stuck\": []"));
  CHECK(std::none_of(text.begin(), text.end(), [](char c) { return c == '\xff'; }));
}
