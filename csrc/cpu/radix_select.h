// The `count` largest of n keys in O(n): eight bits at a time from the highest bit in which the keys differ, keeping only
// the keys of the bin that the cut falls into. No comparison sort, and the result does not depend on the order of visits.
#pragma once

#include "core/select_key.h"

namespace MDM_NAMESPACE {

// Where a selection ends: keys above `key` belong to it, and the first `ties` of those equal to it.
template <class Key>
struct Cut {
  Key key;
  int64_t ties;
};

constexpr int kBinBits = 8;
constexpr int kBins = 1 << kBinBits;

// How many keys have each value of the eight bits at `shift`. Four tables, since neighbouring keys often share a bin and
// a counter cannot be incremented twice in a row without waiting for the first store.
template <class Key>
static inline void count_bins(const Key* keys, int64_t n, int shift, uint32_t* histogram) {
  uint32_t tables[4][kBins] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int t = 0; t < 4; ++t) ++tables[t][keys[i + t] >> shift & (kBins - 1)];
  }
  for (; i < n; ++i) ++tables[0][keys[i] >> shift & (kBins - 1)];
  for (int bin = 0; bin < kBins; ++bin) {
    histogram[bin] = tables[0][bin] + tables[1][bin] + tables[2][bin] + tables[3][bin];
  }
}

// 0 < count < participants, the number of keys other than kLeftOut. candidates: n keys of scratch.
template <class Key>
static inline Cut<Key> find_cut(const Key* keys, int64_t n, int64_t count, Key* candidates) {
  int64_t kept = 0;
  Key any = 0, all = ~Key{0};
  for (int64_t i = 0; i < n; ++i) {  // the write never overtakes the read
    candidates[kept] = keys[i];
    kept += keys[i] != kLeftOut;
    any |= keys[i];
    all &= keys[i] != kLeftOut ? keys[i] : ~Key{0};
  }
  n = kept;
  const Key differing = any ^ all;
  int width = 0;  // keys agree in every bit from `width` upwards
  while (width < static_cast<int>(8 * sizeof(Key)) && differing >> width != 0) width += kBinBits / 2;

  for (int shift = width > kBinBits ? width - kBinBits : 0;; shift = shift > kBinBits ? shift - kBinBits : 0) {
    uint32_t histogram[kBins];
    count_bins(candidates, n, shift, histogram);
    int bin = kBins - 1;
    while (histogram[bin] < count) count -= histogram[bin--];
    kept = 0;
    for (int64_t i = 0; i < n; ++i) {
      const Key key = candidates[i];
      candidates[kept] = key;
      kept += static_cast<int>(key >> shift & (kBins - 1)) == bin;
    }
    n = kept;
    const Key smallest = candidates[0] >> shift << shift;  // that the bin can hold
    if (n == count || shift == 0) return {smallest, count};
  }
}

// chosen[i] = 1 for the `count` largest of the keys other than kLeftOut, ties to the lowest index, else 0.
// candidates: n keys of scratch.
template <class Key>
static inline void mark_largest(const Key* keys, int64_t n, int64_t count, Key* candidates, uint8_t* chosen) {
  int64_t participants = 0;
  for (int64_t i = 0; i < n; ++i) participants += keys[i] != kLeftOut;
  Cut<Key> cut{kLeftOut, 0};  // count >= participants: every key above kLeftOut
  if (count <= 0) cut = {static_cast<Key>(~Key{0}), 0};
  if (count > 0 && count < participants) cut = find_cut(keys, n, count, candidates);
  // Where the bin of the cut was taken as a whole, its smallest possible key may be no key at all: `ties` then counts keys
  // above it too, of which the comparison takes care; only keys equal to it are left to count.
  for (int64_t i = 0; i < n; ++i) chosen[i] = keys[i] > cut.key;
  for (int64_t i = 0; i < n && cut.ties > 0; ++i) {
    if (keys[i] == cut.key) {
      chosen[i] = 1;
      --cut.ties;
    }
  }
}

}  // namespace MDM_NAMESPACE
