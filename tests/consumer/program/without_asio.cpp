// A stranger's program that sees no Boost: two runtimes, threads of its own, signals, fork, and what outlives main.
// Floor 9, room tests. Built by tests/consumer/run against an installed penstock; regions of it stand in lib/EMBEDDING.md.
#include <penstock/penstock.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#ifdef BOOST_VERSION
#error "this program is to see no Boost header"
#endif

using namespace std::chrono_literals;

struct measurement { std::uint64_t sensor; std::uint64_t value; };
struct alarm_raised { std::string text; };

namespace {

int mistakes = 0;
void expect(bool good, const char* what) {
    if (good) return;
    ++mistakes;
    std::printf("wrong: %s\n", what);
}

// [embed_static]
struct last_words {
    penstock::publisher<measurement> out;                       // a handle may outlive bus and runtime
    ~last_words() {
        if (out && out.try_publish({0, 0}).error() != penstock::errc::closed) _exit(3);
    }
};
last_words at_exit;                                             // dies after main, when there is no runtime any more
// [/embed_static]

// [embed_constructor]
class recorder {
 public:
    recorder(const penstock::event_bus& bus, bool disk_is_full)
        : all_(bus.subscribe<measurement>("recorder", [this](const measurement& m) { sum_ += m.value; })) {
        if (disk_is_full) throw std::runtime_error("no room for the record");    // all_ is closed first, then sum_ goes
    }
    std::uint64_t close() {
        (void)all_.close(penstock::close_mode::drain);          // from here on the handler runs no more
        return sum_;
    }

 private:
    std::uint64_t sum_ = 0;                                     // above the subscription: destroyed after it
    penstock::subscription all_;
};
// [/embed_constructor]

void constructors_may_throw(penstock::runtime& rt) {
    bool threw = false;
    try {
        recorder broken(rt.bus(), true);
    } catch (const std::runtime_error&) {
        threw = true;
    }
    expect(threw && rt.bus().subscriptions().empty(), "a constructor that throws leaves no subscription behind");
    try {
        penstock::runtime none(penstock::runtime_options{}.pool("default", penstock::worker_pool_options{}.threads(0)));
        expect(false, "a pool without threads is refused");
    } catch (const std::system_error& refused) {
        expect(refused.code() == penstock::errc::invalid_argument, "a pool without threads is invalid_argument");
    }
}

void threads_of_the_application(penstock::runtime& rt) {
    recorder whole(rt.bus(), false);
    // [embed_threads]
    std::vector<std::thread> sensors;
    for (std::uint64_t sensor = 1; sensor <= 3; ++sensor)
        sensors.emplace_back([sensor, out = rt.bus().publisher<measurement>()] {    // any thread may publish, and waits itself
            for (std::uint64_t value = 1; value <= 1000; ++value) out.publish({sensor, value});
        });
    for (auto& sensor : sensors) sensor.join();
    // [/embed_threads]
    expect(whole.close() == 3 * 500'500, "every measurement of three threads is recorded");
}

// --- signals ---------------------------------------------------------------------------------------------------------------

std::atomic<int> signals_here{0}, signals_elsewhere{0};
static_assert(std::atomic<int>::is_always_lock_free);
const auto main_thread = gettid();
void on_signal(int) { ++(gettid() == main_thread ? signals_here : signals_elsewhere); }

using disposition = struct sigaction;
disposition how_is(int signal) {
    disposition now{};
    (void)sigaction(signal, nullptr, &now);
    return now;
}

void signals_are_the_applications() {
    disposition mine{};
    mine.sa_handler = on_signal;
    (void)sigaction(SIGUSR1, &mine, nullptr);
    sigset_t before, after;
    (void)pthread_sigmask(SIG_SETMASK, nullptr, &before);
    {
        penstock::runtime rt;
        auto sub = rt.bus().subscribe<measurement>("any", [](const measurement&) {});
        for (int i = 0; i < 200; ++i) {
            rt.bus().publish(measurement{1, 1});
            (void)kill(getpid(), SIGUSR1);                      // to the process: any thread that does not block it
        }
        expect(rt.shutdown(30s).clean(), "signals leave the runtime alone");
    }
    (void)pthread_sigmask(SIG_SETMASK, nullptr, &after);
    expect(signals_here > 0 && signals_elsewhere == 0, "no thread of the library's takes a signal of the process");
    expect(how_is(SIGUSR1).sa_handler == on_signal && how_is(SIGTERM).sa_handler == SIG_DFL &&
               how_is(SIGPIPE).sa_handler == SIG_DFL,
           "the library changes no signal's disposition");
    for (int signal = 1; signal < NSIG; ++signal)
        expect(sigismember(&before, signal) == sigismember(&after, signal), "the library leaves the caller's signal mask alone");
}

// --- two runtimes, fork ----------------------------------------------------------------------------------------------------

void two_runtimes() {
    std::atomic<int> heard{0};
    // [embed_two]
    penstock::runtime plant;
    penstock::runtime office(penstock::runtime_options{}.pool("default", penstock::worker_pool_options{}.threads(1)));
    auto told = office.bus().subscribe<alarm_raised>("mail", penstock::subscribe_options{}.capacity(2),
        [&](const alarm_raised&) { ++heard; });
    auto watch = plant.bus().subscribe<measurement>("watch",
        [out = office.bus().publisher<alarm_raised>()](const measurement& m) -> penstock::task<void> {
            const alarm_raised alarm{"sensor " + std::to_string(m.sensor)};
            if (m.value > 90) (void)co_await out.async_publish(alarm);    // waits for the other bus, holds no worker of this one
        });
    for (std::uint64_t value = 1; value <= 100; ++value) plant.bus().publish(measurement{7, value});
    const bool first = plant.shutdown(30s).clean();             // the one that publishes, then the one that hears
    const bool second = office.shutdown(30s).clean();
    // [/embed_two]
    expect(first && second && heard == 10, "two runtimes in one process hand events on and end one after the other");
}

void forks(penstock::runtime& rt) {
    int seen = 0;
    auto sub = rt.bus().subscribe<measurement>("counter", [&](const measurement&) { ++seen; });
    auto out = rt.bus().publisher<measurement>();
    out.publish({1, 1});
    // [embed_fork]
    const pid_t child = fork();
    if (child == 0) {                                           // the threads did not come along
        const bool refused = out.publish({1, 2}).error() == penstock::errc::forked && rt.bus().subscriptions().empty();
        _exit(refused ? 0 : 1);                                 // or exec, or a runtime of its own
    }
    // [/embed_fork]
    int status = -1;
    expect(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0,
           "a child process is refused with forked");
    out.publish({1, 3});
    (void)sub.close(penstock::close_mode::drain);
    expect(seen == 2, "the parent of a fork goes on");
}

}  // namespace

int main() {
    signals_are_the_applications();
    {
        penstock::runtime rt;
        at_exit.out = rt.bus().publisher<measurement>();
        constructors_may_throw(rt);
        threads_of_the_application(rt);
        forks(rt);
        expect(rt.shutdown(30s).clean(), "the shutdown is clean");
    }
    two_runtimes();
    std::printf("%d mistakes, %d signals\n", mistakes, signals_here.load());
    return mistakes == 0 ? 0 : 1;
}
