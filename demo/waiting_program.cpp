// A program whose handlers wait without holding a thread, fail and are tried again, and whose reader reads: the README's second.
// Floor 9, room demo.
#include <penstock/penstock.hpp>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <utility>

using namespace std::chrono_literals;

struct order_placed { std::uint64_t id; std::uint32_t cents; };
struct receipt { std::uint64_t order; std::uint64_t number; };

// [waiting_program]
penstock::task<std::uint64_t> charge_card(std::uint64_t order) {    // a gateway far away
    co_await penstock::sleep_for(1ms);                              // holds no thread
    co_return 1000 + order;
}

penstock::task<std::uint64_t> sum_of(penstock::stream<receipt>& inbox) {
    std::uint64_t sum = 0;
    while (auto got = co_await inbox.next()) sum += got->number;    // done when `got` dies; fail(…) or requeue() otherwise
    co_return sum;
}

int main() {
    std::atomic<int> tries{0}, lost{0};
    penstock::runtime rt(penstock::runtime_options{}.on_failure([](const penstock::failure&) {}));
    auto& bus = rt.bus();
    auto receipts = bus.publisher<receipt>();
    auto inbox = bus.stream<receipt>("auditor", penstock::stream_options{}.capacity(8));

    auto charge = bus.subscribe<order_placed>("charge", penstock::subscribe_options{}.concurrency(4),
        [&](const order_placed& order) -> penstock::task<void> {    // the event lives until the coroutine has ended
            const std::uint64_t number = co_await charge_card(order.id);
            co_await receipts.async_emplace(order.id, number);      // waits while the auditor is behind, holds no thread
        });

    auto books = bus.subscribe<order_placed>("books",
        penstock::subscribe_options{}
            .filter<order_placed>([](const order_placed& order) { return order.cents > 0; })
            .retry(penstock::retry_policy{}.attempts(3).backoff(1ms)),
        [&](const order_placed& order, const penstock::call& call) {
            ++tries;
            if (order.id == 7 || (order.id == 5 && call.attempt() < 3)) throw std::runtime_error("the ledger is locked");
        });

    auto graves = bus.subscribe<penstock::dead_letter<order_placed>>("graves",
        [&](const penstock::dead_letter<order_placed>& letter) { lost += letter.event().id == 7 ? 1 : 100; });

    for (std::uint64_t id = 1; id <= 100; ++id) bus.publish(order_placed{id, id == 9 ? 0u : 1999u});
    std::thread closer([&] {
        (void)charge.close(penstock::close_mode::drain);            // every order is charged, every receipt handed on
        inbox.close(penstock::close_mode::drain);                   // what is there is still read
    });
    auto reading = sum_of(inbox);
    const std::uint64_t sum = penstock::block_on(rt.pool("default"), std::move(reading));
    closer.join();

    const bool clean = rt.shutdown(5s).clean();
    std::printf("receipts %llu, tries %d, dead letters %d, filtered %llu\n", static_cast<unsigned long long>(sum),
                tries.load(), lost.load(), static_cast<unsigned long long>(books.ledger().filtered));
    return clean ? 0 : 1;
}
// [/waiting_program]
