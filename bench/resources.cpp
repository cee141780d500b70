// Asks the kernel.
// Floor 9, bench.
#include "resources.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

namespace bench {

namespace {

double cpu_seconds(int whose) noexcept {
  rusage used{};
  getrusage(whose, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

}  // namespace

double process_cpu_seconds() noexcept { return cpu_seconds(RUSAGE_SELF); }
double thread_cpu_seconds() noexcept { return cpu_seconds(RUSAGE_THREAD); }

double resident_bytes() {
  std::ifstream file("/proc/self/statm");
  long total = 0;
  long resident = 0;
  file >> total >> resident;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

}  // namespace bench
