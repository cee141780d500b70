// The main function of every Catch2 program, built once, and the listener that writes down what became of each case.
// Floor 9, room tests.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_session.hpp>
#include <catch2/catch_test_case_info.hpp>
#include <catch2/reporters/catch_reporter_event_listener.hpp>
#include <catch2/reporters/catch_reporter_registrars.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

#include <cstdio>
#include <stdlib.h>  // unsetenv
#include <string>

namespace {

#if __has_include(<catch2/catch_all.hpp>)
using listener_base = Catch::EventListenerBase;
const std::string& name_of(const Catch::TestCaseStats& stats) { return stats.testInfo->name; }
#else
using listener_base = Catch::TestEventListenerBase;
const std::string& name_of(const Catch::TestCaseStats& stats) { return stats.testInfo.name; }
#endif

/// Writes `begin`, then `pass` or `fail`, and the case's name to the file named by PENSTOCK_TEST_LOG, flushed line by
/// line: a crash or a kill leaves a `begin` without an end, which tests/run counts as a failure.
class case_log : public listener_base {
 public:
  using listener_base::listener_base;

  void testRunStarting(const Catch::TestRunInfo& info) override {
    listener_base::testRunStarting(info);
    const char* path = getenv("PENSTOCK_TEST_LOG");
    if (path == nullptr) return;
    file_ = std::fopen(path, "w");
    if (file_ == nullptr) {
      std::fprintf(stderr, "cannot write the case log %s: unset PENSTOCK_TEST_LOG or name a writable file\n", path);
      exit(1);
    }
    unsetenv("PENSTOCK_TEST_LOG");  // a case may start this program again, which would write over our log
  }
  void testCaseStarting(const Catch::TestCaseInfo& info) override {
    listener_base::testCaseStarting(info);
    write("begin", info.name);
  }
  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    write(stats.totals.testCases.failed == 0 ? "pass" : "fail", name_of(stats));
    listener_base::testCaseEnded(stats);
  }

 private:
  void write(const char* what, const std::string& name) {
    if (file_ == nullptr) return;
    std::string line = name;
    for (char& c : line)
      if (c == '\n' || c == '\t') c = ' ';
    std::fprintf(file_, "%s\t%s\n", what, line.c_str());
    std::fflush(file_);
  }

  std::FILE* file_ = nullptr;
};

}  // namespace

CATCH_REGISTER_LISTENER(case_log)

int main(int argc, char** argv) {
  return Catch::Session().run(argc, argv);
}
