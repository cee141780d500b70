// Which events were published and handled, and in which order: the witness of whoever looks for lost or overtaken ones.
// Floor 9, room tests.
#pragma once

#include <penstock/bus/publish_result.hpp>
#include <penstock/testing/simulation.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace penstock_test {

using event_id = std::pair<std::uint32_t, std::uint32_t>;  // producer, index

/// Of each producer the first event, then the second, and so on.
inline void require_in_turn(penstock::testing::simulation& sim, const std::vector<event_id>& handled) {
  std::map<std::uint32_t, std::uint32_t> next;
  for (const auto& [producer, index] : handled)
    sim.require(index == next[producer]++, "an event was lost, came twice, or was overtaken");
}

struct publish_record {
  event_id event;
  int began = 0;
  int returned = 0;
};

/// What was published, on a clock that counts moments.
class journal {
 public:
  template <class Publish>
  penstock::publish_result note(std::uint32_t producer, std::uint32_t index, Publish&& publish) {
    publish_record mine{{producer, index}, ++moments_, 0};
    penstock::publish_result result = publish();
    mine.returned = ++moments_;
    all_.push_back(mine);
    return result;
  }
  std::size_t size() const { return all_.size(); }
  const std::vector<publish_record>& all() const { return all_; }
  int moment() { return ++moments_; }

  /// Nothing twice, nothing that was not published, and each before all whose publish began after its own had returned.
  void require_in_order(penstock::testing::simulation& sim, const std::vector<event_id>& handled) const {
    std::map<event_id, std::size_t> place;
    for (std::size_t i = 0; i < handled.size(); ++i)
      sim.require(place.emplace(handled[i], i).second, "an event was handled twice");
    std::size_t found = 0;
    for (const publish_record& a : all_) {
      const auto mine = place.find(a.event);
      if (mine == place.end()) continue;
      ++found;
      for (const publish_record& b : all_) {
        const auto other = place.find(b.event);
        if (other != place.end() && a.returned < b.began)
          sim.require(mine->second < other->second,
                      "an event was handled before one whose publish had returned before it began");
      }
    }
    sim.require(found == handled.size(), "an event was handled that was not published");
  }

 private:
  std::vector<publish_record> all_;
  int moments_ = 0;
};

}  // namespace penstock_test
