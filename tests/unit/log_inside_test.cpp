// The log from inside: how many failures of one source are told, by a time that the test gives.
// Floor 9, room tests.
#include "../support/catch.hpp"

#include "runtime/log.hpp"
#include "runtime/log_limiter.hpp"

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using penstock::log_limiter;
using penstock::log_source;
using penstock::no_deadline;
using penstock::steady_time;
using verdict = penstock::log_limiter::verdict;

namespace {

constexpr steady_time start{1000h};

unsigned said(log_limiter& limiter, unsigned lines, steady_time now, const std::string& name = "noisy",
              log_source kind = log_source::subscription) {
  unsigned count = 0;
  for (unsigned i = 0; i < lines; ++i) count += limiter.ask(kind, name, now) == verdict::say ? 1 : 0;
  return count;
}

}  // namespace

TEST_CASE("ten lines of one source are said in a second, and the rest of it is told as one number", "[log]") {
  log_limiter limiter;
  CHECK(said(limiter, 4, start) == 4);
  CHECK(said(limiter, 3996, start + 500ms) == 6);
  CHECK_FALSE(limiter.due(start + 999ms));
  const auto rest = limiter.due(start + 1s);
  REQUIRE(rest);
  CHECK(rest->kind == log_source::subscription);
  CHECK(rest->name == "noisy");
  CHECK(rest->count == 3990);
  CHECK_FALSE(limiter.due(start + 1s));  // once
  CHECK(said(limiter, 20, start + 1s) == 10);
}

TEST_CASE("a source that is quiet enough is never counted, however long it goes on", "[log]") {
  log_limiter limiter;
  for (int i = 0; i < 1000; ++i) {
    const steady_time now = start + i * 101ms;
    CHECK_FALSE(limiter.due(now));
    CHECK(said(limiter, 1, now) == 1);
  }
}

TEST_CASE("sources are counted apart: by their names, and by what they are", "[log]") {
  log_limiter limiter;
  CHECK(said(limiter, 20, start, "one") == 10);
  CHECK(said(limiter, 20, start, "two") == 10);
  CHECK(said(limiter, 20, start, "one", log_source::task) == 10);
  CHECK(limiter.sources() == 3);
}

TEST_CASE("what was left out is due although its source has become silent, and when everything ends", "[log]") {
  log_limiter limiter;
  said(limiter, 15, start, "silent since");
  said(limiter, 11, start + 2s, "another");
  auto rest = limiter.due(start + 2s);
  REQUIRE(rest);
  CHECK(rest->name == "silent since");
  CHECK(rest->count == 5);
  CHECK_FALSE(limiter.due(start + 2s));
  rest = limiter.due(no_deadline);
  REQUIRE(rest);
  CHECK(rest->name == "another");
  CHECK(rest->count == 1);
  CHECK_FALSE(limiter.due(no_deadline));
}

TEST_CASE("each source's second ends by itself, also when it began within another's", "[log]") {
  log_limiter limiter;
  said(limiter, 11, start, "early");
  said(limiter, 12, start + 500ms, "late");
  REQUIRE(limiter.due(start + 1s));
  CHECK_FALSE(limiter.due(start + 1499ms));
  const auto rest = limiter.due(start + 1500ms);
  REQUIRE(rest);
  CHECK(rest->name == "late");
  CHECK(rest->count == 2);
}

TEST_CASE("what was left out is told by the next failure after that second, whosever it is", "[log]") {
  struct : penstock::clock {
    steady_time at = start;
    steady_time now() const noexcept override { return at; }
  } time;
  std::vector<std::string> told;
  penstock::log log([&](const penstock::log_record& each) { told.push_back(to_string(each)); },
                    penstock::log_level::info, time);
  penstock::failure of_noisy, of_other;
  of_noisy.subscription = "noisy";
  of_other.task = "other";
  for (int i = 0; i < 4000; ++i) log.failed(of_noisy);
  CHECK(told.size() == 10);
  time.at += 1s;
  log.failed(of_other);
  REQUIRE(told.size() == 12);
  CHECK(told[10] == "… and 3990 more subscription=noisy left_out=3990");
  CHECK(told[11] == "a task failed task=other attempt=1 exception=\"\"");
  log.tell_left_out();
  CHECK(told.size() == 12);
}

TEST_CASE("sources that are quiet are forgotten, and beyond the most of them the rest shares one count", "[log]") {
  log_limiter limiter;
  unsigned through = 0;
  for (std::size_t i = 0; i < log_limiter::most_sources + 30; ++i)
    through += said(limiter, 1, start, std::to_string(i));
  CHECK(limiter.sources() == log_limiter::most_sources);
  CHECK(through == log_limiter::most_sources + 10);
  const auto rest = limiter.due(start + 1s);
  REQUIRE(rest);
  CHECK(rest->kind == log_source::others);
  CHECK(rest->count == 20);
  CHECK_FALSE(limiter.due(start + 1s));
  CHECK(limiter.sources() == 0);
}

TEST_CASE("no line is lost from the count, whatever the times between", "[log]") {
  log_limiter limiter;
  std::uint64_t lines = 0, told = 0;
  steady_time now = start;
  for (unsigned i = 0; i < 2000; ++i) {
    now += std::chrono::milliseconds((i * 7919) % 173);
    if (i % 3 == 0)  // also when nobody asks first what is due
      while (const auto rest = limiter.due(now)) told += rest->count;
    const unsigned count = (i * 31) % 17;
    lines += count;
    told += said(limiter, count, now, std::to_string(i % 3));
  }
  while (const auto rest = limiter.due(no_deadline)) told += rest->count;
  CHECK(told == lines);
}
