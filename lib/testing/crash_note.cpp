// Fatal signals during an exploration.
// Floor 8, room testing.
#include "testing/crash_note.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <utility>

#include <unistd.h>

namespace penstock::testing::detail {
namespace {

constexpr std::array fatal_signals{SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};

std::mutex install_m;  // protects users and before; the handler itself takes no lock
unsigned users = 0;
std::array<struct sigaction, fatal_signals.size()> before;

thread_local const crash_note* current = nullptr;

void put(const char* text, std::size_t size) noexcept {
  while (size > 0) {
    const ssize_t done = ::write(STDERR_FILENO, text, size);
    if (done <= 0) return;
    text += done;
    size -= static_cast<std::size_t>(done);
  }
}

void on_fatal(int signal) {
  const int kept_errno = errno;
  if (const crash_note* note = std::exchange(current, nullptr)) note->write();
  for (std::size_t i = 0; i < fatal_signals.size(); ++i)
    if (fatal_signals[i] == signal) sigaction(signal, &before[i], nullptr);
  errno = kept_errno;
  // A fault happens again on return, and finds the handler that was there before. An abort does not.
  if (signal == SIGABRT) raise(signal);
}

}  // namespace

crash_note::crash_note(std::string command) : command_(std::move(command)) {
  current = this;
  const std::lock_guard lock(install_m);
  if (users++ != 0) return;
  struct sigaction ours {};
  ours.sa_handler = &on_fatal;
  ours.sa_flags = SA_ONSTACK;  // the stack may be what is broken
  sigemptyset(&ours.sa_mask);
  for (std::size_t i = 0; i < fatal_signals.size(); ++i) sigaction(fatal_signals[i], &ours, &before[i]);
}

crash_note::~crash_note() {
  current = nullptr;
  const std::lock_guard lock(install_m);
  if (--users != 0) return;
  for (std::size_t i = 0; i < fatal_signals.size(); ++i) sigaction(fatal_signals[i], &before[i], nullptr);
}

void crash_note::write() const noexcept {
  std::array<char, 20> digits;
  std::size_t at = digits.size();
  std::uint64_t rest = seed_;
  do {
    digits[--at] = static_cast<char>('0' + rest % 10);
    rest /= 10;
  } while (rest != 0);
  const auto put_seed = [&] { put(digits.data() + at, digits.size() - at); };
  const auto put_text = [](const char* text) { put(text, std::strlen(text)); };
  put_text("penstock: a fatal signal in the scenario with seed ");
  put_seed();
  put_text("; replay it with:\n  PENSTOCK_SEED=");
  put_seed();
  put(command_.data(), command_.size());
  put_text("\n");
}

}  // namespace penstock::testing::detail
