// The account of a run as JSON.
// Floor 9, room demo.
#include "report.hpp"

#include "console.hpp"
#include "output.hpp"

#include <nlohmann/json.hpp>

#include <chrono>
#include <exception>

namespace digest {

namespace {

double milliseconds(std::chrono::nanoseconds time) { return std::chrono::duration<double, std::milli>(time).count(); }

}  // namespace

std::string report_json(const penstock::shutdown_report& report) {
  using json = nlohmann::ordered_json;
  json subscriptions = json::array();
  for (const penstock::subscription_report& subscription : report.subscriptions) {
    const penstock::ledger& counts = subscription.ledger;
    subscriptions.push_back({
        {"name", subscription.name},
        {"event", subscription.event},
        {"offered", counts.offered},
        {"accepted", counts.accepted},
        {"dropped", counts.dropped},
        {"rejected", counts.rejected.total()},
        {"pending", counts.pending},
        {"handled", counts.handled},
        {"filtered", counts.filtered},
        {"failed", counts.failed},
        {"discarded", counts.discarded},
        {"evicted", counts.evicted},
        {"queued", counts.queued},
        {"running", counts.running},
    });
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
