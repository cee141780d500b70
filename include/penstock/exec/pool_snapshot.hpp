// A pool of workers as seen from outside at one moment.
// Floor 2, room exec.
#pragma once

#include <cstddef>
#include <string>

namespace penstock {

struct pool_snapshot {
  std::string name;
  unsigned workers = 0;
  unsigned busy = 0;       ///< in a call, or in a piece of posted work
  unsigned parked = 0;     ///< asleep; the others look for work
  std::size_t ready = 0;   ///< lanes and tasks that wait for a worker
  std::size_t queued = 0;  ///< posted work that waits for a worker
  bool may_wait = false;   ///< what runs there may wait for others
};

}  // namespace penstock
