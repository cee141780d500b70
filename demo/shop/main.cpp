// penstock-shop: a small service that runs until it is told to stop, and then says what became of everything.
// Floor 9, room demo. Tasks, retries, dead letters, a breaker, and if you like a handler that gets stuck.
#include <penstock/bus/dead_letter.hpp>
#include <penstock/penstock.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;

namespace {

// --- what happens in a shop ------------------------------------------------------------------------------------------

struct order_placed {
  std::uint64_t id = 0;
  std::uint32_t cents = 0;
};
struct payment_taken {
  std::uint64_t order = 0;
  std::uint32_t cents = 0;
};
struct parcel_sent {
  std::uint64_t order = 0;
};

struct choices {
  double seconds = 3;
  unsigned orders_per_second = 200;
  double deadline = 5;
  bool stuck = false;
  std::string snapshot_file;
};

// --- the world outside, which fails now and then -----------------------------------------------------------------------

/// Takes a moment, and declines: every 50th order once, every 200th always.
penstock::task<std::uint32_t> charge_card(std::uint64_t order, std::uint32_t cents, unsigned attempt) {
  co_await penstock::sleep_for(2ms);
  if (order % 200 == 0 || (order % 50 == 0 && attempt == 1)) throw std::runtime_error("the card was declined");
  co_return cents;
}

/// Down in its second second.
class mail_server {
 public:
  explicit mail_server(penstock::steady_time opened) : opened_(opened) {}
  void send(penstock::steady_time now) const {
    if (now - opened_ > 1s && now - opened_ < 2s) throw std::runtime_error("no connection to the mail server");
  }

 private:
  penstock::steady_time opened_;
};

/// A lock that nobody ever opens.
class jammed_door {
 public:
  void push() {
    std::unique_lock lock(m_);
    opened_.wait(lock, [] { return false; });
  }

 private:
  std::mutex m_;
  std::condition_variable opened_;
};

/// Asks the bank for its rates, every second time in vain; the registry starts it again.
penstock::task<void> follow_exchange_rates(std::atomic<unsigned>& asked) {
  for (;;) {
    co_await penstock::sleep_for(200ms);
    if (++asked % 2 == 0) throw std::runtime_error("the bank did not answer");
  }
}

/// Writes the books. It is kept until the last event has been handled: what handlers still publish is written too.
penstock::task<void> keep_books(const penstock::stream<payment_taken>& payments, std::atomic<std::uint64_t>& total) {
  while (auto payment = co_await payments.next()) total += payment->cents;
}

void customers(const penstock::publisher<order_placed>& orders, unsigned per_second, std::stop_token stop) {
  std::mutex m;
  std::condition_variable_any pause;
  const auto between = std::chrono::nanoseconds(1s) / per_second;
  for (std::uint64_t id = 1; !stop.stop_requested(); ++id) {
    const order_placed order{id, static_cast<std::uint32_t>(100 + id % 900)};
    orders.publish(order, stop);  // all tills busy? then customers queue
    std::unique_lock lock(m);
    pause.wait_for(lock, stop, between, [] { return false; });
  }
}

// --- the shop ----------------------------------------------------------------------------------------------------------

int run(const choices& chosen) {
  std::ofstream states;  // outlives the runtime whose tasks write to it
  if (!chosen.snapshot_file.empty()) {
    states.open(chosen.snapshot_file);
    if (!states) throw std::runtime_error(chosen.snapshot_file + " cannot be written");
  }
  std::atomic<std::uint64_t> failures{0}, told{0};
  penstock::runtime rt(penstock::runtime_options{}
                           .shutdown_within(std::chrono::duration_cast<std::chrono::nanoseconds>(
                               std::chrono::duration<double>(chosen.deadline)))
                           .watchdog(penstock::watchdog_options{}.stuck_after(500ms).every(100ms).stacks(true))  // a line of the log
                           .on_failure([&](const penstock::failure& failed) {
                             ++failures;
                             if (told++ < 5) std::fprintf(stderr, "%s\n", to_string(failed).c_str());
                             if (told == 5) std::fprintf(stderr, "(further failures are only counted)\n");
                           })
                           .stop_on_signals({SIGINT, SIGTERM}));
  auto& bus = rt.bus();
  const auto opened = rt.time().now();
  const mail_server mail_server(opened);
  jammed_door door;

  // Orders become payments; a card that declines is tried again, and what fails for good is a dead letter.
  auto payments = bus.publisher<payment_taken>();
  auto charging = bus.subscribe<order_placed>(
      "charge the card",
      penstock::subscribe_options{}.capacity(64).concurrency(8).retry(penstock::retry_policy{}.attempts(3).backoff(10ms)),
      [payments](const order_placed& order, const penstock::call& call) -> penstock::task<void> {
        const std::uint32_t cents = co_await charge_card(order.id, order.cents, call.attempt());
        co_await payments.async_emplace(order.id, cents);
      });
  std::atomic<std::uint64_t> unpaid{0};
  auto graves = bus.subscribe<penstock::dead_letter<order_placed>>(
      "unpaid orders", [&](const penstock::dead_letter<order_placed>&) { ++unpaid; });

  // Payments become parcels. With --stuck the door jams at the 100th.
  auto parcels = bus.publisher<parcel_sent>();
  // What is paid and never gets there is not forgotten: somebody has to pack it by hand.
  std::vector<std::uint64_t> unpacked;
  auto warehouse = bus.subscribe<payment_taken>(
      "warehouse",
      penstock::subscribe_options{}.capacity(32).on_undelivered<payment_taken>(
          [&](const payment_taken& payment, const penstock::undelivered&) { unpacked.push_back(payment.order); }),
      [&, parcels](const payment_taken& payment) {
        if (chosen.stuck && payment.order == 100) door.push();
        parcels.publish({payment.order});
      });

  // A mail server that is down is not asked again and again: the breaker pauses, and probes. Old news is dropped.
  auto mail = bus.subscribe<parcel_sent>("confirmation mail",
                                         penstock::subscribe_options{}
                                             .capacity(16)
                                             .overflow(penstock::overflow::drop_oldest)
                                             .on_failure(penstock::failure_policy::pause(3, 200ms)),
                                         [&](const parcel_sent&) { mail_server.send(rt.time().now()); });

  // Background work.
  auto books = bus.stream<payment_taken>("the books", penstock::stream_options{}.capacity(256));
  std::atomic<std::uint64_t> total{0};
  rt.tasks().spawn("bookkeeper", penstock::spawn_options{}.keep_until_drained(), keep_books(books, total));
  rt.tasks().spawn("customers", [orders = bus.publisher<order_placed>(), &chosen](std::stop_token stop) {
    customers(orders, chosen.orders_per_second, std::move(stop));
  });
  std::atomic<unsigned> asked{0};
  rt.tasks().spawn(
      "exchange rates",
      penstock::spawn_options{}.restart(penstock::restart_policy{}.attempts(20).pauses(penstock::retry_policy{}.backoff(50ms))),
      [&asked] { return follow_exchange_rates(asked); });
  rt.tasks().every("till display", 500ms, [&] {
    std::fprintf(stderr, "%.1f s: %llu orders, %llu mails, mail %s\n",
                 std::chrono::duration<double>(rt.time().now() - opened).count(),
                 static_cast<unsigned long long>(charging.ledger().offered),
                 static_cast<unsigned long long>(mail.ledger().handled), to_string(mail.state()));
    if (states.is_open()) states << penstock::to_json(rt.snapshot(), penstock::json_form::line) << std::endl;
  });
  penstock::timer closing_time(rt.pool("default"), std::chrono::duration<double>(chosen.seconds));
  const auto close_up = [](const penstock::timer& at, penstock::runtime& of) -> penstock::task<void> {
    const bool came = co_await at.async_wait();
    if (came) of.request_shutdown("closing time");
  };
  if (chosen.seconds > 0) rt.tasks().spawn("closing time", close_up(closing_time, rt));

  const penstock::shutdown_report report = rt.wait_for_shutdown();

  std::printf("%s", to_string(report).c_str());
  std::printf("failures told: %llu; orders that stay unpaid: %llu; in the books: %llu.%02llu\n",
              static_cast<unsigned long long>(failures.load()), static_cast<unsigned long long>(unpaid.load()),
              static_cast<unsigned long long>(total / 100), static_cast<unsigned long long>(total % 100));
  if (!unpacked.empty()) {
    std::printf("paid, and to be packed by hand: %zu orders:", unpacked.size());
    for (const std::uint64_t order : unpacked) std::printf(" %llu", static_cast<unsigned long long>(order));
    std::printf("\n");
  }
  if (!report.stuck.empty()) {
    // A call is still in here and uses what stands on this stack: nothing of it may be destroyed.
    std::fflush(nullptr);
    std::_Exit(1);
  }
  return report.clean() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("A small service on penstock. Ctrl-C closes the shop; a second one closes it at once.\n"
               "Exit status: 0 when everything was handled, 1 when the report says that something was left.");
  choices chosen;
  app.add_option("--for", chosen.seconds, "seconds until closing time; 0: until a signal")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--rate", chosen.orders_per_second, "orders per second")
      ->check(CLI::Range(1U, 100'000U))
      ->capture_default_str();
  app.add_option("--deadline", chosen.deadline, "seconds the shutdown may take")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--snapshot-file", chosen.snapshot_file, "a line of JSON each half second: pools, tasks and bus");
  app.add_flag("--stuck", chosen.stuck, "the warehouse's door jams at the 100th order, for good");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& wrong) {
    return app.exit(wrong) == 0 ? 0 : 2;
  }
  try {
    return run(chosen);
  } catch (const std::exception& failed) {
    std::fprintf(stderr, "penstock-shop: %s\n", failed.what());
    return 1;
  }
}
