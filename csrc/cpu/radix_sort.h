// n 32-bit keys in ascending order, in O(n): eight bits at a time from the lowest. A byte that all keys share, as the
// upper ones of probabilities near 1 do, costs no pass.
#pragma once

#include "core/config.h"

namespace MDM_NAMESPACE {

// Sorts keys[0, n), moving them to `other` (n keys of scratch) and back; returns whichever of the two holds the result.
static inline uint32_t* radix_sort(uint32_t* keys, uint32_t* other, int64_t n) {
  constexpr int kDigits = 4, kValues = 256;
  uint32_t histogram[kDigits][kValues] = {};
  for (int64_t i = 0; i < n; ++i) {
    for (int digit = 0; digit < kDigits; ++digit) ++histogram[digit][keys[i] >> (8 * digit) & (kValues - 1)];
  }
  for (int digit = 0; digit < kDigits; ++digit) {
    uint32_t* place = histogram[digit];
    const int shift = 8 * digit;
    if (n == 0 || place[keys[0] >> shift & (kValues - 1)] == n) continue;
    uint32_t next = 0;
    for (int value = 0; value < kValues; ++value) {
      const uint32_t count = place[value];
      place[value] = next;
      next += count;
    }
    for (int64_t i = 0; i < n; ++i) other[place[keys[i] >> shift & (kValues - 1)]++] = keys[i];
    uint32_t* sorted = other;
    other = keys;
    keys = sorted;
  }
  return keys;
}

}  // namespace MDM_NAMESPACE
