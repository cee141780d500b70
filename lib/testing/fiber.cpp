// Switching stacks, and telling the exception runtime and the sanitizers about it.
// Floor 8, room testing.
#include "testing/fiber.hpp"

#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <boost/context/stack_traits.hpp>

#include <cxxabi.h>

#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define PENSTOCK_FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PENSTOCK_FIBER_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define PENSTOCK_FIBER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PENSTOCK_FIBER_TSAN 1
#endif
#endif

#if defined(PENSTOCK_FIBER_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif
#if defined(PENSTOCK_FIBER_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace penstock::testing::detail {
namespace {

namespace context = boost::context;

#if defined(PENSTOCK_FIBER_ASAN) || defined(PENSTOCK_FIBER_TSAN)
constexpr std::size_t worker_stack_bytes = 2048 * 1024;
#else
constexpr std::size_t worker_stack_bytes = 512 * 1024;
#endif
constexpr std::size_t scenario_stack_bytes = 8192 * 1024;

/// What the Itanium ABI keeps per thread about exceptions: the stack of those being handled, and the number in flight.
struct exception_globals {
  void* handled = nullptr;
  unsigned in_flight = 0;
};

exception_globals& this_thread_exceptions() noexcept {
  return *reinterpret_cast<exception_globals*>(abi::__cxa_get_globals());
}

/// For Boost: the stack belongs to `parts`, which outlives what runs on it.
struct borrowed_stack {
  context::stack_context stack;
  context::stack_context allocate() const noexcept { return stack; }
  void deallocate(context::stack_context&) const noexcept {}
};

/// The idle fibers of one operating-system thread.
struct store {
  std::vector<fiber*> idle[2];
  store() = default;
  store(const store&) = delete;
  store& operator=(const store&) = delete;
  ~store() {
    for (auto& fibers : idle)
      for (fiber* kept : fibers) delete kept;
  }
};

store& this_thread_store() {
  static thread_local store kept;
  return kept;
}

/// Reachable for ever, so that a leak checker finds what abandoned stacks refer to.
std::vector<fiber*>& abandoned_fibers() {
  static thread_local auto* list = new std::vector<fiber*>;
  return *list;
}

}  // namespace

struct fiber::parts {
  stack_size size = stack_size::worker;
  context::protected_fixedsize_stack allocator;
  context::stack_context stack;  ///< its lowest page is the guard
  /// Where to continue, and who resumed it. Never destroyed: the destructor of a suspended one throws into it, while
  /// the loop of an idle fiber has nothing on its stack and an abandoned one is not to be touched.
  union {
    context::fiber inside;
  };
  union {
    context::fiber outside;
  };
  exception_globals exceptions;
#if defined(PENSTOCK_FIBER_ASAN)
  void* inside_fake = nullptr;
  void* outside_fake = nullptr;
  const void* outside_bottom = nullptr;
  std::size_t outside_size = 0;
#endif
#if defined(PENSTOCK_FIBER_TSAN)
  void* inside_tsan = nullptr;
  void* outside_tsan = nullptr;
#endif

  explicit parts(stack_size wanted)
      : size(wanted),
        allocator(wanted == stack_size::worker ? worker_stack_bytes : scenario_stack_bytes),
        stack(allocator.allocate()),
        inside(),
        outside() {}
  parts(const parts&) = delete;
  parts& operator=(const parts&) = delete;
  ~parts() {
#if defined(PENSTOCK_FIBER_ASAN)
    __asan_unpoison_memory_region(bottom(), usable());  // the next owner of these addresses starts clean
#endif
    allocator.deallocate(stack);
  }

  const void* bottom() const noexcept { return static_cast<const char*>(stack.sp) - usable(); }
  std::size_t usable() const noexcept { return stack.size - context::stack_traits::page_size(); }
};

fiber::fiber(stack_size size) : parts_(std::make_unique<parts>(size)) {
  parts& own = *parts_;
  own.inside = context::fiber(std::allocator_arg, context::preallocated(own.stack.sp, own.stack.size, own.stack),
                              borrowed_stack{own.stack}, [this](context::fiber&& resumer) {
                                parts_->outside = std::move(resumer);
                                run_jobs();
                                return std::move(parts_->outside);  // not reached
                              });
#if defined(PENSTOCK_FIBER_TSAN)
  own.inside_tsan = __tsan_create_fiber(0);
#endif
}

fiber::~fiber() {
#if defined(PENSTOCK_FIBER_TSAN)
  __tsan_destroy_fiber(parts_->inside_tsan);
#endif
}

fiber* fiber::acquire(stack_size size) {
  auto& idle = this_thread_store().idle[static_cast<std::size_t>(size)];
  if (idle.empty()) return new fiber(size);
  fiber* taken = idle.back();
  idle.pop_back();
  return taken;
}

void fiber::release(fiber* idle) noexcept {
  try {
    this_thread_store().idle[static_cast<std::size_t>(idle->parts_->size)].push_back(idle);
  } catch (...) {
    delete idle;
  }
}

void fiber::abandon(fiber* stuck) noexcept {
#if defined(PENSTOCK_FIBER_ASAN)
  __lsan_register_root_region(stuck->parts_->bottom(), stuck->parts_->usable());
#endif
  try {
    abandoned_fibers().push_back(stuck);
  } catch (...) {
    // Then a leak checker may name it.
  }
}

void fiber::assign(void (*job)(void*), void* argument) noexcept {
  job_ = job;
  argument_ = argument;
}

void fiber::run_jobs() noexcept {
#if defined(PENSTOCK_FIBER_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &parts_->outside_bottom, &parts_->outside_size);
#endif
  for (;;) {
    job_(argument_);
    job_ = nullptr;
    suspend();
  }
}

void fiber::resume() noexcept {
  parts& own = *parts_;
  exception_globals& globals = this_thread_exceptions();
  const exception_globals mine = std::exchange(globals, own.exceptions);
#if defined(PENSTOCK_FIBER_TSAN)
  own.outside_tsan = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(own.inside_tsan, 0);
#endif
#if defined(PENSTOCK_FIBER_ASAN)
  __sanitizer_start_switch_fiber(&own.outside_fake, own.bottom(), own.usable());
#endif
  own.inside = std::move(own.inside).resume();
#if defined(PENSTOCK_FIBER_ASAN)
  __sanitizer_finish_switch_fiber(own.outside_fake, nullptr, nullptr);
#endif
  own.exceptions = std::exchange(globals, mine);
}

void fiber::suspend() noexcept {
  parts& own = *parts_;
#if defined(PENSTOCK_FIBER_TSAN)
  __tsan_switch_to_fiber(own.outside_tsan, 0);
#endif
#if defined(PENSTOCK_FIBER_ASAN)
  __sanitizer_start_switch_fiber(&own.inside_fake, own.outside_bottom, own.outside_size);
#endif
  own.outside = std::move(own.outside).resume();
#if defined(PENSTOCK_FIBER_ASAN)
  __sanitizer_finish_switch_fiber(own.inside_fake, &own.outside_bottom, &own.outside_size);
#endif
}

}  // namespace penstock::testing::detail
