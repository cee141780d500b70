// What a runtime says: to a sink of one's own, as one line that nothing can forge, and not without end.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"

#include <penstock/penstock.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <set>
#include <stdexcept>
#include <sstream>
#include <string>
#include <variant>
#include <vector>

#include <unistd.h>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::log_level;
using penstock::log_record;

namespace {

struct job {
  int value = 0;
};

/// The field of that name as it stands in the line; empty: there is none.
std::string field(const log_record& record, const std::string& key) {
  for (const auto& each : record.fields())
    if (each.key() == key) {
      if (const auto* text = std::get_if<std::string>(&each.value())) return *text;
      if (const auto* number = std::get_if<std::uint64_t>(&each.value())) return std::to_string(*number);
      if (const auto* number = std::get_if<std::int64_t>(&each.value())) return std::to_string(*number);
      return "of another kind";
    }
  return "";
}

/// What is written to standard error in its scope.
class caught_stderr {
 public:
  explicit caught_stderr(std::string& text) : text_(text), file_(std::tmpfile()), before_(dup(STDERR_FILENO)) {
    std::fflush(stderr);
    dup2(fileno(file_), STDERR_FILENO);
  }
  ~caught_stderr() {
    std::fflush(stderr);
    dup2(before_, STDERR_FILENO);
    close(before_);
    std::rewind(file_);
    for (int c = std::fgetc(file_); c != EOF; c = std::fgetc(file_)) text_ += static_cast<char>(c);
    std::fclose(file_);
  }
  caught_stderr(const caught_stderr&) = delete;
  caught_stderr& operator=(const caught_stderr&) = delete;

 private:
  std::string& text_;
  std::FILE* file_;
  int before_;
};

std::unique_ptr<penstock::runtime> told_to(record<log_record>& told, log_level least = log_level::info) {
  penstock::runtime_options options;
  options.pool("default", penstock::worker_pool_options().threads(1));
  options.log_to([&told](const log_record& each) { told.add(each); }).log_from(least);
  return std::make_unique<penstock::runtime>(std::move(options));
}

}  // namespace

TEST_CASE("a record is one line: its text, then its fields, quoted where they have to be", "[log]") {
  const auto line = to_string(log_record(log_level::error, "failed")
                                  .with("subscription", "confirmation mail")
                                  .with("event", "order_placed")
                                  .with("sequence", std::uint64_t{7})
                                  .with("offset", -3)
                                  .with("share", 0.5)
                                  .with("again", true)
                                  .with("after", 1500us)
                                  .with("said", "say \"no\" \\ never")
                                  .with("nothing", ""));
  CHECK(line ==
        "failed subscription=\"confirmation mail\" event=order_placed sequence=7 offset=-3 share=0.5 again=true after=1.5ms "
        "said=\"say \\\"no\\\" \\\\ never\" nothing=\"\"");
  CHECK(to_string(log_record(log_level::info, "x").with("n", std::numeric_limits<std::uint64_t>::max())) ==
        "x n=18446744073709551615");
}

TEST_CASE("no name and no text can forge a line or reach the terminal", "[log]") {
  const auto line = to_string(log_record(log_level::info, "one\ntwo").with("name", "\x1b[31mred\r\n2026-01-01 [error] forged"));
  CHECK(line == "one\\x0atwo name=\"\\x1b[31mred\\x0d\\x0a2026-01-01 [error] forged\"");
}

TEST_CASE("what is not UTF-8, two-byte control characters and changes of direction are escaped, letters are not", "[log]") {
  const auto value = [](const std::string& text) { return to_string(log_record(log_level::info, text)); };
  CHECK(value("\xc2\x9b" "31m") == "\\xc2\\x9b31m");              // CSI in two bytes
  CHECK(value("\x9b" "31m") == "\\x9b31m");                        // and in one
  CHECK(value("\xe2\x80\xa8" "x") == "\\xe2\\x80\\xa8x");          // a separator of lines
  CHECK(value("\xe2\x80\xae" "x") == "\\xe2\\x80\\xaex");          // from right to left
  CHECK(value("\xc0\x8a") == "\\xc0\\x8a");                       // a line feed, overlong
  CHECK(value("\xe0\x81\x81") == "\\xe0\\x81\\x81");              // a letter, overlong
  CHECK(value("\xed\xa0\x80") == "\\xed\\xa0\\x80");              // half a pair
  CHECK(value("\xf4\x90\x80\x80") == "\\xf4\\x90\\x80\\x80");    // beyond the last
  CHECK(value("\xe2\x82") == "\\xe2\\x82");                       // ends early
  CHECK(value(std::string("a\0b\x7f", 4)) == "a\\x00b\\x7f");
  CHECK(value("größe € 𝄞") == "größe € 𝄞");
  CHECK(to_string(log_record(log_level::info, "x").with("a b=\"c\nd", "größe")) == "x a_b__c\\x0ad=größe");
}

TEST_CASE("a duration is said in the unit that fits it", "[log]") {
  const auto said = [](std::chrono::nanoseconds time) {
    return to_string(log_record(log_level::info, "x").with("t", time)).substr(4);
  };
  CHECK(said(0ns) == "0ns");
  CHECK(said(999ns) == "999ns");
  CHECK(said(1050ns) == "1.05us");
  CHECK(said(60ms) == "60ms");
  CHECK(said(1h) == "3600s");
  CHECK(said(-2500us) == "-2.5ms");
  CHECK(said(std::chrono::nanoseconds::min()) == "-9223372036.854s");
}

TEST_CASE("a line that is too long is cut at a character's border and marked", "[log]") {
  for (std::size_t before = 0; before < 4; ++before) {
    std::string text(before, 'x');
    while (text.size() < 10'000) text += "ä";
    const auto line = to_string(log_record(log_level::info, text));
    CHECK(line.size() <= 4096);
    CHECK(line.size() > 4080);
    REQUIRE(line.ends_with("…"));
    const std::string kept = line.substr(0, line.size() - std::string("…").size());
    CHECK((kept.size() - before) % 2 == 0);
    CHECK(text.starts_with(kept));
  }
  CHECK(to_string(log_record(log_level::info, std::string(4096, 'x'))) == std::string(4096, 'x'));
  for (std::size_t before = 0; before < 4; ++before) {  // nor within an escape
    const auto line = to_string(log_record(log_level::info, std::string(before, 'x') + std::string(5000, '\n')));
    CHECK(line.size() <= 4096);
    CHECK(line.ends_with("\\x0a…"));
  }
  CHECK(to_string(log_record(log_level::info, "x").with("name", std::string(5000, '"'))).ends_with("\\\"…"));
}

TEST_CASE("a failure is a record with what failed, where, and what was thrown", "[log][F2]") {
  const time_limit limit;
  record<log_record> told;
  auto rt = told_to(told);
  auto sub = rt->bus().subscribe<job>("thrower", [](const job&) { throw std::runtime_error("no ink"); });
  rt->bus().publish(job{1});
  REQUIRE(rt->bus().wait_idle(20s));
  auto task = rt->tasks().spawn("printer", [] { throw std::runtime_error("no paper"); });
  CHECK(task.wait() == penstock::task_status::failed);
  REQUIRE(told.size() == 2);
  const auto all = told.all();
  CHECK(all[0].level() == log_level::error);
  CHECK(all[0].component() == "penstock.bus");
  CHECK(all[0].text() == "a handler failed");
  CHECK(field(all[0], "attempt") == "1");
  CHECK(field(all[0], "subscription") == "thrower");
  CHECK_THAT(field(all[0], "event"), contains_text("job"));
  CHECK(field(all[0], "sequence") == "1");
  CHECK(field(all[0], "exception") == "std::runtime_error");
  CHECK(field(all[0], "what") == "no ink");
  CHECK_THAT(field(all[0], "file"), contains_text("log_test.cpp"));
  CHECK(field(all[1], "task") == "printer");
  CHECK(field(all[1], "what") == "no paper");
  CHECK(field(all[1], "subscription").empty());
}

TEST_CASE("many failures of one subscription are told in part, the rest as a number, and those of another all the same",
          "[log]") {
  const time_limit limit;
  record<log_record> told;
  {
    auto rt = told_to(told);
    auto noisy = rt->bus().subscribe<job>("noisy", [](const job&) { throw 1; });
    for (int i = 0; i < 500; ++i) rt->bus().publish(job{i});
    REQUIRE(rt->bus().wait_idle(20s));
    CHECK(noisy.ledger().failed == 500);
    auto other = rt->bus().subscribe<int>("other", [](const int&) { throw 1; });
    rt->bus().publish(1);
    REQUIRE(rt->bus().wait_idle(20s));
    CHECK(told.size() >= 11);
    CHECK(told.size() < 500);
    CHECK(field(told.all().back(), "subscription") == "other");
    (void)rt->shutdown(20s);
  }
  std::uint64_t one_by_one = 0, left_out = 0;
  for (const auto& each : told.all()) {
    if (field(each, "subscription") != "noisy") continue;
    const std::string rest = field(each, "left_out");
    if (rest.empty()) {
      ++one_by_one;
      continue;
    }
    left_out += std::stoull(rest);
    CHECK(each.text() == "… and " + rest + " more");
  }
  CHECK(left_out > 0);
  CHECK(one_by_one + left_out == 500);
}

TEST_CASE("work and tasks that fail are records of their pool and of their name, and a flood of either a number",
          "[log]") {
  const time_limit limit;
  record<log_record> told;
  auto rt = told_to(told);
  for (int i = 0; i < 300; ++i)
    REQUIRE(rt->pool("default")->post([] { throw std::runtime_error("posted"); }) == penstock::errc::none);
  for (int i = 0; i < 300; ++i) (void)rt->tasks().spawn("vain", [] { throw std::runtime_error("spawned"); }).wait();
  (void)rt->shutdown(20s);
  rt.reset();
  std::uint64_t posted = 0, spawned = 0, numbers = 0;
  for (const auto& each : told.all()) {
    const std::string rest = field(each, "left_out");
    const std::uint64_t stands_for = rest.empty() ? 1 : std::stoull(rest);
    numbers += rest.empty() ? 0 : 1;
    if (each.component() == "penstock.pool") {
      CHECK(field(each, "pool") == "default");
      CHECK(each.text() == (rest.empty() ? "posted work failed" : "… and " + rest + " more"));
      posted += stands_for;
    } else {
      CHECK(each.component() == "penstock.task");
      CHECK(field(each, "task") == "vain");
      CHECK(each.text() == (rest.empty() ? "a task failed" : "… and " + rest + " more"));
      spawned += stands_for;
    }
  }
  CHECK(posted == 300);
  CHECK(spawned == 300);
  CHECK(numbers >= 2);
}

TEST_CASE("a hook that throws when it is told of a task that escalates is a record, and the runtime ends",
          "[log][F3]") {
  const time_limit limit;
  record<log_record> told;
  penstock::runtime rt(penstock::runtime_options()
                           .on_failure([](const penstock::failure&) {})
                           .on_escalate([](const penstock::failure&) { throw std::runtime_error("cannot say it"); })
                           .log_to([&](const log_record& each) { told.add(each); }));
  const auto policy = penstock::restart_policy().attempts(1).pauses(penstock::retry_policy().backoff(0s)).escalate();
  const auto vital = rt.tasks().spawn("vital", penstock::spawn_options().restart(policy), [] { throw 1; });
  CHECK(vital.wait() == penstock::task_status::failed);
  CHECK(rt.wait_for_shutdown().reason == "escalated by vital");
  const auto all = told.all();
  const auto found =
      std::find_if(all.begin(), all.end(), [](const log_record& each) { return each.text() == "a hook threw"; });
  REQUIRE(found != all.end());
  CHECK(field(*found, "hook") == "on_escalate");
  CHECK(field(*found, "task") == "vital");
}

TEST_CASE("a pool of one's own without a hook says on standard error what its work threw", "[log][F1]") {
  const time_limit limit;
  std::string text;
  {
    const caught_stderr caught(text);
    const auto pool = penstock::worker_pool::start("own", penstock::worker_pool_options().threads(1));
    gate done;
    REQUIRE(pool->post([] { throw std::runtime_error("one\nforged"); }) == penstock::errc::none);
    REQUIRE(pool->post([&] { done.open(); }) == penstock::errc::none);
    done.wait();
  }
  CHECK_THAT(text, contains_text("penstock: handler \"own\" failed on posted work #0"));
  CHECK_THAT(text, contains_text("std::runtime_error: one\\x0aforged\n"));
}

TEST_CASE("a record that is copied or assigned is the same line", "[log]") {
  const log_record first = log_record(log_level::warning, "first").with("n", std::uint64_t{1});
  log_record second(log_level::info, "second");
  second = first;
  CHECK(to_string(second) == to_string(first));
  CHECK(second.level() == log_level::warning);
  log_record third(log_level::info, "third");
  third = std::move(second);
  CHECK(to_string(third) == to_string(first));
}

TEST_CASE("a flood of failures does not keep a request to end from being told", "[log][F3]") {
  const time_limit limit;
  record<log_record> told;
  auto rt = told_to(told);
  auto sub = rt->bus().subscribe<job>(
      "noisy", penstock::subscribe_options().on_failure(penstock::failure_policy::escalate(200)),
      [](const job&) { throw std::runtime_error("enough"); });
  for (int i = 0; i < 200; ++i) rt->bus().publish(job{i});
  REQUIRE(rt->bus().wait_idle(20s));
  int requests = 0;
  for (const auto& each : told.all()) {
    if (each.text() != "shutting down because of a failure") continue;
    ++requests;
    CHECK(each.component() == "penstock.runtime");
    CHECK(field(each, "subscription") == "noisy");
    CHECK(field(each, "what") == "enough");
  }
  CHECK(requests == 1);
}

TEST_CASE("each hook that throws is told as a record, and a flood of them as a number", "[log][F2]") {
  const time_limit limit;
  record<log_record> told;
  std::atomic<int> asked{0};
  {
    const auto broken = [&](const penstock::failure&) {
      ++asked;
      throw std::runtime_error("the hook is broken");
    };
    penstock::runtime_options options;
    options.log_to([&told](const log_record& each) { told.add(each); }).on_failure(broken).on_escalate(broken);
    options.pool("blocking", penstock::worker_pool_options().threads(1).may_wait(true).on_failure(broken));
    options.on_unmatched([](const std::string&) { throw std::runtime_error("the hook is broken"); });
    penstock::runtime rt(std::move(options));
    rt.bus().publish(1);
    gate ran;
    REQUIRE(rt.pool("blocking")->post([&] { throw 1; }) == penstock::errc::none);
    REQUIRE(rt.pool("blocking")->post([&] { ran.open(); }) == penstock::errc::none);
    ran.wait();
    auto task = rt.tasks().spawn("printer", [] { throw 1; });
    CHECK(task.wait() == penstock::task_status::failed);
    auto sub = rt.bus().subscribe<job>(
        "thrower", penstock::subscribe_options().on_failure(penstock::failure_policy::escalate(300)),
        [](const job&) { throw 1; });
    for (int i = 0; i < 300; ++i) rt.bus().publish(job{i});
    REQUIRE(rt.bus().wait_idle(20s));
    (void)rt.shutdown(20s);
  }
  CHECK(asked == 303);
  std::uint64_t of_thrower = 0;
  std::set<std::string> about;
  for (const auto& each : told.all()) {
    CHECK(each.level() == log_level::error);
    if (const std::string rest = field(each, "left_out"); !rest.empty()) {
      CHECK(field(each, "hook_told_of") == "thrower");
      of_thrower += std::stoull(rest);
      continue;
    }
    CHECK(each.text() == "a hook threw");
    CHECK(field(each, "exception") == "std::runtime_error");
    CHECK(field(each, "what") == "the hook is broken");
    if (field(each, "subscription") == "thrower") ++of_thrower;
    for (const char* key : {"task", "pool"})
      if (!field(each, key).empty()) about.insert(field(each, "hook") + " " + key + " " + field(each, key));
    if (field(each, "hook") == "on_unmatched") about.insert("on_unmatched " + field(each, "event"));
  }
  CHECK(of_thrower == 301);  // with its request to end
  CHECK(about == std::set<std::string>{"on_failure task printer", "a pool's on_failure pool blocking", "on_unmatched int"});
  CHECK(told.size() < 200);
}

TEST_CASE("no record holds anything of an event but its name", "[log]") {
  const time_limit limit;
  record<log_record> told;
  auto rt = told_to(told, log_level::debug);
  auto sub = rt->bus().subscribe<std::string>("thrower", [](const std::string&) { throw std::runtime_error("no ink"); });
  rt->bus().publish(std::string("a card's number"));
  REQUIRE(rt->bus().wait_idle(20s));
  REQUIRE(told.size() == 1);
  CHECK_THAT(to_string(told.all().front()), !contains_text("card"));
}

TEST_CASE("a clean stop says nothing, and one that is not clean names what was left", "[log][T16]") {
  const time_limit limit;
  record<log_record> told;
  {
    auto rt = told_to(told, log_level::warning);
    auto sub = rt->bus().subscribe<job>("any", [](const job&) {});
    rt->bus().publish(job{1});
    auto task = rt->tasks().spawn("sleeper", []() -> penstock::task<void> { co_await penstock::sleep_for(1h); });
  }
  CHECK(told.size() == 0);
  gate held;
  record<int> begun;
  {
    penstock::runtime_options options;
    options.pool("default", penstock::worker_pool_options().threads(1)).shutdown_within(20ms);
    options.log_to([&told](const log_record& each) { told.add(each); });
    penstock::runtime rt(std::move(options));
    auto sub = rt.bus().subscribe<job>("stuck one", [&](const job&) {
      begun.add(1);
      held.wait();
    });
    for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
    begun.wait_for(1);
    sub.release();
  }
  held.open();
  REQUIRE(told.size() == 3);
  const auto all = told.all();
  for (const auto& each : all) CHECK(each.level() == log_level::warning);
  CHECK(all[0].text() == "the shutdown was not drained");
  CHECK(field(all[0], "undelivered") == "2");
  CHECK(all[1].text() == "stuck call");
  CHECK(field(all[1], "subscription") == "stuck one");
  CHECK(field(all[1], "sequence") == "1");
  CHECK_THAT(field(all[1], "file"), contains_text("log_test.cpp"));
  CHECK(all[2].text() == "undelivered events");
  CHECK(field(all[2], "events") == "2");
}

TEST_CASE("a stop that leaves many things names ten of a kind, and says how many more there are", "[log][T16]") {
  const time_limit limit;
  constexpr int subscriptions = 13;
  constexpr int sleepers = 11;
  record<log_record> told;
  gate held;
  record<int> begun;
  {
    penstock::runtime_options options;
    options.pool("default", penstock::worker_pool_options().threads(1)).shutdown_within(20ms);
    options.log_to([&told](const log_record& each) { told.add(each); });
    penstock::runtime rt(std::move(options));
    for (int i = 0; i < sleepers; ++i)
      rt.tasks().spawn("sleeper", []() -> penstock::task<void> { co_await penstock::sleep_for(1h); });
    penstock_test::eventually([&] {
      const auto all = rt.tasks().snapshot();
      return std::all_of(all.begin(), all.end(), [](const auto& each) { return each.started; });
    });
    std::vector<penstock::subscription> all;
    for (int i = 0; i < subscriptions; ++i)
      all.push_back(rt.bus().subscribe<job>("held", [&](const job&) {
        begun.add(1);
        held.wait();
      }));
    rt.bus().publish(job{1});
    begun.wait_for(1);
    rt.bus().publish(job{2});
    for (auto& each : all) each.release();
  }
  held.open();
  std::map<std::string, int> times;
  for (const auto& each : told.all()) ++times[each.text()];
  CHECK(times["stuck call"] == 1);
  CHECK(times["task cut off"] == 10);
  CHECK(times["… and 1 more tasks"] == 1);
  CHECK(times["undelivered events"] == 10);
  CHECK(times["… and 3 more subscriptions with undelivered events"] == 1);
  CHECK(times.size() == 6);  // and the first line
}

TEST_CASE("a sink that throws takes nothing down; what is lost is counted, and said once", "[log]") {
  const time_limit limit;
  std::atomic<int> asked{0};
  std::string text;
  {
    const caught_stderr caught(text);
    penstock::runtime_options options;
    options.log_to([&](const log_record&) {
      if (++asked % 2 == 0) throw 1;
      throw std::runtime_error("disk full");
    });
    penstock::runtime rt(std::move(options));
    auto sub = rt.bus().subscribe<job>("thrower", [](const job&) { throw 1; });
    for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
    CHECK(rt.bus().wait_idle(20s));
    CHECK(asked == 3);
    CHECK(rt.lost_log_records() == 3);
    CHECK(sub.ledger().failed == 3);
  }
  CHECK(text == "penstock: the log's sink threw; this is said once, lost_log_records() counts on\n");
}

TEST_CASE("of the failures of a pool without a runtime ten a second have a line, and the rest is a number", "[log]") {
  const time_limit limit;
  constexpr int failures = 200;
  std::string text;
  const auto began = std::chrono::steady_clock::now();
  {
    const caught_stderr caught(text);
    const auto pool = penstock::worker_pool::start("own", penstock::worker_pool_options().threads(1));
    for (int i = 0; i < failures; ++i) REQUIRE(pool->post([] { throw 1; }) == penstock::errc::none);
    gate done;
    REQUIRE(pool->post([&] { done.open(); }) == penstock::errc::none);
    done.wait();
    pool->stop(penstock::no_deadline);
  }
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - began).count() + 1;
  int lines = 0, left_out = 0;
  std::istringstream all(text);
  for (std::string line; std::getline(all, line);) {
    const std::string rest = "penstock: worker pool \"own\": … and ";
    if (line.starts_with(rest))
      left_out += std::stoi(line.substr(rest.size()));
    else
      ++lines;
  }
  CHECK(lines >= 10);
  CHECK(lines <= 10 * seconds);
  CHECK(lines + left_out == failures);
}

TEST_CASE("a sink is called with no lock held, by several threads at once", "[log][D1]") {
  const time_limit limit;
  std::atomic<int> inside{0};
  gate both;
  penstock::runtime_options options;
  options.pool("default", penstock::worker_pool_options().threads(2));
  options.log_to([&](const log_record&) {
    if (++inside == 2) both.open();
    both.wait();  // for the other one
  });
  penstock::runtime rt(std::move(options));
  const auto thrower = [](const job&) { throw 1; };
  auto one = rt.bus().subscribe<job>("one", thrower);
  auto two = rt.bus().subscribe<job>("two", thrower);
  rt.bus().publish(job{1});
  REQUIRE(rt.bus().wait_idle(20s));
  CHECK(inside == 2);
}

TEST_CASE("without a sink a record is one line on standard error, with its level and component", "[log]") {
  const time_limit limit;
  std::string text;
  {
    const caught_stderr caught(text);
    penstock::runtime rt;
    auto sub = rt.bus().subscribe<job>("two words", [](const job&) { throw std::runtime_error("one\ntwo \x1b[31m"); });
    rt.bus().publish(job{1});
    CHECK(rt.bus().wait_idle(20s));
  }
  CHECK(std::count(text.begin(), text.end(), '\n') == 1);
  for (const char* part : {"[penstock.bus] [error] a handler failed subscription=\"two words\"", " sequence=1 ",
                           "exception=std::runtime_error what=\"one\\x0atwo \\x1b[31m\"\n"})
    CHECK_THAT(text, contains_text(part));
}

TEST_CASE("what is below the level is not said", "[log]") {
  const time_limit limit;
  record<log_record> told;
  gate held;
  record<int> begun;
  {
    penstock::runtime_options options;
    options.pool("default", penstock::worker_pool_options().threads(1)).shutdown_within(20ms);
    options.log_to([&told](const log_record& each) { told.add(each); }).log_from(log_level::error);
    penstock::runtime rt(std::move(options));
    auto sub = rt.bus().subscribe<job>("stuck one", [&](const job& e) {
      if (e.value == 0) throw 1;
      begun.add(1);
      held.wait();
    });
    for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
    begun.wait_for(1);
    sub.release();
  }
  held.open();
  REQUIRE(told.size() == 1);
  CHECK(told.all().front().text() == "a handler failed");
}
