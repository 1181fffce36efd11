// score_tokens on CUDA, in two forms that give the same bits.
//
//   many rows: a block scores a row, its chunks' partials in shared memory
//   few rows:  blocks scan pieces of rows, their partials in the workspace; then a block concludes each row
//
// A row's chunks are summarised by warps (scan_chunks.cuh); a block merges them, draws and writes (conclude_row.cuh); filters
// (proposal_filter.cuh) find the kept set and summarise what it holds again; a draw reads one chunk more.
#pragma once

#include "cuda/conclude_row.cuh"

namespace MDM_NAMESPACE {

// Row `index` of those asked for, whose logits and partials are yet to be said.
__device__ __forceinline__ ScoredRow listed_row(const ScoreTokensParams& params, int64_t index) {
  const int64_t place = params.row_index == nullptr ? params.first_row + index : params.row_index[index];
  ScoredRow row{};
  row.params = &params;
  row.chunks = (params.vocab + kChunkIds - 1) / kChunkIds;
  row.exists = place >= 0 && place < params.batch * params.length;
  row.b = row.exists ? place / params.length : 0;
  row.l = row.exists ? place % params.length : 0;
  return row;
}

__device__ __forceinline__ int64_t logit_bytes(const ScoreTokensParams& params) {
  return params.type == FloatType::float32 ? 4 : 2;
}

__device__ __forceinline__ ScoredRow scored_row(const ScoreTokensKernel& kernel, int64_t index) {
  const ScoreTokensParams& params = kernel.params;
  ScoredRow row = listed_row(params, index);
  const int64_t source = row.l > params.shift ? row.l - params.shift : 0;
  const int64_t offset = params.row_stride != 0 ? index * params.row_stride
                                                : row.b * params.batch_stride + source * params.position_stride;
  row.data = static_cast<const uint8_t*>(params.logits) + offset * logit_bytes(params);
  const double guidance = params.uncond_logits != nullptr && row.exists ? at(params.guidance, row.b, row.l) : 0.0;
  if (guidance != 0.0) {
    const int64_t beside = row.b * params.uncond_batch_stride + source * params.uncond_position_stride;
    row.guidance.uncond = static_cast<const uint8_t*>(params.uncond_logits) + beside * logit_bytes(params);
    row.guidance.strength = static_cast<float>(guidance + 1.0);
  }
  row.raw = kernel.partials == nullptr ? shared_at<ChunkPartial>(cuda::kScoreSharedBytes)
                                       : kernel.partials + index * 2 * row.chunks;
  row.proposal = row.raw + row.chunks;
  return row;
}

__device__ __forceinline__ bool is_asked(const ScoredRow& row) {
  return row.exists && at_or<uint8_t>(row.params->rows, row.b, row.l, 1) != 0;
}

// A row that is not asked for: -1 and NaN, by one thread.
__device__ inline void write_left_out(const ScoredRow& row) {
  if (!row.exists) return;
  const int64_t place = row.b * row.params->length + row.l;
  for (int i = 0; i < kTokenScores; ++i) {
    if (i < kTokenIdScores) {
      put_id(*row.params, static_cast<TokenScore>(i), place, -1);
    } else {
      put_value(*row.params, static_cast<TokenScore>(i), place, __builtin_nan(""));
    }
  }
}

template <>
struct Scanned<ScoreTokensKernel> {
  static __device__ __forceinline__ ScoredRow row(const ScoreTokensKernel& kernel, int64_t index) {
    return scored_row(kernel, index);
  }
  static __device__ __forceinline__ ChunkEntry race(const ScoreTokensKernel&, int64_t, const ScoredRow& row,
                                                    const RowDraws& draws, float scale, int warp, int warps) {
    return race_chunks(row, draws, scale, 0, row.chunks, warp, warps, {0.0, 0.0f, -1});
  }
  static __device__ __forceinline__ void find_logits(const ScoreTokensKernel&, int64_t, int64_t, ScoredRow*) {}
  static __device__ __forceinline__ float current(const ScoreTokensKernel&, int64_t, const ScoredRow& row, int64_t id) {
    return read_logit(row.data, row.params->type, row.guidance, id);
  }
};

// Many rows: block i scores rows i, i + gridDim.x, ...
template <FloatType type, bool guided>
__device__ void score_rows(const ScoreTokensKernel& kernel) {
#pragma unroll 1
  for (int64_t index = blockIdx.x; index < kernel.params.row_count; index += gridDim.x) {
    const ScoredRow row = scored_row(kernel, index);
    if (!is_asked(row)) {
      if (threadIdx.x == 0) write_left_out(row);
      continue;
    }
    const RowPlan plan = plan_row(kernel.params, row.b, row.l);
    scan_chunks<type, guided>(row, plan, warp_id(), row.chunks);
    __syncthreads();
    conclude_row(kernel, index);  // after whose last barrier nobody reads the partials
  }
}

// Few rows: block i takes piece i % pieces of row i / pieces.
template <FloatType type, bool guided>
__device__ void scan_piece(const ScoreTokensKernel& kernel) {
  const ScoredRow row = scored_row(kernel, blockIdx.x / kernel.pieces);
  if (!is_asked(row)) return;
  const int64_t piece = blockIdx.x % kernel.pieces;
  const int64_t first = row.chunks * piece / kernel.pieces, last = row.chunks * (piece + 1) / kernel.pieces;
  scan_chunks<type, guided>(row, plan_row(kernel.params, row.b, row.l), first + warp_id(), last);
}

// Block i concludes row i.
template <class Kernel>
__device__ void conclude_scanned_row(const Kernel& kernel) {
  const ScoredRow row = Scanned<Kernel>::row(kernel, blockIdx.x);
  if (is_asked(row)) {
    conclude_row(kernel, blockIdx.x);
  } else if (threadIdx.x == 0) {
    write_left_out(row);
  }
}

}  // namespace MDM_NAMESPACE
