// score_hidden on CUDA: rows whose logits come in blocks of the vocabulary, summarised by the code that scans whole rows and
// concluded by the code that concludes rows cut into pieces, so that the same logits give the same bits (score_tokens.cuh).
//
// The draw ends inside the chunk that wins the race, whose logits are gone by then: each row keeps those of the chunk
// that leads, which changes about log(vocab / 512) times.
#pragma once

#include "core/score_hidden_params.h"
#include "cuda/score_tokens.cuh"

namespace MDM_NAMESPACE {

using cuda::HiddenRow;
using cuda::ScoreHiddenKernel;

// The row as if it were whole: where its id 0 would lie if its id `first` lies at `at`.
__device__ __forceinline__ ScoredRow whole_row(const ScoreHiddenKernel& kernel, int64_t index, const uint8_t* at,
                                               int64_t first) {
  ScoredRow row = listed_row(kernel.params, index);
  const int64_t before = first * logit_bytes(kernel.params);
  row.data = reinterpret_cast<const uint8_t*>(reinterpret_cast<uint64_t>(at) - static_cast<uint64_t>(before));
  row.raw = kernel.partials + index * 2 * row.chunks;
  row.proposal = row.raw + row.chunks;
  return row;
}

__device__ __forceinline__ uint8_t* kept_logits(const ScoreHiddenKernel& kernel, int64_t index) {
  return kernel.winners + index * kChunkIds * logit_bytes(kernel.params);
}

// By one warp: the winner among the chunks so far, and its logits.
__device__ inline void follow_race(const ScoreHiddenKernel& kernel, int64_t index, const ScoredRow& row, float scale) {
  HiddenRow& state = kernel.rows[index];
  const ChunkEntry known{state.winner_noise, state.winner_max, state.winner};
  const int64_t first = kernel.first_id / kChunkIds, last = (kernel.last_id + kChunkIds - 1) / kChunkIds;
  const ChunkEntry winner = race_chunks(row, row_draws(row), scale, first, last, 0, 1, known);
  if (winner.index == known.index) return;
  const int64_t begin = winner.index * kChunkIds, left = kernel.params.vocab - begin;
  uint32_t* const kept = reinterpret_cast<uint32_t*>(kept_logits(kernel, index));
  if (kernel.params.type == FloatType::float32) {
    const uint32_t* logits = reinterpret_cast<const uint32_t*>(row.data) + begin;
    for (int id = lane_id(); id < kChunkIds && id < left; id += kWarpLanes) kept[id] = logits[id];
  } else {
    const uint16_t* logits = reinterpret_cast<const uint16_t*>(row.data) + begin;
    for (int id = 2 * lane_id(); id < kChunkIds && id < left; id += 2 * kWarpLanes) {
      const uint32_t upper = id + 1 < left ? logits[id + 1] : 0u;
      kept[id / 2] = logits[id] | upper << 16;
    }
  }
  __syncwarp();  // all have read `known`
  if (lane_id() != 0) return;
  state.winner = winner.index;
  state.winner_noise = winner.noise;
  state.winner_max = winner.max;
}

// Block i takes row i of one block of logits.
template <FloatType type>
__device__ void scan_hidden_row(const ScoreHiddenKernel& kernel) {
  const ScoreTokensParams& params = kernel.params;
  const int64_t index = blockIdx.x;
  const uint8_t* logits = static_cast<const uint8_t*>(params.logits) + index * params.row_stride * logit_bytes(params);
  const ScoredRow row = whole_row(kernel, index, logits, kernel.first_id);
  if (!row.exists) return;
  HiddenRow& state = kernel.rows[index];
  if (kernel.first_id == 0 && threadIdx.x == 0) state = {0.0, -1, 0.0f, 0.0f};
  const RowPlan plan = plan_row(params, row.b, row.l);
  const int64_t first = kernel.first_id / kChunkIds, last = (kernel.last_id + kChunkIds - 1) / kChunkIds;
  scan_chunks<type>(row, plan, first + warp_id(), last);
  if (wanted(params, TokenScore::current_logprob) && threadIdx.x == 0) {
    const int64_t id = at(params.tokens, row.b, row.l);
    if (id >= kernel.first_id && id < kernel.last_id) state.current = read_value(row.data, type, id);
  }
  if (!plan.sampling) return;
  __syncthreads();
  if (warp_id() == 0) follow_race(kernel, index, row, plan.scale);
}

template <>
struct Scanned<ScoreHiddenKernel> {
  static constexpr bool kRaces = false;
  static __device__ __forceinline__ ScoredRow row(const ScoreHiddenKernel& kernel, int64_t index) {
    const bool exists = listed_row(kernel.params, index).exists;
    return whole_row(kernel, index, kept_logits(kernel, index), exists ? kernel.rows[index].winner * kChunkIds : 0);
  }
  static __device__ __forceinline__ int64_t winner(const ScoreHiddenKernel& kernel, int64_t index, const ChunkEntry*,
                                                   float) {
    return kernel.rows[index].winner;
  }
  static __device__ __forceinline__ float current(const ScoreHiddenKernel& kernel, int64_t index, const ScoredRow&,
                                                  int64_t) {
    return kernel.rows[index].current;
  }
};

// Block i copies row i.
__device__ inline void gather_row(const GatherRowsParams& params) {
  const int64_t place = params.row_index[blockIdx.x];
  const bool exists = place >= 0 && place < params.batch * params.length;
  const int64_t b = exists ? place / params.length : 0, l = exists ? place % params.length : 0;
  const uint8_t* from =
      static_cast<const uint8_t*>(params.hidden) + b * params.batch_stride + l * params.position_stride;
  uint8_t* const to = static_cast<uint8_t*>(params.out) + blockIdx.x * params.row_bytes;
  if ((reinterpret_cast<uint64_t>(from) | reinterpret_cast<uint64_t>(to) | params.row_bytes) % 16 == 0) {
    for (int64_t at = 16 * threadIdx.x; at < params.row_bytes; at += 16 * blockDim.x) {
      *reinterpret_cast<ptx::Bytes16*>(to + at) = exists ? ptx::load_streaming(from + at) : ptx::Bytes16{};
    }
    return;
  }
  for (int64_t at = 2 * threadIdx.x; at < params.row_bytes; at += 2 * blockDim.x) {
    *reinterpret_cast<uint16_t*>(to + at) = exists ? *reinterpret_cast<const uint16_t*>(from + at) : uint16_t{0};
  }
}

}  // namespace MDM_NAMESPACE
