// What the library says in words: the codes and their conditions, the words of each enumeration, texts of many lines.
// Floor 9, room tests.
#include "support/catch.hpp"
#include "support/gate.hpp"

#include <penstock/penstock.hpp>

#include <cstddef>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::errc;

namespace {

/// The words of the enumerators from 0 to the last, and of a value beyond them.
template <class Enumeration>
std::string words_of(Enumeration last) {
  std::string text;
  for (int value = 0; value <= static_cast<int>(last); ++value)
    text += std::string(to_string(static_cast<Enumeration>(value))) + " ";
  return text + to_string(static_cast<Enumeration>(static_cast<int>(last) + 1));
}

struct wide {
  int value = 0;
};

std::size_t lines_of(const std::string& text) {
  std::size_t lines = 0;
  for (const char each : text) lines += each == '\n' ? 1 : 0;
  return lines;
}

}  // namespace

TEST_CASE("each enumeration's text is the word in the source, and another value's is unknown", "[texts]") {
  CHECK(words_of(errc::already_exists) ==
        "none full timed_out cancelled closed would_block backpressure_cycle not_enough_memory event_type_mismatch "
        "invalid_argument would_deadlock forked not_found already_exists unknown");
  CHECK(words_of(penstock::overflow::latest) == "block fail drop_newest drop_oldest latest unknown");
  CHECK(words_of(penstock::drop_reason::cycle) == "newest oldest closed timed_out cycle unknown");
  CHECK(words_of(penstock::close_status::would_deadlock) == "closed closing timed_out would_deadlock unknown");
  CHECK(words_of(penstock::subscription_state::ended) == "open paused draining stopped ended unknown");
  CHECK(words_of(penstock::cancel_kind::closed) == "requested timed_out shutdown closed unknown");
  CHECK(words_of(penstock::task_status::closed) == "running completed failed cancelled closed unknown");
  CHECK(words_of(penstock::log_level::error) == "debug info warning error unknown");
}

TEST_CASE("the version of the loaded library is that of the headers", "[texts]") {
  CHECK(penstock::version() == std::to_string(PENSTOCK_VERSION_MAJOR) + "." + std::to_string(PENSTOCK_VERSION_MINOR) +
                                   "." + std::to_string(PENSTOCK_VERSION_PATCH));
}

TEST_CASE("each error code has a sentence of its own, in the category penstock", "[texts]") {
  std::set<std::string> sentences;
  for (int value = 0; value <= static_cast<int>(errc::already_exists); ++value) {
    const std::error_code code = static_cast<errc>(value);
    CHECK(std::string_view(code.category().name()) == "penstock");
    CHECK(code.category() == penstock::error_category());
    CHECK(sentences.insert(code.message()).second);
  }
  CHECK(sentences.count("the channel is full and its overflow policy refuses") == 1);
  CHECK(std::error_code(static_cast<errc>(99)).message() == "unknown penstock error");
}

TEST_CASE("error codes compare with the standard's conditions where those mean the same, and with no other",
          "[texts]") {
  const std::vector<std::pair<errc, std::errc>> same = {
      {errc::timed_out, std::errc::timed_out},
      {errc::cancelled, std::errc::operation_canceled},
      {errc::would_block, std::errc::operation_would_block},
      {errc::not_enough_memory, std::errc::not_enough_memory},
      {errc::invalid_argument, std::errc::invalid_argument},
      {errc::backpressure_cycle, std::errc::resource_deadlock_would_occur},
      {errc::would_deadlock, std::errc::resource_deadlock_would_occur},
  };
  for (int value = 0; value <= static_cast<int>(errc::already_exists); ++value) {
    const auto ours = static_cast<errc>(value);
    for (const auto& [left, condition] : same) {
      INFO(to_string(ours) << " and " << std::make_error_code(condition).message());
      bool equal = false;
      for (const auto& each : same) equal |= each.first == ours && each.second == condition;
      CHECK((std::error_code(ours) == condition) == equal);
    }
  }
  CHECK(std::error_code(errc::closed).default_error_condition() ==
        std::error_condition(static_cast<int>(errc::closed), penstock::error_category()));
}

TEST_CASE("a publish's text names each fate that occurred, who refused and why, and the call's error", "[texts]") {
  const time_limit limit;
  gate go;
  record<int> begun;
  penstock::runtime rt(penstock::runtime_options().pool("default", penstock::worker_pool_options().threads(2)));
  const auto narrow = [](penstock::overflow policy) {
    return penstock::subscribe_options().capacity(1).overflow(policy);
  };
  const auto held = [&](const wide&) {
    begun.add(1);
    go.wait();
  };
  const auto fails = rt.bus().subscribe<wide>("fails", narrow(penstock::overflow::fail), held);
  const auto drops = rt.bus().subscribe<wide>("drops", narrow(penstock::overflow::drop_newest), held);
  rt.bus().publish(wide{});
  begun.wait_for(2);
  rt.bus().publish(wide{});
  const auto full = rt.bus().publish(wide{});
  CHECK(to_string(full) == "matched 2, accepted 0, dropped 1, rejected 1 (fails: full, drops: full)");
  std::ostringstream streamed;
  streamed << full;
  CHECK(streamed.str() == to_string(full));
  CHECK(std::string_view(full.refusal(2).subscription).empty());
  CHECK(full.refusal(2).reason == errc::none);
  go.open();
  rt.shutdown(20s);
  CHECK(to_string(rt.bus().publish(wide{})) == "matched 0, accepted 0; error closed");
}

TEST_CASE("no name of a subscription forges a line in the text of a publish or of a shutdown", "[texts]") {
  const time_limit limit;
  gate go;
  record<int> begun;
  penstock::runtime rt;
  const auto forger = rt.bus().subscribe<wide>(
      "one\n  stuck: two", penstock::subscribe_options().capacity(1).overflow(penstock::overflow::fail),
      [&](const wide&) {
        begun.add(1);
        go.wait();
      });
  rt.bus().publish(wide{});
  begun.wait_for(1);
  rt.bus().publish(wide{});
  CHECK(to_string(rt.bus().publish(wide{})) == "matched 1, accepted 0, rejected 1 (one\\x0a  stuck: two: full)");
  const auto report = rt.shutdown(1ms);
  // The head, the subscription, the stuck call, what was not delivered, the thread.
  CHECK(lines_of(to_string(report)) == 5);
  go.open();
}
