// One asynchronous publish: begun once, decided when every line it stands in has decided.
// Floor 5, room bus.
#include <penstock/bus/publish_operation.hpp>

#include "bus/bus_core.hpp"
#include "bus/publish_lines.hpp"
#include "bus/result_builder.hpp"
#include "bus/topic.hpp"
#include "sync/atomic.hpp"

#include <cstdlib>
#include <new>
#include <utility>

namespace penstock::detail {

struct publish_operation::line : operation_line {};

// The public header has room for lines without knowing them.
struct publish_operation::far_lines {
  static_assert(sizeof(line) <= line_bytes && alignof(line) <= lines_align);

  explicit far_lines(std::size_t count) : all(new line[count]) {}
  std::unique_ptr<line[]> all;
};


publish_operation::~publish_operation() {
  for (std::uint32_t i = 0; i < lines_; ++i)
    if (i < near) at(i).~line();
  delete far_;
  if (block_ != nullptr) release_block(block_);
}

publish_operation::line& publish_operation::at(std::size_t index) noexcept {
  if (index >= near) return far_->all[index - near];
  return *std::launder(reinterpret_cast<line*>(near_ + index * line_bytes));
}

publish_operation::line* publish_operation::next_line(std::size_t most) noexcept {
  if (lines_ < near) return ::new (near_ + lines_ * line_bytes) line();
  try {
    if (far_ == nullptr) far_ = new far_lines(most - near);
  } catch (...) {
    return nullptr;
  }
  return &far_->all[lines_ - near];
}

operation_line* async_lines::next(publish_operation& operation, std::size_t most) noexcept {
  return operation.next_line(most);
}

void async_lines::prepare(publish_operation& operation, operation_line& line, lane* producer,
                          subscription_core& target) noexcept {
  line.operation = &operation;
  line.target = ref_ptr<subscription_core>::share(&target);
  line.producer = line.edge.producer = producer;
  if (producer != nullptr) line.producer_core = ref_ptr<subscription_core>::share(producer->core);
  line.edge.target = &target;
  line.edge.place = &line;
  line.parked = producer != nullptr;
  line.tell_at_once = true;
  line.settle = [](sync::waiter& settled) noexcept {
    auto& decided = static_cast<operation_line&>(settled);
    publish_operation& owner = *decided.operation;
    if (decided.producer != nullptr) {
      // By the one who closes the target, inside its gate.
      if (decided.why == errc::closed)
        decided.target->tell_drop(payload_at(decided.target->channel, decided.events, 0), drop_reason::closed);
      const ref_ptr<subscription_core> keep = decided.producer_core;
      lane& producing = *decided.producer;
      if (decided.edge.producer != nullptr) {
        wait_graph& waits = decided.target->bus().waits;
        lock_guard lock(waits.m);
        waits.unlink(decided.edge);
      }
      producing.output_decided();
    }
    owner.one_less();
  };
  ++operation.lines_;
  operation.hold();
}

void async_lines::unprepare(publish_operation& operation, operation_line& line) noexcept {
  --operation.lines_;
  if (operation.lines_ < publish_operation::near) line.~operation_line();
  operation.unhold();
}

void publish_operation::hold() noexcept { open_.fetch_add(1); }
void publish_operation::unhold() noexcept { open_.fetch_sub(1); }

void publish_operation::one_less() noexcept {
  const std::uint32_t before = open_.fetch_sub(1);
#if defined(PENSTOCK_MODEL)
  // Decided once too often: it may be gone, and what the allocator wrote there is no count.
  if (before == 0 || before >= std::uint32_t{1} << 31) std::abort();
#endif
  if (before != 1) return;
  gather();
  decided(*this);
}

// Every line has decided: what each of them took and refused goes into the result.
void publish_operation::gather() noexcept {
  result_builder result(std::move(result_));
  for (std::uint32_t i = 0; i < lines_; ++i) {
    const line& each = at(i);
    result.accepted(each.admitted);
    if (each.why == errc::none) continue;
    result.rejected(*each.target, each.why, each.remaining);
    result.refused_from(0);
    result.error(each.why);
  }
  result_ = result.take();
}

bool publish_operation::start() noexcept {
  if (refused_ != errc::none) {
    result_ = publish_result(refused_);
    return true;
  }
  if (unmatched_) {
    result_ = topic_.publish_unmatched(1);
    return true;
  }
  publish_request request;
  request.events = has_block_ ? static_cast<const void*>(&block_) : event_;
  request.count = 1;
  request.operation = this;
  open_.store(1);
  publish_result now;
  try {
    now = topic_.publish(request);
  } catch (...) {
    now = publish_result(errc::not_enough_memory);
  }
  result_ = std::move(now);
  if (open_.fetch_sub(1) != 1) return false;
  gather();
  return true;
}

void publish_operation::cancel(cancel_force force) noexcept {
  // Holds itself, unless it has been decided.
  std::uint32_t open = open_.load();
  do {
    if (open == 0) return;
  } while (!open_.compare_exchange_weak(open, open + 1));
  bool harmless = force != cancel_force::total || result_.accepted() == 0;
  for (std::uint32_t i = 0; i < lines_ && harmless; ++i) {
    line& each = at(i);
    switch (each.target->channel.withdraw(each, errc::cancelled)) {
      case sync::channel::withdrawal::withdrawn:
        cancelled_ = true;
        each.settle(each);
        break;
      case sync::channel::withdrawal::was_admitted:
        each.settle(each);
        harmless = force != cancel_force::total;
        break;
      case sync::channel::withdrawal::settled_elsewhere:
        harmless = force != cancel_force::total || each.why != errc::none;
        break;
    }
  }
  one_less();
}

}  // namespace penstock::detail
