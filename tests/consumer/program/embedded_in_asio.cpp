// A stranger's Asio service (threads, strands, signals, sockets of its own) with penstock inside, and clients that try it.
// Floor 9, room tests. Built by tests/consumer/run against an installed penstock; regions of it stand in lib/EMBEDDING.md.
#include <penstock/asio.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>
#include <boost/asio/write.hpp>

#include <poll.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace asio = boost::asio;
using asio::ip::tcp;
using namespace std::chrono_literals;

struct line_received { std::uint64_t connection; std::string text; };

namespace {

/// What the service is without penstock: two threads, a strand for its sockets, one for its books.
struct service {
    asio::io_context io{2};
    asio::strand<asio::io_context::executor_type> front{asio::make_strand(io)};
    asio::strand<asio::io_context::executor_type> desk{asio::make_strand(io)};
    asio::signal_set signals{io, SIGTERM};
    tcp::acceptor acceptor{front};
    asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
    std::vector<std::thread> threads;

    std::map<std::uint64_t, tcp::socket> sockets;               // on front
    std::map<std::uint64_t, std::vector<std::string>> books;    // on desk
    std::atomic<int> open_connections{0};

    service() {
        acceptor.open(tcp::v4());
        acceptor.set_option(asio::socket_base::receive_buffer_size(4096));
        acceptor.bind(tcp::endpoint(asio::ip::address_v4::loopback(), 0));
        acceptor.listen();
    }
    void begin() {
        for (int i = 0; i < 2; ++i) threads.emplace_back([this] { io.run(); });
    }
};

penstock::task<std::string> receipt(std::uint64_t taken) {
    co_await penstock::sleep_for(1ms);
    co_return std::to_string(taken) + "\n";
}

// [embed_connection]
asio::awaitable<void> serve(tcp::socket& socket, std::uint64_t number, penstock::publisher<line_received> lines) {
    const std::string welcome = "welcome\n";
    std::string input;
    std::uint64_t taken = 0;
    co_await asio::async_write(socket, asio::buffer(welcome), asio::use_awaitable);
    try {
        for (;;) {
            const auto size = co_await asio::async_read_until(socket, asio::dynamic_buffer(input), '\n', asio::use_awaitable);
            auto line = penstock::make_event<line_received>(number, input.substr(0, size - 1));
            input.erase(0, size);
            // While the books are behind this waits, and nobody reads the socket: in the end the client's own write waits.
            const auto offered = co_await lines.async_publish(std::move(line), asio::use_awaitable);
            taken += offered.accepted();
        }
    } catch (const boost::system::system_error& end) {
        if (end.code() != asio::error::eof) throw;
    }
    auto text = receipt(taken);                                 // a task of penstock's, run on this connection's strand
    const std::string answer = co_await penstock::async_run(std::move(text), asio::use_awaitable);
    co_await asio::async_write(socket, asio::buffer(answer), asio::use_awaitable);
}
// [/embed_connection]

asio::awaitable<void> listen(service& own, penstock::publisher<line_received> lines, std::atomic<int>& failures) {
    for (std::uint64_t number = 1;; ++number) {
        boost::system::error_code failed;
        tcp::socket accepted(own.front);
        co_await own.acceptor.async_accept(accepted, asio::redirect_error(asio::use_awaitable, failed));
        if (failed || !own.acceptor.is_open()) co_return;
        tcp::socket& socket = own.sockets.emplace(number, std::move(accepted)).first->second;
        ++own.open_connections;
        asio::co_spawn(own.front, serve(socket, number, lines), [&own, &failures, number](std::exception_ptr error) {
            if (error) ++failures;
            own.sockets.erase(number);
            --own.open_connections;
            own.open_connections.notify_all();
        });
    }
}

// --- the clients, which are not the service's: blocking sockets on threads of their own ------------------------------------

struct client {
    asio::io_context io;
    tcp::socket socket{io};
    std::string input;

    explicit client(const tcp::endpoint& where) {
        socket.open(tcp::v4());
        socket.set_option(asio::socket_base::send_buffer_size(4096));
        socket.connect(where);
        if (read_line() != "welcome") std::abort();
    }
    std::string read_line() {
        const auto size = asio::read_until(socket, asio::dynamic_buffer(input), '\n');
        std::string line = input.substr(0, size - 1);
        input.erase(0, size);
        return line;
    }
    void send(const std::string& text) { asio::write(socket, asio::buffer(text)); }
    std::uint64_t finish() {
        socket.shutdown(tcp::socket::shutdown_send);
        return std::stoull(read_line());
    }
    /// Writes as much as it may without waiting, until it may write nothing for a tenth of a second while `held` is true.
    template <class F>
    std::size_t write_until_held_back(const std::string& text, F held) {
        std::size_t written = 0;
        socket.non_blocking(true);
        while (written < text.size()) {
            boost::system::error_code failed;
            written += socket.write_some(asio::buffer(text) + written, failed);
            pollfd ready{socket.native_handle(), POLLOUT, 0};
            if (failed == asio::error::would_block && ::poll(&ready, 1, 100) == 0 && held()) break;
        }
        socket.non_blocking(false);
        return written;
    }
};

int mistakes = 0;
void expect(bool good, const char* what) {
    if (good) return;
    ++mistakes;
    std::printf("wrong: %s\n", what);
}

std::string numbered_lines(std::uint64_t count) {
    std::string text;
    for (std::uint64_t i = 1; i <= count; ++i) text += std::to_string(i) + "\n";
    return text;
}

}  // namespace

int main() {
    service own;
    std::atomic<int> failures{0};
    std::atomic<int> off_desk{0};

    // [embed_subscribe]
    penstock::runtime rt(penstock::runtime_options{}.pool("default", penstock::worker_pool_options{}.threads(1)));
    auto& bus = rt.bus();
    penstock::timer store_opens(rt.pool("default"), 24h);       // due at once when it has been set to now

    auto booking = bus.subscribe<line_received>("books", penstock::subscribe_options{}.capacity(16).on(own.desk),
        [&](const line_received& line) -> penstock::task<void> {
            (void)co_await store_opens.async_wait();            // holds no thread of the service's
            if (!own.desk.running_in_this_thread()) ++off_desk;
            own.books[line.connection].push_back(line.text);    // the service's other code on this strand needs no lock either
        });
    // [/embed_subscribe]

    auto stopped = own.signals.async_wait(asio::use_future);
    asio::co_spawn(own.front, listen(own, bus.publisher<line_received>(), failures), asio::detached);
    own.begin();
    const tcp::endpoint where = own.acceptor.local_endpoint();

    // The store is shut: the books fill up, then the connection waits, then the client.
    const std::string flood = numbered_lines(2'000'000);
    client hose(where);
    const std::size_t written = hose.write_until_held_back(flood, [&] { return booking.ledger().pending == 1; });
    expect(written < flood.size() / 2, "a client is held back when the books are behind");
    expect(booking.ledger().pending == 1, "the connection waits for a seat");
    expect(booking.ledger().accepted <= 16 + 1, "no more is taken than there are seats, and the one in the call");
    expect(asio::post(own.desk, asio::use_future([] { return true; })).get(), "a handler that waits holds no strand");
    expect(asio::post(own.front, asio::use_future([] { return true; })).get(), "a connection that waits holds no strand");

    store_opens.expires_after(0s);
    const auto end_of_written = flood.begin() + static_cast<std::ptrdiff_t>(written);
    const std::uint64_t lines_begun = static_cast<std::uint64_t>(std::count(flood.begin(), end_of_written, '\n')) + 1;
    hose.send(flood.substr(written, flood.find('\n', written) + 1 - written));
    expect(hose.finish() == lines_begun, "every line of the client that was held back is taken");

    std::vector<std::thread> others;
    std::atomic<int> answered{0};
    for (int i = 0; i < 4; ++i)
        others.emplace_back([&] {
            client each(where);
            each.send(numbered_lines(500));
            if (each.finish() == 500) ++answered;
        });
    for (auto& each : others) each.join();
    expect(answered == 4, "four clients at once have every line taken");

    client silent(where);                                       // says something and stays
    silent.send(numbered_lines(3));
    std::raise(SIGTERM);

    // [embed_stop]
    const int signal_number = stopped.get();                    // the service's signal_set: penstock touches no signal
    asio::post(own.front, asio::use_future([&] {                // 1. nothing new comes in; what has been sent is still read
        own.acceptor.close();
        for (auto& [number, socket] : own.sockets) socket.shutdown(tcp::socket::shutdown_receive);
    })).get();
    for (int left; (left = own.open_connections.load()) != 0;) own.open_connections.wait(left);

    // 2. On a thread that runs none of the service's executors, while they still run: handlers on the strand drain there.
    const penstock::shutdown_report report = rt.shutdown(5s, "SIGTERM");

    own.work.reset();                                           // 3. only now may io.run() return
    for (auto& thread : own.threads) thread.join();
    // [/embed_stop]

    expect(signal_number == SIGTERM, "the service's own signal_set had the signal");
    expect(std::stoull(silent.read_line()) == 3, "a client that was connected when the signal came has its lines taken");
    expect(failures == 0, "no connection failed");
    expect(off_desk == 0, "the handler runs on the service's strand only");
    std::uint64_t booked = 0;
    for (const auto& [number, lines] : own.books) {
        std::uint64_t next = 0;
        for (const std::string& line : lines)
            expect(line == std::to_string(++next), "each connection's lines are booked in order");
        booked += next;
    }
    expect(own.books.size() == 6, "every connection is in the books");
    expect(booked == lines_begun + 4 * 500 + 3, "every line is booked once");
    expect(report.clean() && report.drained, "the shutdown is clean");
    expect(report.subscriptions.size() == 1 && report.subscriptions[0].ledger.balanced(), "the account balances");
    expect(report.subscriptions[0].ledger.handled == booked, "the account says what the books say");
    std::printf("held back after %zu bytes; %llu lines from 6 connections; %s", written, static_cast<unsigned long long>(booked),
                to_string(report).c_str());
    return mistakes == 0 ? 0 : 1;
}
