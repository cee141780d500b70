// The README's first program: two subscribers, one publisher, an orderly end. Exits 0 exactly when nothing was lost.
// Floor 9, room demo. The tests run it and compare the marked region with the README.
#include <cstdint>
#include <cstdio>

// [first_program]
#include <penstock/penstock.hpp>

using namespace std::chrono_literals;

struct order_placed { std::uint64_t id; std::uint32_t cents; };

int main() {
    std::uint64_t mails = 0, booked_cents = 0;

    penstock::runtime rt;                                    // pools "default" and "blocking"; failures are logged
    auto& bus = rt.bus();

    auto mail = bus.subscribe<order_placed>("confirmation mail",
        [&](const order_placed&) { ++mails; });              // calls of one subscription never overlap

    auto ledger = bus.subscribe<order_placed>("ledger", penstock::subscribe_options{}.capacity(4096),
        [&](const order_placed& order, const penstock::call& call) { booked_cents += call.attempt() * order.cents; });

    auto orders = bus.publisher<order_placed>();             // skips the look-up
    for (std::uint64_t id = 1; id <= 1000; ++id)
        orders.publish({id, 1999});                          // waits when a channel is full: that is the back-pressure

    penstock::shutdown_report report = rt.shutdown(5s);      // drains, cancels, names what is stuck
    std::printf("%llu mails, %llu cents\n", static_cast<unsigned long long>(mails),
                static_cast<unsigned long long>(booked_cents));
    return report.clean() ? 0 : 1;
}
// [/first_program]
