// The two events every workload sends, and how a subscriber proves that it got the right ones.
// Floor 9, bench.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

namespace bench {

inline constexpr unsigned most_producers = 64;
/// The producer number of a mark that tells a peer's consumer to stop. No producer has it.
inline constexpr std::uint32_t stop_producer = 0xffffffffU;

inline constexpr std::uint64_t mix(std::uint32_t producer, std::uint64_t sequence) noexcept {
  return (sequence + 1) * 0x9e3779b97f4a7c15ULL ^ producer;
}

/// 64 bytes, trivially copyable. First and last word depend on each other, so that a torn copy changes the checksum.
struct small_event {
  std::uint32_t producer;
  std::uint32_t reserved;
  std::uint64_t sequence;
  std::int64_t published_ns;  ///< when the producer began: a clock read per event would be measured instead of the bus
  std::uint64_t filler[4];
  std::uint64_t seal;

  static small_event make(std::uint32_t producer, std::uint64_t sequence, std::int64_t now_ns) noexcept {
    return {producer, 0, sequence, now_ns, {sequence, sequence, sequence, sequence}, mix(producer, sequence)};
  }
  static small_event stop_mark() noexcept { return make(stop_producer, 0, 0); }

  std::uint64_t digest() const noexcept { return sequence ^ seal; }
  static std::uint64_t digest_of(std::uint32_t producer, std::uint64_t sequence) noexcept {
    return sequence ^ mix(producer, sequence);
  }
};
static_assert(sizeof(small_event) == 64 && std::is_trivially_copyable_v<small_event>);

/// A sequence number and a std::string of 256 bytes, which lives on the heap.
struct text_event {
  std::uint32_t producer = 0;
  std::uint64_t sequence = 0;
  std::string text;

  static constexpr std::size_t text_bytes = 256;

  static text_event make(std::uint32_t producer, std::uint64_t sequence, std::int64_t) {
    text_event made;
    made.producer = producer;
    made.sequence = sequence;
    made.text.assign(text_bytes, letter(sequence));
    return made;
  }
  static text_event stop_mark() {
    text_event made;
    made.producer = stop_producer;
    return made;
  }

  std::uint64_t digest() const noexcept {
    if (text.size() != text_bytes) return 0;
    return mix(producer, sequence) + static_cast<unsigned char>(text.front()) + static_cast<unsigned char>(text.back());
  }
  static std::uint64_t digest_of(std::uint32_t producer, std::uint64_t sequence) noexcept {
    return mix(producer, sequence) + 2ULL * static_cast<unsigned char>(letter(sequence));
  }

 private:
  static char letter(std::uint64_t sequence) noexcept { return static_cast<char>('a' + sequence % 26); }
};

}  // namespace bench
