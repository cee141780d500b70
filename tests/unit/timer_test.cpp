// A timer object: set, waited for by many, called off, set anew, and gone.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"

#include <penstock/penstock.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <optional>
#include <stop_token>
#include <system_error>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using namespace penstock_test;
using penstock::errc;
using penstock::steady_time;
using penstock::task;
using penstock::timer;

namespace {

/// What one wait gave, and when.
struct seen {
  bool came = false;
  steady_time when{};
};

task<seen> wait_for(const timer& due, const penstock::clock& time) {
  seen result;
  result.came = co_await due.async_wait();
  result.when = time.now();
  co_return result;
}

task<void> then_tell(const timer& due, record<bool>& told) {
  const bool came = co_await due.async_wait();
  told.add(came);
}

void start_waiting(const penstock::scheduler_ptr& pool, const timer& due, record<bool>& told, record<int>& ended,
                   std::stop_token stop = {}) {
  penstock::start_task(
      pool, then_tell(due, told),
      [&ended](penstock::outcome<void>&& came) noexcept { ended.add(came.error() ? 1 : 0); }, std::move(stop));
}

/// Started on a pool of one worker, a task that ends after this one has begun to wait shows that it waits.
task<void> turn() { co_await penstock::yield(); }

}  // namespace

TEST_CASE("a timer's wait ends at its instant and not before, for each who waits", "[timer]") {
  const time_limit limit;
  penstock::runtime rt;
  const auto pool = rt.pool("default");
  const auto begun = rt.time().now();
  const timer due(pool, 5ms);
  CHECK(due.expiry() >= begun + 5ms);
  record<bool> told;
  record<int> ended;
  for (int i = 0; i < 3; ++i) start_waiting(pool, due, told, ended);
  const seen own = penstock::block_on(pool, wait_for(due, rt.time()));
  CHECK(own.came);
  CHECK(own.when >= due.expiry());
  ended.wait_for(3);
  CHECK(told.all() == std::vector<bool>{true, true, true});
}

TEST_CASE("a timer that was never set, or whose instant has passed, is due at once", "[timer]") {
  const time_limit limit;
  penstock::runtime rt;
  const auto pool = rt.pool("default");
  timer due(pool);
  CHECK(penstock::block_on(pool, wait_for(due, rt.time())).came);
  due.expires_after(-1h);
  CHECK(penstock::block_on(pool, wait_for(due, rt.time())).came);
  due.expires_after(std::chrono::nanoseconds::min());
  CHECK(penstock::block_on(pool, wait_for(due, rt.time())).came);
}

TEST_CASE("a timer may be made with its instant, and then is due at that", "[timer]") {
  const time_limit limit;
  penstock::runtime rt;
  const auto& time = rt.pool("default")->time();
  const steady_time instant = time.now() + 5ms;
  const timer due(rt.pool("default"), instant);
  CHECK(due.expiry() == instant);
  const seen result = penstock::block_on(rt.pool("default"), wait_for(due, time));
  CHECK(result.came);
  CHECK(result.when >= instant);
}

TEST_CASE("calling a timer off tells each who waits once, and says how many they were", "[timer]") {
  const time_limit limit;
  penstock::runtime_options options;
  options.pool("default", penstock::worker_pool_options().threads(1));
  penstock::runtime rt(std::move(options));
  const auto pool = rt.pool("default");
  timer due(pool, std::chrono::hours::max());
  record<bool> told;
  record<int> ended;
  CHECK(due.cancel() == 0);
  for (int i = 0; i < 3; ++i) start_waiting(pool, due, told, ended);
  penstock::block_on(pool, turn());
  SECTION("by cancel") { CHECK(due.cancel() == 3); }
  SECTION("by setting it anew") { CHECK(due.expires_after(1h) == 3); }
  SECTION("by its death") { due = timer(pool); }
  ended.wait_for(3);
  CHECK(told.all() == std::vector<bool>{false, false, false});
  CHECK(ended.all() == std::vector<int>{0, 0, 0});
  CHECK(due.cancel() == 0);
}

TEST_CASE("a task that is asked to stop leaves its timer, which goes on for the others", "[timer]") {
  const time_limit limit;
  penstock::runtime_options options;
  options.pool("default", penstock::worker_pool_options().threads(1));
  penstock::runtime rt(std::move(options));
  const auto pool = rt.pool("default");
  timer due(pool, 1h);
  record<bool> told;
  record<int> stopped, goes_on;
  std::stop_source stop;
  start_waiting(pool, due, told, stopped, stop.get_token());
  start_waiting(pool, due, told, goes_on);
  penstock::block_on(pool, turn());
  stop.request_stop();
  stopped.wait_for(1);
  CHECK(stopped.all() == std::vector<int>{1});
  CHECK(told.size() == 0);
  CHECK(due.cancel() == 1);
  goes_on.wait_for(1);
  CHECK(goes_on.all() == std::vector<int>{0});
}

TEST_CASE("a period kept by a timer's own expiry does not drift", "[timer]") {
  const time_limit limit;
  penstock::runtime rt;
  const auto pool = rt.pool("default");
  timer due(pool, 1ms);
  const auto first = due.expiry();
  for (int i = 1; i <= 5; ++i) {
    const seen now = penstock::block_on(pool, wait_for(due, rt.time()));
    CHECK(now.came);
    CHECK(due.expiry() == first + (i - 1) * 1ms);
    due.expires_at(due.expiry() + 1ms);
  }
}

TEST_CASE(
    "a timer without a pool is refused, one that was moved from is called off, one whose runtime has ended is closed",
    "[timer][S6]") {
  const time_limit limit;
  CHECK_THROWS_AS(timer(penstock::scheduler_ptr()), std::system_error);
  std::optional<penstock::runtime> rt(std::in_place);
  penstock::runtime other;
  const auto pool = rt->pool("default");
  timer due(pool, 1h);
  record<bool> told;
  record<int> ended;
  record<errc> refused;
  penstock::start_task(other.pool("default"), then_tell(due, told), [&](penstock::outcome<void>&& came) noexcept {
    try {
      std::move(came).get();
    } catch (const std::system_error& thrown) {
      refused.add(static_cast<errc>(thrown.code().value()));
    } catch (...) {
    }
    ended.add(1);
  });
  penstock::block_on(other.pool("default"), turn());
  rt.reset();
  ended.wait_for(1);
  CHECK(told.size() == 0);
  CHECK(refused.all() == std::vector<errc>{errc::closed});
  CHECK_THROWS_AS(penstock::block_on(other.pool("default"), then_tell(due, told)), std::system_error);
  const timer moved(std::move(due));
  CHECK_FALSE(
      penstock::block_on(other.pool("default"), wait_for(due, other.time())).came);  // NOLINT: what is left of it
  CHECK(due.cancel() == 0);
  CHECK(due.expires_after(1h) == 0);
  CHECK(due.expiry() == steady_time{});
}
