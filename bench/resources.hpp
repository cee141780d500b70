// What this process takes of the machine.
// Floor 9, bench.
#pragma once

namespace bench {

/// Processor seconds, user and system. Of threads that run at this moment on another core the last few milliseconds may
/// be missing.
double process_cpu_seconds() noexcept;
double thread_cpu_seconds() noexcept;  ///< of the calling thread

/// Resident memory of the process.
double resident_bytes();

}  // namespace bench
