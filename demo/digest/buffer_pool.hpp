// Read buffers of one size, used again and again, so that memory follows the number in flight and not the tree.
// Floor 9, room demo.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

namespace digest {

/// How much of a file travels in one event, and how much of a longer one is read at a time.
inline constexpr std::size_t buffer_bytes = 128 * 1024;

class buffer_pool;

/// A borrowed buffer; goes back when it dies. May be given back on another thread.
class pooled_buffer {
 public:
  pooled_buffer() noexcept = default;
  pooled_buffer(pooled_buffer&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), memory_(std::move(other.memory_)) {}
  pooled_buffer& operator=(pooled_buffer&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(memory_, other.memory_);
    return *this;
  }
  pooled_buffer(const pooled_buffer&) = delete;
  pooled_buffer& operator=(const pooled_buffer&) = delete;
  inline ~pooled_buffer();

  std::span<std::byte> bytes() const noexcept { return {memory_.get(), memory_ ? buffer_bytes : 0}; }

 private:
  friend class buffer_pool;
  buffer_pool* pool_ = nullptr;
  std::unique_ptr<std::byte[]> memory_;
};

/// Hands out buffers; makes a new one only when none lies idle. Outlives every buffer it handed out. Threads:
/// thread-safe. There are never more buffers than were in use at once: the channel before the hasher bounds them.
class buffer_pool {
 public:
  /// Throws std::bad_alloc.
  pooled_buffer take() {
    pooled_buffer taken;
    {
      const std::lock_guard hold(mutex_);
      if (!idle_.empty()) {
        taken.memory_ = std::move(idle_.back());
        idle_.pop_back();
      } else {
        idle_.reserve(++made_);  // so that giving back cannot fail
      }
    }
    if (!taken.memory_) taken.memory_ = std::make_unique_for_overwrite<std::byte[]>(buffer_bytes);
    taken.pool_ = this;
    return taken;
  }

 private:
  friend class pooled_buffer;
  void give_back(std::unique_ptr<std::byte[]> memory) noexcept {
    const std::lock_guard hold(mutex_);
    idle_.push_back(std::move(memory));
  }

  std::mutex mutex_;  // protects what follows; taken last
  std::vector<std::unique_ptr<std::byte[]>> idle_;
  std::size_t made_ = 0;
};

pooled_buffer::~pooled_buffer() {
  if (memory_) pool_->give_back(std::move(memory_));
}

}  // namespace digest
