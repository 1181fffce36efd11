// What the rows of a tile see, for the attention kernels: every mask is an interval of keys for each query, less at most
// one key (core/bidirectional_attention_params.h), and all intervals of a sequence begin where the sequence does.
#pragma once

#include "core/bidirectional_attention_params.h"
#include "cuda/attention_shape.h"
#include "cuda/mma_tiles.cuh"

namespace MDM_NAMESPACE {

using cuda::QueryKeys;
using cuda::TileKeys;

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float minus_infinity() { return float_from_bits(0xff800000u); }

// Row `row` of one head and those after it.
__device__ __forceinline__ const uint16_t* rows_of(const Heads& heads, int64_t b, int64_t head, int64_t row) {
  return static_cast<const uint16_t*>(heads.data) + b * heads.batch_stride + head * heads.head_stride +
         row * heads.row_stride;
}
__device__ __forceinline__ uint16_t* rows_of(const MutableHeads& heads, int64_t b, int64_t head, int64_t row) {
  return static_cast<uint16_t*>(heads.data) + b * heads.batch_stride + head * heads.head_stride +
         row * heads.row_stride;
}

// First key of sequence b.
__device__ __forceinline__ int64_t first_key(const BidirectionalAttentionParams& params, int64_t b) {
  return params.starts.data == nullptr ? 0 : clamp_index(row_value(params.starts, b), 0, params.keys);
}

// Query `row`, as seen from the first key of its sequence. Rows beyond the last see nothing.
__device__ __forceinline__ QueryKeys query_keys(const BidirectionalAttentionParams& params, int64_t b, int64_t row,
                                                int64_t first) {
  if (row >= params.queries) return {0, -1};
  const VisibleKeys seen = visible_keys(params, b, row);
  return {static_cast<int32_t>(seen.end - seen.begin),
          seen.hidden < 0 ? -1 : static_cast<int32_t>(seen.hidden - first)};
}

__device__ __forceinline__ TileKeys merge(const TileKeys& a, const TileKeys& b) {
  return {a.end > b.end ? a.end : b.end, a.common_end < b.common_end ? a.common_end : b.common_end,
          a.hidden_low < b.hidden_low ? a.hidden_low : b.hidden_low,
          a.hidden_high > b.hidden_high ? a.hidden_high : b.hidden_high};
}

// Fills `rows` with what rows [first_row, first_row + kRows) see and sums them up. Every thread of the block calls it;
// it ends behind a barrier.
template <int kRows>
__device__ __forceinline__ TileKeys block_keys(const BidirectionalAttentionParams& params, int64_t b, int64_t first_row,
                                               QueryKeys* rows, TileKeys* warps) {
  static_assert(kRows <= cuda::kAttentionThreads, "a thread has one row at most");
  constexpr int32_t kNone = 0x7fffffff;
  const int thread = threadIdx.x, lane = thread % kLanes;
  TileKeys keys{0, kNone, kNone, -1};
  if (thread < kRows) {
    const QueryKeys own = query_keys(params, b, first_row + thread, first_key(params, b));
    rows[thread] = own;
    if (own.end > 0) keys = {own.end, own.end, own.hidden < 0 ? kNone : own.hidden, own.hidden};
  }
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    keys =
        merge(keys, {__shfl_xor_sync(kAllLanes, keys.end, offset), __shfl_xor_sync(kAllLanes, keys.common_end, offset),
                     __shfl_xor_sync(kAllLanes, keys.hidden_low, offset),
                     __shfl_xor_sync(kAllLanes, keys.hidden_high, offset)});
  }
  if (lane == 0) warps[thread / kLanes] = keys;
  __syncthreads();
  keys = warps[0];
  for (int warp = 1; warp < cuda::kAttentionWarps; ++warp) keys = merge(keys, warps[warp]);
  return keys;
}

// Whether some row that sees anything does not see all of keys [first, first + count).
__device__ __forceinline__ bool needs_mask(const TileKeys& keys, int first, int count) {
  return first + count > keys.common_end || (keys.hidden_low < first + count && keys.hidden_high >= first);
}

// Scores of keys [first, first + 8 kSlices) that a row does not see become -inf. `rows` begins at the warp's first row.
template <int kRowTiles, int kSlices>
__device__ __forceinline__ void mask_scores(float (&scores)[kRowTiles][kSlices][4], const QueryKeys* rows, int first) {
  const int lane = threadIdx.x % kLanes;
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const QueryKeys row = rows[16 * i + 8 * half + lane / 4];
      const int end = row.end - first, hidden = row.hidden - first;
#pragma unroll
      for (int n = 0; n < kSlices; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int key = 8 * n + 2 * (lane % 4) + c;
          if (key >= end || key == hidden) scores[i][n][2 * half + c] = minus_infinity();
        }
      }
    }
  }
}

}  // namespace MDM_NAMESPACE
