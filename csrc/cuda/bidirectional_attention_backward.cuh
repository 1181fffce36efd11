// Gradients of bidirectional_attention on CUDA, after FlashAttention-2 (arXiv 2307.08691, section 3.1.2): probabilities are
// computed again from the largest score and the log of the sum, P = 2^(scores - maximum - log2_sum), and with
// delta = grad_out . out - grad_lse
//
//   grad_v = P^T grad_out      grad_s = P * (grad_out V^T - delta)      grad_q = grad_s K      grad_k = grad_s^T Q
//
// Three kernels. The first writes delta and what each query sees. The second owns keys and sums over queries, the third
// owns queries and sums over keys. Scores are thus computed twice, seven products for five, and in return no sum is
// shared between blocks: no atomics, the same bits every time. A product's sums are the left operand of the next one
// where they lie, in registers, since the kernel of keys computes the transposed scores.
#pragma once

#include "cuda/attention_backward.h"
#include "cuda/attention_keys.cuh"

namespace MDM_NAMESPACE {

using cuda::AttentionBackward;
using cuda::QueryTile;
using cuda::RowStatistics;

constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ float widen(FloatType type, uint32_t pair, int half) {
  const uint16_t bits = static_cast<uint16_t>(pair >> 16 * half);
  return type == FloatType::bfloat16 ? bfloat16_to_float(bits) : float16_to_float(bits);
}

// One block per head and tile of kTile queries.
template <int kTile>
__device__ __forceinline__ void backward_rows(const AttentionBackward& work) {
  const BidirectionalAttentionParams& forward = work.params.forward;
  const int queries = static_cast<int>(forward.queries), heads = static_cast<int>(forward.heads);
  const int tiles = static_cast<int>(work.padded_queries) / kTile;
  const int head_of_all = blockIdx.x / tiles, tile = blockIdx.x % tiles, first_row = tile * kTile;
  const int b = head_of_all / heads, head = head_of_all % heads;
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  QueryKeys* const rows = shared_at<QueryKeys>(0);
  const TileKeys keys =
      block_keys<kTile>(forward, b, first_row, rows, shared_at<TileKeys>(kTile * static_cast<int>(sizeof(QueryKeys))));

  for (int row = warp; row < kTile; row += cuda::kAttentionWarps) {
    RowStatistics statistics{0.0f, -minus_infinity(), 0.0f, 0.0f};
    if (rows[row].end > 0) {  // the same for the whole warp
      const uint16_t* out = rows_of(work.params.out, b, head, first_row + row);
      const uint16_t* grad_out = rows_of(work.params.grad_out, b, head, first_row + row);
      float sum = 0.0f;
      for (int column = 2 * lane; column < forward.width; column += 2 * kLanes) {
        const uint32_t a = *reinterpret_cast<const uint32_t*>(out + column);
        const uint32_t c = *reinterpret_cast<const uint32_t*>(grad_out + column);
        sum = fmaf(widen(forward.type, a, 0), widen(forward.type, c, 0), sum);
        sum = fmaf(widen(forward.type, a, 1), widen(forward.type, c, 1), sum);
      }
      for (int offset = kLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
      const int64_t place = static_cast<int64_t>(head_of_all) * queries + first_row + row;
      statistics.maximum = work.params.maximum[place];
      statistics.log2_sum = work.params.log_sum[place] * kLog2E;
      statistics.delta = work.params.grad_lse == nullptr ? sum : sum - work.params.grad_lse[place];
    }
    if (lane == 0) work.statistics[head_of_all * work.padded_queries + first_row + row] = statistics;
  }

  if (head != 0) return;
  if (threadIdx.x < kTile) work.query_keys[b * work.padded_queries + first_row + threadIdx.x] = rows[threadIdx.x];
  if (threadIdx.x == 0) {
    uint64_t live = 0;
    for (int row = 0; row < kTile; ++row) live |= static_cast<uint64_t>(rows[row].end > 0) << row;
    work.tiles[static_cast<int64_t>(b) * tiles + tile] = {keys, live};
  }
}

// grad_q of a tile of queries.
template <class Type, int kWidth>
__device__ __forceinline__ void backward_queries(const AttentionBackward& work) {
  using Shape = cuda::BackwardShape<kWidth>;
  constexpr int kTile = Shape::kTile, kThreads = cuda::kAttentionThreads;
  const BidirectionalAttentionParams& forward = work.params.forward;
  const int queries = static_cast<int>(forward.queries), heads = static_cast<int>(forward.heads);
  const int width = static_cast<int>(forward.width);
  const int tiles = (queries + Shape::kRows - 1) / Shape::kRows;
  const int head_of_all = blockIdx.x / tiles, first_row = blockIdx.x % tiles * Shape::kRows;
  const int b = head_of_all / heads, head = head_of_all % heads;
  const int kv_head = head / (heads / static_cast<int>(forward.kv_heads));
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes, warp_row = 16 * warp;

  unsigned char* const shared = shared_at<unsigned char>(0);
  const uint32_t query_tile = ptx::shared_address(shared), grad_tile = query_tile + Shape::kOwnSecond;
  uint32_t stage = query_tile + Shape::kStages, next_stage = stage + Shape::kStageBytes;
  QueryKeys* const rows = shared_at<QueryKeys>(Shape::kQueryKeys);
  const TileKeys keys = block_keys<Shape::kRows>(forward, b, first_row, rows, shared_at<TileKeys>(Shape::kWarpKeys));
  const int64_t first = first_key(forward, b);
  TileCopy<kWidth, kTile, kThreads> key_copy(rows_of(forward.k, b, kv_head, first), forward.k.row_stride);
  TileCopy<kWidth, kTile, kThreads> value_copy(rows_of(forward.v, b, kv_head, first), forward.v.row_stride);
  const auto copy_stage = [&](uint32_t to, int key) {
    key_copy.start(to, forward.k.row_stride, keys.end - key, width);
    value_copy.start(to + Shape::kStageSecond, forward.v.row_stride, keys.end - key, width);
    ptx::cp_async_commit();
  };

  RowStatistics statistics[2];  // of rows group and group + 8
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + warp_row + 8 * half + lane / 4;
    statistics[half] = {0.0f, -minus_infinity(), 0.0f, 0.0f};
    if (row < queries) statistics[half] = work.statistics[head_of_all * work.padded_queries + row];
  }
  const float scale_log2 = exponent_factor(forward);
  float grad_q[1][kWidth / 8][4] = {};

  if (keys.end > 0) {
    TileCopy<kWidth, Shape::kRows, kThreads> query_copy(rows_of(forward.q, b, head, first_row), forward.q.row_stride);
    query_copy.start(query_tile, forward.q.row_stride, queries - first_row, width);
    TileCopy<kWidth, Shape::kRows, kThreads> grad_copy(rows_of(work.params.grad_out, b, head, first_row),
                                                       work.params.grad_out.row_stride);
    grad_copy.start(grad_tile, work.params.grad_out.row_stride, queries - first_row, width);
    copy_stage(stage, 0);
  }
  for (int key = 0; key < keys.end; key += kTile) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // everyone's copies are there, and nobody still reads the other stage
    if (key + kTile < keys.end) copy_stage(next_stage, key + kTile);
    float scores[1][kTile / 8][4] = {}, grad_p[1][kTile / 8][4] = {};
    multiply_transposed<Type, kWidth>(scores, query_tile, warp, stage);
    multiply_transposed<Type, kWidth>(grad_p, grad_tile, warp, stage + Shape::kStageSecond);
    if (needs_mask(keys, key, kTile)) mask_scores(scores, rows + warp_row, key);
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const RowStatistics& row = statistics[c / 2];
        const float p = ptx::exp2_approx(fmaf(scores[0][n][c] - row.maximum, scale_log2, -row.log2_sum));
        scores[0][n][c] = p * (grad_p[0][n][c] - row.delta);
      }
    }
    multiply<Type, kWidth>(grad_q, scores, stage);
    const uint32_t done = stage;
    stage = next_stage;
    next_stage = done;
  }

#pragma unroll
  for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const bool sees = rows[warp_row + 8 * (c / 2) + lane / 4].end > 0;
      grad_q[0][n][c] = sees ? grad_q[0][n][c] * static_cast<float>(forward.scale) : 0.0f;
    }
  }
  store_rows<Type, kWidth>(grad_q, shared + warp_row * Shape::kRowBytes,
                           rows_of(work.params.grad_q, b, head, first_row + warp_row), work.params.grad_q.row_stride,
                           queries - first_row - warp_row, width);
}

// Transposed scores [keys, queries] to probabilities, and grad_p to gradients of scores. `first` is the first key of the
// warp as its sequence counts; `statistics` and `rows` belong to the tile of queries.
template <int kSlices>
__device__ __forceinline__ void gradients_of_scores(float (&scores)[1][kSlices][4], float (&grad_p)[1][kSlices][4],
                                                    const RowStatistics* statistics, const QueryKeys* rows, bool masked,
                                                    int first, float scale_log2) {
  const int lane = threadIdx.x % kLanes;
#pragma unroll
  for (int n = 0; n < kSlices; ++n) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int query = 8 * n + 2 * (lane % 4) + side;
      const RowStatistics own = statistics[query];
      QueryKeys seen{0, 0};
      if (masked) seen = rows[query];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int key = first + lane / 4 + 8 * half;
        float& score = scores[0][n][2 * half + side];
        if (masked && (key < 0 || key >= seen.end || key == seen.hidden)) score = minus_infinity();
        score = ptx::exp2_approx(fmaf(score - own.maximum, scale_log2, -own.log2_sum));
        float& gradient = grad_p[0][n][2 * half + side];
        gradient = score * (gradient - own.delta);
      }
    }
  }
}

// grad_k and grad_v of a tile of keys, from every query head of its group.
template <class Type, int kWidth>
__device__ __forceinline__ void backward_keys(const AttentionBackward& work) {
  using Shape = cuda::BackwardShape<kWidth>;
  constexpr int kTile = Shape::kTile, kThreads = cuda::kAttentionThreads, kKeys = Shape::kRows;
  const BidirectionalAttentionParams& forward = work.params.forward;
  const Heads& grad_out = work.params.grad_out;
  const int keys = static_cast<int>(forward.keys), kv_heads = static_cast<int>(forward.kv_heads);
  const int width = static_cast<int>(forward.width), group = static_cast<int>(forward.heads) / kv_heads;
  const int key_tiles = (keys + kKeys - 1) / kKeys;
  const int head_of_all = blockIdx.x / key_tiles, first_of_block = blockIdx.x % key_tiles * kKeys;
  const int b = head_of_all / kv_heads, kv_head = head_of_all % kv_heads;
  const int warp = threadIdx.x / kLanes, warp_row = 16 * warp;
  const VisibleKeys sequence = sequence_keys(forward, b);
  const int first = first_of_block - static_cast<int>(sequence.begin);  // as the sequence counts its keys

  unsigned char* const shared = shared_at<unsigned char>(0);
  const uint32_t key_tile = ptx::shared_address(shared), value_tile = key_tile + Shape::kOwnSecond;
  const QueryTile* const tiles = work.tiles + b * (work.padded_queries / kTile);
  const int tile_count = static_cast<int>(work.padded_queries) / kTile, steps = group * tile_count;
  // Steps go through the tiles of one query head after the other; those that see none of these keys are passed over.
  const auto next_step = [&](int step) {
    while (step < steps && (first + kKeys <= 0 || tiles[step % tile_count].keys.end <= first)) ++step;
    return step;
  };
  const auto copy_stage = [&](int offset, int step) {
    const int head = kv_head * group + step / tile_count, row = step % tile_count * kTile;
    const uint32_t to = key_tile + offset;
    const uint64_t live = tiles[step % tile_count].live;
    const auto keep = [=](int r) { return (live >> r & 1) != 0; };
    TileCopy<kWidth, kTile, kThreads> query_copy(rows_of(forward.q, b, head, row), forward.q.row_stride);
    query_copy.start_where(to, forward.q.row_stride, width, keep);
    TileCopy<kWidth, kTile, kThreads> grad_copy(rows_of(grad_out, b, head, row), grad_out.row_stride);
    grad_copy.start_where(to + Shape::kStageSecond, grad_out.row_stride, width, keep);
    const int thread = threadIdx.x;
    if (thread < kTile) {
      const int64_t place = (b * forward.heads + head) * work.padded_queries + row + thread;
      ptx::cp_async_16(to + Shape::kStageStatistics + 16 * thread, work.statistics + place, 16);
    } else if (thread < 2 * kTile) {
      const int64_t place = b * work.padded_queries + row + thread - kTile;
      ptx::cp_async_8(to + Shape::kStageKeys + 8 * (thread - kTile), work.query_keys + place);
    }
    ptx::cp_async_commit();
  };

  const float scale_log2 = exponent_factor(forward);
  float grad_k[1][kWidth / 8][4] = {}, grad_v[1][kWidth / 8][4] = {};
  int step = next_step(0), stage = Shape::kStages, next_stage = stage + Shape::kStageBytes;
  if (step < steps) {
    TileCopy<kWidth, kKeys, kThreads> key_copy(rows_of(forward.k, b, kv_head, first_of_block), forward.k.row_stride);
    TileCopy<kWidth, kKeys, kThreads> value_copy(rows_of(forward.v, b, kv_head, first_of_block), forward.v.row_stride);
    const int low = -first, high = static_cast<int>(sequence.end) - first_of_block;
    const auto keep = [=](int row) { return row >= low && row < high; };
    key_copy.start_where(key_tile, forward.k.row_stride, width, keep);
    value_copy.start_where(value_tile, forward.v.row_stride, width, keep);
    copy_stage(stage, step);
  }
  while (step < steps) {
    const int following = next_step(step + 1);
    ptx::cp_async_wait<0>();
    __syncthreads();  // everyone's copies are there, and nobody still reads the other stage
    if (following < steps) copy_stage(next_stage, following);
    const uint32_t query_tile = key_tile + stage, grad_tile = query_tile + Shape::kStageSecond;
    float scores[1][kTile / 8][4] = {}, grad_p[1][kTile / 8][4] = {};
    multiply_transposed<Type, kWidth>(scores, key_tile, warp, query_tile);
    multiply_transposed<Type, kWidth>(grad_p, value_tile, warp, grad_tile);
    const bool masked = first < 0 || needs_mask(tiles[step % tile_count].keys, first, kKeys);
    gradients_of_scores(scores, grad_p, shared_at<RowStatistics>(stage + Shape::kStageStatistics),
                        shared_at<QueryKeys>(stage + Shape::kStageKeys), masked, first + warp_row, scale_log2);
    multiply<Type, kWidth>(grad_v, scores, grad_tile);
    multiply<Type, kWidth>(grad_k, grad_p, query_tile);
    step = following;
    const int done = stage;
    stage = next_stage;
    next_stage = done;
  }

#pragma unroll
  for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
    for (int c = 0; c < 4; ++c) grad_k[0][n][c] *= static_cast<float>(forward.scale);
  }
  const int left = keys - first_of_block - warp_row;
  store_rows<Type, kWidth>(grad_k, shared + warp_row * Shape::kRowBytes,
                           rows_of(work.params.grad_k, b, kv_head, first_of_block + warp_row),
                           work.params.grad_k.row_stride, left, width);
  store_rows<Type, kWidth>(grad_v, shared + Shape::kOwnSecond + warp_row * Shape::kRowBytes,
                           rows_of(work.params.grad_v, b, kv_head, first_of_block + warp_row),
                           work.params.grad_v.row_stride, left, width);
}

}  // namespace MDM_NAMESPACE
