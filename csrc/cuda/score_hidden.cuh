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

// Of piece `state` of all rows' pieces.
__device__ __forceinline__ uint8_t* kept_logits(const ScoreHiddenKernel& kernel, int64_t state) {
  return kernel.winners + state * kChunkIds * logit_bytes(kernel.params);
}

// By one warp: the winner among the chunks so far, the last ones being [first, last), and its logits.
__device__ inline void follow_race(const ScoreHiddenKernel& kernel, int64_t piece, const ScoredRow& row, float scale,
                                   int64_t first, int64_t last) {
  HiddenRow& state = kernel.rows[piece];
  const ChunkEntry known{state.winner_noise, state.winner_max, state.winner};
  const ChunkEntry winner = race_chunks(row, row_draws(row), scale, first, last, 0, 1, known);
  if (winner.index == known.index) return;
  const int64_t begin = winner.index * kChunkIds, left = kernel.params.vocab - begin;
  uint32_t* const kept = reinterpret_cast<uint32_t*>(kept_logits(kernel, piece));
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

// Block i takes piece i % pieces of row i / pieces, of one block of logits.
template <FloatType type>
__device__ void scan_hidden_row(const ScoreHiddenKernel& kernel) {
  const ScoreTokensParams& params = kernel.params;
  const int64_t index = blockIdx.x / kernel.pieces, piece = blockIdx.x % kernel.pieces;
  const uint8_t* logits = static_cast<const uint8_t*>(params.logits) + index * params.row_stride * logit_bytes(params);
  const ScoredRow row = whole_row(kernel, index, logits, kernel.first_id);
  if (!row.exists) return;
  HiddenRow& state = kernel.rows[blockIdx.x];
  if (kernel.first_id == 0 && threadIdx.x == 0) state = {0.0, -1, 0.0f, float_from_bits(0x7fffffffu)};
  const RowPlan plan = plan_row(params, row.b, row.l);
  const int64_t before = kernel.first_id / kChunkIds, chunks = (kernel.last_id + kChunkIds - 1) / kChunkIds - before;
  const int64_t first = before + chunks * piece / kernel.pieces, last = before + chunks * (piece + 1) / kernel.pieces;
  scan_chunks<type>(row, plan, first + warp_id(), last);
  if (wanted(params, TokenScore::current_logprob) && threadIdx.x == 0) {
    const int64_t id = at(params.tokens, row.b, row.l);
    const bool here = id >= first * kChunkIds && id < last * kChunkIds && id < kernel.last_id;
    if (here) state.current = read_value(row.data, type, id);
  }
  if (!plan.sampling) return;
  __syncthreads();
  if (warp_id() == 0) follow_race(kernel, blockIdx.x, row, plan.scale, first, last);
}

template <>
struct Scanned<ScoreHiddenKernel> {
  static __device__ __forceinline__ ScoredRow row(const ScoreHiddenKernel& kernel, int64_t index) {
    return whole_row(kernel, index, nullptr, 0);
  }
  static __device__ __forceinline__ ChunkEntry race(const ScoreHiddenKernel& kernel, int64_t index, const ScoredRow&,
                                                    const RowDraws&, float scale, int warp, int warps) {
    ChunkEntry own{0.0, 0.0f, -1};
#pragma unroll 1
    for (int64_t piece = warp * kWarpLanes + lane_id(); piece < kernel.pieces; piece += warps * kWarpLanes) {
      const HiddenRow& state = kernel.rows[index * kernel.pieces + piece];
      const ChunkEntry entry{state.winner_noise, state.winner_max, state.winner};
      if (comes_before(entry, own, scale)) own = entry;
    }
    return race_winner(own, scale);
  }
  static __device__ __forceinline__ void find_logits(const ScoreHiddenKernel& kernel, int64_t index, int64_t winner,
                                                     ScoredRow* row) {
    unsigned own = 0xffffffffu;
#pragma unroll 1
    for (int64_t piece = lane_id(); piece < kernel.pieces; piece += kWarpLanes) {
      if (kernel.rows[index * kernel.pieces + piece].winner == winner) own = static_cast<unsigned>(piece);
    }
    const int64_t piece = __reduce_min_sync(kWholeWarp, own);
    row->data = whole_row(kernel, index, kept_logits(kernel, index * kernel.pieces + piece), winner * kChunkIds).data;
  }
  // Every lane of the warp calls it: one of the pieces has it.
  static __device__ __forceinline__ float current(const ScoreHiddenKernel& kernel, int64_t index, const ScoredRow&,
                                                  int64_t) {
    float own = float_from_bits(0x7fffffffu);
#pragma unroll 1
    for (int64_t piece = lane_id(); piece < kernel.pieces; piece += kWarpLanes) {
      const float x = kernel.rows[index * kernel.pieces + piece].current;
      if (x == x) own = x;
    }
    const unsigned found = __ballot_sync(kWholeWarp, own == own);
    return __shfl_sync(kWholeWarp, own, found == 0 ? 0 : __ffs(found) - 1);
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
