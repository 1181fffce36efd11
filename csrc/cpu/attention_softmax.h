// What happens between the two products of attention: masks, the online softmax, and its state.
//
// Scores are kept transposed, [keys][queries], so that a register holds sixteen queries: maxima and sums need no
// reduction across lanes, and a lane's result does not depend on its neighbours.
#pragma once

#include "core/bidirectional_attention_params.h"
#include "cpu/attention_product.h"
#include "cpu/vector_math.h"

namespace MDM_NAMESPACE {

constexpr int kTileRows = 64;  // queries of a tile: four registers
constexpr float kLog2E = 1.44269504088896341f;
// Running maxima start at the lowest finite number rather than at -inf, so that a row whose every score is -inf gets
// 2^-inf = 0, not NaN.
constexpr float kNoMaximum = -0x1.fffffep127f;

MDM_INLINE int vectors_for(int64_t rows) { return rows > 32 ? 4 : (rows > 16 ? 2 : 1); }

// 2^x for x <= 0 within 1.4 ulp; below 2^-126 nothing certain, and 0 for -inf; NaN stays NaN.
MDM_INLINE Floats exp2_nonpositive(Floats x) {
#if defined(__AVX512F__)
  x = maximum(broadcast(-200.0f), x);  // NaN is the second operand, which the maximum then is
  const Floats n = {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT)};
#else
  // At -127 the integer arithmetic on exponents below makes 1 into exactly 0.
  x = maximum(broadcast(-127.0f), x);
  const Floats magic = broadcast(0x1.8p23f);  // adding it leaves the nearest integer in the low bits
  const Floats shifted = add(x, magic);
  const Floats n = sub(shifted, magic);
#endif
  const Floats r = sub(x, n);
  Floats p = broadcast(0x1.41fca4p-13f);
  p = multiply_add(p, r, broadcast(0x1.5f3eb4p-10f));
  p = multiply_add(p, r, broadcast(0x1.3b2d4cp-7f));
  p = multiply_add(p, r, broadcast(0x1.c6aee8p-5f));
  p = multiply_add(p, r, broadcast(0x1.ebfbdcp-3f));
  p = multiply_add(p, r, broadcast(0x1.62e430p-1f));
  p = multiply_add(p, r, broadcast(1.0f));
#if defined(__AVX512F__)
  return {_mm512_scalef_ps(p.v, n.v)};
#else
  return select(unordered(x, x), x, as_floats(add_words(as_words(p), shift_left<23>(as_words(shifted)))));
#endif
}

// What the rows of a tile see, in keys counted from `begin`, the first key of the sequence.
struct TileMask {
  int64_t begin;
  int64_t end;                        // no row sees anything from here on
  int64_t open_end;                   // every row sees everything before, less its hidden key
  int64_t first_hidden, last_hidden;  // the range of hidden keys; empty: first > last
  alignas(64) float ends[kTileRows];
  alignas(64) float hidden[kTileRows];
};

// Whether some row does not see all keys of [from, to).
MDM_INLINE bool touches(const TileMask& mask, int64_t from, int64_t to) {
  return to > mask.open_end || (mask.first_hidden < to && mask.last_hidden >= from);
}

static inline void tile_mask(const BidirectionalAttentionParams& params, const AttentionTile& tile, TileMask* mask) {
  mask->end = 0;
  mask->open_end = params.keys;
  mask->first_hidden = params.keys;
  mask->last_hidden = -1;
  for (int64_t row = 0; row < tile.count; ++row) {
    const VisibleKeys seen = visible_keys(params, tile.batch, tile.first + row);
    const int64_t end = seen.end - seen.begin;
    const int64_t hidden = seen.hidden < 0 ? -1 : seen.hidden - seen.begin;
    mask->begin = seen.begin;
    if (end > mask->end) mask->end = end;
    if (end < mask->open_end) mask->open_end = end;
    if (hidden >= 0 && hidden < mask->first_hidden) mask->first_hidden = hidden;
    if (hidden > mask->last_hidden) mask->last_hidden = hidden;
    mask->ends[row] = static_cast<float>(end);
    mask->hidden[row] = static_cast<float>(hidden);
  }
  for (int64_t row = tile.count; row < kTileRows; ++row) mask->ends[row] = mask->hidden[row] = -1.0f;
}

// Sets scores [keys][16 * vectors] of keys from, from + 1, ... that a row does not see to -inf.
static inline void hide(const TileMask& mask, int64_t from, int64_t keys, int vectors, float* scores) {
  const Floats minus_infinity = broadcast(-__builtin_inff());
  for (int vector = 0; vector < vectors; ++vector) {
    const Floats ends = load(mask.ends + vector * kLanes), hidden = load(mask.hidden + vector * kLanes);
    float* line = scores + vector * kLanes;
    for (int64_t key = from; key < from + keys; ++key, line += vectors * kLanes) {
      const Floats index = broadcast(static_cast<float>(key));
      const Floats seen = select(equal(hidden, index), minus_infinity, load(line));
      store(line, select(at_least(index, ends), minus_infinity, seen));
    }
  }
}

// The online softmax of a tile's rows. A score s becomes 2^(factor (s - maximum)), factor being scale / ln 2: the
// difference comes first, so that the exponent is at most 0 and the largest score's is 0, however large scores are.
struct Softmax {
  alignas(64) float maximum[kTileRows];
  alignas(64) float sum[kTileRows];
  alignas(64) float decay[kTileRows];  // what earlier sums and products are to be multiplied with
};

static inline void start(Softmax* state, int vectors) {
  for (int vector = 0; vector < vectors; ++vector) {
    store(state->maximum + vector * kLanes, broadcast(kNoMaximum));
    store(state->sum + vector * kLanes, broadcast(0.0f));
  }
}

// The state after a block of scores [keys][16 * vectors].
static inline void advance(Softmax* state, float factor, int vectors, int64_t keys, const float* scores) {
  for (int vector = 0; vector < vectors; ++vector, scores += kLanes) {
    Floats even = load(scores), odd = even;
    for (int64_t key = 1; key < keys; key += 2) {
      odd = maximum(odd, load(scores + key * vectors * kLanes));
      if (key + 1 < keys) even = maximum(even, load(scores + (key + 1) * vectors * kLanes));
    }
    float* largest = state->maximum + vector * kLanes;
    const Floats before = load(largest);
    const Floats after = maximum(before, maximum(even, odd));
    store(state->decay + vector * kLanes, exp2_nonpositive(mul(sub(before, after), broadcast(factor))));
    store(largest, after);
  }
}

// Scores [keys][stride] of sixteen rows to weights, in place, as the words that the products take; returns sum plus
// the weights before they are rounded.
static inline Floats weigh(Float32, Floats largest, float factor, int64_t keys, int64_t stride, Floats sum,
                           float* scores) {
  const Floats scale = broadcast(factor);
  for (int64_t key = 0; key < keys; ++key, scores += stride) {
    const Floats weight = exp2_nonpositive(mul(sub(load(scores), largest), scale));
    sum = add(sum, weight);
    store(scores, weight);
  }
  return sum;
}

#if defined(__AVX512BF16__)
// Two lines as one line of pairs, the first line in the low halves.
MDM_INLINE void store_pairs(float* to, Floats first, Floats second) {
  const __m512i halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second.v, first.v));
  const __m512i lane = iota(0).v;
  const __m512i order = _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(16)), 16));
  _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, halves));
}

static inline Floats weigh(Bfloat16Pairs, Floats largest, float factor, int64_t keys, int64_t stride, Floats sum,
                           float* scores) {
  const Floats scale = broadcast(factor);
  const auto weight_at = [=](int64_t key) {
    return exp2_nonpositive(mul(sub(load(scores + key * stride), largest), scale));
  };
  int64_t key = 0;
  for (; key + 2 <= keys; key += 2) {
    const Floats first = weight_at(key), second = weight_at(key + 1);
    sum = add(sum, add(first, second));
    store_pairs(scores + key / 2 * stride, first, second);
  }
  if (key < keys) {
    const Floats last = weight_at(key);
    sum = add(sum, last);
    store_pairs(scores + key / 2 * stride, last, broadcast(0.0f));
  }
  return sum;
}
#endif

// Factors that make products of weights averages, 0 for rows that saw nothing, and what params say of a tile's rows.
static inline void finish(const Softmax& state, const BidirectionalAttentionParams& params, const AttentionTile& tile,
                          float* factors) {
  const Floats zero = broadcast(0.0f);
  const int64_t first = (tile.batch * params.heads + tile.head) * params.queries + tile.first;
  for (int64_t row = 0; row < tile.count; row += kLanes) {
    const Floats sum = load(state.sum + row);
    store(factors + row, select(equal(sum, zero), zero, div(broadcast(1.0f), sum)));
    alignas(64) float logs[kLanes];
    store(logs, log_any(sum));
    for (int64_t i = 0; i < kLanes && row + i < tile.count; ++i) {
      const int64_t place = first + row + i;
      const bool empty = state.sum[row + i] == 0.0f;
      params.maximum[place] = empty ? 0.0f : state.maximum[row + i];
      params.log_sum[place] = empty ? __builtin_inff() : logs[i];
      params.lse[place] =
          empty ? -__builtin_inff() : static_cast<float>(params.scale * state.maximum[row + i] + logs[i]);
    }
  }
}

}  // namespace MDM_NAMESPACE
