// Reads the kernel's account of processor time.
// Floor 9, bench.
#include "neighbours.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace bench {

neighbours::times neighbours::now() {
  times read;
  std::ifstream file("/proc/stat");
  std::string name;
  double user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0;
  if (!(file >> name >> user >> nice >> system >> idle >> iowait >> irq >> softirq >> steal) || name != "cpu")
    return {};
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  read.busy = (user + nice + system + irq + softirq) / ticks;
  read.stolen = steal / ticks;
  read.total = read.busy + read.stolen + (idle + iowait) / ticks;
  rusage mine{};
  getrusage(RUSAGE_SELF, &mine);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  read.own = seconds(mine.ru_utime) + seconds(mine.ru_stime);
  return read;
}

neighbours::neighbours() : begin_(now()) {}

neighbours::times neighbours::since() const {
  times passed = now();
  passed.total -= begin_.total;
  passed.busy -= begin_.busy;
  passed.stolen -= begin_.stolen;
  passed.own -= begin_.own;
  return passed;
}

double neighbours::others_percent() const {
  const times passed = since();
  return passed.total <= 0 ? -1 : std::max(0.0, (passed.busy - passed.own) / passed.total * 100);
}

double neighbours::stolen_percent() const {
  const times passed = since();
  return passed.total <= 0 ? -1 : passed.stolen / passed.total * 100;
}

}  // namespace bench
