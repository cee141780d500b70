// Peer of workload H: Boost.Asio's thread_pool, with post and with co_spawn.
// Floor 9, bench.
#include "../tasks.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>

#include <string>

namespace bench {
namespace {

class on_thread_pool {
 public:
  explicit on_thread_pool(unsigned workers) : pool_(workers) {}
  std::string finish(std::uint64_t) {
    pool_.join();
    return {};
  }

 protected:
  boost::asio::thread_pool pool_;
};

class posted : public on_thread_pool {
 public:
  using on_thread_pool::on_thread_pool;
  void spawn(task_counter& counter) {
    boost::asio::post(pool_, [&counter] { counter.ran(); });
  }
};

class co_spawned : public on_thread_pool {
 public:
  using on_thread_pool::on_thread_pool;
  void spawn(task_counter& counter) { boost::asio::co_spawn(pool_, empty(counter), boost::asio::detached); }

 private:
  static boost::asio::awaitable<void> empty(task_counter& counter) {
    counter.ran();
    co_return;
  }
};

const bool registered = register_system({
    .name = "Boost.Asio",
    .mode = "thread_pool",
    .kind = system_kind::unbounded,
    .note = "asio::post, and asio::co_spawn with detached, on a thread_pool",
    .functions = run_tasks<posted>,
    .coroutines = run_tasks<co_spawned>,
});

}  // namespace
}  // namespace bench
