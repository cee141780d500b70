// Runs a program and prints its largest resident size in kB as the last line of standard output. Used by `memory`.
// Floor 9, room tests. The kernel hands a starter's peak on to what it starts: this one is small, Python is not.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

int main(int count, char** arguments) {
  if (count < 2) {
    std::fputs("usage: peak PROGRAM [ARGUMENT...]\n", stderr);
    return 2;
  }
  const pid_t child = ::fork();
  if (child == 0) {
    ::execv(arguments[1], arguments + 1);
    std::perror(arguments[1]);
    ::_exit(127);
  }
  int status = 0;
  rusage usage{};
  while (child > 0 && ::wait4(child, &status, 0, &usage) < 0 && errno == EINTR) {
  }
  std::printf("%ld\n", usage.ru_maxrss);
  return child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
