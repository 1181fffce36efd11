// The `count` largest of n keys in O(n), without a comparison sort, whatever order the keys come in.
//
// A sample tells a bound that the cut almost surely lies above; one pass keeps the keys that reach it. What is left is
// split eight bits at a time from the highest bit in which the keys differ, keeping the bin that the cut falls into, until
// few enough are left to rank each against all. A sample that misleads costs another pass, never a wrong result.
#pragma once

#include "core/select_key.h"
#include "cpu/simd.h"

namespace MDM_NAMESPACE {

// Where a selection ends: keys above `key` belong to it, and of those equal to it the first `ties`.
template <class Key>
struct Cut {
  Key key;
  int64_t ties;
  bool all_ties;  // `ties` is as many as there are
};

constexpr int kBinBits = 8;
constexpr int kBins = 1 << kBinBits;
constexpr int64_t kFew = 64;  // keys that are ranked each against all, and of the sample

// Moves the keys that are at least `bound` to `kept`, in order; returns how many.
template <class Key>
static inline int64_t keep_at_least(const Key* keys, int64_t n, Key bound, Key* kept) {
  int64_t count = 0, i = 0;
#if defined(__AVX512F__)
  constexpr int64_t kStep = 64 / sizeof(Key);
  for (; i + kStep <= n; i += kStep) {  // the write never overtakes the read
    const __m512i here = _mm512_loadu_si512(keys + i);
    if constexpr (sizeof(Key) == 4) {
      const __mmask16 mask = _mm512_cmpge_epu32_mask(here, _mm512_set1_epi32(static_cast<int>(bound)));
      _mm512_storeu_si512(kept + count, _mm512_maskz_compress_epi32(mask, here));
      count += __builtin_popcount(mask);
    } else {
      const __mmask8 mask = _mm512_cmpge_epu64_mask(here, _mm512_set1_epi64(static_cast<int64_t>(bound)));
      _mm512_storeu_si512(kept + count, _mm512_maskz_compress_epi64(mask, here));
      count += __builtin_popcount(mask);
    }
  }
#endif
  for (; i < n; ++i) {
    kept[count] = keys[i];
    count += keys[i] >= bound;
  }
  return count;
}

// The count-th largest of n <= kFew keys, 0 < count <= n.
template <class Key>
static inline Cut<Key> cut_of_few(const Key* keys, int64_t n, int64_t count) {
  for (int64_t i = 0;; ++i) {
    uint32_t above = 0, equal = 0;
    for (int64_t j = 0; j < n; ++j) {
      above += keys[j] > keys[i];
      equal += keys[j] == keys[i];
    }
    const int64_t ties = count - above;
    if (ties > 0 && ties <= equal) return {keys[i], ties, ties == equal};
  }
}

// A key that about `count` of the n keys reach, and rather more than fewer; kLeftOut + 1 if that may be any of them.
template <class Key>
static inline Key likely_bound(const Key* keys, int64_t n, int64_t count) {
  const float expected = static_cast<float>(count) * kFew / static_cast<float>(n);
  const int64_t rank = static_cast<int64_t>(expected + 3.0f * __builtin_sqrtf(expected)) + 3;
  if (n < 4 * kFew || rank >= kFew) return kLeftOut + 1;
  Key sample[kFew];
  for (int64_t i = 0; i < kFew; ++i) sample[i] = keys[i * n / kFew];
  const Key bound = cut_of_few(sample, kFew, rank).key;
  return bound > kLeftOut ? bound : kLeftOut + 1;
}

template <class Key>
static inline void count_bins(const Key* keys, int64_t n, int shift, uint32_t* histogram) {
  for (int bin = 0; bin < kBins; ++bin) histogram[bin] = 0;
  for (int64_t i = 0; i < n; ++i) ++histogram[keys[i] >> shift & (kBins - 1)];
}

// 0 < count < participants, the number of keys other than kLeftOut. candidates: n keys of scratch.
template <class Key>
static inline Cut<Key> find_cut(const Key* keys, int64_t n, int64_t count, Key* candidates) {
  int64_t left = keep_at_least(keys, n, likely_bound(keys, n, count), candidates);
  if (left < count) left = keep_at_least(keys, n, static_cast<Key>(kLeftOut + 1), candidates);
  Key any = 0, all = ~Key{0};
  for (int64_t i = 0; i < left; ++i) {
    any |= candidates[i];
    all &= candidates[i];
  }
  const Key differing = any ^ all;
  int width = 0;  // keys agree in every bit from `width` upwards
  while (width < static_cast<int>(8 * sizeof(Key)) && differing >> width != 0) width += kBinBits / 2;

  for (int shift = width > kBinBits ? width - kBinBits : 0; left > kFew;
       shift = shift > kBinBits ? shift - kBinBits : 0) {
    uint32_t histogram[kBins];
    count_bins(candidates, left, shift, histogram);
    int bin = kBins - 1;
    while (histogram[bin] < count) count -= histogram[bin--];
    int64_t kept = 0;
    for (int64_t i = 0; i < left; ++i) {
      const Key key = candidates[i];
      candidates[kept] = key;
      kept += static_cast<int>(key >> shift & (kBins - 1)) == bin;
    }
    left = kept;
    if (shift == 0) return {candidates[0], count, count == left};
  }
  return cut_of_few(candidates, left, count);
}

// chosen[i] = 1 for the `count` largest of the keys other than kLeftOut, ties to the lowest index, else 0.
// candidates: n keys of scratch.
template <class Key>
static inline void mark_largest(const Key* keys, int64_t n, int64_t count, Key* candidates, uint8_t* chosen) {
  int64_t participants = 0;
  for (int64_t i = 0; i < n; ++i) participants += keys[i] != kLeftOut;
  if (count <= 0 || participants == 0) {
    for (int64_t i = 0; i < n; ++i) chosen[i] = 0;
    return;
  }
  Cut<Key> cut{kLeftOut + 1, 0, true};  // count >= participants: every key above kLeftOut
  if (count < participants) cut = find_cut(keys, n, count, candidates);
  const Key lowest = cut.all_ties ? cut.key : cut.key + 1;  // which cannot wrap: no key is above that of +inf
  for (int64_t i = 0; i < n; ++i) chosen[i] = keys[i] >= lowest;
  for (int64_t i = 0; !cut.all_ties && cut.ties > 0; ++i) {
    if (keys[i] == cut.key) {
      chosen[i] = 1;
      --cut.ties;
    }
  }
}

}  // namespace MDM_NAMESPACE
