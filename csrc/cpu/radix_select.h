// The `count` largest of n keys in O(n): most significant byte first, keeping only the keys of the byte's bin that the
// cut falls into. No comparison sort, and the result does not depend on the order in which keys are visited.
#pragma once

#include "core/config.h"

namespace MDM_NAMESPACE {

// Where a selection ends: keys above `key` belong to it, and the first `ties` of those equal to it.
struct Cut {
  uint64_t key;
  int64_t ties;
};

// 0 < count < n, and count at most the number of keys that take part (key != 0). bits: width of the keys, 32 or 64.
// candidates: n words of scratch.
static inline Cut find_cut(const uint64_t* keys, int64_t n, int64_t count, int bits, uint64_t* candidates) {
  const uint64_t* current = keys;
  for (int shift = bits - 8;; shift -= 8) {
    int64_t histogram[256] = {};
    for (int64_t i = 0; i < n; ++i) ++histogram[current[i] >> shift & 255];
    int64_t bin = 255;
    while (histogram[bin] < count) count -= histogram[bin--];
    if (shift == 0) return {(current[0] & ~uint64_t{255}) | static_cast<uint64_t>(bin), count};

    // In place after the first pass: the write never overtakes the read.
    int64_t kept = 0;
    for (int64_t i = 0; i < n; ++i) {
      candidates[kept] = current[i];
      kept += static_cast<int64_t>(current[i] >> shift & 255) == bin;
    }
    current = candidates;
    n = kept;
    if (n == count) {  // the whole bin belongs to the selection: its smallest possible key is the cut
      return {current[0] >> shift << shift, n};
    }
  }
}

// Calls take(i) for each selected i in [0, n), in ascending order, and skip(i) for the others. candidates: n words.
template <class Take, class Skip>
static inline void select_largest(const uint64_t* keys, int64_t n, int64_t participants, int64_t count, int bits,
                                  uint64_t* candidates, const Take& take, const Skip& skip) {
  Cut cut{~uint64_t{0}, 0};  // count <= 0: nothing
  if (count >= participants)
    cut = {0, 0};  // everything that takes part
  else if (count > 0)
    cut = find_cut(keys, n, count, bits, candidates);
  for (int64_t i = 0; i < n; ++i) {
    bool chosen = keys[i] > cut.key;
    if (keys[i] == cut.key && cut.ties > 0) {
      chosen = true;
      --cut.ties;
    }
    if (chosen) {
      take(i);
    } else {
      skip(i);
    }
  }
}

}  // namespace MDM_NAMESPACE
