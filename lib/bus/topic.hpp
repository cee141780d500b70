// A topic: its membership as a sequence of snapshots, and the offer of a span to all members.
// Floor 5, room bus.
#pragma once

#include "base/mutex.hpp"
#include "base/ref_count.hpp"
#include "bus/log_wait.hpp"
#include "bus/subscription_core.hpp"
#include "sync/atomic.hpp"
#include "sync/shared_log.hpp"

#include <penstock/bus/publisher.hpp>
#include <penstock/bus/topic.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace penstock::detail {

class publishing;

/// The members at one version of a topic. Freed by the last publish that entered while it was current.
struct snapshot {
  /// Publishes that left, less (once it is no longer current) publishes that entered: 0 then means nobody is inside.
  sync::atomic<std::int64_t> balance{0};
  std::uint16_t slot = 0;
  std::size_t count = 0;
  subscription_core** members() noexcept { return reinterpret_cast<subscription_core**>(this + 1); }
};

/// What was agreed on when the topic was made.
struct topic_identity {
  std::string key;    ///< by which the bus finds it: the type's, or a line break and the topic's own name
  std::string type;   ///< the type's key: the given name, or the mangled type name
  std::string name;   ///< the event's, for people
  std::string mangled;  ///< the type's mangled name, whatever name it was given
  std::string topic;  ///< the topic's own name, or empty
  const std::string& shown() const noexcept { return topic.empty() ? name : topic; }
  const void* private_type = nullptr;  ///< the type's address, when its name does not identify it
  std::size_t size = 0;
  std::size_t align = 1;
  bool in_place = false;
  std::uint32_t schema = 0;
};

/// tail_ is one word: bits 48 to 63 the slot of the current snapshot, bits 0 to 47 how many publishes have entered it. So one
/// addition gives a publish both its place and, exactly at that place, its membership: each subscribe and each leave is
/// a cut between two publishes. The two halves of the count (here, and `balance`) are a split reference count on the
/// snapshot. Source: split counts are folklore; see Anthony Williams, "C++ Concurrency in Action", 7.2.4.
///
/// Members that can read the topic's log once they have nothing queued (`sync::shared_log`). Then most publishes take one
/// position in it, and need neither the snapshot nor a seat in each channel. Who finds a reader without a seat goes on
/// under the log's mutex: a thread that may wait takes its position all the same, for the others are to have the event at once,
/// and waits in `waits_` until the full ones have begun so much; for any other offer the full ones leave the log, and it goes
/// on in their own rings.
class topic final : public ref_counted<topic> {
 public:
  topic(ref_ptr<bus_core> bus, topic_identity&& identity);
  ~topic();

  publish_result publish(const publish_request& request);
  bool matched() const noexcept { return member_count_.load() > 0; }
  publish_result publish_unmatched(std::size_t count) noexcept;

  /// Throws std::bad_alloc, or std::system_error when 65,535 versions are in use; then nothing has changed.
  void add(subscription_core& member);
  /// Also from the log, for good.
  void remove(subscription_core& member) noexcept;
  /// Whether there is anybody to share the log with. Alone, a ring of its own is as good and needs less memory; with very many,
  /// a publish that finds one of them outside the log, and so looks at each, takes longer than it saves.
  bool shares() const noexcept { return sharers_.load() > 1 && member_count_.load() <= most_readers; }
  /// Its consumer, which found nothing: from here on it reads the log, if it may. False: it goes on as it is.
  bool enter_log(subscription_core& member) noexcept;
  /// Makes it go on with a ring of its own.
  void leave_log(subscription_core& member) noexcept;
  /// Tells those who wait in the log and have their seats by now.
  void serve_log() noexcept;
  /// For who waits there, and looks by itself. True: it has its seats, and is not told any more.
  bool look_at(log_wait& waits) noexcept;
  /// For who waits there, and gives up: those that have no seats for it leave the log, and it stands in their lines. True: it
  /// is not told any more.
  bool take_out(log_wait& waits) noexcept;
  std::size_t members() const noexcept { return member_count_.load(); }
  ref_ptr<subscription_core> any_member() noexcept;

  metadata kept() const noexcept { return kept_.load(std::memory_order_relaxed); }
  /// Before the first subscription.
  void keep(metadata kind) noexcept {
    kept_.store(kind);
    if (kind != metadata::off) log_.keep_times();
  }

  const topic_identity identity;
  bus_core& bus() const noexcept { return *bus_; }
  sync::shared_log& log() noexcept { return log_; }
  std::uint32_t handles = 0;  ///< guarded by the bus's mutex: publishers and subscriptions
  bool kept_is_settled = false;  ///< guarded by the bus's mutex: somebody asked for it, or has subscribed

  /// For tests: makes the next version come after so few publishes.
  void renew_after(std::uint64_t publishes) noexcept { renew_after_ = publishes; }

 private:
  static constexpr std::size_t most_readers = 256;
  static constexpr unsigned slot_shift = 48;
  static constexpr std::uint64_t entered_mask = (std::uint64_t{1} << slot_shift) - 1;
  static constexpr unsigned segments = 14;
  static constexpr std::size_t first_segment = 8;

  std::int64_t published_now() const noexcept {
    const metadata kind = kept();
    return kind == metadata::off ? 0 : publish_time(kind);
  }
  std::int64_t publish_time(metadata kind) const noexcept;
  [[gnu::noinline]] publish_result publish_from(std::size_t first, snapshot& seen, const publish_request& request,
                                                std::int64_t published);
  [[gnu::noinline]] publish_result publish_beside_log(const publish_request& request,
                                                      std::int64_t published);
  [[gnu::noinline]] publish_result publish_locked(const publish_request& request, std::int64_t published);
  void write_in_log(publishing& call, snapshot& seen, const publish_request& request,
                    const sync::shared_log::claimed& got, bool wakes) noexcept;
  [[gnu::noinline]] void wake_readers() noexcept;
  snapshot& enter() noexcept {
    const std::uint64_t entered = tail_.fetch_add(1);
    snapshot& seen = *place(static_cast<std::uint16_t>(entered >> slot_shift))->load();
    // Long before the count could run into the slot, the same members get a new version.
    if (const std::uint64_t count = entered & entered_mask; count >= renew_after_ && (count & (count - 1)) == 0) renew();
    return seen;
  }
  void leave(snapshot& seen) noexcept {
    // Not below zero before it is retired, so this is zero only for the last one out of a retired snapshot.
    if (seen.balance.fetch_add(1) == -1) free_snapshot(seen);
  }
  snapshot& enter_locked() noexcept PENSTOCK_REQUIRES(log_.m) { return tail_.fetch_add(1), *current_; }
  snapshot* allocate_snapshot(std::size_t members) PENSTOCK_REQUIRES(log_.m);
  void make_current(snapshot& made) noexcept PENSTOCK_REQUIRES(log_.m);
  sync::channel::leaving leave_log_locked(subscription_core& member, bool for_good) noexcept PENSTOCK_REQUIRES(log_.m);
  void note_readers(std::uint32_t readers) noexcept PENSTOCK_REQUIRES(log_.m);
  std::size_t provide_log() noexcept PENSTOCK_REQUIRES(log_.m);
  std::uint64_t find_last() noexcept PENSTOCK_REQUIRES(log_.m);
  void serve_log_locked(log_waits& told) noexcept PENSTOCK_REQUIRES(log_.m);
  void await_first() noexcept PENSTOCK_REQUIRES(log_.m);
  static void after_leaving(subscription_core& member, sync::channel::leaving left) noexcept;
  void retire(snapshot& old, std::uint64_t entered) noexcept;
  void free_snapshot(snapshot& dead) noexcept;
  sync::atomic<snapshot*>* place(std::uint16_t slot) noexcept {
    return slot < first_segment ? &first_slots_[slot] : far_place(slot);
  }
  sync::atomic<snapshot*>* far_place(std::uint16_t slot) noexcept;
  void renew() noexcept;

  const ref_ptr<bus_core> bus_;
  std::atomic<metadata> kept_{metadata::off};
  std::uint64_t renew_after_ = std::uint64_t{1} << 47;

  alignas(64) sync::atomic<std::uint64_t> tail_{0};
  alignas(64) sync::atomic<std::size_t> member_count_{0};
  /// Slots in segments of 8, 8, 16, 32, …; a slot is free when it holds null.
  sync::atomic<sync::atomic<snapshot*>*> segments_[segments] = {};
  sync::atomic<snapshot*> first_slots_[first_segment] = {};

  sync::atomic<std::size_t> sharers_{0};  // members that may read the log; written under its mutex
  sync::shared_log log_;  // its mutex protects the membership
  snapshot* current_ PENSTOCK_GUARDED_BY(log_.m) = nullptr;
  log_waits waits_ PENSTOCK_GUARDED_BY(log_.m);
  /// The reader that had the lowest limit when all were last looked at. It reads the log, so it is in the snapshot.
  const subscription_core* last_ PENSTOCK_GUARDED_BY(log_.m) = nullptr;
};

}  // namespace penstock::detail
