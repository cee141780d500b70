// A file system that does not answer, for penstock-digest: loaded before libc (LD_PRELOAD), it keeps every read of a
// file named "stuck" and, with PENSTOCK_SLOW_UNLINK set, every unlink from ever coming back. Floor 9, room tests.
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string_view>

namespace {

[[noreturn]] void never_answer(std::string_view what) {
  [[maybe_unused]] const ssize_t told = ::write(STDERR_FILENO, what.data(), what.size());
  for (;;) ::pause();
}

}  // namespace

extern "C" ssize_t read(int file, void* buffer, size_t bytes) {
  using read_function = ssize_t (*)(int, void*, size_t);
  static const auto real = reinterpret_cast<read_function>(::dlsym(RTLD_NEXT, "read"));
  char link[64];
  char name[4096];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  const ssize_t length = ::readlink(link, name, sizeof name);
  if (length > 0 && std::string_view(name, static_cast<size_t>(length)).ends_with("/stuck"))
    never_answer("slow_file: a read hangs\n");
  return real(file, buffer, bytes);
}

extern "C" int unlink(const char* name) noexcept {
  using unlink_function = int (*)(const char*);
  static const auto real = reinterpret_cast<unlink_function>(::dlsym(RTLD_NEXT, "unlink"));
  if (::getenv("PENSTOCK_SLOW_UNLINK") != nullptr) never_answer("slow_file: an unlink hangs\n");
  return real(name);
}
