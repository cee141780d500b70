// Catch2 for the tests, in version 2 or 3: the one place that knows the difference.
// Floor 9, room tests.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#define PENSTOCK_TEST_CATCH 3
#include <catch2/catch_approx.hpp>
#include <catch2/catch_message.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/catch_tostring.hpp>
#include <catch2/generators/catch_generators_all.hpp>
#include <catch2/matchers/catch_matchers_all.hpp>
#else
#define PENSTOCK_TEST_CATCH 2
#include <catch2/catch.hpp>
#endif

namespace penstock_test {

/// A matcher for a part of a text, by its name in either version: `CHECK_THAT(text, contains_text("ledger"))`.
inline auto contains_text(const std::string& part) {
#if PENSTOCK_TEST_CATCH == 3
  return Catch::Matchers::ContainsSubstring(part);
#else
  return Catch::Matchers::Contains(part);
#endif
}

}  // namespace penstock_test
