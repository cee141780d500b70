// The reading side of a stream: readers in line, deliveries in hands, events that came back.
// Floor 5, room bus.
#pragma once

#include "base/mutex.hpp"
#include "sync/channel.hpp"

#include <penstock/bus/stream.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace penstock::detail {

class subscription_core;

/// What became of the events a stream's readers had. Read together under its mutex.
struct stream_counts {
  std::uint64_t handled = 0;
  std::uint64_t failed = 0;
  std::uint64_t returned = 0;   ///< back in line, to be delivered again
  std::uint64_t discarded = 0;  ///< were back in line when the stream was closed
};

/// Readers wait first in, first out. One thread at a time dispatches: it takes the first reader off the line, an event out of
/// the channel (or off the list of those that came back, which goes before), and tells the reader. Whoever has something
/// for a dispatcher and finds one at work leaves a note (`again_`). The channel's idle bit is set only while a reader waits
/// and nothing is there, so that publishers do not look in vain.
class stream_core {
 public:
  stream_core(subscription_core& owner, std::size_t max_in_flight, unsigned max_attempts) noexcept
      : owner_(owner), max_in_flight_(max_in_flight), max_attempts_(max_attempts) {}
  ~stream_core();

  /// Any thread: an event, an end, or a free hand may have come.
  void dispatch() noexcept;

  bool start(receive_operation& reader) noexcept;
  void cancel(receive_operation& reader) noexcept;
  void try_now(receive_operation& reader) noexcept;

  enum class settled : unsigned char { handled, failed };
  void settle(delivery_base& held, settled how) noexcept;
  void fail(delivery_base& held, std::string_view reason) noexcept;
  errc put_back(delivery_base& held, bool another_attempt) noexcept;
  /// The stream has stopped: what came back is discarded, readers are told.
  void discard_returned() noexcept;

  stream_counts counts() noexcept;
  std::size_t waiting() noexcept;

 private:
  struct returned_event;
  // With m_ held; these three give it up for a while.
  void dispatch_locked(lock_guard& lock) noexcept PENSTOCK_UNLOCKS_MEANWHILE;
  bool take_into(receive_operation& reader, lock_guard& lock) noexcept PENSTOCK_UNLOCKS_MEANWHILE;
  void complete_locked(receive_operation& reader, lock_guard& lock) noexcept PENSTOCK_UNLOCKS_MEANWHILE;
  bool at_end() noexcept;
  void push_front_locked(receive_operation& reader) noexcept PENSTOCK_REQUIRES(m_);
  void push_back_locked(receive_operation& reader) noexcept PENSTOCK_REQUIRES(m_);
  void remove_locked(receive_operation& reader) noexcept PENSTOCK_REQUIRES(m_);
  void discard(delivery_base& held) noexcept;
  void let_go(delivery_base& held) noexcept;

  subscription_core& owner_;
  const std::size_t max_in_flight_;
  const unsigned max_attempts_;

  mutex m_;  // protects what follows; a channel's mutex may be taken while it is held, no other
  receive_operation* first_ PENSTOCK_GUARDED_BY(m_) = nullptr;
  receive_operation* last_ PENSTOCK_GUARDED_BY(m_) = nullptr;
  receive_operation* served_ PENSTOCK_GUARDED_BY(m_) = nullptr;  // off the line, being looked after
  returned_event* returned_ PENSTOCK_GUARDED_BY(m_) = nullptr;
  bool dispatching_ PENSTOCK_GUARDED_BY(m_) = false;
  bool again_ PENSTOCK_GUARDED_BY(m_) = false;
  std::size_t in_flight_ PENSTOCK_GUARDED_BY(m_) = 0;
  stream_counts counts_ PENSTOCK_GUARDED_BY(m_);
  std::uint64_t last_lost_ = 0;  // the dispatcher's own
};

}  // namespace penstock::detail
