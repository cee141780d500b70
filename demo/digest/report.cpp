// The account of a run as JSON.
// Floor 9, room demo.
#include "report.hpp"

#include "console.hpp"
#include "output.hpp"

#include <nlohmann/json.hpp>

#include <chrono>
#include <exception>
#include <utility>

namespace digest {

namespace {

using json = nlohmann::ordered_json;

json counts_of(const penstock::ledger& counts) {
  return {
      {"offered", counts.offered},           {"accepted", counts.accepted}, {"dropped", counts.dropped},
      {"rejected", counts.rejected.total()}, {"pending", counts.pending},   {"handled", counts.handled},
      {"filtered", counts.filtered},         {"failed", counts.failed},     {"discarded", counts.discarded},
      {"evicted", counts.evicted},           {"queued", counts.queued},     {"running", counts.running},
  };
}

}  // namespace

double milliseconds(std::chrono::nanoseconds time) { return std::chrono::duration<double, std::milli>(time).count(); }

std::string ledger_json(const penstock::ledger& counts) { return counts_of(counts).dump(); }

std::string report_json(const penstock::shutdown_report& report) {
  json subscriptions = json::array();
  for (const penstock::subscription_report& subscription : report.subscriptions) {
    json row = {{"name", subscription.name}, {"event", subscription.event}};
    row.update(counts_of(subscription.ledger));
    subscriptions.push_back(std::move(row));
  }
  json stuck = json::array();
  for (const penstock::stuck_call& call : report.stuck)
    stuck.push_back({
        {"subscription", call.subscription},
        {"event", call.event},
        {"sequence", call.sequence},
        {"at_least_ms", milliseconds(call.at_least)},
    });
  const json whole = {
      {"reason", report.reason},        {"elapsed_ms", milliseconds(report.elapsed)}, {"drained", report.drained},
      {"subscriptions", subscriptions}, {"undelivered", report.undelivered()},        {"stuck", stuck},
  };
  return whole.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string write_report(const std::string& path, const std::string& text) {
  try {
    console silent(progress_style::none);
    output file(path, silent);
    if (file.write(text) && file.commit()) return {};
    return "the report: " + file.error();
  } catch (const std::exception& error) {
    return std::string("the report: ") + error.what();
  }
}

}  // namespace digest
