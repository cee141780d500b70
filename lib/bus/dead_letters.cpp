// Making and publishing the dead letter of an event that failed for good.
// Floor 5, room bus.
#include "bus/dead_letters.hpp"

#include "bus/bus_core.hpp"
#include "bus/subscription_core.hpp"
#include "bus/topic.hpp"
#include "exec/context.hpp"

#include <cstring>
#include <new>
#include <utility>

namespace penstock::detail {

void bury(subscription_core& failed, const void* payload, const letter_of_failure& letter) noexcept {
  if (failed.makes_dead_letters()) return;
  try {
    const ref_ptr<topic> graves = failed.bus().dead_letters_of(failed.topic().identity);
    if (!graves) return;
    // The code that makes the letter is a subscriber's, so it is called inside that one's gate.
    const ref_ptr<subscription_core> reader = graves->any_member();
    if (!reader || !reader->enter()) return failed.bus().report_unmatched(graves->identity.name);
    struct inside {
      subscription_core& gate;
      ~inside() { gate.leave_gate(); }
    } guard{*reader};
    dead_letter_text text;
    text.topic = failed.topic().identity.shown();
    text.subscription = failed.name;
    text.reason = letter.reason;
    if (letter.record != nullptr) {
      text.text = letter.record->exception.type_name;
      if (!letter.record->exception.what.empty()) text.text += ": " + letter.record->exception.what;
    }
    text.sequence = letter.sequence;
    text.attempts = letter.attempts;
    void* event = const_cast<void*>(payload);
    if (failed.channel.blocks()) {
      retain_block(event);
    } else {
      payload_type type;
      type.size = failed.topic().identity.size;
      type.align = failed.topic().identity.align;
      event = allocate_block(type);
      if (event == nullptr) throw std::bad_alloc();
      std::memcpy(event, payload, type.size);
    }
    void* made = reader->make_dead_letter(event, std::move(text));
    if (made == nullptr) throw std::bad_alloc();
    publish_request request;
    request.events = &made;
    request.count = 1;
    request.wait = letter.wait;
    request.dead_letter = true;
    // Caused by the event that failed, wherever that is found out: a drain takes it.
    const exec::context* current = exec::current_context();
    exec::context caused = current != nullptr ? *current : exec::context{exec::context_kind::reader};
    caused.under_delivery = true;
    exec::context_scope scope(&caused);
    static_cast<void>(graves->publish(request));
    release_block(made);
  } catch (...) {
    failure record;
    record.exception = describe_current_exception();
    record.sequence = letter.sequence;
    try {
      record.subscription = failed.name;
      record.exception.type_name.insert(0, "no dead letter could be made: ");
    } catch (...) {  // no memory for the text: told all the same
    }
    failed.bus().report(record);
  }
}

}  // namespace penstock::detail
