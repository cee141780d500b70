// The three stages between a producer of names and the manifest, joined by events.
// Floor 9, room demo.
#include "pipeline.hpp"

#include "text.hpp"
#include "walker.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace digest {

namespace {

// Two files are opened and read at once, so that a slow disk is asked for the next while it brings the first.
constexpr unsigned readers = 2;
// Each event before the hasher holds a buffer: 16 of them are 2 MB.
constexpr std::size_t most_waiting_heads = 16;

penstock::runtime_options make_pools(unsigned workers, bool with_events,
                                     penstock::unique_function<void(const penstock::failure&)> hook) {
  penstock::runtime_options made;
  made.pool("reader", penstock::worker_pool_options{}.threads(readers));
  made.pool("cpu", penstock::worker_pool_options{}.threads(workers));
  made.pool("writer", penstock::worker_pool_options{}.threads(1));
  if (with_events) made.pool("events", penstock::worker_pool_options{}.threads(1));
  made.pool("default", penstock::worker_pool_options{}.threads(1));  // takes the snapshots
  made.on_failure(std::move(hook));
  return made;
}

/// Reads until the buffer is full or the file ends. Negative: errno says why.
ssize_t read_fully(int file, std::span<std::byte> buffer) {
  std::size_t filled = 0;
  while (filled < buffer.size()) {
    const ssize_t count = ::read(file, buffer.data() + filled, buffer.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return -1;
    if (count == 0) break;
    filled += static_cast<std::size_t>(count);
  }
  return static_cast<ssize_t>(filled);
}

}  // namespace

pipeline::pipeline(const options& chosen, output& manifest, console& terminal, std::stop_source stop, event_log* log,
                   std::vector<file_identity> own_files)
    : checking_(!chosen.check.empty()),
      verbose_(chosen.verbose),
      producer_(checking_ ? "manifest" : "walker"),
      workers_(chosen.workers),
      overflow_(chosen.overflow),
      throttle_(chosen.throttle),
      algorithm_(chosen.algorithm),
      output_(manifest),
      console_(terminal),
      stop_(std::move(stop)),
      stopping_(stop_.get_token()),
      log_(log),
      own_files_(std::move(own_files)),
      runtime_(make_pools(chosen.workers, log != nullptr, [this](const penstock::failure& record) {
        // The stages name their file in what they throw.
        totals_.problems.fetch_add(1);
        totals_.reported.fetch_add(1);
        console_.message(record.exception.what + " (stage " + record.subscription + ")");
      })) {
  const penstock::event_bus& bus = runtime_.bus();
  hashed_ = bus.publisher<file_hashed>();
  read_ = bus.publisher<file_read>();
  found_ = bus.publisher<file_found>();

  if (log_ != nullptr) {
    steps_ = bus.publisher<file_step>();
    events_ = bus.subscribe<file_step>(
        "events",
        penstock::subscribe_options{}
            .capacity(overflow_ == penstock::overflow::latest ? 1 : chosen.capacity)
            .overflow(overflow_)
            .on(runtime_.pool("events")),
        [this](const file_step& step, const penstock::call& call) {
          rest(stage::events, call);  // a step whose time is over is still written: it is no file that was given up
          log_->write(step);
        });
  }
  writer_ = bus.subscribe<file_hashed>(
      "writer",
      penstock::subscribe_options{}
          .capacity(chosen.capacity)
          .on(runtime_.pool("writer"))
          .on_drop<file_hashed>(
              [this](const file_hashed& file, penstock::drop_reason) noexcept { remember_drop(file.name); }),
      [this](const file_hashed& file, const penstock::call& call) { write(file, call); });
  hasher_ =
      bus.subscribe<file_read>("hasher",
                               penstock::subscribe_options{}
                                   .capacity(std::min(chosen.capacity, most_waiting_heads))
                                   .concurrency(chosen.workers)
                                   .on(runtime_.pool("cpu"))
                                   .on_drop<file_read>([this](const file_read& file, penstock::drop_reason) noexcept {
                                     remember_drop(file.name);
                                   }),
                               [this](const file_read& file, const penstock::call& call) { hash(file, call); });
  reader_ = bus.subscribe<file_found>(
      "reader",
      penstock::subscribe_options{}.capacity(chosen.capacity).concurrency(readers).on(runtime_.pool("reader")),
      [this](const file_found& file, const penstock::call& call) { read(file, call); });
}

bool pipeline::submit(file_found&& file) {
  const std::optional<std::uint64_t> size = file.size;
  tell(file_step::kind::found, producer_, file.name, size);
  if (size)
    totals_.bytes_known.fetch_add(*size);
  else
    totals_.unsized.fetch_add(1);
  const penstock::publish_result result = found_.publish(std::move(file), stopping_);
  if (result.accepted() != 0) {
    totals_.found.fetch_add(1);
    return !stopping_.stop_requested();
  }
  // What nobody took is still ours.
  if (!stopping_.stop_requested()) report_problem(file.name, "was not taken by the reader: " + to_string(result));
  return false;
}

/// What a file's size was taken for, when anybody looked, is `actual` now.
void pipeline::settle(const std::optional<std::uint64_t>& expected, std::uint64_t actual) noexcept {
  totals_.bytes_known.fetch_add(actual - expected.value_or(0));
  if (!expected) totals_.unsized.fetch_sub(1);
}

/// In a handler a full channel parks the step like any output; the producer waits, unless it is to stop.
void pipeline::tell(file_step::kind what, const char* where, std::string_view name, std::optional<std::uint64_t> bytes,
                    std::string_view error) noexcept {
  if (log_ == nullptr) return;
  try {
    file_step step{what, where, std::string(name), bytes, std::string(error)};
    // What was refused stands in the subscription's ledger.
    if (ended_)
      log_->write(step);
    else if (where == producer_)
      (void)steps_.publish(std::move(step), stopping_);
    else
      (void)steps_.publish(std::move(step));
  } catch (const std::exception&) {
    console_.message("out of memory while telling of an event");
  }
}

void pipeline::report(const char* where, std::string_view name, std::string_view text,
                      std::optional<std::uint64_t> bytes) noexcept {
  tell(file_step::kind::failed, where, name, bytes, text);
  totals_.problems.fetch_add(1);
  try {
    console_.message(for_terminal(name) + ": " + std::string(text));
  } catch (const std::exception&) {
    console_.message("out of memory while naming a problem");
  }
}

/// A file that was found, and ends here.
void pipeline::failed(stage where, const std::string& name, std::string_view text, std::uint64_t bytes) noexcept {
  totals_.reported.fetch_add(1);
  report(stage_names[static_cast<std::size_t>(where)], name, text, bytes);
}

void pipeline::could_not_read(stage where, const std::string& name, const std::string& expected, std::string_view text,
                              std::uint64_t bytes) {
  if (!checking_) {
    failed(where, name, text, bytes);
    return;
  }
  // The verdict stands among the others, and so goes the way they go.
  report(stage_names[static_cast<std::size_t>(where)], name, text, bytes);
  must_be_taken(name, stage::writer, hashed_.emplace(name, expected, std::string()));
}

/// In a handler a full target parks the output, so what is not taken now is refused for good.
void pipeline::must_be_taken(const std::string& name, stage next, const penstock::publish_result& result) {
  if (result.accepted() + result.parked() != 0 && result.rejected() + result.dropped() == 0) return;
  failed(next, name,
         std::string("was lost on its way to the ") + stage_names[static_cast<std::size_t>(next)] + ": " +
             to_string(result));
}

void pipeline::remember_drop(const std::string& name) noexcept {
  constexpr std::size_t most_names = 1000;
  drops_.fetch_add(1);
  try {
    const std::lock_guard hold(drops_mutex_);
    if (dropped_names_.size() < most_names) dropped_names_.push_back(name);
  } catch (const std::exception&) {
    // The count above still tells of it.
  }
}

/// The stage's throttle. A cancelled call rests no longer, and fails: its file is not finished.
void pipeline::rest(stage where, const penstock::call& call) {
  const std::chrono::nanoseconds time = throttle_[static_cast<std::size_t>(where)];
  const std::stop_token cancelled = call.stop_token();
  if (time.count() != 0) {
    std::mutex mutex;
    std::condition_variable_any never;
    std::unique_lock hold(mutex);
    never.wait_for(hold, cancelled, time, [] { return false; });
  }
  if (cancelled.stop_requested() && where != stage::events) give_up("given up");
}

void pipeline::give_up(const std::string& when) {
  totals_.given_up.fetch_add(1);
  throw std::runtime_error(when + ", the time for an orderly end is over");
}

/// Adds the file's name to whatever a stage throws.
template <class Work>
void pipeline::for_file(stage where, const std::string& name, Work&& work) {
  try {
    work();
  } catch (const std::exception& error) {
    tell(file_step::kind::failed, stage_names[static_cast<std::size_t>(where)], name, {}, error.what());
    throw std::runtime_error(for_terminal(name) + ": " + error.what());
  }
}

void pipeline::read(const file_found& file, const penstock::call& call) {
  for_file(stage::reader, file.name, [&] {
    rest(stage::reader, call);
    settle(file.size, read_file(file));
  });
}

/// How large the file is that goes on; 0 when none does.
std::uint64_t pipeline::read_file(const file_found& file) {
  // Without O_NONBLOCK a file that was exchanged for a FIFO would hold the stage until somebody writes to it.
  constexpr int flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
  descriptor opened(file.directory ? ::openat(file.directory->get(), file.name.c_str() + file.leaf_at,
                                              flags | (file.through_link ? 0 : O_NOFOLLOW))
                                   : ::open(file.name.c_str(), flags));
  if (!opened) {
    const int error_number = errno;
    if (file.directory && error_number == ELOOP)
      could_not_read(stage::reader, file.name, file.expected,
                     "was a file when it was found, and is a symbolic link now: left out");
    else if (file.directory && error_number == ENOENT)
      could_not_read(stage::reader, file.name, file.expected, "vanished after it was found");
    else
      could_not_read(stage::reader, file.name, file.expected, std::strerror(error_number));
    return 0;
  }
  struct stat is {};
  if (::fstat(opened.get(), &is) != 0) {
    could_not_read(stage::reader, file.name, file.expected, std::strerror(errno));
    return 0;
  }
  if (!S_ISREG(is.st_mode)) {
    could_not_read(stage::reader, file.name, file.expected,
                   std::string("is ") + kind_of(is.st_mode) + ", not a file: left out");
    return 0;
  }
  if (file.only_device && is.st_dev != *file.only_device) {  // a mount or a link may stand for a single file, too
    totals_.elsewhere.fetch_add(1);
    if (verbose_) console_.message(for_terminal(file.name) + ": lies on another file system: left out");
    return 0;
  }
  const file_identity identity{is.st_dev, is.st_ino};
  if (!checking_ && std::find(own_files_.begin(), own_files_.end(), identity) != own_files_.end()) {
    totals_.skipped.fetch_add(1);
    if (verbose_) console_.message(for_terminal(file.name) + ": is written by this program: left out");
    return 0;
  }

  file_read next;
  next.name = file.name;
  next.expected = file.expected;
  next.size = static_cast<std::uint64_t>(is.st_size);
  next.head = buffers_.take();
  const ssize_t count = read_fully(opened.get(), next.head.bytes());
  if (count < 0) {
    could_not_read(stage::reader, file.name, file.expected, std::string("cannot be read: ") + std::strerror(errno));
    return 0;
  }
  next.head_bytes = static_cast<std::size_t>(count);
  if (next.head_bytes == buffer_bytes) {
    ::posix_fadvise(opened.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
    next.rest = std::move(opened);
  }
  const std::uint64_t size = next.size;
  tell(file_step::kind::read, "reader", file.name, next.head_bytes);
  must_be_taken(file.name, stage::hasher, read_.publish(std::move(next)));
  return size;
}

void pipeline::hash(const file_read& file, const penstock::call& call) {
  for_file(stage::hasher, file.name, [&] {
    rest(stage::hasher, call);
    const std::stop_token cancelled = call.stop_token();
    message_digest digest(algorithm_);
    digest.update(file.head.bytes().first(file.head_bytes));
    std::uint64_t bytes = file.head_bytes;
    totals_.bytes.fetch_add(file.head_bytes);
    if (file.rest) {
      const pooled_buffer buffer = buffers_.take();
      for (;;) {
        if (cancelled.stop_requested()) give_up("given up after " + human_bytes(bytes));
        const ssize_t count = read_fully(file.rest.get(), buffer.bytes());
        if (count < 0) {
          const int error_number = errno;
          settle(file.size, bytes);
          could_not_read(stage::hasher, file.name, file.expected,
                         std::string("cannot be read: ") + std::strerror(error_number), bytes);
          return;
        }
        if (count == 0) break;
        digest.update(buffer.bytes().first(static_cast<std::size_t>(count)));
        bytes += static_cast<std::uint64_t>(count);
        totals_.bytes.fetch_add(static_cast<std::uint64_t>(count));
      }
    }
    settle(file.size, bytes);
    tell(file_step::kind::hashed, "hasher", file.name, bytes);
    must_be_taken(file.name, stage::writer, hashed_.emplace(file.name, file.expected, digest.finish(), bytes));
  });
}

void pipeline::write(const file_hashed& file, const penstock::call& call) {
  for_file(stage::writer, file.name, [&] {
    rest(stage::writer, call);
    std::string line;
    if (!checking_) {
      line = manifest_line(file.hex, file.name);
    } else if (file.hex.empty()) {
      totals_.unreadable.fetch_add(1);
      line = verdict_line(file.name, "FAILED open or read");
    } else if (file.hex != file.expected) {
      totals_.mismatched.fetch_add(1);
      line = verdict_line(file.name, "FAILED");
    } else {
      line = verdict_line(file.name, "OK");
    }
    if (output_.write(line)) {
      totals_.written.fetch_add(1);
      tell(file_step::kind::written, "writer", file.name, file.bytes);
    } else {
      stop_.request_stop();  // main tells why; the producer need not go on
    }
  });
}

penstock::shutdown_report pipeline::shutdown(std::chrono::nanoseconds limit, std::string_view reason) {
  penstock::shutdown_report report = runtime_.shutdown(limit, reason);
  std::vector<std::string> names;
  {
    const std::lock_guard hold(drops_mutex_);
    names.swap(dropped_names_);
  }
  ended_ = report.stuck.empty() && report.abandoned_workers == 0;
  for (const std::string& name : names) failed(stage::writer, name, "was not finished: the next stage had ended");
  const std::uint64_t unnamed = drops_.load() - names.size();
  if (unnamed != 0) {
    totals_.reported.fetch_add(unnamed);
    totals_.problems.fetch_add(unnamed);
    console_.message(std::to_string(unnamed) + " more files were not finished");
  }
  return report;
}

void pipeline::take_snapshots(std::chrono::nanoseconds period, snapshot_sink& sink) {
  snapshot_every(period, runtime_, runtime_.pool("default"), sink);
}

std::string pipeline::description() const {
  const auto threads = [](unsigned count) { return std::to_string(count) + (count == 1 ? " thread" : " threads"); };
  std::string text = "pools: reader " + threads(readers) + ", cpu " + threads(workers_) + ", writer " + threads(1) +
                     ", default " + threads(1);
  if (log_ != nullptr) text += ", events " + threads(1);
  text += "; channels: ";
  const auto waiting = depths();
  for (std::size_t at = 0; at < waiting.size(); ++at)
    text += std::string(at == 0 ? "" : ", ") + stage_names[at] + " " + std::to_string(waiting[at].capacity);
  if (log_ != nullptr)
    text += ", events " + std::to_string(events_depth().capacity) + " (" + penstock::to_string(overflow_) + ")";
  return text;
}

std::array<pipeline::depth, 3> pipeline::depths() const {
  const auto look = [](const penstock::subscription& stage) { return depth{stage.ledger().queued, stage.capacity()}; };
  return {look(reader_), look(hasher_), look(writer_)};
}

}  // namespace digest
