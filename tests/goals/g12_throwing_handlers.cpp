// G12: a handler that throws harms only its own event, whatever it throws and wherever it does.
// Floor 9, room tests.
#include "../support/gate.hpp"
#include "goal.hpp"

#include <penstock/penstock.hpp>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

using namespace std::chrono_literals;
using namespace penstock_goals;
using penstock::close_mode;
using penstock::close_status;
using penstock::errc;
using penstock::subscribe_options;
using penstock::task;

namespace {

struct job {
  std::uint64_t number = 0;
};
struct errand {
  std::uint64_t number = 0;
};

struct copy_throws {
  copy_throws() = default;
  copy_throws(const copy_throws&) { throw std::logic_error("the library has copied an exception"); }
};
class foreign {
 public:
  explicit foreign(std::string text) : text_(std::move(text)) {}
  virtual ~foreign() = default;

 private:
  std::string text_;
};

constexpr std::array shapes = {
    "std::exception", "a derived exception", "int",         "a type whose copy throws",
    "nested",         "std::string",         "char const*", "a class that is no std::exception",
    "cancelled",      "std::system_error"};
constexpr std::array places = {"plain handler",
                               "handler with call",
                               "coroutine before its first suspension",
                               "coroutine after a suspension",
                               "filter",
                               "handler, and the on_failure hook as well"};
enum place : std::size_t { plain, with_call, before_suspension, after_suspension, in_filter, in_hook };

[[noreturn]] void throw_shape(std::size_t shape) {
  switch (shape) {
    case 0:
      throw std::exception();
    case 1:
      throw std::runtime_error("plain words");
    case 2:
      throw 42;
    case 3:
      throw copy_throws();  // built where the exception lives: the throw itself copies nothing
    case 4:
      try {
        throw std::out_of_range("inside");
      } catch (...) {
        std::throw_with_nested(std::runtime_error("outside"));
      }
    case 5:
      throw std::string("a text");
    case 6:
      throw static_cast<const char*>("a literal");
    case 7:
      throw foreign("of another library");
    case 8:
      throw penstock::cancelled(std::make_shared<const penstock::cause>(penstock::cancel_kind::requested, "nobody",
                                                                        "not asked for", penstock::steady_time{}));
    default:
      throw std::system_error(errc::closed, "by hand");
  }
}

/// What one subscriber should see: every number once, in order.
struct others_view {
  std::uint64_t received = 0;
  std::uint64_t out_of_order = 0;
  void see(std::uint64_t number) {
    out_of_order += number != received ? 1 : 0;
    ++received;
  }
};

struct tally {
  std::uint64_t combinations = 0, isolated = 0;
  std::uint64_t due = 0, received = 0;              // by the others
  std::uint64_t thrown = 0, counted = 0, told = 0;  // failures
  bool exact = true;
};

bool throws_at(std::uint64_t number) { return number % 3 != 2; }

void run_combination(report& out, std::size_t shape, std::size_t where, std::uint64_t events, tally& all) {
  std::atomic<std::uint64_t> told{0}, strangers{0}, thrown{0}, went_well{0};
  others_view beside, coroutine, elsewhere, reading;
  penstock::ledger thrower_ledger;
  bool balanced = true, ended = true;
  {
    penstock::runtime rt(penstock::runtime_options()
                             .pool("default", penstock::worker_pool_options().threads(2))
                             .on_failure([&](const penstock::failure& f) {
                               ++(f.subscription == "thrower" ? told : strangers);
                               if (where == in_hook) throw_shape(shape);
                             }));
    auto& bus = rt.bus();
    const auto act = [&thrown, &went_well, shape](const job& e) {
      if (throws_at(e.number)) {
        ++thrown;
        throw_shape(shape);
      }
      ++went_well;
    };
    penstock::subscription thrower;
    auto options = subscribe_options().capacity(16);
    if (where == with_call) {
      thrower = bus.subscribe<job>("thrower", std::move(options), [&](const job& e, const penstock::call&) { act(e); });
    } else if (where == before_suspension) {
      thrower = bus.subscribe<job>("thrower", std::move(options), [&](const job& e) -> task<void> {
        act(e);
        co_await penstock::yield();
      });
    } else if (where == after_suspension) {
      thrower = bus.subscribe<job>("thrower", std::move(options), [&](const job& e) -> task<void> {
        co_await penstock::yield();
        act(e);
      });
    } else if (where == in_filter) {
      options.filter<job>([&](const job& e) {
        if (throws_at(e.number)) act(e);
        return true;
      });
      thrower = bus.subscribe<job>("thrower", std::move(options), [&](const job& e) { act(e); });
    } else {
      thrower = bus.subscribe<job>("thrower", std::move(options), [&](const job& e) { act(e); });
    }
    auto one =
        bus.subscribe<job>("beside", subscribe_options().capacity(16), [&](const job& e) { beside.see(e.number); });
    auto two = bus.subscribe<job>("coroutine", subscribe_options().capacity(16), [&](const job& e) -> task<void> {
      co_await penstock::yield();
      coroutine.see(e.number);
    });
    auto three = bus.subscribe<errand>("elsewhere", subscribe_options().capacity(16),
                                       [&](const errand& e) { elsewhere.see(e.number); });
    auto inbox = bus.stream<job>("reader", penstock::stream_options().capacity(16));
    std::thread reader([&] {
      while (auto got = inbox.receive()) reading.see(got->number);
    });
    const auto jobs = bus.publisher<job>();
    const auto errands = bus.publisher<errand>();
    for (std::uint64_t i = 0; i < events; ++i) {
      jobs.publish(job{i});
      errands.publish(errand{i});
    }
    for (auto* each : {&thrower, &one, &two, &three}) {
      ended = ended && each->close(close_mode::drain) == close_status::closed;
      balanced = balanced && each->ledger().balanced() && each->ledger().quiescent();
    }
    inbox.close(close_mode::drain);
    reader.join();
    thrower_ledger = thrower.ledger();
    ended = ended && rt.shutdown(25s).clean();
  }
  std::uint64_t wanted = 0;
  for (std::uint64_t i = 0; i < events; ++i) wanted += throws_at(i) ? 1 : 0;
  std::uint64_t received = 0, out_of_order = 0;
  for (const auto* each : {&beside, &coroutine, &elsewhere, &reading})
    received += each->received, out_of_order += each->out_of_order;
  const bool exact = thrown == wanted && thrower_ledger.failed == wanted && told == wanted && strangers == 0 &&
                     went_well == events - wanted && thrower_ledger.handled == events - wanted;
  const bool isolated = received == 4 * events && out_of_order == 0 && exact && balanced && ended;
  ++all.combinations;
  all.isolated += isolated ? 1 : 0;
  all.due += 4 * events, all.received += received;
  all.thrown += thrown, all.counted += thrower_ledger.failed, all.told += told;
  all.exact = all.exact && exact;
  if (!isolated)
    out.note(std::string(shapes[shape]) + " in " + places[where] + ": received " + std::to_string(received) + " of " +
             std::to_string(4 * events) + ", out of order " + std::to_string(out_of_order) + ", thrown " +
             std::to_string(thrown) + ", told " + std::to_string(told) + ", strangers " + std::to_string(strangers) +
             "; " + to_string(thrower_ledger));
}

}  // namespace

int main() {
  const penstock_test::time_limit limit(most_seconds());
  report out;
  tally all;
  const std::uint64_t events = sized(3'000, 60'000);
  for (std::size_t shape = 0; shape < shapes.size(); ++shape)
    for (std::size_t where = 0; where < places.size(); ++where)  // the log has a line for each hook that throws
      run_combination(out, shape, where, where == in_hook ? 30 : events, all);
  out.figure("G12 throwing handlers",
             std::to_string(all.isolated) + " of " + std::to_string(all.combinations) + " combinations isolated (" +
                 std::to_string(shapes.size()) + " shapes x " + std::to_string(places.size()) + " places), " +
                 percent(all.received, all.due) + " of " + grouped(all.due) + " events received by the others, " +
                 grouped(all.counted) + " failures counted and " + grouped(all.told) + " told of " +
                 grouped(all.thrown) + " thrown",
             "all, 100 %, exact", all.isolated == all.combinations && all.received == all.due && all.exact);
  return out.finish();
}
