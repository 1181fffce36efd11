#include "runtime/races.h"

#include <algorithm>

#include "runtime/machine.h"

namespace simt {

Touch touch_now(Access access, const void* pc) {
  const Thread& thread = *machine.current;
  return {pc,
          machine.launch,
          machine.block,
          machine.warps[thread.warp].clock,
          thread.clock,
          static_cast<uint16_t>(thread.id),
          access};
}

static bool ordered_before(const Touch& earlier) {
  if (earlier.launch != machine.launch) return true;
  if (earlier.block != machine.block) return false;
  const Thread& now = *machine.current;
  const unsigned warp = earlier.thread / kLanes, lane = earlier.thread % kLanes;
  if (earlier.thread == now.id) return true;
  if (warp == now.warp) return machine.warps[warp].lanes_seen[now.lane][lane] >= earlier.lane_clock;
  return machine.warps[now.warp].warps_seen[warp] >= earlier.warp_clock;
}

static bool conflict(const Touch& earlier, const Touch& now) {
  const bool both_atomic = earlier.access == Access::atomic && now.access == Access::atomic;
  return earlier.launch != 0 && !both_atomic && !ordered_before(earlier);
}

const Touch* record(Cell* cell, const Touch& now) {
  if (conflict(cell->write, now)) return &cell->write;
  if (now.access == Access::read) {
    // Keep what is not ordered before us, since a later write may race with that too.
    Touch& slot = cell->read[0].thread == now.thread || ordered_before(cell->read[0]) ? cell->read[0] : cell->read[1];
    slot = now;
    return nullptr;
  }
  for (const Touch& read : cell->read) {
    if (conflict(read, now)) return &read;
  }
  cell->write = now;
  return nullptr;
}

std::string describe(const Touch& touch) {
  const char* verb = touch.access == Access::read ? "a read" : touch.access == Access::write ? "a write" : "an atomic";
  return std::string(verb) + " by " + place(touch.block, touch.thread);
}

void join_lanes(unsigned warp, unsigned mask) {
  Warp& w = machine.warps[warp];
  Thread* threads = machine.threads + warp * kLanes;
  uint32_t joined[kLanes] = {};
  for (unsigned a = 0; a < kLanes; ++a) {
    if ((mask >> a & 1) == 0) continue;
    for (unsigned b = 0; b < kLanes; ++b) joined[b] = std::max(joined[b], w.lanes_seen[a][b]);
    joined[a] = std::max(joined[a], threads[a].clock);
  }
  for (unsigned a = 0; a < kLanes; ++a) {
    if ((mask >> a & 1) == 0) continue;
    std::copy(joined, joined + kLanes, w.lanes_seen[a]);
    ++threads[a].clock;
  }
}

void join_warps(unsigned warps) {
  uint32_t joined[kMaxWarps] = {};
  for (unsigned a = 0; a < kMaxWarps; ++a) {
    if ((warps >> a & 1) == 0) continue;
    for (unsigned b = 0; b < kMaxWarps; ++b) joined[b] = std::max(joined[b], machine.warps[a].warps_seen[b]);
    joined[a] = std::max(joined[a], machine.warps[a].clock);
  }
  for (unsigned a = 0; a < kMaxWarps; ++a) {
    if ((warps >> a & 1) == 0) continue;
    std::copy(joined, joined + kMaxWarps, machine.warps[a].warps_seen);
    ++machine.warps[a].clock;
    join_lanes(a, full_mask(a));
  }
}

void reset_clocks() {
  for (unsigned warp = 0; warp * kLanes < machine.thread_count; ++warp) {
    Warp& w = machine.warps[warp];
    w.clock = 1;
    std::fill(w.warps_seen, w.warps_seen + kMaxWarps, 0u);
    std::fill(&w.lanes_seen[0][0], &w.lanes_seen[0][0] + kLanes * kLanes, 0u);
  }
  for (unsigned id = 0; id < machine.thread_count; ++id) machine.threads[id].clock = 1;
}

}  // namespace simt
