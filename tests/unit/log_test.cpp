// What a runtime says: to a sink of one's own, as one line that nothing can forge, and not without end.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"

#include <penstock/penstock.hpp>

#include <atomic>
#include <chrono>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

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

TEST_CASE("many failures of one subscription are told in part, and those of another all the same", "[log]") {
  const time_limit limit;
  record<log_record> told;
  auto rt = told_to(told);
  auto noisy = rt->bus().subscribe<job>("noisy", [](const job&) { throw 1; });
  for (int i = 0; i < 500; ++i) rt->bus().publish(job{i});
  REQUIRE(rt->bus().wait_idle(20s));
  const auto of_noisy = told.size();
  CHECK(of_noisy >= 10);
  CHECK(of_noisy < 500);
  CHECK(noisy.ledger().failed == 500);
  auto other = rt->bus().subscribe<int>("other", [](const int&) { throw 1; });
  rt->bus().publish(1);
  REQUIRE(rt->bus().wait_idle(20s));
  CHECK(told.size() == of_noisy + 1);
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
  CHECK(all[2].text() == "undelivered events");
  CHECK(field(all[2], "events") == "2");
}

TEST_CASE("a sink that throws takes nothing down, and what is below the level is not said", "[log]") {
  const time_limit limit;
  std::atomic<int> asked{0};
  penstock::runtime_options options;
  options.log_to([&](const log_record&) {
    ++asked;
    throw std::runtime_error("disk full");
  });
  penstock::runtime rt(std::move(options));
  auto sub = rt.bus().subscribe<job>("thrower", [](const job&) { throw 1; });
  for (int i = 0; i < 3; ++i) rt.bus().publish(job{i});
  REQUIRE(rt.bus().wait_idle(20s));
  CHECK(asked == 3);
  CHECK(sub.ledger().failed == 3);
}
