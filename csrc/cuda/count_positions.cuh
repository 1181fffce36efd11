// count_positions on CUDA: one block per row. Each score is read once and becomes a key (core/select_key.h).
//
// Nothing is sorted. A threshold counts keys; the cut-off is a selection's cut (radix_select.cuh). The other rules hold up to
// some place of the order and not beyond, which is found a byte of the key at a time, most significant first: keys are
// counted, and their scores added up, by their next byte; the first bin through which the rule no longer holds has the place
// in it; among equal scores a binary search ends it.
//
// Scores are added as 64-bit fixed-point numbers, of which the bound has at least 62 - log2(length) bits: the sum does not
// depend on who adds first, and is exact where scores are multiples of its unit.
#pragma once

#include "core/count_positions_params.h"
#include "cuda/radix_select.cuh"

namespace MDM_NAMESPACE {

// What the block shares about one row. A field is written between two barriers and read after the second.
struct CountState {
  SelectState select;
  unsigned long long sums[kBins];  // of the scores in each bin of select.histogram
  int64_t count, sum;              // of the keys before the bins looked at
  bool stops;                      // whether the rule does not hold through all of them
  unsigned largest;
};

// Each rule on its keys, of which the largest comes first:
//   holds(count, sum, key)  whether it holds through so many keys that add up to `sum` and end with `key`
//   term(key)               what a key adds to the sum

// Scores descending; bound >= 0, so that the limit rises while scores fall.
struct FactorRule {
  static constexpr bool kAdds = false;
  double bound;

  __device__ __forceinline__ bool holds(int64_t count, int64_t, uint32_t key) const {
    return static_cast<double>(value_of_key(key)) >= factor_limit(bound, count);
  }
  __device__ __forceinline__ int64_t term(uint32_t) const { return 0; }
};

// Scores ascending. Their sum falls, then rises: once it is within the bound, it holds up to a place and not beyond.
struct SumRule {
  static constexpr bool kAdds = true;
  double scale;  // units in 1, a power of two
  double clip;   // above the bound; a larger score is worth no more
  int64_t limit;

  __device__ __forceinline__ bool holds(int64_t, int64_t sum, uint32_t) const { return sum <= limit; }
  __device__ __forceinline__ int64_t term(uint32_t key) const {
    return static_cast<int64_t>(rint(fmin(-static_cast<double>(value_of_key(key)), clip) * scale));
  }
};

// low and high: the smallest and the largest score.
__device__ inline SumRule sum_rule(double bound, double low, double high, int64_t length) {
  constexpr double kSmallest = 1.4012984643248171e-45;  // of float32 above 0
  // Where no score is negative, one above the bound ends the sum whatever it is.
  const double reach = fmax(fmax(fabs(bound), low < 0.0 ? fmax(-low, high) : 0.0), kSmallest);
  const int exponent = ilogb(reach) + 1;
  const int length_bits = 64 - __clzll(length);
  const double scale = ldexp(1.0, 62 - length_bits - exponent);
  return {scale, ldexp(1.0, exponent), static_cast<int64_t>(floor(bound * scale))};
}

// Warp 0: the first bin, from the top, through which the rule does not hold. Lane i looks at bins 255 - 8i down to 248 - 8i.
template <class Rule>
__device__ inline void choose_stop(CountState& state, int shift, const Rule& rule) {
  constexpr int kPerLane = kBins / kWarp;
  const int lane = threadIdx.x;
  const int top = kBins - 1 - kPerLane * lane;
  int64_t own_count = 0, own_sum = 0;
  for (int i = 0; i < kPerLane; ++i) {
    own_count += state.select.histogram[top - i];
    own_sum += static_cast<int64_t>(state.sums[top - i]);
  }
  int64_t count = own_count, sum = own_sum;  // through this lane's bins
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int64_t lower_count = __shfl_up_sync(kFullWarp, count, offset);
    const int64_t lower_sum = __shfl_up_sync(kFullWarp, sum, offset);
    if (lane >= offset) count += lower_count, sum += lower_sum;
  }
  count += state.count - own_count;
  sum += state.sum - own_sum;
  const uint64_t prefix = state.select.prefix;
  int bin = top, stop = -1;
  for (; bin > top - kPerLane; --bin) {
    const int64_t here = state.select.histogram[bin], sum_here = static_cast<int64_t>(state.sums[bin]);
    if (here == 0) continue;
    const uint32_t smallest = static_cast<uint32_t>(prefix | static_cast<uint64_t>(bin) << shift);
    if (!rule.holds(count + here, sum + sum_here, smallest)) {
      stop = bin;
      break;
    }
    count += here;
    sum += sum_here;
  }
  const unsigned stopped = __ballot_sync(kFullWarp, stop >= 0);
  __syncwarp();  // every lane has read what one of them now writes
  if (lane != (stopped == 0 ? kWarp - 1 : __ffs(stopped) - 1)) return;
  state.stops = stopped != 0;
  state.count = count;
  state.sum = sum;
  if (stopped == 0) return;
  state.select.prefix = prefix | static_cast<uint64_t>(stop) << shift;
  state.select.matching = state.select.histogram[stop];
}

// Through how many keys the rule holds; every thread of the block calls it, and meets a barrier before the next call.
template <class Rule, class KeyOf>
__device__ inline int64_t count_while_holding(CountState& state, int64_t length, const Rule& rule,
                                              const KeyOf& key_of) {
  if (threadIdx.x == 0) state.select.prefix = state.count = state.sum = 0;
  for (int shift = kScoreKeyBits - 8;; shift -= 8) {
    for (int bin = threadIdx.x; bin < kBins; bin += blockDim.x) state.select.histogram[bin] = state.sums[bin] = 0;
    __syncthreads();
    const uint64_t fixed_bytes = ~uint64_t{0} << (shift + 8), prefix = state.select.prefix;
    for (int64_t col = threadIdx.x; col < length; col += blockDim.x) {
      const uint64_t key = key_of(col);
      if (key == kLeftOut || (key & fixed_bytes) != prefix) continue;
      const int bin = static_cast<int>(key >> shift & 255);
      atomicAdd(&state.select.histogram[bin], 1u);
      if (Rule::kAdds) {
        atomicAdd(&state.sums[bin], static_cast<unsigned long long>(rule.term(static_cast<uint32_t>(key))));
      }
    }
    __syncthreads();
    if (threadIdx.x < kWarp) choose_stop(state, shift, rule);
    __syncthreads();
    const int64_t count = state.count, sum = state.sum;
    if (!state.stops) return count;
    if (shift != 0) continue;
    const uint32_t key = static_cast<uint32_t>(state.select.prefix);
    int64_t held = 0, not_held = state.select.matching;
    while (not_held - held > 1) {
      const int64_t middle = (held + not_held) / 2;
      (rule.holds(count + middle, sum + middle * rule.term(key), key) ? held : not_held) = middle;
    }
    return count + held;
  }
}

// How many of the keys satisfy `test`.
template <class KeyOf, class Test>
__device__ inline int64_t count_if(CountState& state, int64_t length, const KeyOf& key_of, const Test& test) {
  unsigned own = 0;
  for (int64_t col = threadIdx.x; col < length; col += blockDim.x) {
    const uint64_t key = key_of(col);
    own += key != kLeftOut && test(static_cast<double>(value_of_key(static_cast<uint32_t>(key))));
  }
  return block_sum(state.select, own);
}

__device__ inline uint32_t block_max(CountState& state, unsigned own) {
  if (threadIdx.x == 0) state.largest = 0;
  own = __reduce_max_sync(kFullWarp, own);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) atomicMax(&state.largest, own);
  __syncthreads();
  const uint32_t largest = state.largest;
  __syncthreads();  // all have read it before the next one clears it
  return largest;
}

// How many of the n scores, ascending, add up to at most `bound`, each sum on the way too. Keys are of negated scores.
template <class KeyOf>
__device__ inline int64_t count_within(CountState& state, int64_t length, int64_t n, double bound,
                                       const KeyOf& key_of) {
  const uint64_t infinite = ordered_bits(-__builtin_inff());  // of a score of +inf
  unsigned own_low = 0, own_high = 0, own_infinite = 0;       // the largest key, the largest inverted one
  for (int64_t col = threadIdx.x; col < length; col += blockDim.x) {
    const uint64_t key = key_of(col);
    own_infinite += key == infinite;
    if (key <= infinite) continue;
    const uint32_t bits = static_cast<uint32_t>(key);
    own_low = own_low > bits ? own_low : bits;
    own_high = own_high > ~bits ? own_high : ~bits;
  }
  const int64_t finite = n - block_sum(state.select, own_infinite);
  const uint32_t low_key = block_max(state, own_low), high_key = ~block_max(state, own_high);
  if (finite == 0) return n > 0 && bound == __builtin_inf() ? n : 0;
  const double low = -static_cast<double>(value_of_key(low_key)), high = -static_cast<double>(value_of_key(high_key));
  if (!(fmin(low, 0.0) <= bound)) return 0;
  if (low == -__builtin_inf()) return finite;  // the sum stays -inf, and is NaN with the first +inf
  if (bound == __builtin_inf()) return n;
  const SumRule rule = sum_rule(bound, low, high, length);
  return count_while_holding(state, length, rule,
                             [&](int64_t col) { return key_of(col) <= infinite ? uint64_t{kLeftOut} : key_of(col); });
}

// Scores descending, while each reaches a limit that falls, as it does for a negative bound, or is NaN.
template <class KeyOf>
__device__ inline int64_t count_above_falling_limit(CountState& state, int64_t length, double bound,
                                                    const KeyOf& key_of) {
  int64_t held = 0;
  while (true) {  // all that reach the limit of the next place reach the lower ones of their own
    const double limit = factor_limit(bound, held + 1);
    const int64_t reached = count_if(state, length, key_of, [=](double score) { return score >= limit; });
    if (reached <= held) return held;
    held = reached;
  }
}

// Whether a rule takes scores from the smallest; its keys are then those of negated scores.
MDM_INLINE bool is_ascending(CountRule rule) {
  return rule == CountRule::entropy_bound || rule == CountRule::cumulative || rule == CountRule::cut_off;
}

// How many of the n keys the rule admits.
template <class KeyOf>
__device__ inline int64_t count_admitted(CountState& state, CountRule rule, int64_t length, int64_t n, double bound,
                                         const KeyOf& key_of) {
  switch (rule) {
    case CountRule::threshold:
      return count_if(state, length, key_of, [=](double score) { return score >= bound; });
    case CountRule::strict_threshold:
      return count_if(state, length, key_of, [=](double score) { return score > bound; });
    case CountRule::factor:
      if (!(bound >= 0.0)) return count_above_falling_limit(state, length, bound, key_of);
      return count_while_holding(state, length, FactorRule{bound}, key_of);
    case CountRule::cut_off: {
      if (!(bound > 0.0)) return 0;
      if (bound >= static_cast<double>(n)) return n;
      const int64_t asked = static_cast<int64_t>(bound);
      // Keys equal to the cut of which only some are selected straddle it.
      return asked - find_cut(state.select, length, asked, n, kScoreKeyBits, key_of).ties;
    }
    default: {  // cumulative, or entropy_bound, whose last score is free
      const int64_t within = count_within(state, length, n, bound, key_of);
      if (rule == CountRule::cumulative) return within;
      return !(bound >= 0.0) ? 0 : within < n ? within + 1 : n;
    }
  }
}

__device__ inline void count_positions(const CountPositionsParams& params, uint64_t* workspace) {
  CountState& state = *shared_at<CountState>(0);
  const int64_t length = params.length;
  // Thread t reads back only the keys t, t + blockDim.x, ... that it wrote itself: no barrier is needed for them.
  uint64_t* keys = row_keys<CountState, cuda::kCountState>(workspace, length);
  const bool ascending = is_ascending(params.rule);

  for (int64_t row = blockIdx.x; row < params.batch; row += gridDim.x) {
    unsigned own = 0;
    for (int64_t col = threadIdx.x; col < length; col += blockDim.x) {
      const bool open = at_or<uint8_t>(params.eligible, row, col, 1) != 0;
      const uint32_t key = open ? score_key(at(params.scores, row, col), !ascending) : kLeftOut;
      keys[col] = key;
      own += key != kLeftOut;
    }
    const int64_t n = block_sum(state.select, own);
    const double bound = count_bound(params, row);
    int64_t count = count_admitted(state, params.rule, length, n, bound, [=](int64_t col) { return keys[col]; });
    if (count < params.at_least) count = params.at_least < n ? params.at_least : n;
    if (threadIdx.x == 0) params.counts[row] = count;
  }
}

}  // namespace MDM_NAMESPACE
