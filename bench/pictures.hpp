// Pictures of the figures: handed to bench/plot, which hands them to gnuplot.
// Floor 9, bench.
#pragma once

#include <nlohmann/json.hpp>

#include <string>

namespace bench {

/// Whether the tools are there; says on standard error what is missing.
bool can_draw();
/// Writes the pictures, and the figures as figures.json beside them. False: it could not, and said why.
bool draw(const nlohmann::ordered_json& document, const std::string& folder);

}  // namespace bench
