// The current context of a thread.
// Floor 2, room exec.
#include "exec/context.hpp"

#include <penstock/base/agent.hpp>

namespace penstock::exec {

context* current_context() noexcept { return static_cast<context*>(this_thread_slot().context); }

bool may_wait_here() noexcept {
  const context* current = current_context();
  return current == nullptr || current->kind == context_kind::reader || current->kind == context_kind::awaited;
}

context_scope::context_scope(context* made) noexcept : before_(this_thread_slot().context) {
  this_thread_slot().context = made;
}

context_scope::~context_scope() { this_thread_slot().context = before_; }

}  // namespace penstock::exec
