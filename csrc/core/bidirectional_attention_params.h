// bidirectional_attention and its backward: softmax attention over whole sequences, without a cache.
//
// Every mask is an interval of keys for each query, less at most one key: kernels know nothing else about masks.
#pragma once

#include "core/tensor_view.h"

namespace mdmcorrect {

enum class AttentionMask : int32_t { full = 0, block_causal = 1, shadow = 2 };

// [B, H, S, D] with a contiguous last dimension; strides in elements.
struct Heads {
  const void* data;
  int64_t batch_stride;
  int64_t head_stride;
  int64_t row_stride;
};

struct MutableHeads {
  void* data;
  int64_t batch_stride;
  int64_t head_stride;
  int64_t row_stride;
};

// Rows [first, first + count) of one head: the unit of work of the forward pass.
struct AttentionTile {
  int64_t batch;
  int64_t head;
  int64_t first;
  int64_t count;
};

struct BidirectionalAttentionParams {
  int64_t batch;
  int64_t heads;     // Hq, a multiple of
  int64_t kv_heads;  // Hkv
  int64_t queries;   // Sq
  int64_t keys;      // Sk, at most 2^24
  int64_t width;     // D, a multiple of 16
  FloatType type;    // of q, k, v, out and their gradients

  Heads q;  // [B, Hq, Sq, D]
  Heads k;  // [B, Hkv, Sk, D]
  Heads v;

  RowInts starts;           // [B]; null: 0
  RowInts lengths;          // [B]; null: all that follow starts
  Grid<int64_t> positions;  // [B, Sq]: the position of each query; null: 0, 1, ..., Sq - 1
  AttentionMask mask;
  bool hide_self;
  int64_t block_size;  // block_causal, shadow
  RowInts shadow_of;   // [B], shadow: the real position of the first shadow query, counted from starts
  double scale;        // positive

  MutableHeads out;  // [B, Hq, Sq, D]
  // [B, Hq, Sq] contiguous: log-sum-exp of the scaled scores, -inf where nothing is visible. In truth float64 where type
  // is, as are the two below, here and in the backward's params.
  float* lse;
  // The same in two parts, from which the backward makes the weights again: a large log-sum-exp has rounded away what
  // tells them apart.
  float* maximum;  // a score, not scaled, that scores are counted from; 0 where nothing is visible
  float* log_sum;  // log of the sum of e^(scale (score - maximum)); +inf where nothing is visible

  const AttentionTile* tiles;
};

// A head of keys and values, whose gradients one thread computes, and its sequence's tiles: tiles[first_tile, end_tile),
// heads aside.
struct AttentionHead {
  int64_t batch;
  int64_t kv_head;
  int64_t first_tile;
  int64_t end_tile;
};

struct BidirectionalAttentionBackwardParams {
  BidirectionalAttentionParams forward;  // inputs only
  Heads out;
  const float* maximum;  // the forward's
  const float* log_sum;
  Heads grad_out;
  const float* grad_lse;  // [B, Hq, Sq] contiguous; null: zeros
  MutableHeads grad_q;
  MutableHeads grad_k;
  MutableHeads grad_v;
  const AttentionHead* heads;
};

// [begin, end) without `hidden`; empty where begin == end.
struct VisibleKeys {
  int64_t begin;
  int64_t end;
  int64_t hidden;  // -1: none
};

}  // namespace mdmcorrect

namespace MDM_NAMESPACE {

// A positive factor as a float that is neither 0 nor infinite, so that neither 0 nor -inf times it is NaN.
MDM_INLINE float finite_factor(double factor) {
  const float least = 1.1754943508222875e-38f, most = 3.4028234663852886e38f;
  const float rounded = static_cast<float>(factor);
  return rounded < least ? least : (rounded > most ? most : rounded);
}

// What scores are multiplied with to become exponents of 2. Only differences of scores are: of a score and a reference,
// each multiplied and rounded by itself, nothing need be left.
MDM_INLINE float exponent_factor(const BidirectionalAttentionParams& params) {
  return finite_factor(params.scale * 1.44269504088896341);
}

MDM_INLINE int64_t clamp_index(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : (value > high ? high : value);
}

// All of sequence b.
MDM_INLINE VisibleKeys sequence_keys(const BidirectionalAttentionParams& params, int64_t b) {
  const int64_t begin = params.starts.data == nullptr ? 0 : clamp_index(row_value(params.starts, b), 0, params.keys);
  const int64_t room = params.keys - begin;
  const int64_t length = params.lengths.data == nullptr ? room : clamp_index(row_value(params.lengths, b), 0, room);
  return {begin, begin + length, -1};
}

// What query `row` of sequence b sees.
MDM_INLINE VisibleKeys visible_keys(const BidirectionalAttentionParams& params, int64_t b, int64_t row) {
  VisibleKeys seen = sequence_keys(params, b);
  const int64_t begin = seen.begin, end = seen.end, length = end - begin;
  const int64_t position = at_or(params.positions, b, row, row);
  if (position < begin || position >= end) return {begin, begin, -1};
  if (params.hide_self) seen.hidden = position;
  if (params.mask == AttentionMask::block_causal) {
    const int64_t blocks = (position - begin) / params.block_size + 1;
    if (blocks * params.block_size < length) seen.end = begin + blocks * params.block_size;
  } else if (params.mask == AttentionMask::shadow) {
    const int64_t shadow = params.block_size < length ? end - params.block_size : begin;
    if (position < shadow) {
      seen.end = shadow;
    } else {
      const int64_t real = begin + row_value(params.shadow_of, b) + position - shadow;
      seen.hidden = real >= begin && real < shadow ? real : -1;
    }
  }
  return seen;
}

}  // namespace MDM_NAMESPACE
