// The page that a child finds empty.
// Floor 0, room base.
#include "base/fork_mark.hpp"

#include <penstock/base/errc.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <system_error>

namespace penstock {

fork_mark::fork_mark() {
  const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* page = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) throw std::system_error(make_error_code(errc::not_enough_memory), "no page for the fork mark");
  if (madvise(page, size, MADV_WIPEONFORK) != 0) {
    munmap(page, size);  // a kernel older than 4.14: forks go unnoticed
    return;
  }
  page_ = static_cast<volatile unsigned char*>(page);
  *page_ = 1;
}

fork_mark::~fork_mark() {
  if (page_ != nullptr)
    munmap(const_cast<unsigned char*>(page_), static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
}

}  // namespace penstock
