// What happened to each file, step by step, as lines of JSON.
// Floor 9, room demo.
#include "event_log.hpp"

#include "report.hpp"

#include <penstock/bus/snapshot.hpp>

#include <nlohmann/json.hpp>

namespace digest {

namespace {

using json = nlohmann::ordered_json;

const char* name_of(file_step::kind what) noexcept {
  switch (what) {
    case file_step::kind::found:
      return "found";
    case file_step::kind::read:
      return "read";
    case file_step::kind::hashed:
      return "hashed";
    case file_step::kind::written:
      return "written";
    case file_step::kind::failed:
      return "failed";
  }
  return "?";
}

std::string one_line(const json& made) { return made.dump(-1, ' ', false, json::error_handler_t::replace); }

}  // namespace

void event_log::write(const file_step& step) {
  json line = {{"since_start_ms", milliseconds(step.when - started_)},
               {"event", name_of(step.what)},
               {"stage", step.stage},
               {"path", step.name},
               {"bytes", nullptr}};
  if (step.bytes) line["bytes"] = *step.bytes;
  if (step.what == file_step::kind::failed) line["error"] = step.error;
  file_.write(one_line(line));
}

void event_log::finish(const penstock::ledger& counts, penstock::overflow policy, std::size_t capacity) {
  json line = {{"since_start_ms", milliseconds(std::chrono::steady_clock::now() - started_)},
               {"event", "ledger"},
               {"stage", "events"},
               {"overflow", penstock::to_string(policy)},
               {"capacity", capacity}};
  line.update(json::parse(ledger_json(counts)));
  file_.write(one_line(line));
  file_.flush();
}

}  // namespace digest
