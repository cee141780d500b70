// The bench program: reads its options, measures, reports.
// Floor 9, bench.
#include "measure.hpp"
#include "pictures.hpp"
#include "report.hpp"
#include "smoke.hpp"
#include "system.hpp"
#include "workload.hpp"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace bench {
namespace {

constexpr const char* usage =
    "usage: bench/run [options]\n"
    "  --only A,B     only these workloads (see --list)\n"
    "  --system X,Y/M only these systems, all their modes or the one behind the slash; goals that compare are not "
    "judged\n"
    "  --runs N       counted runs each system needs per workload; default 5\n"
    "  --quick        a twentieth of the events: to see that it works, not to compare\n"
    "  --json FILE    also write the figures as JSON\n"
    "  --plot DIR     also draw pictures of the figures there, as SVG, with the figures as JSON; needs gnuplot\n"
    "  --list         names the workloads and systems, and ends\n"
    "  --smoke        checks the bench itself: faulty systems are noticed, the JSON has its shape; A, E, F, G, "
    "I, J unless --only\n"
    "  --help         this text\n"
    "Exit status: 0; 1 when a run was wrong or a check failed; 2 for an option it does not know.\n";

struct wrong_usage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct options {
  std::vector<std::string> only;
  std::vector<std::string> systems;
  std::string json_file;
  std::string plot_folder;
  std::size_t runs = 5;
  effort how_much = effort::full;
  bool list = false;
  bool help = false;
  bool smoke = false;
};

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> parts;
  std::istringstream in{std::string(text)};
  for (std::string part; std::getline(in, part, ',');)
    if (!part.empty()) parts.push_back(part);
  return parts;
}

options parse(const std::vector<std::string>& args) {
  options parsed;
  for (std::size_t i = 0; i < args.size(); ++i) {
    std::string name = args[i];
    std::string inline_value;
    bool has_inline = false;
    if (const auto equals = name.find('='); name.rfind("--", 0) == 0 && equals != std::string::npos) {
      inline_value = name.substr(equals + 1);
      name.resize(equals);
      has_inline = true;
    }
    const auto value = [&]() -> std::string {
      if (has_inline) return inline_value;
      if (i + 1 == args.size()) throw wrong_usage(name + " needs a value");
      return args[++i];
    };
    const auto plain = [&] {
      if (has_inline) throw wrong_usage(name + " takes no value");
      return true;
    };
    if (name == "--only") {
      parsed.only = split(value());
      if (parsed.only.empty()) throw wrong_usage("--only needs at least one workload");
    } else if (name == "--system") {
      parsed.systems = split(value());
      if (parsed.systems.empty()) throw wrong_usage("--system needs at least one system");
    } else if (name == "--runs") {
      const std::string text = value();
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed.runs);
      if (error != std::errc() || end != text.data() + text.size() || parsed.runs == 0 || parsed.runs > 1000)
        throw wrong_usage("--runs needs a number from 1 to 1000, not '" + text + "'");
    } else if (name == "--json") {
      parsed.json_file = value();
      if (parsed.json_file.empty()) throw wrong_usage("--json needs a file name");
    } else if (name == "--plot") {
      parsed.plot_folder = value();
      if (parsed.plot_folder.empty()) throw wrong_usage("--plot needs a folder");
    } else if (name == "--quick") {
      plain();
      parsed.how_much = effort::quick;
    } else if (name == "--list") {
      parsed.list = plain();
    } else if (name == "--smoke") {
      parsed.smoke = plain();
    } else if (name == "--help" || name == "-h") {
      parsed.help = plain();
    } else {
      throw wrong_usage("unknown option '" + args[i] + "'");
    }
  }
  if (parsed.smoke && parsed.only.empty()) parsed.only = {"A", "E", "F", "G", "I", "J"};
  return parsed;
}

std::vector<workload> chosen(const std::vector<workload>& all, const std::vector<std::string>& only) {
  if (only.empty()) return all;
  std::vector<workload> picked;
  for (const auto& one : all)
    if (std::any_of(only.begin(), only.end(), [&](const auto& name) { return name == one.id || name == one.group; }))
      picked.push_back(one);
  for (const auto& name : only) {
    const bool known = name == "I" || std::any_of(all.begin(), all.end(),
                                                  [&](const auto& one) { return name == one.id || name == one.group; });
    if (!known) throw wrong_usage("unknown workload '" + name + "'; --list names them");
  }
  return picked;
}

std::vector<system_entry> chosen_systems(const std::vector<std::string>& names) {
  const auto all = registered_systems();
  if (names.empty()) return all;
  const auto is = [](const system_entry& one, const std::string& name) {
    return one.name == name || one.name + "/" + one.mode == name;
  };
  for (const auto& name : names)
    if (std::none_of(all.begin(), all.end(), [&](const auto& one) { return is(one, name); }))
      throw wrong_usage("unknown system '" + name + "'; --list names them");
  std::vector<system_entry> picked;
  for (const auto& one : all)
    if (std::any_of(names.begin(), names.end(), [&](const auto& name) { return is(one, name); })) picked.push_back(one);
  return picked;
}

void list(std::ostream& out, const std::vector<workload>& all) {
  out << "workloads\n";
  for (const auto& one : all) {
    out << "  " << one.id << ": " << one.what;
    if (one.figures.empty()) out << " [" << one.unit << "]";
    for (const auto& figure : one.figures)
      out << (&figure == &one.figures.front() ? ": " : ", ") << figure.name << " [" << figure.unit << "]";
    out << '\n';
  }
  out << "systems\n";
  for (const auto& one : registered_systems()) {
    out << "  " << one.name << " (" << one.mode << "), " << to_string(one.kind) << ": " << one.note;
    if (one.divided.to_one > 1) out << "; 1/" << one.divided.to_one << " of the events to one subscriber";
    if (one.divided.to_several > 1) out << "; 1/" << one.divided.to_several << " of the events to several";
    out << '\n';
  }
  print_missing(out, left_out());
}

int run(const options& asked) {
  const auto all = workloads(asked.how_much);
  const auto what = chosen(all, asked.only);
  const auto systems = chosen_systems(asked.systems);
  if (asked.list) return list(std::cout, all), 0;

  // Before minutes of measuring, not after.
  if (!asked.plot_folder.empty() && !can_draw()) return 1;
  std::ofstream json_file;
  if (!asked.json_file.empty()) {
    json_file.open(asked.json_file);
    if (!json_file) {
      std::cerr << "cannot write " << asked.json_file << ": choose a file in a folder that exists\n";
      return 1;
    }
  }
  bool failed = false;
  if (asked.smoke)
    for (const auto& finding : check_the_checks()) {
      std::cerr << "self-check " << finding << '\n';
      failed = true;
    }
  if (!release_build() && !asked.smoke)
    std::cout << "This is no release build (" << describe_build() << "): its figures compare with nothing.\n";

  measure_options how;
  how.runs = asked.runs;
  how.most_rounds = 4 * asked.runs;
  measured result =
      measure(what, systems, how, [](const std::string& line) { std::cerr << "running " << line << std::endl; });
  result.left_out = left_out();
  if (!asked.systems.empty()) result.left_out.push_back({"the other systems", "", "not asked for: see --system"});
  const auto goals = judge(result.rows, result.left_out);
  const auto document = to_json(describe_machine(result, asked.how_much), result, goals);
  print_tables(std::cout, what, result, goals);
  std::cout << "\n" << describe_machine(result, asked.how_much).dump() << '\n';
  if (json_file.is_open()) {
    json_file << document.dump(1) << '\n';
    json_file.close();
    if (!json_file) {
      std::cerr << "could not write all of " << asked.json_file << '\n';
      failed = true;
    }
  }
  if (asked.smoke) {
    // Through text and back, as a reader of the file gets it.
    std::ifstream written(asked.json_file);
    const auto read_back = asked.json_file.empty() ? nlohmann::ordered_json::parse(document.dump())
                                                   : nlohmann::ordered_json::parse(written);
    if (const auto problem = check_shape(read_back); !problem.empty()) {
      std::cerr << "self-check of the JSON: " << problem << '\n';
      failed = true;
    }
  }
  if (!asked.plot_folder.empty() && !draw(document, asked.plot_folder)) failed = true;
  std::cout.flush();
  if (result.stuck) {
    // A wrong run left threads behind; destroying anything under them would be worse than ending here.
    std::cerr.flush();
    std::_Exit(1);
  }
  return failed || !result.problems.empty() ? 1 : 0;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  try {
    const auto asked = bench::parse({argv + 1, argv + argc});
    if (asked.help) return std::fputs(bench::usage, stdout), 0;
    return bench::run(asked);
  } catch (const bench::wrong_usage& error) {
    std::fprintf(stderr, "bench: %s\n%s", error.what(), bench::usage);
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench: %s\n", error.what());
    return 1;
  }
}
