// What a simulation says about itself: names, the trace, what failed.
// Floor 8, room testing.
#include "testing/simulation_core.hpp"

#include <utility>

namespace penstock::testing::detail {
namespace {

std::string in_seconds(std::chrono::nanoseconds time) {
  const auto whole = std::chrono::duration_cast<std::chrono::seconds>(time);
  std::string text = "+" + std::to_string(whole.count());
  std::string fraction = std::to_string((time - whole).count());
  if (fraction != "0") {
    fraction.insert(0, 9 - fraction.size(), '0');
    while (fraction.back() == '0') fraction.pop_back();
    text += "." + fraction;
  }
  return text + " s";
}

}  // namespace

void simulation_core::fail(std::string text) {
  if (failed_) return;
  failed_ = true;
  failure_ = std::move(text);
  failure_trace_ = trace();
}

void simulation_core::fail_by_current_exception(const std::string& who) {
  try {
    throw;
  } catch (const simulation_failure& failed) {
    fail(failed.what());
  } catch (...) {
    const exception_record thrown = describe_current_exception();
    fail(who + " threw " + thrown.type_name + (thrown.what.empty() ? "" : ": " + thrown.what));
  }
}

void simulation_core::throw_failure() {
  told_ = true;
  throw simulation_failure(host_ != nullptr ? failure_ : report());
}

std::string simulation_core::report() const {
  return "seed " + std::to_string(options_.seed_) + ", strategy " + to_string(options_.strategy_) + ": " + failure_ +
         "\nlast steps:\n" + failure_trace_;
}

void simulation_core::record(trace_kind kind, std::uint32_t entity, std::uint32_t detail) noexcept {
  trace_.add({steps_, elapsed(), entity, detail, kind});
}

void simulation_core::note(std::string_view text) {
  std::uint64_t hash = text.size();
  for (const char c : text) hash = mix_bits(hash + static_cast<unsigned char>(c));
  trace_.mix(hash, 1);
  notes_.emplace_back(text);
  record(trace_kind::note, current_->entity, static_cast<std::uint32_t>(notes_.size() - 1));
}

std::string simulation_core::name_of(std::uint32_t entity) const {
  const entity_info& info = entities_[entity];
  switch (info.is) {
    case entity_info::what::scenario:
    case entity_info::what::timers:
    case entity_info::what::started:
      return "'" + threads_[info.number].name + "'";
    case entity_info::what::lane:
      return "lane " + std::to_string(info.number) + " of pool '" + pools_[info.pool]->name() + "'";
    case entity_info::what::posted:
      return "posted work " + std::to_string(info.number) + " of pool '" + pools_[info.pool]->name() + "'";
  }
  return {};
}

std::string simulation_core::describe(const thread_state& thread) const {
  std::string text =
      thread.is == thread_state::role::worker ? "a worker in " + name_of(thread.entity) : "'" + thread.name + "'";
  switch (thread.now) {
    case thread_state::status::waiting:
      text += " (waits " + std::string(thread.place);
      if (thread.deadline != no_deadline) text += " until " + in_seconds(thread.deadline - start_of_time);
      return text + ")";
    case thread_state::status::ready:
      return text + (thread.stack == nullptr ? " (never ran)" : " (ready)");
    case thread_state::status::idle:
    case thread_state::status::running:
    case thread_state::status::done:
      return text;
  }
  return text;
}

std::string simulation_core::trace() const {
  constexpr std::size_t shown = 50;
  std::string text;
  const std::size_t size = trace_.size();
  for (std::size_t at = size > shown ? size - shown : 0; at < size; ++at) {
    const trace_record& line = trace_.at(at);
    text += "  " + std::to_string(line.step) + "  " + in_seconds(line.time) + "  ";
    switch (line.kind) {
      case trace_kind::run_thread:
        text += name_of(line.entity) + " runs";
        break;
      case trace_kind::run_lane:
        text += "a worker begins " + name_of(line.entity);
        break;
      case trace_kind::run_posted:
        text += "a worker begins " + name_of(line.entity);
        break;
      case trace_kind::fire_timer:
        text += "a timer fires";
        break;
      case trace_kind::scenario_goes_on:
        text += "the scenario goes on";
        break;
      case trace_kind::waits:
        text += name_of(line.entity) + " waits";
        break;
      case trace_kind::wakes:
        text += name_of(line.entity) + " is woken";
        break;
      case trace_kind::spurious:
        text += name_of(line.entity) + " is woken for no reason";
        break;
      case trace_kind::preempted:
        text += name_of(line.entity) + " is preempted inside the library";
        break;
      case trace_kind::pauses:
        text += name_of(line.entity) + " lets a moment pass";
        break;
      case trace_kind::thread_ends:
        text += name_of(line.entity) + " ends";
        break;
      case trace_kind::time_jumps:
        text += "time jumps";
        break;
      case trace_kind::note:
        text += name_of(line.entity) + " notes: " + notes_[line.detail];
        break;
    }
    text += "\n";
  }
  return text;
}

std::string simulation_core::unfinished() const {
  std::string names;
  for (const thread_state& thread : threads_) {
    if (&thread == current_ || thread.now == thread_state::status::idle || thread.now == thread_state::status::done)
      continue;
    names += (names.empty() ? "" : ", ") + describe(thread);
  }
  return names;
}

void simulation_core::require_all_done() {
  throw_if_failed();
  const std::string names = unfinished();
  if (names.empty()) return;
  fail("not all simulated threads have ended: " + names);
  throw_failure();
}

void simulation_core::ask_finished() {
  if (failed_ || options_.allow_unfinished_) return;
  const std::string names = unfinished();
  if (!names.empty())
    fail("the scenario has ended, but not all simulated threads: " + names + "; end them, or allow_unfinished()");
}

}  // namespace penstock::testing::detail
