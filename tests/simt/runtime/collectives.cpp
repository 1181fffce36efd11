#include <string.h>

#include <string>

#include "runtime/machine.h"
#include "runtime/races.h"

namespace simt {

static const char* const kNames[] = {
    "__syncwarp",        "__ballot_sync",          "__any_sync",        "__all_sync",        "__shfl_sync",
    "__shfl_up_sync",    "__shfl_down_sync",       "__shfl_xor_sync",   "__match_any_sync",  "__match_all_sync",
    "__reduce_add_sync", "__reduce_min_sync",      "__reduce_max_sync", "__reduce_and_sync", "__reduce_or_sync",
    "__reduce_xor_sync", "a warp-wide instruction"};

static Thread* lanes_of(unsigned warp) { return machine.threads + warp * kLanes; }

static std::string hex(unsigned mask) {
  char text[16];
  snprintf(text, sizeof(text), "0x%08x", mask);
  return text;
}

static bool is_shuffle(Collective kind) { return kind >= Collective::shuffle && kind <= Collective::shuffle_xor; }

// Source lane of a shuffle; the lane itself where the PTX ISA says so.
static unsigned source_of(const Thread& t) {
  const int lane = static_cast<int>(t.lane), segment = lane / t.width * t.width, within = lane - segment;
  int source = lane;
  switch (t.kind) {
    case Collective::shuffle:
      source = segment + (t.operand & (t.width - 1));
      break;
    case Collective::shuffle_up:
      source = within - t.operand >= 0 ? lane - t.operand : lane;
      break;
    case Collective::shuffle_down:
      source = within + t.operand < t.width ? lane + t.operand : lane;
      break;
    default:
      source = (within ^ t.operand) < t.width ? segment + (within ^ t.operand) : lane;
  }
  return static_cast<unsigned>(source);
}

static void compute_shuffle(Thread* lanes, unsigned mask) {
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const unsigned source = source_of(lanes[lane]);
    if ((mask >> source & 1) == 0) {
      fail(std::string("shuffle: lane ") + std::to_string(lane) + " reads lane " + std::to_string(source) +
           ", which is not in the mask " + hex(mask) + ": its value is undefined");
    }
    lanes[lane].result = lanes[source].value;
  }
}

static uint64_t fold(Collective kind, uint64_t a, uint64_t b) {
  switch (kind) {
    case Collective::reduce_add:
      return static_cast<uint32_t>(a + b);
    case Collective::reduce_min:
      return a < b ? a : b;
    case Collective::reduce_max:
      return a > b ? a : b;
    case Collective::reduce_and:
      return a & b;
    case Collective::reduce_xor:
      return a ^ b;
    default:
      return a | b;
  }
}

static void compute_vote(Thread* lanes, unsigned mask, Collective kind) {
  unsigned ballot = 0;
  uint64_t reduced = 0;
  bool first = true;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    ballot |= (lanes[lane].value != 0) << lane;
    reduced = first ? lanes[lane].value : fold(kind, reduced, lanes[lane].value);
    first = false;
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    unsigned same = 0;
    for (unsigned other = 0; other < kLanes; ++other) {
      same |= (mask >> other & 1 && lanes[other].value == lanes[lane].value) << other;
    }
    uint64_t& result = lanes[lane].result;
    result = kind == Collective::ballot      ? ballot
             : kind == Collective::any       ? ballot != 0
             : kind == Collective::all       ? ballot == mask
             : kind == Collective::match_any ? same
             : kind == Collective::match_all ? (same == mask ? mask : 0)
                                             : reduced;
  }
}

static void compute_gather(Thread* lanes, Warp* warp) {
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    memcpy(warp->gathered + lane * lanes[lane].piece_bytes, lanes[lane].piece, lanes[lane].piece_bytes);
  }
}

// Waits for the mask's lanes; the last of them computes and lets the others go.
static void meet(unsigned mask) {
  Thread* own = machine.current;
  Thread* lanes = lanes_of(own->warp);
  const std::string what = own->what;
  if ((mask >> own->lane & 1) == 0) {
    fail("mask: lane " + std::to_string(own->lane) + " calls " + what + " with mask " + hex(mask) +
         ", which does not name it");
  }
  if ((mask & ~full_mask(own->warp)) != 0) fail("mask: " + what + " names lanes the warp does not have: " + hex(mask));
  bool all_here = true;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) == 0 || lane == own->lane) continue;
    const Thread& other = lanes[lane];
    if (other.state == State::done) {
      fail("divergence: " + what + " with mask " + hex(mask) + " waits for lane " + std::to_string(lane) +
           ", which has returned");
    }
    if (other.state != State::collective) {
      all_here = false;
    } else if (other.kind != own->kind || other.mask != mask) {
      fail("divergence: lane " + std::to_string(own->lane) + " is at " + what + " with mask " + hex(mask) + ", lane " +
           std::to_string(lane) + " at " + other.what + " with mask " + hex(other.mask));
    }
  }
  if (!all_here) return wait_in(State::collective);
  own->state = State::collective;
  if (is_shuffle(own->kind)) {
    compute_shuffle(lanes, mask);
  } else if (own->kind == Collective::gather) {
    compute_gather(lanes, &machine.warps[own->warp]);
  } else {
    compute_vote(lanes, mask, own->kind);
  }
  // Shuffles, votes and ldmatrix make lanes wait for one another and promise nothing about memory.
  if (own->kind == Collective::sync) join_lanes(own->warp, mask);
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) != 0) lanes[lane].state = State::ready;
  }
}

uint64_t collective(Collective kind, unsigned mask, uint64_t value, int operand, int width) {
  Thread* own = machine.current;
  own->kind = kind;
  own->what = kNames[static_cast<int>(kind)];
  own->mask = mask;
  own->value = value;
  own->operand = operand;
  own->width = width;
  meet(mask);
  return own->result;
}

void gather_warp(const char* what, const void* piece, unsigned bytes, void* all) {
  Thread* own = machine.current;
  own->kind = Collective::gather;
  own->what = what;
  own->mask = 0xffffffffu;
  own->piece = piece;
  own->piece_bytes = bytes;
  meet(own->mask);
  memcpy(all, machine.warps[own->warp].gathered, kLanes * bytes);
}

}  // namespace simt
