// How much of the machine others had while the bench ran.
// Floor 9, bench.
#pragma once

namespace bench {

/// Watches from its making on. All in percent of the machine's processor time since then; -1 when the machine does not
/// tell.
class neighbours {
 public:
  neighbours();
  double others_percent() const;  ///< other processes of this machine
  double stolen_percent() const;  ///< the host, when the machine is virtual

 private:
  struct times {
    double total = 0;  // all seconds of all cores
    double busy = 0;   // not idle, not stolen
    double stolen = 0;
    double own = 0;  // this process
  };
  static times now();
  times since() const;
  times begin_;
};

inline constexpr double disturbing_percent = 5;

}  // namespace bench
