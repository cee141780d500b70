// SHA-256, SHA-512 and BLAKE2b through OpenSSL.
// Floor 9, room demo.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace digest {

/// An algorithm, looked up once. Threads: thread-safe.
class algorithm {
 public:
  /// "sha256", "sha512" or "blake2b" (512 bits, as b2sum prints it). Throws std::runtime_error when OpenSSL does not
  /// offer it.
  explicit algorithm(std::string_view name);
  std::size_t hex_digits() const noexcept { return hex_digits_; }
  const std::string& name() const noexcept { return name_; }

 private:
  friend class message_digest;
  struct releaser {
    void operator()(void* method) const noexcept;
  };
  std::string name_;
  std::unique_ptr<void, releaser> method_;
  std::size_t hex_digits_ = 0;
};

/// One digest in the making. Throws std::runtime_error when OpenSSL refuses.
class message_digest {
 public:
  explicit message_digest(const algorithm& chosen);
  void update(std::span<const std::byte> bytes);
  /// The digest in lower-case hexadecimal. Call once.
  std::string finish();

 private:
  struct releaser {
    void operator()(void* context) const noexcept;
  };
  std::unique_ptr<void, releaser> context_;
};

}  // namespace digest
