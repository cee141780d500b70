// SHA-256, SHA-512 and BLAKE2b through OpenSSL.
// Floor 9, room demo.
#include "message_digest.hpp"

#include <openssl/evp.h>

#include <stdexcept>

namespace digest {

void algorithm::releaser::operator()(void* method) const noexcept { EVP_MD_free(static_cast<EVP_MD*>(method)); }

algorithm::algorithm(std::string_view name) : name_(name) {
  // OpenSSL's name says the width; b2sum's default is the same 512 bits.
  EVP_MD* const method = EVP_MD_fetch(nullptr, name_ == "blake2b" ? "BLAKE2B-512" : name_.c_str(), nullptr);
  if (method == nullptr)
    throw std::runtime_error("OpenSSL offers no " + name_ + "; see `openssl list -digest-algorithms`");
  method_.reset(method);
  hex_digits_ = 2 * static_cast<std::size_t>(EVP_MD_get_size(method));
}

void message_digest::releaser::operator()(void* context) const noexcept {
  EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context));
}

message_digest::message_digest(const algorithm& chosen) : context_(EVP_MD_CTX_new()) {
  if (!context_ || EVP_DigestInit_ex2(static_cast<EVP_MD_CTX*>(context_.get()),
                                      static_cast<const EVP_MD*>(chosen.method_.get()), nullptr) != 1)
    throw std::runtime_error("OpenSSL cannot start a " + chosen.name_);
}

void message_digest::update(std::span<const std::byte> bytes) {
  if (EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_.get()), bytes.data(), bytes.size()) != 1)
    throw std::runtime_error("OpenSSL failed while hashing");
}

std::string message_digest::finish() {
  unsigned char raw[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  if (EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_.get()), raw, &length) != 1)
    throw std::runtime_error("OpenSSL failed while hashing");
  static constexpr char digits[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(2 * length);
  for (unsigned at = 0; at < length; ++at) {
    hex += digits[raw[at] >> 4];
    hex += digits[raw[at] & 15];
  }
  return hex;
}

}  // namespace digest
