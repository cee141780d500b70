// What a processor can be told about what comes next. Hints: without them everything is the same, and slower.
// Floor 1, room sync.
#pragma once

namespace penstock::sync {

/// For a loop that looks again and again: leaves the core to its other thread for a moment.
inline void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// This address is about to be written by this thread: its line is fetched for that, while other things are done. Without it
/// the next locked instruction waits until the line has come from whoever read it last.
inline void prefetch_to_write(const void* address) noexcept {
#if defined(__x86_64__)
  // Not __builtin_prefetch: for a plain x86-64 that fetches to read. A processor that has no such instruction takes it for none.
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(address)));
#else
  __builtin_prefetch(address, 1);
#endif
}

}  // namespace penstock::sync
