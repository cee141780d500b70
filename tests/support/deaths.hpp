// A part of a closure or of a frame that counts its deaths.
// Floor 9, room tests.
#pragma once

#include <utility>

namespace penstock_test {

/// Dies once, however often it was moved.
class witness {
 public:
  explicit witness(int& deaths) : deaths_(&deaths) {}
  witness(witness&& other) noexcept : deaths_(std::exchange(other.deaths_, nullptr)) {}
  witness& operator=(witness&&) = delete;
  ~witness() {
    if (deaths_ != nullptr) ++*deaths_;
  }

 private:
  int* deaths_;
};

}  // namespace penstock_test
