// Runs bench/plot.
// Floor 9, bench.
#include "pictures.hpp"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <system_error>
#include <vector>

namespace bench {

namespace {

bool run_plot(std::vector<std::string> words) {
  words.insert(words.begin(), BENCH_PLOT);
  std::vector<char*> args;
  for (auto& word : words) args.push_back(word.data());
  args.push_back(nullptr);
  pid_t child = 0;
  if (const int error = posix_spawn(&child, BENCH_PLOT, nullptr, nullptr, args.data(), environ); error != 0) {
    std::cerr << "cannot run " << BENCH_PLOT << ": " << std::strerror(error) << "; it needs python3\n";
    return false;
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return false;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

bool can_draw() { return run_plot({"--check"}); }

bool draw(const nlohmann::ordered_json& document, const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const std::string figures = (std::filesystem::path(folder) / "figures.json").string();
  std::ofstream file(figures);
  file << document.dump(1) << '\n';
  file.close();
  if (error || !file) {
    std::cerr << "cannot write " << figures << ": choose a folder that may be made or written to\n";
    return false;
  }
  std::cout.flush();
  return run_plot({figures, folder});
}

}  // namespace bench
