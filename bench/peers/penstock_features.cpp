// penstock with one optional feature on at a time: what each costs beside the plain way, in workload K.
// Floor 9, bench.
#include "../event.hpp"
#include "../run_system.hpp"

#include <penstock/penstock.hpp>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace bench {
namespace {

using namespace std::chrono_literals;

/// A runtime with as many workers as the run asks for, and its orderly end.
class on_runtime {
 public:
  explicit on_runtime(const shape& run, bool watched = true)
      : runtime_(penstock::runtime_options()
                     .pool("default", penstock::worker_pool_options().threads(run.workers))
                     .watchdog(penstock::watchdog_options().enabled(watched))) {}
  std::string finish() {
    const auto report = runtime_.shutdown(10s, "the run is over");
    return report.clean() ? std::string() : to_string(report);
  }

 protected:
  penstock::event_bus& bus() { return runtime_.bus(); }
  penstock::runtime runtime_;
  std::vector<penstock::subscription> subscriptions_;
};

template <class Sink>
penstock::task<void> take_in_a_coroutine(Sink* sink, const typename Sink::event_type& event) {
  sink->take(event);
  co_return;
}

enum class feature { metadata, filter, retry, coroutine, async_publish, no_watchdog };

template <class Sink, feature On>
class with_feature : public on_runtime {
 public:
  using E = typename Sink::event_type;

  with_feature(const shape& run, std::span<Sink> sinks)
      : on_runtime(run, On != feature::no_watchdog),
        topic_(bus().template topic<E>(penstock::topic_options().metadata(
            On == feature::metadata ? penstock::metadata::coarse : penstock::metadata::off))),
        events_(topic_.publisher()) {
    for (std::size_t i = 0; i < sinks.size(); ++i) {
      penstock::subscribe_options options;
      options.capacity(run.capacity);
      if (On == feature::filter) options.filter<E>([](const E&) { return true; });
      if (On == feature::retry) options.retry(penstock::retry_policy());
      const std::string name = "subscriber " + std::to_string(i);
      if constexpr (On == feature::coroutine)
        subscriptions_.push_back(topic_.subscribe(
            name, std::move(options), [sink = &sinks[i]](const E& event) { return take_in_a_coroutine(sink, event); }));
      else
        subscriptions_.push_back(
            topic_.subscribe(name, std::move(options), [sink = &sinks[i]](const E& event) { sink->take(event); }));
    }
  }

  void publish(unsigned, E&& event) { events_.publish(std::move(event)); }
  /// For async_publish: a task that publishes one event after the other.
  void publish_many(unsigned, std::span<const E> events) {
    auto work = publish_each(events_, events);
    penstock::block_on(runtime_.pool("default"), std::move(work));
  }

 private:
  static penstock::task<void> publish_each(const penstock::publisher<E>& to, std::span<const E> events) {
    for (const E& event : events) co_await to.async_publish(event);
  }
  penstock::topic<E> topic_;
  penstock::publisher<E> events_;
};

template <class Sink>
class read_by_threads : public on_runtime {
 public:
  using E = typename Sink::event_type;

  read_by_threads(const shape& run, std::span<Sink> sinks) : on_runtime(run), events_(bus().template publisher<E>()) {
    for (std::size_t i = 0; i < sinks.size(); ++i)
      streams_.push_back(
          bus().template stream<E>("reader " + std::to_string(i), penstock::stream_options().capacity(run.capacity)));
    for (std::size_t i = 0; i < sinks.size(); ++i)
      readers_.emplace_back([stream = &streams_[i], sink = &sinks[i]] {
        while (auto got = stream->receive()) sink->take(*got);
      });
  }
  ~read_by_threads() {
    for (auto& stream : streams_) stream.close();
    for (auto& reader : readers_)
      if (reader.joinable()) reader.join();
  }
  void publish(unsigned, E&& event) { events_.publish(std::move(event)); }
  std::string finish() {
    for (auto& stream : streams_) stream.close(penstock::close_mode::drain);
    for (auto& reader : readers_) reader.join();
    return on_runtime::finish();
  }

 private:
  penstock::publisher<E> events_;
  std::vector<penstock::stream<E>> streams_;
  std::vector<std::thread> readers_;
};

template <class Sink>
using with_metadata = with_feature<Sink, feature::metadata>;
template <class Sink>
using with_filter = with_feature<Sink, feature::filter>;
template <class Sink>
using with_retry = with_feature<Sink, feature::retry>;
template <class Sink>
using with_coroutines = with_feature<Sink, feature::coroutine>;
template <class Sink>
using with_async_publish = with_feature<Sink, feature::async_publish>;
template <class Sink>
using without_watchdog = with_feature<Sink, feature::no_watchdog>;

bool add(const char* name, const char* note, stream_outcome (*stream)(const shape&), unsigned span = 1) {
  system_entry entry;
  entry.name = name;
  entry.mode = default_mode;
  entry.kind = system_kind::subject;
  entry.note = note;
  entry.span = span;
  entry.feature = true;
  entry.stream = stream;
  return register_system(std::move(entry));
}

/// Another topic of the bus that has everything on, and gets no event while the run lasts.
template <class Sink>
class beside_features : public on_runtime {
 public:
  using E = typename Sink::event_type;

  beside_features(const shape& run, std::span<Sink> sinks)
      : on_runtime(run),
        other_(
            bus().template topic<E>(penstock::topic_options().name("elsewhere").metadata(penstock::metadata::coarse))),
        events_(bus().template publisher<E>()) {
    auto options = [] {
      penstock::subscribe_options made;
      made.filter<E>([](const E&) { return true; });
      made.retry(penstock::retry_policy());
      return made;
    };
    subscriptions_.push_back(other_.subscribe("elsewhere", options(), [](const E&) {}));
    subscriptions_.push_back(other_.subscribe("coroutine elsewhere", options(), [](const E&) { return nothing(); }));
    for (std::size_t i = 0; i < sinks.size(); ++i)
      subscriptions_.push_back(bus().template subscribe<E>("subscriber " + std::to_string(i),
                                                           penstock::subscribe_options().capacity(run.capacity),
                                                           [sink = &sinks[i]](const E& event) { sink->take(event); }));
    for (std::uint64_t i = 0; i < 100; ++i) other_.publisher().publish(E::make(0, i, 0));
    bus().wait_idle(10s);
  }
  void publish(unsigned, E&& event) { events_.publish(std::move(event)); }

 private:
  static penstock::task<void> nothing() { co_return; }
  penstock::topic<E> other_;
  penstock::publisher<E> events_;
};

/// A thread that reads every ledger each millisecond, far more often than any scraper.
template <class Sink>
class with_metrics : public on_runtime {
 public:
  using E = typename Sink::event_type;

  with_metrics(const shape& run, std::span<Sink> sinks) : on_runtime(run), events_(bus().template publisher<E>()) {
    for (std::size_t i = 0; i < sinks.size(); ++i)
      subscriptions_.push_back(bus().template subscribe<E>("subscriber " + std::to_string(i),
                                                           penstock::subscribe_options().capacity(run.capacity),
                                                           [sink = &sinks[i]](const E& event) { sink->take(event); }));
    reader_ = std::thread([this] { read(); });
  }
  ~with_metrics() { end_reader(); }
  void publish(unsigned, E&& event) { events_.publish(std::move(event)); }
  std::string finish() {
    end_reader();
    return on_runtime::finish();
  }

 private:
  void read() {
    std::uint64_t handled = 0;
    for (std::unique_lock lock(mutex_); !over_; changed_.wait_for(lock, 1ms)) {
      handled = 0;
      for (const auto& subscription : subscriptions_) handled += subscription.ledger().handled;
    }
    handled_ = handled;
  }
  void end_reader() {
    {
      std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    if (reader_.joinable()) reader_.join();
  }
  penstock::publisher<E> events_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::uint64_t handled_ = 0;
  std::thread reader_;
};

const bool added[] = {
    add("penstock + metadata", "a topic that keeps publish times and losses", run_stream<with_metadata, 1>),
    add("penstock + filter", "a filter that lets every event through", run_stream<with_filter, 1>),
    add("penstock + retry", "a retry policy, and no failure", run_stream<with_retry, 1>),
    add("penstock coroutines", "a coroutine handler that does not wait", run_stream<with_coroutines, 1>),
    add("penstock async_publish", "published from a task, 64 events per task", run_stream<with_async_publish, 64>, 64),
    add("penstock async_publish, long task", "published from a task, 1,024 events per task",
        run_stream<with_async_publish, 1024>, 1024),
    add("penstock, no watchdog", "a runtime whose watchdog is off", run_stream<without_watchdog, 1>),
    add("penstock + metrics", "a thread that reads all ledgers each millisecond", run_stream<with_metrics, 1>),
    add("penstock, features elsewhere", "nothing on here; another topic of the bus has everything on, without traffic",
        run_stream<beside_features, 1>),
    add("penstock stream", "a thread per subscriber that receives", run_stream<read_by_threads, 1>),
};

}  // namespace
}  // namespace bench
