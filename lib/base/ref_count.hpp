// An intrusive reference count and its smart pointer.
// Floor 0, room base.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace penstock {

/// Derive publicly; `Derived` is deleted when the last reference goes. Starts with one reference.
/// A plain std::atomic, no preemption point: no decision is ever taken on the count but the last one.
template <class Derived>
class ref_counted {
 public:
  ref_counted() noexcept = default;
  ref_counted(const ref_counted&) = delete;
  ref_counted& operator=(const ref_counted&) = delete;
  void retain() noexcept { count_.fetch_add(1, std::memory_order_relaxed); }
  void release() noexcept {
    if (count_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete static_cast<Derived*>(this);
  }

 protected:
  ~ref_counted() = default;

 private:
  std::atomic<std::uint32_t> count_{1};
};

template <class T>
class ref_ptr {
 public:
  ref_ptr() noexcept = default;
  static ref_ptr adopt(T* object) noexcept {
    ref_ptr result;
    result.object_ = object;
    return result;
  }
  static ref_ptr share(T* object) noexcept {
    if (object != nullptr) object->retain();
    return adopt(object);
  }
  ref_ptr(const ref_ptr& other) noexcept : object_(other.object_) {
    if (object_ != nullptr) object_->retain();
  }
  ref_ptr(ref_ptr&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  ref_ptr& operator=(ref_ptr other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~ref_ptr() {
    if (object_ != nullptr) object_->release();
  }
  T* get() const noexcept { return object_; }
  T* release() noexcept { return std::exchange(object_, nullptr); }
  T& operator*() const noexcept { return *object_; }
  T* operator->() const noexcept { return object_; }
  explicit operator bool() const noexcept { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
};

}  // namespace penstock
