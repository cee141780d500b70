// Streams, deliveries, awaited operations and completion tokens after the runtime, in static destructors, and after
// fork. Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/child.hpp"
#include "../support/gate.hpp"

#include <penstock/asio.hpp>

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

namespace asio = boost::asio;
using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::block_on;
using penstock::close_mode;
using penstock::close_status;
using penstock::delivery;
using penstock::errc;
using penstock::event_bus;
using penstock::failure;
using penstock::on_executor;
using penstock::outcome;
using penstock::publish_result;
using penstock::runtime_options;
using penstock::start_task;
using penstock::stream_options;
using penstock::task;
using penstock::worker_pool;
using penstock::worker_pool_options;

namespace {

struct tick {
  int value = 0;
};
/// Travels in a block: it has a destructor.
struct letter {
  std::string text;
  std::shared_ptr<int> life;
};
/// Nobody subscribes to it; travels in a block.
struct unheard {
  std::string text;
};

/// Why a handle is no good any more: the runtime has ended, or this is a child process.
enum class lost { ended, forked };
errc code_of(lost why) { return why == lost::ended ? errc::closed : errc::forked; }

/// One handle of each kind, with events in hand; they outlive the runtime they are filled from.
struct handles {
  std::optional<event_bus> bus;
  penstock::scheduler_ptr pool;
  penstock::publisher<tick> ticks;
  penstock::publisher<letter> letters;
  penstock::publisher<unheard> nobody;
  penstock::subscription sub;
  penstock::stream<tick> inbox;
  penstock::stream<letter> post_box;
  std::vector<delivery<tick>> held;
  std::vector<delivery<letter>> held_letters;
  std::shared_ptr<int> life = std::make_shared<int>(0);

  /// Four ticks and four letters in hand, one of each waits.
  void fill(penstock::runtime& rt) {
    bus = rt.bus();
    pool = rt.pool("default");
    ticks = bus->publisher<tick>();
    letters = bus->publisher<letter>();
    nobody = bus->publisher<unheard>();
    sub = bus->subscribe<tick>("called", [](const tick&) {});
    inbox = bus->stream<tick>("read");
    post_box = bus->stream<letter>("read letters");
    for (int i = 1; i <= 5; ++i) {
      ticks.publish({i});
      letters.emplace("a letter", life);
    }
    for (int i = 0; i < 4; ++i) {
      held.push_back(inbox.receive());
      held_letters.push_back(post_box.receive());
    }
  }
};

runtime_options workers(unsigned count, record<failure>& failures) {
  return runtime_options()
      .pool("default", worker_pool_options().threads(count))
      .on_failure([&failures](const failure& f) { failures.add(f); })
      .shutdown_within(10ms);
}

/// Fills the handles from a runtime, and ends it.
void outlive(handles& h, record<failure>& failures) {
  penstock::runtime rt(workers(2, failures));
  h.fill(rt);
  (void)rt.shutdown(10ms);
}

/// What was answered wrongly, in words: a child process cannot assert, and prints it.
class verdict {
 public:
  void expect(bool right, const char* what) {
    if (!right) wrong_ += std::string(wrong_.empty() ? "" : "; ") + what;
  }
  const std::string& wrong() const { return wrong_; }
  int exit_code() const {
    if (!wrong_.empty()) std::cerr << "answered wrongly: " << wrong_ << std::endl;
    return wrong_.empty() ? 0 : 1;
  }

 private:
  std::string wrong_;
};

/// The code that `function` is refused with; none: it is not refused, or by something else.
template <class Function>
errc refusal_of(Function function) {
  try {
    function();
  } catch (const std::system_error& refused) {
    if (refused.code().category() == penstock::error_category()) return static_cast<errc>(refused.code().value());
  }
  return errc::none;
}
errc refusal_in(const std::exception_ptr& error) {
  return refusal_of([&] {
    if (error) std::rethrow_exception(error);
  });
}

/// Runs a task to its end on this thread, on an executor of its own; gives what it threw.
std::exception_ptr run_here(task<void> work) {
  asio::io_context io;
  auto until_it_ends = asio::make_work_guard(io);
  std::exception_ptr thrown;
  start_task(on_executor(io.get_executor()), std::move(work), [&](outcome<void>&& came) {
    thrown = came.error();
    until_it_ends.reset();
  });
  io.run();
  return thrown;
}

// --- what is asked of the handles
// ----------------------------------------------------------------------------------------

void read_and_close(handles& h, verdict& seen) {
  const std::stop_source nobody_stops;
  seen.expect(!h.inbox.receive(), "receive");
  seen.expect(!h.post_box.receive(), "receive of a letter");
  seen.expect(!h.inbox.receive(nobody_stops.get_token()), "receive with a stop token");
  seen.expect(!h.inbox.receive_until(penstock::no_deadline), "receive_until");
  seen.expect(!h.inbox.receive_for(1h), "receive_for");
  seen.expect(!h.inbox.try_receive(), "try_receive");
  h.inbox.close(close_mode::drain);
  h.inbox.close();
  seen.expect(!h.inbox.receive(), "receive after a further close");
  seen.expect(static_cast<bool>(h.inbox) && h.inbox.name() == "read", "a stream's name");
  seen.expect(h.inbox.ledger().balanced(), "a stream's ledger balances");
}

void end_deliveries(handles& h, lost why, record<failure>& failures, verdict& seen) {
  seen.expect(h.held.at(0)->value == 1 && h.held_letters.at(0)->text == "a letter", "an event in hand is readable");
  errc under = errc::none;
  h.held[0].publish_under([&] { under = h.ticks.publish({9}).error(); });
  seen.expect(under == code_of(why), "a publish under a delivery");
  const auto told = failures.size();
  const auto lives = h.life.use_count();
  h.held[0].done();
  h.held_letters[0].done();
  h.held[1].fail("nobody is there any more");
  h.held_letters[1].fail("nobody is there any more");
  const errc back = why == lost::ended ? errc::none : errc::forked;
  seen.expect(h.held[2].requeue() == back, "requeue");
  seen.expect(h.held_letters[2].requeue() == back, "requeue of a letter");
  for (int i = 0; i < 3; ++i) seen.expect(!h.held[i] && !h.held_letters[i], "a delivery that has ended is empty");
  seen.expect(h.held[2].requeue() == errc::closed, "requeue of an empty delivery");
  h.held.clear();  // the fourth: handled by its death
  h.held_letters.clear();
  seen.expect(h.life.use_count() == lives - 4, "each letter dies with its delivery");
  seen.expect(failures.size() == told + (why == lost::ended ? 2 : 0), "failures are told where the runtime was");
}

task<void> await_everything(handles& h, lost why, verdict& seen) {
  const errc refused = code_of(why);
  const tick small{1};
  const letter large{"late", nullptr};
  {
    const auto came = co_await h.ticks.async_publish(small);
    seen.expect(came.error() == refused && came.accepted() == 0, "async_publish");
  }
  {
    const auto came = co_await h.letters.async_publish(large);
    seen.expect(came.error() == refused, "async_publish of a letter");
  }
  {
    auto shared = penstock::make_event<letter>("late", nullptr);
    const auto came = co_await h.letters.async_publish(std::move(shared));
    seen.expect(came.error() == refused, "async_publish of a shared letter");
  }
  {
    const auto came = co_await h.ticks.async_emplace(2);
    seen.expect(came.error() == refused, "async_emplace");
  }
  {
    const auto came = co_await h.nobody.async_emplace("late");
    seen.expect(came.error() == refused, "async_emplace that nobody hears");
  }
  {
    const auto came = co_await h.bus->async_publish(small);
    seen.expect(came.error() == refused, "the bus's async_publish");
  }
  {
    const auto came = co_await h.bus->async_emplace<letter>("late", nullptr);
    seen.expect(came.error() == refused, "the bus's async_emplace");
  }
  {
    const auto got = co_await h.inbox.next();
    seen.expect(!got, "next");
  }
  {
    const auto got = co_await h.post_box.next();
    seen.expect(!got, "next of a letter");
  }
  {
    const auto came = co_await h.sub.async_close(close_mode::drain);
    seen.expect(came == close_status::closed, "async_close(drain)");
  }
  {
    const auto came = co_await h.sub.async_close_for(1h);
    seen.expect(came == close_status::closed, "async_close_for");
  }
  {
    const auto came = co_await h.sub.async_close(close_mode::cancel);
    seen.expect(came == close_status::closed, "async_close(cancel)");
  }
  const bool at_rest = why == lost::ended;  // with the runtime everything ended; a child cannot know
  {
    const bool came = co_await h.bus->async_wait_idle();
    seen.expect(came == at_rest, "async_wait_idle");
  }
  {
    const bool came = co_await h.bus->async_wait_idle_for(1h);
    seen.expect(came == at_rest, "async_wait_idle_for");
  }
}

task<void> sleep_a_moment() { co_await penstock::sleep_for(1ms); }

/// A task that would run on the pool itself, whose threads are gone.
void start_on_the_pool(handles& h, lost why, verdict& seen) {
  const errc refused = code_of(why);
  seen.expect(refusal_of([&] { block_on(h.pool, sleep_a_moment()); }) == refused, "block_on");
  seen.expect(refusal_of([&] { block_on(h.pool, await_everything(h, why, seen)); }) == refused, "block_on of awaits");
  std::exception_ptr told;
  start_task(h.pool, sleep_a_moment(), [&](outcome<void>&& came) { told = came.error(); });
  seen.expect(refusal_in(told) == refused, "start_task");
  seen.expect(h.pool->post([] {}) == refused, "post");
}

void complete_everything(handles& h, lost why, verdict& seen) {
  const std::error_code refused = code_of(why);
  const tick small{1};
  const letter large{"late", nullptr};
  asio::io_context io;
  int completions = 0;
  const auto published = [&](boost::system::error_code error, publish_result came) {
    ++completions;
    seen.expect(error == refused && came.error() == code_of(why), "async_publish with a token");
  };
  h.ticks.async_publish(small, asio::bind_executor(io, published));
  h.letters.async_publish(large, asio::bind_executor(io, published));
  h.letters.async_publish(penstock::make_event<letter>("late", nullptr), asio::bind_executor(io, published));
  h.bus->async_publish(small, asio::bind_executor(io, published));
  h.inbox.async_receive(asio::bind_executor(io, [&](boost::system::error_code error, delivery<tick> got) {
    ++completions;
    seen.expect(error == std::error_code(errc::closed) && !got, "async_receive with a token");
  }));
  h.sub.async_close(asio::bind_executor(io, [&](boost::system::error_code error, close_status came) {
    ++completions;
    seen.expect(!error && came == close_status::closed, "async_close with a token");
  }));
  h.bus->async_wait_idle(asio::bind_executor(io, [&](boost::system::error_code error, bool came) {
    ++completions;
    seen.expect(!error && came == (why == lost::ended), "async_wait_idle with a token");
  }));
  seen.expect(completions == 0, "completions come by post, never on the initiating stack");
  io.run();
  seen.expect(completions == 7, "each completion comes once");
}

/// A handler without an executor would complete on the bus's pool: there is none, so the initiation throws.
void complete_without_an_executor(handles& h, lost why, verdict& seen) {
  const errc refused = code_of(why);
  const tick small{1};
  bool completed = false;
  const auto published = [&](boost::system::error_code, publish_result) { completed = true; };
  seen.expect(refusal_of([&] { h.ticks.async_publish(small, published); }) == refused, "async_publish");
  seen.expect(refusal_of([&] { h.bus->async_publish(small, published); }) == refused, "the bus's async_publish");
  seen.expect(refusal_of([&] { h.inbox.async_receive([&](auto, delivery<tick>) { completed = true; }); }) == refused,
              "async_receive");
  seen.expect(refusal_of([&] { h.sub.async_close([&](auto, close_status) { completed = true; }); }) == refused,
              "async_close");
  seen.expect(refusal_of([&] { h.bus->async_wait_idle([&](auto, bool) { completed = true; }); }) == refused,
              "async_wait_idle");
  seen.expect(!completed, "what was refused does not complete");
}

/// Publishes to a living runtime with a handler that completes on the bus's own pool.
std::uint64_t accepted_on_the_pool(handles& h, const tick& event) {
  record<std::uint64_t> accepted;
  h.ticks.async_publish(event, [&](boost::system::error_code, publish_result came) { accepted.add(came.accepted()); });
  accepted.wait_for(1);
  return accepted.all().front();
}

void look(handles& h, verdict& seen) {
  seen.expect(h.bus->subscriptions().empty(), "subscriptions()");
  const auto all = h.bus->snapshot();
  seen.expect(all.subscriptions.empty() && all.waits.empty(), "snapshot()");
  seen.expect(!penstock::to_json(all).empty(), "a snapshot's JSON");
}

void ask_everything(handles& h, lost why, record<failure>& failures, verdict& seen) {
  read_and_close(h, seen);
  end_deliveries(h, why, failures, seen);
  const auto thrown = run_here(await_everything(h, why, seen));
  seen.expect(!thrown, "a task that awaits");
  start_on_the_pool(h, why, seen);
  complete_everything(h, why, seen);
  complete_without_an_executor(h, why, seen);
  look(h, seen);
}

}  // namespace

// --- after the runtime has ended
// ---------------------------------------------------------------------------------------

TEST_CASE("after the runtime's end every reading of a stream is empty at once, and a further close does nothing",
          "[S5][S6]") {
  const time_limit limit;
  record<failure> failures;
  handles h;
  outlive(h, failures);
  verdict seen;
  read_and_close(h, seen);
  CHECK(seen.wrong() == "");
  const auto ledger = h.inbox.ledger();
  CHECK(ledger.offered == 5);
  CHECK(ledger.discarded == 1);
  CHECK(ledger.running == 4);
}

TEST_CASE("deliveries that are done, failed, requeued or let go after the runtime's end each count once", "[S5][S6]") {
  const time_limit limit;
  record<failure> failures;
  handles h;
  outlive(h, failures);
  verdict seen;
  end_deliveries(h, lost::ended, failures, seen);
  CHECK(seen.wrong() == "");
  for (const auto& ledger : {h.inbox.ledger(), h.post_box.ledger()}) {
    CHECK(ledger.handled == 2);
    CHECK(ledger.failed == 1);
    CHECK(ledger.discarded == 2);  // the requeued one, and the one that nobody had read
    CHECK(ledger.quiescent());
    CHECK(ledger.balanced());
  }
  CHECK(h.life.use_count() == 1);
}

TEST_CASE("operations awaited after the runtime's end on another pool answer closed and suspend nobody for good",
          "[S6][P1]") {
  const time_limit limit;
  record<failure> failures;
  handles h;
  outlive(h, failures);
  h.held.clear();
  h.held_letters.clear();
  verdict seen;
  SECTION("on a pool of their own") {
    const auto living = worker_pool::start("living", worker_pool_options().threads(1));
    block_on(living, await_everything(h, lost::ended, seen));
    block_on(living, sleep_a_moment());
  }
  SECTION("on a service's executor") {
    CHECK(run_here(await_everything(h, lost::ended, seen)) == nullptr);
    CHECK(run_here(sleep_a_moment()) == nullptr);
  }
  SECTION("on the pool that has ended") { start_on_the_pool(h, lost::ended, seen); }
  CHECK(seen.wrong() == "");
}

TEST_CASE("a task that sleeps on a service's executor is told closed when the service's context goes", "[S6][X2]") {
  const time_limit limit;
  record<errc> ends;
  const auto sleep = [](std::chrono::nanoseconds wait) -> task<void> { co_await penstock::sleep_for(wait); };
  {
    asio::io_context io;
    start_task(on_executor(io.get_executor()), sleep(1h),
               [&](outcome<void>&& came) { ends.add(refusal_in(came.error())); });
    io.poll();
    CHECK(ends.size() == 0);
  }
  CHECK(ends.all() == std::vector{errc::closed});
}

TEST_CASE(
    "async_wait_idle_for gives up after the runtime's end too, while a delivery is held, and the end of it is idle",
    "[S6]") {
  const time_limit limit;
  record<failure> failures;
  handles h;
  outlive(h, failures);
  h.held_letters.clear();
  h.held.resize(1);
  const auto living = worker_pool::start("living", worker_pool_options().threads(1));
  const auto idle_within = [&h](std::chrono::nanoseconds wait) -> task<bool> {
    const bool came = co_await h.bus->async_wait_idle_for(wait);
    co_return came;
  };
  CHECK_FALSE(block_on(living, idle_within(1ms)));
  CHECK_FALSE(h.bus->wait_idle(1ms));
  record<bool> ends;
  const auto idle = [&h]() -> task<bool> {
    const bool came = co_await h.bus->async_wait_idle();
    co_return came;
  };
  start_task(living, idle(), [&](outcome<bool>&& came) { ends.add(std::move(came).get()); });
  h.held.clear();
  ends.wait_for(1);
  CHECK(ends.all() == std::vector{true});
}

TEST_CASE("token forms after the runtime's end complete on the handler's own executor with closed", "[S6][P1]") {
  const time_limit limit;
  record<failure> failures;
  handles h;
  outlive(h, failures);
  h.held.clear();
  h.held_letters.clear();
  verdict seen;
  complete_everything(h, lost::ended, seen);
  CHECK(seen.wrong() == "");
}

TEST_CASE("token forms whose handler has no executor throw closed once the pool has ended, and so do empty handles",
          "[S6][P1]") {
  const time_limit limit;
  record<failure> failures;
  handles h;
  const bool io_part_was_used = GENERATE(false, true);
  {
    penstock::runtime rt(workers(2, failures));
    h.fill(rt);
    if (io_part_was_used) CHECK(accepted_on_the_pool(h, tick{6}) == 2);
    (void)rt.shutdown(10ms);
  }
  verdict seen;
  complete_without_an_executor(h, lost::ended, seen);
  handles empty;
  empty.bus = h.bus;
  complete_without_an_executor(empty, lost::ended, seen);
  CHECK(seen.wrong() == "");
}

TEST_CASE("after the runtime's end a snapshot shows a stream while one of its deliveries is held, and then nothing",
          "[S6][S5]") {
  const time_limit limit;
  record<failure> failures;
  handles h;
  outlive(h, failures);
  h.held_letters.clear();
  h.held.resize(1);
  const auto all = h.bus->snapshot();
  REQUIRE(all.subscriptions.size() == 1);
  CHECK(all.subscriptions[0].name == "read");
  CHECK(all.subscriptions[0].state == penstock::subscription_state::stopped);
  CHECK(all.subscriptions[0].ledger.running == 1);
  REQUIRE(h.bus->subscriptions().size() == 1);
  CHECK(h.bus->subscriptions()[0].ledger.running == 1);
  h.held.clear();
  verdict seen;
  look(h, seen);
  CHECK(seen.wrong() == "");
}

// --- in static destructors
// ---------------------------------------------------------------------------------------------

namespace {

/// With static storage duration: its destructor runs after main, when the runtime is gone or about to be.
struct last_reader {
  record<failure> failures;
  handles h;
  std::unique_ptr<penstock::runtime> rt;
  bool runtime_first = false;
  ~last_reader() {
    if (!h.bus) return;
    verdict seen;
    if (!runtime_first) {  // the runtime lives still, and does its work
      seen.expect(h.inbox.try_receive()->value == 5, "try_receive from a living runtime");
      seen.expect(h.ticks.publish({6}).accepted() == 2, "publish to a living runtime");
      seen.expect(h.bus->snapshot().subscriptions.size() == 3, "snapshot() of a living runtime");
    }
    (void)rt->shutdown(10ms);
    rt.reset();
    ask_everything(h, lost::ended, failures, seen);
    _exit(seen.exit_code() == 0 ? 42 : 43);
  }
};

}  // namespace

TEST_CASE("streams, deliveries, awaits, tokens and looks answer closed in static destructors, they do not crash",
          "[S6][S5]") {
  const time_limit limit;
  const bool runtime_first = GENERATE(true, false);
  CHECK(in_child([&]() -> int {
          static last_reader last;
          last.runtime_first = runtime_first;
          last.rt = std::make_unique<penstock::runtime>(workers(2, last.failures));
          last.h.fill(*last.rt);
          if (runtime_first) (void)last.rt->shutdown(10ms);
          std::exit(0);
        }) == "exit 42");
}

TEST_CASE("a runtime that ends in a static destructor releases a reading thread and a waiting task with closed",
          "[S6][S5]") {
  const time_limit limit;
  CHECK(in_child([]() -> int {
          struct last_waiters {
            record<failure> failures;
            record<bool> read;
            record<errc> ends;
            handles h;
            std::unique_ptr<penstock::runtime> rt;
            std::thread reader;
            ~last_waiters() {
              rt.reset();
              reader.join();
              ends.wait_for(1);
              const errc end = ends.all().front();  // closed: its pool ended before it could go on
              _exit(!read.all().front() && (end == errc::none || end == errc::closed) ? 42 : 43);
            }
          };
          static last_waiters last;
          last.rt = std::make_unique<penstock::runtime>(workers(2, last.failures));
          last.h.fill(*last.rt);
          last.h.held.clear();
          last.h.held_letters.clear();
          (void)last.h.inbox.receive();
          (void)last.h.post_box.receive();
          last.reader = std::thread([] { last.read.add(static_cast<bool>(last.h.inbox.receive())); });
          const auto reads = []() -> task<void> {
            const auto got = co_await last.h.post_box.next();
            if (got) throw std::system_error(errc::full, "an event came");
          };
          start_task(last.h.pool, reads(), [](outcome<void>&& came) { last.ends.add(refusal_in(came.error())); });
          eventually([] {
            std::size_t readers = 0;
            for (const auto& each : last.h.bus->snapshot().subscriptions) readers += each.readers;
            return readers == 2;
          });
          std::exit(0);
        }) == "exit 42");
}

// --- after fork
// --------------------------------------------------------------------------------------------------------

namespace {

/// A runtime whose handles are tried in children, and that is looked at again afterwards.
struct parent {
  record<failure> failures;
  penstock::runtime rt{workers(2, failures)};
  handles h;
  parent() { h.fill(rt); }

  template <class Body>
  std::string child(Body body) {
    return in_child([&] {
      verdict seen;
      body(seen);
      return seen.exit_code();
    });
  }
  /// The parent has what it had: a waiting event, four in hand, and a bus that works.
  void check_unaffected() {
    CHECK(h.ticks.publish({6}).accepted() == 2);
    CHECK(h.inbox.receive()->value == 5);
    CHECK(h.inbox.receive()->value == 6);
    for (auto& each : h.held) each.done();
    CHECK(h.post_box.ledger().running == 4);
    h.held_letters.clear();
    CHECK(h.post_box.receive()->text == "a letter");
    CHECK(rt.bus().wait_idle(25s));
    CHECK(h.inbox.ledger().handled == 6);
    CHECK(h.post_box.ledger().handled == 5);
    CHECK(h.sub.ledger().handled == 6);
    CHECK(h.life.use_count() == 1);
    CHECK(failures.size() == 0);
    CHECK(h.bus->subscriptions().size() == 3);
    CHECK(h.sub.close() == close_status::closed);
  }
};

}  // namespace

TEST_CASE("after fork a stream is empty and closed to the child at once, and its parent reads on", "[S6][S5]") {
  const time_limit limit;
  parent p;
  CHECK(p.child([&](verdict& seen) { read_and_close(p.h, seen); }) == "exit 0");
  CHECK(p.child([&](verdict& seen) {
    p.h.inbox = penstock::stream<tick>();  // and so the death of its handle
    seen.expect(!p.h.inbox.receive(), "receive of an empty stream");
  }) == "exit 0");
  p.check_unaffected();
}

TEST_CASE(
    "after fork the child's deliveries end silently, requeue is refused with forked, and the parent's stay its own",
    "[S6][S5]") {
  const time_limit limit;
  parent p;
  CHECK(p.child([&](verdict& seen) { end_deliveries(p.h, lost::forked, p.failures, seen); }) == "exit 0");
  CHECK(p.child([&](verdict& seen) {
    delivery<letter> taken(std::move(p.h.held_letters[0]));
    try {
      const delivery<letter> unwound(std::move(taken));
      throw std::runtime_error("past a delivery");
    } catch (const std::runtime_error&) {
    }
    seen.expect(p.failures.size() == 0, "a delivery past which an exception unwinds in the child");
    p.h.inbox = penstock::stream<tick>();
    p.h.held.clear();  // outlives its stream in the child, too
  }) == "exit 0");
  p.check_unaffected();
}

TEST_CASE("after fork the end of a delivery in the child wakes none of the parent's readers there", "[S6][S5]") {
  const time_limit limit;
  record<failure> failures;
  record<int> came;
  penstock::runtime rt(workers(1, failures));
  auto narrow = rt.bus().stream<tick>("narrow", stream_options().max_in_flight(1));
  const auto publisher = rt.bus().publisher<tick>();
  publisher.publish({1});
  publisher.publish({2});
  auto held = narrow.receive();
  const auto reads = [&]() -> task<int> {
    const auto got = co_await narrow.next();
    co_return got ? got->value : 0;
  };
  start_task(rt.pool("default"), reads(), [&](outcome<int>&& ended) { came.add(ended ? std::move(ended).get() : -1); });
  eventually([&] { return rt.bus().snapshot().subscriptions.at(0).readers == 1; });
  const auto ends_in_a_child = [&](auto end) {
    return in_child([&] {
      end();
      return came.size() == 0 ? 0 : 1;
    });
  };
  CHECK(ends_in_a_child([&] { held.done(); }) == "exit 0");
  CHECK(ends_in_a_child([&] { held.fail("in the child"); }) == "exit 0");
  CHECK(ends_in_a_child([&] { (void)held.requeue(); }) == "exit 0");
  CHECK(ends_in_a_child([&] { held = delivery<tick>(); }) == "exit 0");
  CHECK(ends_in_a_child([&] { narrow.close(); }) == "exit 0");
  CHECK(came.size() == 0);
  held.done();
  came.wait_for(1);
  CHECK(came.all() == std::vector{2});
}

TEST_CASE("after fork operations awaited in the child answer forked, empty or closed, and the parent is unaffected",
          "[S6][P1]") {
  const time_limit limit;
  parent p;
  CHECK(p.child([&](verdict& seen) {
    const auto thrown = run_here(await_everything(p.h, lost::forked, seen));
    seen.expect(!thrown, "a task that awaits");
  }) == "exit 0");
  p.check_unaffected();
}

TEST_CASE("after fork a task on the parent's pool, or on its timers, is refused with forked in the child",
          "[S6][task]") {
  const time_limit limit;
  parent p;
  asio::io_context io;
  const auto parents_own = on_executor(io.get_executor());
  CHECK(p.child([&](verdict& seen) { start_on_the_pool(p.h, lost::forked, seen); }) == "exit 0");
  CHECK(p.child([&](verdict& seen) {
    std::exception_ptr told;
    start_task(parents_own, sleep_a_moment(), [&](outcome<void>&& came) { told = came.error(); });
    io.run();
    seen.expect(refusal_in(told) == errc::forked, "sleep_for");
  }) == "exit 0");
  block_on(p.rt.pool("default"), sleep_a_moment());
  p.check_unaffected();
}

TEST_CASE("after fork token forms complete in the child on the handler's own executor, else they throw forked",
          "[S6][P1]") {
  const time_limit limit;
  parent p;
  const bool io_part_was_used = GENERATE(false, true);
  if (io_part_was_used) {
    CHECK(accepted_on_the_pool(p.h, tick{6}) == 2);
    CHECK(p.h.inbox.receive()->value == 5);
    CHECK(p.h.inbox.receive()->value == 6);
  }
  CHECK(p.child([&](verdict& seen) { complete_everything(p.h, lost::forked, seen); }) == "exit 0");
  CHECK(p.child([&](verdict& seen) { complete_without_an_executor(p.h, lost::forked, seen); }) == "exit 0");
  CHECK(accepted_on_the_pool(p.h, tick{7}) == 2);
  if (!io_part_was_used) CHECK(p.h.inbox.receive()->value == 5);
  CHECK(p.h.inbox.receive()->value == 7);
  CHECK(p.failures.size() == 0);
}

TEST_CASE("after fork snapshot and subscriptions are empty in the child, and in the parent they are not", "[S6]") {
  const time_limit limit;
  parent p;
  CHECK(p.child([&](verdict& seen) { look(p.h, seen); }) == "exit 0");
  CHECK(p.child([&](verdict& seen) { ask_everything(p.h, lost::forked, p.failures, seen); }) == "exit 0");
  CHECK(p.h.bus->snapshot().subscriptions.size() == 3);
  p.check_unaffected();
}
