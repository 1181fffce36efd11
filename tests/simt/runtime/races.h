// Who touched a byte last, and whether the program orders that before the access at hand.
//
// Order is what barriers make, kept as two levels of logical clocks: lanes within a warp meet at __syncwarp, warps of a
// block at barriers. Blocks of one launch are never ordered, launches always are.
#pragma once

#include <stdint.h>

#include <string>

namespace simt {

enum class Access : uint8_t { read, write, atomic };

struct Touch {
  const void* pc;
  uint32_t launch;  // 0: never
  uint32_t block;
  uint32_t warp_clock;
  uint32_t lane_clock;
  uint16_t thread;
  Access access;
};

// A byte, or an element where all accesses are of whole elements.
struct Cell {
  Touch write;     // the last write or atomic
  Touch read[2];   // the last read, and one of another thread
  bool in_flight;  // a cp.async has been issued and not waited for
};

Touch touch_now(Access access, const void* pc);
// Records the touch; returns the earlier one that nothing orders before it, or null.
const Touch* record(Cell* cell, const Touch& touch);
std::string describe(const Touch& touch);

// The lanes of `mask` have met.
void join_lanes(unsigned warp, unsigned mask);
// So have the warps whose bits are set in `warps`.
void join_warps(unsigned warps);
void reset_clocks();

}  // namespace simt
