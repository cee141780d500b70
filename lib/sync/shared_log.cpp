// The log that the subscriptions of a topic share.
// Floor 1, room sync.
#include "sync/shared_log.hpp"

#include "sync/parker.hpp"
#include "sync/processor.hpp"

#include <penstock/sync/event_block.hpp>

#include <chrono>
#include <cstdlib>
#include <new>

namespace penstock::sync {
namespace {

void* block_in(cell& written) noexcept {
  void* block = nullptr;
  std::memcpy(&block, written.payload(), sizeof block);
  return block;
}

}  // namespace

void await_cell(const cell& awaited, std::uint64_t position) noexcept {
  constexpr int looks = 40;  // 25 to 45 ns each
  for (int look = 0; look < looks; ++look) {
    if (awaited.seq.load(std::memory_order_acquire) == position + 1) return;
    relax();
  }
  nap(std::chrono::microseconds(50));
}

shared_log::~shared_log() {
  for (std::byte* ring = peek(ring_); ring != nullptr;) {
    header& first = header_of(ring);
    ring = first.before;
    std::free(&first);
  }
}

void shared_log::retain_for(cell& target, std::uint32_t readers) const noexcept {
  detail::retain_block(block_in(target), readers);
}

void shared_log::let_go(std::uint64_t position) noexcept { detail::release_block(block_in(at(position))); }

std::size_t shared_log::provide(std::size_t cells) noexcept {
  std::byte* const before = ring_.load();
  if (readers_.load() > 0 || (before != nullptr && cells <= size())) return static_cast<std::size_t>(size());
  const std::size_t bytes = (sizeof(header) + cells * stride_ + 63) / 64 * 64;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(64, bytes));
  if (memory == nullptr) return before != nullptr ? static_cast<std::size_t>(size()) : 0;
  ::new (memory) header{before, cells - 1};
  memory += sizeof(header);
  for (std::size_t i = 0; i < cells; ++i) ::new (memory + i * stride_) cell{};  // no position has a sequence word of 0
  ring_.store(memory);
  return cells;
}

std::uint64_t shared_log::position() noexcept {
  for (;;) {
    const std::uint64_t changes = changes_.load();
    const std::uint64_t word = tail_.load();
    if ((word & shut) != 0) {
      lock_guard lock(m);
      return position_locked();
    }
    if (changes_.load() == changes) return (word & ticket_mask) - changes;
  }
}

bool shared_log::sleep(std::uint64_t cursor) noexcept {
  for (;;) {
    const std::uint64_t changes = changes_.load();
    std::uint64_t word = tail_.load();
    if ((word & shut) != 0) {
      lock_guard lock(m);
      word = tail_.load();
      do {
        if ((word & ticket_mask) - changes_.load() != cursor) return false;
      } while ((word & idle) == 0 && !tail_.compare_exchange_weak(word, word | idle));
      return true;
    }
    if (changes_.load() != changes) continue;
    if ((word & ticket_mask) - changes != cursor) return false;
    if ((word & idle) != 0 || tail_.compare_exchange_weak(word, word | idle)) return true;
  }
}

bool shared_log::claim_locked(std::size_t count, claimed& got) noexcept {
  got.first = position_locked();
  got.ring = ring_.load();
  got.mask = header_of(got.ring).mask;
  got.readers = readers_.load();
  std::uint64_t word = tail_.load();
  while (!tail_.compare_exchange_weak(word, (word & ~idle) + count)) {  // a reader may go to sleep meanwhile
  }
  return (word & idle) != 0;
}

void shared_log::change(std::uint32_t readers, std::size_t all, std::uint64_t limit) noexcept {
  readers_.store(readers);
  form_.store(readers == 0 ? form::unused : readers == all ? form::sole : form::mixed);
  limit_.store(limit);
  changes_.fetch_add(1);
  tail_.fetch_add(1);  // shut: but for this, only the idle bit moves
}

}  // namespace penstock::sync
