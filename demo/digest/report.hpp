// The account of a run as JSON.
// Floor 9, room demo.
#pragma once

#include <penstock/runtime/shutdown_report.hpp>

#include <chrono>
#include <string>

namespace digest {

/// With its fraction, for JSON.
double milliseconds(std::chrono::nanoseconds time);

/// The counts as one JSON object on one line.
std::string ledger_json(const penstock::ledger& counts);

/// The report as one JSON object; bytes that are no UTF-8 appear as U+FFFD.
std::string report_json(const penstock::shutdown_report& report);

/// Writes `text` to `path`, whole or not at all. Empty, or why it could not, with the name and the remedy.
std::string write_report(const std::string& path, const std::string& text);

}  // namespace digest
