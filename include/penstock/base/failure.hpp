// The record of one failed handler call, owned by the host.
// Floor 0, room base.
#pragma once

#include <penstock/base/export.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace penstock {

/// What an exception said, copied out of it: safe to keep after the code that threw is gone.
class PENSTOCK_API exception_record {
 public:
  exception_record();
  std::string type_name;            ///< demangled; "unknown exception" when the runtime cannot tell
  std::string what;                 ///< `what()` of a std::exception, else empty
  std::vector<std::string> nested;  ///< texts of nested exceptions, outermost first
};

/// One failed call of a handler, or one failed run of a background task. Host-owned strings only; no pointer into user code.
class PENSTOCK_API failure {
 public:
  failure();
  std::string task;            ///< the name given to spawn; empty: it was a handler
  std::string subscription;    ///< the name given to subscribe
  std::string event;           ///< the event's name
  std::uint64_t sequence = 0;  ///< the seat number of the event in its subscription
  unsigned attempt = 1;        ///< of a task: which run, or which tick
  std::string file;            ///< where subscribe or spawn was called
  unsigned line = 0;
  exception_record exception;
};

/// One line of text for a log; control bytes are escaped.
PENSTOCK_API std::string to_string(const failure& record);

/// Describes the exception being handled. Call inside a catch block. Errors: with no memory the record is partly empty.
PENSTOCK_API exception_record describe_current_exception() noexcept;

/// Escapes control bytes as \xNN, so that a name cannot forge a log line.
PENSTOCK_API std::string escape_control_bytes(const std::string& text);

}  // namespace penstock
