// bidirectional_attention on CUDA, by the online softmax of FlashAttention (arXiv 2205.14135, 2307.08691): a block takes
// a tile of query rows and goes through the keys they see, in tiles from the beginning of the sequence.
//
//   scores = Q K^T   ->   mask   ->   running maximum, P = 2^(scores - maximum)   ->   O = O * correction + P V
//
// Scores, P and O stay in registers: what mma.sync returns as the sum of one product is laid out as it takes the left
// operand of the next. Shared memory holds Q and two stages of K and V: while the warps work on one, the next tile is on
// its way to the other.
//
// A tile outside every row's interval is never visited, keys outside the sequence are never read, and tiles count from
// the sequence's first key, so a row's bits depend neither on padding nor on which other rows were asked.
#pragma once

#include "cuda/attention_keys.cuh"

namespace MDM_NAMESPACE {

// Over one row, each thread holding a quarter of the columns: lanes 4g to 4g + 3 share rows g and g + 8.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

constexpr float kSlack = 8.0f;

// Running softmax of a warp's rows, two for each row tile: [row tile][upper or lower half].
template <int kRowTiles>
struct OnlineSoftmax {
  float maximum[kRowTiles][2];  // of the scores so far
  float sum[kRowTiles][2];      // of 2^(score - maximum) over this thread's columns

  // Scores to powers, in units of `scale_log2`; rescales `out` to the new maximum.
  template <int kSlices, int kOutSlices>
  __device__ __forceinline__ void update(float (&scores)[kRowTiles][kSlices][4], float (&out)[kRowTiles][kOutSlices][4],
                                         float scale_log2) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float largest = maximum[i][half];
#pragma unroll
        for (int n = 0; n < kSlices; ++n) {
          largest = fmaxf(largest, fmaxf(scores[i][n][2 * half], scores[i][n][2 * half + 1]));
        }
        largest = quad_max(largest);
        // A maximum that is a little behind serves as well: powers stay below 2^kSlack, and `out` is rarely rescaled.
        const bool moves = !((largest - maximum[i][half]) * scale_log2 <= kSlack);
        if (__any_sync(kAllLanes, moves)) {
          const float next = moves ? largest : maximum[i][half];
          // While a row has seen nothing, -inf - -inf would be NaN.
          const float step = next == minus_infinity() ? 0.0f : (maximum[i][half] - next) * scale_log2;
          const float correction = ptx::exp2_approx(step);
          maximum[i][half] = next;
          sum[i][half] *= correction;
#pragma unroll
          for (int n = 0; n < kOutSlices; ++n) {
            out[i][n][2 * half] *= correction;
            out[i][n][2 * half + 1] *= correction;
          }
        }
        // Differences of scores come before the product: each rounded by itself, large ones would have nothing left.
        const float base = maximum[i][half] == minus_infinity() ? 0.0f : maximum[i][half];
        float total = 0.0f;
#pragma unroll
        for (int n = 0; n < kSlices; ++n) {
#pragma unroll
          for (int c = 2 * half; c < 2 * half + 2; ++c) {
            scores[i][n][c] = ptx::exp2_approx((scores[i][n][c] - base) * scale_log2);
            total += scores[i][n][c];
          }
        }
        sum[i][half] += total;
      }
    }
  }
};

template <class Type, int kWidth>
__device__ __forceinline__ void bidirectional_attention(const BidirectionalAttentionParams& params) {
  using Shape = cuda::ForwardShape<kWidth>;
  constexpr int kRowTiles = Shape::kRowTiles, kKeys = Shape::kKeys, kThreads = cuda::kAttentionThreads;
  // Counts that fit 32 bits, to hold them in half the registers.
  const int queries = static_cast<int>(params.queries), heads = static_cast<int>(params.heads);
  const int width = static_cast<int>(params.width);
  const int tiles = (queries + Shape::kRows - 1) / Shape::kRows;
  const int head_of_all = blockIdx.x / tiles, first_row = blockIdx.x % tiles * Shape::kRows;
  const int b = head_of_all / heads, head = head_of_all % heads;
  const int kv_head = head / (heads / static_cast<int>(params.kv_heads));
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;

  unsigned char* const shared = shared_at<unsigned char>(0);
  const uint32_t query_tile = ptx::shared_address(shared);
  uint32_t stage = query_tile + Shape::kStages, next_stage = stage + Shape::kStageBytes;
  QueryKeys* const rows = shared_at<QueryKeys>(Shape::kQueryKeys);
  const TileKeys keys = block_keys<Shape::kRows>(params, b, first_row, rows, shared_at<TileKeys>(Shape::kWarpKeys));

  const int64_t first = first_key(params, b);
  TileCopy<kWidth, kKeys, kThreads> key_copy(rows_of(params.k, b, kv_head, first), params.k.row_stride);
  TileCopy<kWidth, kKeys, kThreads> value_copy(rows_of(params.v, b, kv_head, first), params.v.row_stride);
  const auto copy_stage = [&](uint32_t to, int key) {
    key_copy.start(to, params.k.row_stride, keys.end - key, width);
    value_copy.start(to + Shape::kValues, params.v.row_stride, keys.end - key, width);
    ptx::cp_async_commit();
  };

  float out[kRowTiles][kWidth / 8][4] = {};
  OnlineSoftmax<kRowTiles> softmax;
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
    softmax.maximum[i][0] = softmax.maximum[i][1] = minus_infinity();
    softmax.sum[i][0] = softmax.sum[i][1] = 0.0f;
  }
  const float scale_log2 = exponent_factor(params);
  const int warp_row = 16 * kRowTiles * warp;

  if (keys.end > 0) {
    TileCopy<kWidth, Shape::kRows, kThreads> query_copy(rows_of(params.q, b, head, first_row), params.q.row_stride);
    query_copy.start(query_tile, params.q.row_stride, queries - first_row, width);
    copy_stage(stage, 0);
  }
  for (int key = 0; key < keys.end; key += kKeys) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // everyone's copies are there, and nobody still reads the other stage
    if (key + kKeys < keys.end) copy_stage(next_stage, key + kKeys);
    float scores[kRowTiles][kKeys / 8][4] = {};
    multiply_transposed<Type, kWidth>(scores, query_tile, kRowTiles * warp, stage);
    if (needs_mask(keys, key, kKeys)) mask_scores(scores, rows + warp_row, key);
    softmax.update(scores, out, scale_log2);
    multiply<Type, kWidth>(out, scores, stage + Shape::kValues);
    const uint32_t done = stage;
    stage = next_stage;
    next_stage = done;
  }

#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + 16 * i + 8 * half + lane / 4;
      const float total = quad_sum(softmax.sum[i][half]);
      const float sum = rows[row].end > 0 ? total : 0.0f;
      const float inverse = 1.0f / sum;
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
        for (int c = 2 * half; c < 2 * half + 2; ++c) out[i][n][c] = sum == 0.0f ? 0.0f : out[i][n][c] * inverse;
      }
      if (lane % 4 == 0 && first_row + row < queries) {
        const int64_t place = static_cast<int64_t>(head_of_all) * queries + first_row + row;
        const float largest = softmax.maximum[i][half], log_sum = logf(sum);
        params.lse[place] = sum == 0.0f ? minus_infinity() : fmaf(largest, static_cast<float>(params.scale), log_sum);
        params.maximum[place] = sum == 0.0f ? 0.0f : largest;
        params.log_sum[place] = sum == 0.0f ? -minus_infinity() : log_sum;
      }
    }
  }
  store_rows<Type, kWidth>(out, shared + warp_row * Shape::kRowBytes,
                           rows_of(params.out, b, head, first_row + warp_row), params.out.row_stride,
                           queries - first_row - warp_row, width);
}

}  // namespace MDM_NAMESPACE
