// G14: each publisher's events stay in order, and a waiting operation that is cancelled as it completes ends exactly
// once. Floor 9, room tests.
#include "../support/gate.hpp"
#include "goal.hpp"

#include <penstock/asio.hpp>
#include <penstock/penstock.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_goals;
using penstock::close_mode;
using penstock::close_status;
using penstock::overflow;
using penstock::subscribe_options;
using penstock::task;
namespace asio = boost::asio;

namespace {

// --- order -----------------------------------------------------------------------------------------------------------

struct stamped {
  std::uint32_t publisher = 0;
  std::uint32_t number = 0;
};

/// What one subscription saw of each publisher.
struct sequence_check {
  static constexpr std::uint32_t most_publishers = 5;
  bool gaps_allowed = false;
  std::uint32_t next[most_publishers] = {};
  std::uint64_t received = 0, inversions = 0, gaps = 0;
  void see(const stamped& e) {
    std::uint32_t& expected = next[e.publisher];
    if (e.number < expected)
      ++inversions;
    else if (e.number > expected && !gaps_allowed)
      ++gaps;
    expected = e.number + 1;
    ++received;
  }
};

task<void> publish_in_task(const penstock::publisher<stamped>& to, std::uint32_t publisher, std::uint32_t count) {
  for (std::uint32_t i = 0; i < count; ++i) co_await to.async_emplace(publisher, i);
}

/// Asks a handler for its next outputs.
struct request {
  std::uint32_t first = 0;
};
constexpr std::uint32_t outputs = 3;  // of one call: the later ones are published while the earlier ones stand in line

struct order_sum {
  std::uint64_t received = 0, due = 0, inversions = 0, gaps = 0;
};

/// `events` received by subscriptions that take every event, on so many workers.
void order_with(unsigned workers, std::uint64_t events, order_sum& sum) {
  constexpr std::uint64_t complete = 4;  // subscriptions that must not miss any
  const std::uint32_t publishers = 2 + workers % 3;
  const auto each = static_cast<std::uint32_t>(events / complete / (publishers + 1) / outputs + 1) * outputs;
  sequence_check narrow, wide, coroutine, reading, lossy;
  lossy.gaps_allowed = true;
  penstock::runtime rt(penstock::runtime_options().pool("default", penstock::worker_pool_options().threads(workers)));
  auto& bus = rt.bus();
  auto one =
      bus.subscribe<stamped>("narrow", subscribe_options().capacity(16), [&](const stamped& e) { narrow.see(e); });
  auto two = bus.subscribe<stamped>("wide", [&](const stamped& e) { wide.see(e); });
  auto three = bus.subscribe<stamped>("coroutine", [&](const stamped& e) -> task<void> {
    if (e.number % 64 == 0) co_await penstock::yield();
    coroutine.see(e);
  });
  auto four = bus.subscribe<stamped>("lossy", subscribe_options().capacity(8).overflow(overflow::drop_oldest),
                                     [&](const stamped& e) { lossy.see(e); });
  auto inbox = bus.stream<stamped>("reader");
  std::thread reader([&] {
    while (auto got = inbox.receive()) reading.see(*got);
  });
  // The last publisher is a handler, whose outputs are parked where there is no seat.
  auto relay = bus.subscribe<request>("relay", [&, to = bus.publisher<stamped>()](const request& e) {
    for (std::uint32_t i = 0; i < outputs; ++i) to.emplace(publishers, e.first + i);
  });
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    const auto to = bus.publisher<request>();
    for (std::uint32_t i = 0; i < each; i += outputs) to.emplace(i);
  });
  for (std::uint32_t p = 0; p < publishers; ++p)
    threads.emplace_back([&, p] {
      const auto to = bus.publisher<stamped>();
      if (p == 0) return penstock::block_on(rt.pool("default"), publish_in_task(to, p, each));
      std::vector<stamped> span;
      for (std::uint32_t i = 0; i < each;) {
        if (i % 64 < 32) {
          to.emplace(p, i++);
          continue;
        }
        span.clear();
        for (; i < each && (span.empty() || i % 16 != 0); ++i) span.push_back({p, i});
        to.publish_many(span);
      }
    });
  for (auto& thread : threads) thread.join();
  for (auto* sub : {&relay, &one, &two, &three, &four})
    if (sub->close(close_mode::drain) != close_status::closed) ++sum.gaps;
  inbox.close(close_mode::drain);
  reader.join();
  sum.due += complete * (publishers + 1) * each;
  for (const auto* all : {&narrow, &wide, &coroutine, &reading, &lossy}) {
    sum.inversions += all->inversions;
    sum.gaps += all->gaps;
    if (!all->gaps_allowed) sum.received += all->received;
  }
}

// --- one completion --------------------------------------------------------------------------------------------------

struct seat {
  std::uint64_t number = 0;
};
constexpr std::uint64_t filler = static_cast<std::uint64_t>(-1);
constexpr std::size_t batch = 128;
constexpr std::size_t stride = 4;  // the two sides meet before every so many operations of a batch

/// What became of each race of one kind. The number of a race is the number of its event.
class races {
 public:
  explicit races(std::uint64_t count) : all_(count) {}

  /// It completed, with so many of what it waited for; 0: it was cancelled, and nothing came of it.
  void ended_with(std::uint64_t race, std::uint64_t accepted) {
    all_[race].completions.fetch_add(1);
    all_[race].accepted.store(static_cast<std::uint8_t>(accepted));
    const std::lock_guard lock(m_);
    ++ended_;
    changed_.notify_all();
  }
  void received(std::uint64_t race) { all_[race].received.fetch_add(1); }
  /// A task has come to where it waits.
  void waits() {
    const std::lock_guard lock(m_);
    ++waiting_;
    changed_.notify_all();
  }
  void until_waiting(std::uint64_t count) {
    std::unique_lock lock(m_);
    changed_.wait(lock, [&] { return waiting_ >= count; });
  }
  void until_ended(std::uint64_t count) {
    std::unique_lock lock(m_);
    changed_.wait(lock, [&] { return ended_ >= count; });
  }

  std::uint64_t size() const { return all_.size(); }
  std::uint64_t won() const {
    std::uint64_t count = 0;
    for (const one& each : all_) count += each.accepted > 0 ? 1 : 0;
    return count;
  }
  /// Ended once, and its event passed exactly as often as the operation says.
  std::uint64_t exact(bool with_events) const {
    std::uint64_t count = 0;
    for (const one& each : all_)
      count += each.completions == 1 && (!with_events || each.received == each.accepted) ? 1 : 0;
    return count;
  }
  /// How many events came to exactly one reader.
  std::uint64_t seen_once() const {
    std::uint64_t count = 0;
    for (const one& each : all_) count += each.received == 1 ? 1 : 0;
    return count;
  }

 private:
  struct one {
    std::atomic<std::uint8_t> completions{0}, accepted{0}, received{0};
  };
  std::vector<one> all_;
  std::mutex m_;
  std::condition_variable changed_;
  std::uint64_t waiting_ = 0, ended_ = 0;
};

/// In which order a batch is cancelled: with the completions, against them, or every other one first.
std::size_t turn(std::uint64_t round, std::size_t i, std::size_t of) {
  if (round % 3 == 0) return i;
  if (round % 3 == 1) return of - 1 - i;
  return i < of / 2 ? 2 * i : 2 * (i - of / 2) + 1;
}

/// Lets both sides of a race of `count` operations begin each stride at the same instant: `step(from, to)`.
template <class Step>
void in_strides(std::barrier<>& meet, std::size_t count, Step step) {
  for (std::size_t from = 0; from < count; from += stride) {
    meet.arrive_and_wait();
    step(from, std::min(from + stride, count));
  }
}

/// Runs `cancel(i)` for each operation of a batch, on a thread of its own, beside `complete(from, to)` on this one.
class opponent {
 public:
  opponent() : thread_([this] { run(); }) {}
  ~opponent() {
    cancel_ = nullptr;
    start_.arrive_and_wait();
    thread_.join();
  }
  template <class Cancel, class Complete>
  void race(std::size_t count, Cancel cancel, Complete complete) {
    penstock::unique_function<void()> running([this, count, cancel] {
      in_strides(meet_, count, [&](std::size_t from, std::size_t to) {
        for (std::size_t i = from; i < to; ++i) cancel(i);
      });
    });
    cancel_ = &running;
    start_.arrive_and_wait();
    in_strides(meet_, count, complete);
    start_.arrive_and_wait();
  }

 private:
  void run() {
    for (;;) {
      start_.arrive_and_wait();
      if (cancel_ == nullptr) return;
      (*cancel_)();
      start_.arrive_and_wait();
    }
  }
  penstock::unique_function<void()>* cancel_ = nullptr;  // handed over by the barrier
  std::barrier<> start_{2}, meet_{2};
  std::thread thread_;
};

template <class Work>
void start_race(penstock::runtime& rt, races& all, std::uint64_t race, Work work, std::stop_token stop) {
  penstock::start_task(
      rt.pool("default"), std::move(work),
      [&all, race](penstock::outcome<std::uint64_t>&& came) noexcept {
        all.ended_with(race, came ? std::move(came).get() : 0);
      },
      std::move(stop));
}

task<std::uint64_t> publishes(const penstock::publisher<seat>& to, std::uint64_t race) {
  const auto result = co_await to.async_emplace(race);
  co_return result.accepted();
}
task<std::uint64_t> receives(const penstock::stream<seat>& from, races& all) {
  all.waits();
  const auto got = co_await from.next();
  all.received(got->number);
  co_return 1;
}
task<std::uint64_t> sleeps(std::chrono::nanoseconds wait, races& all) {
  all.waits();
  co_await penstock::sleep_for(wait);
  co_return 1;
}

penstock::runtime_options two_workers() {
  return penstock::runtime_options().pool("default", penstock::worker_pool_options().threads(2));
}
bool read_one(const penstock::stream<seat>& from, races& all) {
  const auto got = from.try_receive();
  if (got && got->number != filler) all.received(got->number);
  return static_cast<bool>(got);
}
void read_all(const penstock::stream<seat>& from, races& all) {
  while (read_one(from, all)) {
  }
}

/// Two channels of one seat, both full: a publish stands in two lines, and each of them ends in its own way.
struct narrow_pair {
  explicit narrow_pair(penstock::event_bus& bus)
      : to(bus.publisher<seat>()),
        one(bus.stream<seat>("one", penstock::stream_options().capacity(1))),
        two(bus.stream<seat>("two", penstock::stream_options().capacity(1))) {}
  void fill() const { to.publish({filler}); }
  void until_waiting(std::size_t count) const {
    penstock_test::eventually([&] { return one.ledger().pending == count && two.ledger().pending == count; });
  }
  void read_some(races& all, std::size_t most) const {
    for (; most > 0; --most) {
      read_one(one, all);
      read_one(two, all);
    }
  }
  void read_rest(races& all) const {
    read_all(one, all);
    read_all(two, all);
  }
  const penstock::publisher<seat> to;
  const penstock::stream<seat> one, two;
};

/// A task waits for a seat; seats come free while it is cancelled. Its event is read exactly if the publish says
/// accepted.
void race_publishing_tasks(races& all) {
  penstock::runtime rt(two_workers());
  const narrow_pair pair(rt.bus());
  opponent other;
  for (std::uint64_t first = 0, round = 0; first < all.size(); first += batch, ++round) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(batch, all.size() - first));
    std::vector<std::stop_source> stops(count);
    pair.fill();
    for (std::size_t i = 0; i < count; ++i)
      start_race(rt, all, first + i, publishes(pair.to, first + i), stops[i].get_token());
    pair.until_waiting(count);
    other.race(
        count, [&](std::size_t i) { stops[turn(round, i, count)].request_stop(); },
        [&](std::size_t from, std::size_t to) { pair.read_some(all, to - from); });
    all.until_ended(first + count);
    pair.read_rest(all);
  }
}

/// A task waits for an event; events come while it is cancelled. An event that nobody took is still there.
void race_receiving_tasks(races& all, std::uint64_t& lost) {
  penstock::runtime rt(two_workers());
  auto inbox = rt.bus().stream<seat>("wide", penstock::stream_options().capacity(2 * batch));
  const auto to = rt.bus().publisher<seat>();
  opponent other;
  for (std::uint64_t first = 0, round = 0; first < all.size(); first += batch, ++round) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(batch, all.size() - first));
    std::vector<std::stop_source> stops(count);
    for (std::size_t i = 0; i < count; ++i) start_race(rt, all, first + i, receives(inbox, all), stops[i].get_token());
    all.until_waiting(first + count);
    other.race(
        count, [&](std::size_t i) { stops[turn(round, i, count)].request_stop(); },
        [&](std::size_t from, std::size_t to_end) {
          for (std::size_t i = from; i < to_end; ++i) to.publish({first + i});
        });
    all.until_ended(first + count);
    read_all(inbox, all);
  }
  // Which task got which event is open; each event came to exactly one of them, or was left.
  lost = all.size() - all.seen_once();
}

/// A timer fires while its task is cancelled: tasks begin to sleep on one side and are cancelled on the other.
void race_sleeping_tasks(races& all) {
  penstock::runtime rt(two_workers());
  opponent other;
  for (std::uint64_t first = 0, round = 0; first < all.size(); first += batch, ++round) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(batch, all.size() - first));
    std::vector<std::stop_source> stops(count);
    for (std::size_t i = 0; i < count; ++i)
      start_race(rt, all, first + i, sleeps(std::chrono::microseconds(20 + 2 * i), all), stops[i].get_token());
    other.race(
        count, [&](std::size_t i) { stops[turn(round, i, count)].request_stop(); }, [](std::size_t, std::size_t) {});
    all.until_ended(first + count);
  }
}

/// One thread that runs an io_context: completions and cancellations of token operations.
class service {
 public:
  asio::io_context io{1};
  service() : work_(asio::make_work_guard(io)), thread_([this] { io.run(); }) {}
  ~service() {
    work_.reset();
    thread_.join();
  }

 private:
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::thread thread_;
};

/// Operations with a completion token on an io_context: `begin` starts one there, its slot is told to stop there, and
/// `complete` decides some from this thread.
template <class Begin, class Ready, class Complete, class After>
void race_tokens(races& all, Begin begin, Ready ready, Complete complete, After after) {
  service own;
  for (std::uint64_t first = 0, round = 0; first < all.size(); first += batch, ++round) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(batch, all.size() - first));
    std::deque<asio::cancellation_signal> signals(count);
    asio::post(own.io, [&] {
      for (std::size_t i = 0; i < count; ++i) {
        begin(own.io, signals[i].slot(), first + i);
        all.waits();
      }
    });
    all.until_waiting(first + count);
    ready(count);
    std::barrier<> meet(2);
    asio::post(own.io, [&, round] {
      in_strides(meet, count, [&](std::size_t from, std::size_t to) {
        for (std::size_t i = from; i < to; ++i) signals[turn(round, i, count)].emit(asio::cancellation_type::terminal);
      });
    });
    in_strides(meet, count, [&](std::size_t from, std::size_t to) { complete(first + from, to - from); });
    all.until_ended(first + count);
    after();
    penstock_test::gate passed;  // the signals may go when the thread is out of the loop above
    asio::post(own.io, [&] { passed.open(); });
    passed.wait();
  }
}

void race_publishing_tokens(races& all) {
  penstock::runtime rt(two_workers());
  const narrow_pair pair(rt.bus());
  pair.fill();
  race_tokens(
      all,
      [&](asio::io_context& io, asio::cancellation_slot slot, std::uint64_t race) {
        auto done = [&all, race](boost::system::error_code, penstock::publish_result result) {
          all.ended_with(race, result.accepted());
        };
        pair.to.async_publish(seat{race}, asio::bind_cancellation_slot(slot, asio::bind_executor(io, std::move(done))));
      },
      [&](std::size_t count) { pair.until_waiting(count); },
      [&](std::uint64_t, std::size_t count) { pair.read_some(all, count); },
      [&] {
        pair.read_rest(all);
        pair.fill();
      });
}

void race_receiving_tokens(races& all, std::uint64_t& lost) {
  penstock::runtime rt(two_workers());
  auto inbox = rt.bus().stream<seat>("wide", penstock::stream_options().capacity(2 * batch));
  const auto to = rt.bus().publisher<seat>();
  race_tokens(
      all,
      [&](asio::io_context& io, asio::cancellation_slot slot, std::uint64_t race) {
        inbox.async_receive(asio::bind_cancellation_slot(
            slot, asio::bind_executor(io, [&all, race](boost::system::error_code ec, penstock::delivery<seat> got) {
              if (got) all.received(got->number);
              all.ended_with(race, !ec && got ? 1 : 0);
            })));
      },
      [](std::size_t) {},
      [&](std::uint64_t first, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) to.publish({first + i});
      },
      [&] { read_all(inbox, all); });
  lost = all.size() - all.seen_once();
}

/// A thread waits in `publish` with a stop token; the token is asked as a seat comes free.
void race_publishing_threads(races& all) {
  constexpr std::size_t waiters = 8;
  penstock::runtime rt(two_workers());
  const narrow_pair pair(rt.bus());
  opponent other;
  const std::uint64_t rounds = all.size() / waiters;
  std::vector<std::stop_source> stops(waiters);
  std::barrier<> begin(waiters + 1);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < waiters; ++t)
    threads.emplace_back([&, t] {
      for (std::uint64_t round = 0; round < rounds; ++round) {
        begin.arrive_and_wait();
        const std::uint64_t race = round * waiters + t;
        all.ended_with(race, pair.to.publish(seat{race}, stops[t].get_token()).accepted());
      }
    });
  for (std::uint64_t round = 0; round < rounds; ++round) {
    for (auto& each : stops) each = std::stop_source();
    pair.fill();
    begin.arrive_and_wait();
    pair.until_waiting(waiters);
    other.race(
        waiters, [&](std::size_t i) { stops[turn(round, i, waiters)].request_stop(); },
        [&](std::size_t from, std::size_t to_end) { pair.read_some(all, to_end - from); });
    all.until_ended((round + 1) * waiters);
    pair.read_rest(all);
  }
  for (auto& each : threads) each.join();
}

struct race_sum {
  std::uint64_t races = 0, exact = 0, won = 0, lost = 0;
};
/// `by_number`: the event of a race is its operation's own, so that each event says whether its operation told the
/// truth.
template <class Run>
void run_races(report& out, race_sum& sum, const char* name, std::uint64_t count, bool by_number, Run run) {
  races all(count);
  std::uint64_t lost = 0;
  run(all, lost);
  const std::uint64_t exact = all.exact(by_number), won = all.won();
  sum.races += count, sum.exact += exact, sum.won += won, sum.lost += lost;
  out.note(std::string(name) + ": " + grouped(exact) + " of " + grouped(count) + " ended exactly once, " +
           grouped(won) + " completed, " + grouped(count - won) + " cancelled, " + grouped(lost) +
           " events lost or repeated");
}

}  // namespace

int main() {
  const penstock_test::time_limit limit(most_seconds());
  report out;

  const std::uint64_t events = sized(10'000'000, 100'000'000);
  order_sum order;
  for (unsigned workers = 2; workers <= 8; ++workers) order_with(workers, events / 7 + 1, order);
  out.figure("G14 order of each publisher",
             grouped(order.inversions) + " inversions and " + grouped(order.gaps) + " gaps in " +
                 grouped(order.received) + " of " + grouped(order.due) + " events, 2 to 8 workers",
             "0 inversions", order.inversions + order.gaps == 0 && order.received == order.due && order.due >= events);

  const std::uint64_t count = sized(100'000, 1'000'000);
  race_sum sum;
  const auto percent_of = [&](std::uint64_t share) { return count * share / 100; };
  run_races(out, sum, "tasks in async_publish", percent_of(35), true,
            [](races& all, std::uint64_t&) { race_publishing_tasks(all); });
  run_races(out, sum, "tasks in next", percent_of(25), false, race_receiving_tasks);
  run_races(out, sum, "tasks in sleep_for", percent_of(10), false,
            [](races& all, std::uint64_t&) { race_sleeping_tasks(all); });
  run_races(out, sum, "async_publish with a token", percent_of(11), true,
            [](races& all, std::uint64_t&) { race_publishing_tokens(all); });
  run_races(out, sum, "async_receive with a token", percent_of(15), false, race_receiving_tokens);
  run_races(out, sum, "threads in publish", percent_of(4), true,
            [](races& all, std::uint64_t&) { race_publishing_threads(all); });
  out.figure("G14 one completion",
             "exactly one in " + grouped(sum.exact) + " of " + grouped(sum.races) + " races of cancel and complete (" +
                 grouped(sum.won) + " completed, " + grouped(sum.races - sum.won) + " cancelled), " +
                 grouped(sum.lost) + " events lost or repeated",
             "all, 0", sum.exact == sum.races && sum.lost == 0 && sum.races >= count);
  return out.finish();
}
