// The stack of another thread by a signal: whatever that thread is doing, the question ends, and the thread goes on.
// Floor 9, room tests.
#include "../support/catch.hpp"
#include "../support/gate.hpp"

#include "exec/stack_signal.hpp"

#include <atomic>
#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <dlfcn.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

using namespace penstock_test;
using penstock::exec::stack_question;
using penstock::exec::stack_signal;

namespace {

constexpr int questions = sanitized ? 500 : 2'000;

/// A thread that answers, and does one thing over and over until it is told to end.
class busy_thread {
 public:
  busy_thread(const stack_signal& by, const std::function<void()>& work)
      : thread_([this, &by, work] {
          by.answer_here();
          id_.store(static_cast<pid_t>(syscall(SYS_gettid)));
          id_.notify_all();
          while (!stop_.load()) work(), turns_.fetch_add(1);
        }) {
    id_.wait(0);
  }
  ~busy_thread() {
    stop_.store(true);
    thread_.join();
  }
  pid_t id() const { return id_.load(); }
  long turns() const { return turns_.load(); }

 private:
  std::atomic<pid_t> id_{0};
  std::atomic<bool> stop_{false};
  std::atomic<long> turns_{0};
  std::thread thread_;
};

std::vector<std::string> ask(const stack_signal& by, pid_t thread) {
  stack_question question(by);
  return question.ask(thread) ? question.answer() : std::vector<std::string>();
}

}  // namespace

TEST_CASE("a thread is asked in the middle of its allocations, exceptions, symbols and thread starts, and goes on",
          "[watchdog]") {
  const time_limit limit;
  const stack_signal by(SIGURG);
  const std::vector<std::function<void()>> works = {
      [] { std::vector<std::string> some(50, std::string(100, 'x')); },
      [] {
        try {
          throw std::runtime_error("a text that is longer than what fits into a string");
        } catch (const std::exception&) {
        }
      },
      [] {
        Dl_info found{};
        dladdr(dlsym(RTLD_DEFAULT, "malloc"), &found);
      },
      [] { std::thread([] { const std::string some(100, 'x'); }).join(); },
  };
  for (const auto& work : works) {
    busy_thread busy(by, work);
    int answered = 0;
    for (int i = 0; i < questions / static_cast<int>(works.size()); ++i) answered += ask(by, busy.id()).empty() ? 0 : 1;
    CHECK(answered > 0);
    const long before = busy.turns();
    eventually([&] { return busy.turns() > before; });
  }
}

TEST_CASE("several who ask take turns, each about a thread of its own", "[watchdog]") {
  const time_limit limit;
  const stack_signal by(SIGURG);
  std::vector<std::thread> askers;
  std::atomic<int> answered{0};
  for (int i = 0; i < 3; ++i)
    askers.emplace_back([&] {
      busy_thread busy(by, [] { const std::string some(100, 'x'); });
      for (int each = 0; each < questions / 10; ++each) answered.fetch_add(ask(by, busy.id()).empty() ? 0 : 1);
    });
  for (std::thread& each : askers) each.join();
  CHECK(answered.load() > 0);
}

TEST_CASE("a thread that does not answer is given up, and a late signal finds nothing to do", "[watchdog]") {
  const time_limit limit;
  const stack_signal by(SIGURG);
  gate release;
  std::atomic<pid_t> id{0};
  std::thread deaf([&] {
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGURG);
    pthread_sigmask(SIG_BLOCK, &one, nullptr);
    id.store(static_cast<pid_t>(syscall(SYS_gettid)));
    id.notify_all();
    release.wait();
    by.answer_here();  // unblocked: the signal that was sent comes now
  });
  id.wait(0);
  CHECK(ask(by, id.load()).empty());
  release.open();
  deaf.join();
  busy_thread busy(by, [] { const std::string some(100, 'x'); });
  eventually([&] { return !ask(by, busy.id()).empty(); });
}
