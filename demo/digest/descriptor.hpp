// Owns a file descriptor.
// Floor 9, room demo.
#pragma once

#include <unistd.h>

#include <utility>

namespace digest {

/// Closes its descriptor when it dies. Negative: none.
class descriptor {
 public:
  descriptor() noexcept = default;
  explicit descriptor(int opened) noexcept : number_(opened) {}
  descriptor(descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  ~descriptor() {
    if (number_ >= 0) ::close(number_);
  }

  int get() const noexcept { return number_; }
  explicit operator bool() const noexcept { return number_ >= 0; }

 private:
  int number_ = -1;
};

}  // namespace digest
