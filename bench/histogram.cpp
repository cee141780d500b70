// Buckets and ranks.
// Floor 9, bench.
#include "histogram.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>

namespace bench {

std::int64_t histogram::lower_bound(std::int64_t ns) noexcept {
  if (ns < 0) return 0;
  const auto value = static_cast<std::uint64_t>(ns);
  if (value < 32) return ns;
  // Four bits below the leading one are kept.
  const int dropped = std::bit_width(value) - 5;
  return static_cast<std::int64_t>(value >> dropped << dropped);
}

percentiles percentiles_of(std::vector<std::int64_t> values) {
  std::sort(values.begin(), values.end());
  // The rank in thousandths, rounded up, in whole numbers: a rounded product would miss by one.
  const auto at = [&](std::size_t thousandths) {
    const std::size_t rank = (values.size() * thousandths + 999) / 1000;
    return static_cast<double>(values[std::max<std::size_t>(rank, 1) - 1]);
  };
  return {at(500), at(990), at(999), at(1000)};
}

}  // namespace bench
