// The three stages between a producer of names and the manifest, joined by events.
// Floor 9, room demo.
#pragma once

#include "buffer_pool.hpp"
#include "console.hpp"
#include "event_log.hpp"
#include "events.hpp"
#include "message_digest.hpp"
#include "options.hpp"
#include "output.hpp"
#include "snapshots.hpp"

#include <penstock/penstock.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

namespace digest {

/// What has been done so far. Every file that was found ends in exactly one of written, reported, skipped or elsewhere,
/// unless an early end left it behind.
struct totals {
  std::atomic<std::uint64_t> found = 0;        ///< offered to the reader
  std::atomic<std::uint64_t> written = 0;      ///< has its line in the output
  std::atomic<std::uint64_t> reported = 0;     ///< found, then named on standard error
  std::atomic<std::uint64_t> given_up = 0;     ///< of those reported: cut off by the end of the deadline
  std::atomic<std::uint64_t> skipped = 0;      ///< this program's own output
  std::atomic<std::uint64_t> elsewhere = 0;    ///< on another file system than they may be
  std::atomic<std::uint64_t> bytes = 0;        ///< hashed
  std::atomic<std::uint64_t> bytes_known = 0;  ///< of all files whose size is known and that are not given up
  std::atomic<std::uint64_t> unsized = 0;      ///< found, and their size is not known yet
  std::atomic<bool> all_found = false;         ///< no further file will come
  std::atomic<std::uint64_t> problems = 0;     ///< everything that was named on standard error
  std::atomic<std::uint64_t> unreadable = 0;   ///< of a manifest
  std::atomic<std::uint64_t> mismatched = 0;   ///< of a manifest
};

/// Owns the runtime, its pools and the subscriptions "reader", "hasher" and "writer".
///
/// producer ── file_found ──▶ reader ── file_read ──▶ hasher × workers ── file_hashed ──▶ writer ──▶ output
///
/// Each stage has a channel of its own. When the writer falls behind, its channel fills, the hasher's outputs are
/// parked and its lanes rest, then the reader's, and then `submit` waits: memory is that of full channels, whatever the
/// tree.
class pipeline {
 public:
  /// Throws std::system_error when a thread cannot start, std::runtime_error when the algorithm is not offered.
  /// `stop` is asked to stop when the output fails, so that the producer ends.
  /// `log` may be null: then the steps of the files are not told.
  pipeline(const options& chosen, output& manifest, console& terminal, std::stop_source stop, event_log* log,
           std::vector<file_identity> own_files);

  /// Hands a file to the first stage; waits while its channel is full. False: it is over, ask for no more.
  bool submit(file_found&& file);

  /// Names a problem of the walk on standard error: "name: text".
  void report_problem(std::string_view name, std::string_view text) noexcept { report(producer_, name, text, {}); }

  /// Called when no further file will be handed in.
  void all_found() noexcept { totals_.all_found.store(true); }

  /// Writes the state of the bus to `sink` every `period` until the shutdown is over. Call once.
  void take_snapshots(std::chrono::nanoseconds period, snapshot_sink& sink);

  /// The pools and the channels, for people.
  std::string description() const;

  /// Whether every stage came to rest within `wait`.
  bool wait_idle(std::chrono::nanoseconds wait) { return runtime_.bus().wait_idle(wait); }

  /// Takes no more, lets the stages finish what they have for at most `limit`, ends them, and names the outputs that
  /// were refused meanwhile. Call once.
  penstock::shutdown_report shutdown(std::chrono::nanoseconds limit, std::string_view reason);

  const totals& counted() const noexcept { return totals_; }
  std::size_t hex_digits() const noexcept { return algorithm_.hex_digits(); }

  /// How many events wait before a stage, and how many may.
  struct depth {
    std::uint64_t waiting = 0;
    std::size_t capacity = 0;
  };
  std::array<depth, 3> depths() const;
  depth events_depth() const { return {events_.ledger().queued, events_.capacity()}; }

 private:
  void read(const file_found& file, const penstock::call& call);
  std::uint64_t read_file(const file_found& file);
  void hash(const file_read& file, const penstock::call& call);
  void write(const file_hashed& file, const penstock::call& call);
  template <class Work>
  void for_file(stage where, const std::string& name, Work&& work);
  void tell(file_step::kind what, const char* where, std::string_view name, std::optional<std::uint64_t> bytes,
            std::string_view error = {}) noexcept;
  void settle(const std::optional<std::uint64_t>& expected, std::uint64_t actual) noexcept;
  void report(const char* where, std::string_view name, std::string_view text,
              std::optional<std::uint64_t> bytes) noexcept;
  void could_not_read(stage where, const std::string& name, const std::string& expected, std::string_view text,
                      std::uint64_t bytes = 0);
  void failed(stage where, const std::string& name, std::string_view text, std::uint64_t bytes = 0) noexcept;
  void must_be_taken(const std::string& name, stage next, const penstock::publish_result& result);
  void rest(stage where, const penstock::call& call);
  [[noreturn]] void give_up(const std::string& when);
  void remember_drop(const std::string& name) noexcept;

  const bool checking_;
  const bool verbose_;
  const char* const producer_;
  const unsigned workers_;
  const penstock::overflow overflow_;
  const std::array<std::chrono::nanoseconds, 4> throttle_;
  const algorithm algorithm_;
  output& output_;
  console& console_;
  std::stop_source stop_;
  const std::stop_token stopping_;
  event_log* const log_;
  const std::vector<file_identity> own_files_;
  bool ended_ = false;  // set by shutdown when no other thread is left
  totals totals_;
  buffer_pool buffers_;

  std::mutex drops_mutex_;  // protects dropped_names_; taken last
  std::vector<std::string> dropped_names_;
  std::atomic<std::uint64_t> drops_ = 0;

  penstock::publisher<file_found> found_;
  penstock::publisher<file_read> read_;
  penstock::publisher<file_hashed> hashed_;
  penstock::publisher<file_step> steps_;
  // The runtime is destroyed before what its handlers use, and the subscriptions before the runtime.
  penstock::runtime runtime_;
  penstock::subscription events_;
  penstock::subscription writer_;
  penstock::subscription hasher_;
  penstock::subscription reader_;
};

}  // namespace digest
