// Peer: Boost.Asio's concurrent_channel, one per subscriber, read by coroutines on a thread_pool; plain, and with care.
// Floor 9, bench.
#include "../event.hpp"
#include "../further.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/concurrent_channel.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace bench {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

enum class written { plain, with_care };

/// Producers are threads here as in every system, so each has an io_context of its own and runs on it whatever it waits
/// for: a full channel puts it to sleep there. Plain, a producer is a coroutine that awaits each async_send, as a
/// service written with coroutines would. With care it needs none: it asks try_send, and awaits async_send only when
/// the channel is full. use_future would allocate and wake a condition variable for each event, and a coroutine on the
/// pool would take the consumers' threads. An event that is published by itself is awaited without a coroutine either
/// way.
template <class Sink, written How>
class asio_channel {
 public:
  using E = typename Sink::event_type;

  asio_channel(const shape& run, std::span<Sink> sinks) : pool_(run.workers) {
    for (unsigned i = 0; i < run.producers; ++i) producers_.push_back(std::make_unique<asio::io_context>(1));
    for (std::size_t i = 0; i < sinks.size(); ++i)
      channels_.push_back(std::make_unique<channel>(pool_.get_executor(), run.capacity));
    for (std::size_t i = 0; i < sinks.size(); ++i)
      asio::co_spawn(pool_, consume(*channels_[i], sinks[i]), asio::detached);
  }
  ~asio_channel() { finish(); }

  void publish(unsigned producer, E&& event) {
    const std::size_t last = channels_.size() - 1;
    for (std::size_t i = 0; i < last; ++i) send(*producers_[producer], *channels_[i], E(event));
    send(*producers_[producer], *channels_[last], std::move(event));
  }

  void produce(unsigned producer, std::uint64_t events, std::int64_t now_ns) requires(How == written::plain) {
    asio::io_context& mine = *producers_[producer];
    asio::co_spawn(mine, produce_each(producer, events, now_ns), asio::detached);
    mine.run();
    mine.restart();
  }

  std::string finish() {
    for (auto& channel : channels_) channel->close();
    pool_.join();
    return refused_ == 0 ? std::string() : std::string("events were refused: ") + std::to_string(refused_);
  }

 private:
  using channel = asio::experimental::concurrent_channel<void(error_code, E)>;

  asio::awaitable<void> produce_each(unsigned producer, std::uint64_t events, std::int64_t now_ns) {
    for (std::uint64_t sequence = 0; sequence < events; ++sequence) {
      const E event = E::make(producer, sequence, now_ns);
      for (auto& channel : channels_) {
        const auto [error] = co_await channel->async_send(error_code(), event, asio::as_tuple(asio::use_awaitable));
        if (error) ++refused_;
      }
    }
  }

  void send(asio::io_context& mine, channel& to, E&& event) {
    if constexpr (How == written::with_care)
      if (to.try_send(error_code(), std::move(event))) return;
    // What try_send refused it did not take.
    to.async_send(error_code(), std::move(event), asio::bind_executor(mine, [this](error_code error) {
                    if (error) ++refused_;
                  }));
    mine.run();
    mine.restart();
  }

  /// Until the channel is closed.
  static asio::awaitable<void> consume(channel& from, Sink& sink) {
    while (true) {
      if constexpr (How == written::with_care) {
        constexpr unsigned turn = 64;
        unsigned taken = 0;
        while (taken < turn && from.try_receive([&sink](error_code error, const E& event) {
          if (!error) sink.take(event);
        }))
          ++taken;
        if (taken == turn) {
          co_await asio::post(asio::use_awaitable);  // the next subscriber's turn
          continue;
        }
      }
      const auto [error, event] = co_await from.async_receive(asio::as_tuple(asio::use_awaitable));
      if (error) co_return;
      sink.take(event);
    }
  }

  asio::thread_pool pool_;
  std::vector<std::unique_ptr<asio::io_context>> producers_;
  std::vector<std::unique_ptr<channel>> channels_;
  std::atomic<std::uint64_t> refused_{0};
};

template <class Sink>
using asio_plain = asio_channel<Sink, written::plain>;
template <class Sink>
using asio_with_care = asio_channel<Sink, written::with_care>;

const bool plain = register_system({
    .name = "Asio channel",
    .mode = "plain",
    .kind = system_kind::bounded_parking,
    .note = "a concurrent_channel per subscriber; coroutines co_await async_send and async_receive for each event",
    .apart = "its producers are coroutines, and a single event comes from outside; its consumers wait as with care",
    .divided = {.to_one = 5, .to_several = 5},
    .stream = run_stream<asio_plain, 1>,
});
const bool with_care = register_system({
    .name = "Asio channel",
    .mode = "with care",
    .kind = system_kind::bounded_parking,
    .note = "the same, try_send and up to 64 try_receive before anything is awaited",
    .divided = {.to_one = 2, .to_several = 2},
    .stream = run_stream<asio_with_care, 1>,
    .allocations = run_allocations<asio_with_care>,
    .further = further_runs_of<asio_with_care>(),
});

}  // namespace
}  // namespace bench
