// A snapshot as JSON. The one door to the JSON library.
// Floor 5, room bus.
#include "bus/snapshot_json.hpp"

#include <nlohmann/json.hpp>

#include <chrono>
#include <utility>

namespace penstock {
namespace {

using json = nlohmann::ordered_json;

// Objects are made as such, never by indexing a null value: that leaves a broken one behind when there is no memory.

double milliseconds(std::chrono::nanoseconds time) noexcept {
  return std::chrono::duration<double, std::milli>(time).count();
}

json to_value(const ledger& c) {
  json value = json::object();
  value["offered"] = c.offered;
  value["accepted"] = c.accepted;
  value["dropped"] = c.dropped;
  json rejected = json::object();
  rejected["full"] = c.rejected.full;
  rejected["timed_out"] = c.rejected.timed_out;
  rejected["cancelled"] = c.rejected.cancelled;
  rejected["closed"] = c.rejected.closed;
  rejected["would_block"] = c.rejected.would_block;
  rejected["cycle"] = c.rejected.cycle;
  rejected["no_memory"] = c.rejected.no_memory;
  value["rejected"] = std::move(rejected);
  value["pending"] = c.pending;
  value["handled"] = c.handled;
  value["filtered"] = c.filtered;
  value["failed"] = c.failed;
  value["discarded"] = c.discarded;
  value["evicted"] = c.evicted;
  value["queued"] = c.queued;
  value["running"] = c.running;
  return value;
}

json to_value(const running_call& call) {
  json value = json::object();
  value["sequence"] = call.sequence;
  value["attempt"] = call.attempt;
  value["at_least_ms"] = milliseconds(call.at_least);
  value["suspended"] = call.suspended;
  value["retry_wait"] = call.retry_wait;
  return value;
}

json to_value(const subscription_snapshot& s) {
  json value = json::object();
  value["name"] = s.name;
  value["topic"] = s.topic;
  value["event"] = s.event;
  value["kind"] = s.concurrency == 0 ? "stream" : "handler";
  value["pool"] = s.pool;
  value["file"] = s.file;
  value["line"] = s.line;
  value["state"] = to_string(s.state);
  value["overflow"] = to_string(s.overflow);
  value["capacity"] = s.capacity;
  value["concurrency"] = s.concurrency;
  value["ordered"] = s.ordered;
  value["ledger"] = to_value(s.ledger);
  json running = json::array();
  for (const running_call& call : s.running) running.push_back(to_value(call));
  value["running"] = std::move(running);
  value["readers"] = s.readers;
  value["oldest_at_least_ms"] = milliseconds(s.oldest_at_least);
  return value;
}

json to_value(const topic_snapshot& t) {
  json value = json::object();
  value["name"] = t.name;
  value["event"] = t.event;
  value["subscriptions"] = t.subscriptions;
  value["handles"] = t.handles;
  return value;
}

json to_value(const wait_edge& w) {
  json value = json::object();
  value["from"] = w.from;
  value["to"] = w.to;
  value["why"] = w.reason == wait_edge::why::output ? "output" : "close";
  value["events"] = w.events;
  return value;
}

const char* state_of(const task_info& task) noexcept {
  if (task.status != task_status::running) return to_string(task.status);
  if (task.pausing) return "pausing";
  return task.started ? "running" : "starting";
}

json to_value(const task_info& t) {
  json value = json::object();
  value["id"] = t.id;
  value["name"] = t.name;
  value["owner"] = t.owner;
  value["pool"] = t.pool;
  value["file"] = t.file;
  value["line"] = t.line;
  value["state"] = state_of(t);
  value["stop_order"] = t.order == stop_order::stop_first ? "stop_first" : "keep_until_drained";
  value["age_ms"] = milliseconds(t.age);
  value["running_ms"] = milliseconds(t.running);
  value["runs"] = t.runs;
  value["restarts"] = t.runs > 0 ? t.runs - 1 : 0;
  value["failures"] = t.failures;
  value["last_failure"] = t.last_failure;
  value["ticks"] = t.ticks;
  value["missed"] = t.missed;
  value["stop_requested"] = t.stop_requested;
  value["stop_by"] = t.stop_by;
  value["stop_reason"] = t.stop_reason;
  return value;
}

json to_value(const pool_snapshot& p) {
  json value = json::object();
  value["name"] = p.name;
  value["workers"] = p.workers;
  value["busy"] = p.busy;
  value["parked"] = p.parked;
  value["ready"] = p.ready;
  value["queued"] = p.queued;
  value["may_wait"] = p.may_wait;
  return value;
}

template <class Parts>
json to_array(const Parts& parts) {
  json all = json::array();
  for (const auto& each : parts) all.push_back(to_value(each));
  return all;
}

json to_value(const bus_snapshot& seen) {
  json value = json::object();
  value["topics"] = to_array(seen.topics);
  value["subscriptions"] = to_array(seen.subscriptions);
  value["waits"] = to_array(seen.waits);
  return value;
}

std::string text_of(const json& value, json_form form) {
  return value.dump(form == json_form::indented ? 2 : -1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

std::string to_json(const bus_snapshot& seen, json_form form) { return text_of(to_value(seen), form); }

std::string detail::to_json(const parts_of_runtime& seen, json_form form) {
  json value = json::object();
  value["phase"] = seen.phase;
  value["pools"] = to_array(seen.pools);
  value["tasks"] = to_array(seen.tasks);
  value["bus"] = to_value(seen.bus);
  return text_of(value, form);
}

}  // namespace penstock
