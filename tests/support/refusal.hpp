// What a call was refused with, and whether a ledger is at rest.
// Floor 9, room tests.
#pragma once

#include <penstock/base/errc.hpp>

#include <string>
#include <system_error>
#include <utility>

namespace penstock_test {

/// The code and the text; `none` when nothing was thrown, or nothing of the library's.
template <class Function>
std::pair<penstock::errc, std::string> refusal_of(Function function) {
  try {
    function();
  } catch (const std::system_error& e) {
    if (e.code().category() == penstock::error_category())
      return {static_cast<penstock::errc>(e.code().value()), e.what()};
    return {penstock::errc::none, std::string("not ours: ") + e.what()};
  }
  return {penstock::errc::none, "nothing was thrown"};
}

/// Of a subscription or a stream: balanced, and nothing under way.
template <class Handle>
bool quiet(const Handle& of) {
  const auto ledger = of.ledger();
  return ledger.balanced() && ledger.quiescent();
}

}  // namespace penstock_test
