// score_tokens on CUDA, in two forms that give the same bits.
//
//   many rows: a block scores a row, its chunks' partials in shared memory
//   few rows:  blocks scan pieces of rows, their partials in the workspace; then a block concludes each row
//
// A row's chunks are summarised by warps (score_chunks.cuh), merged by one warp; filters (proposal_filter.cuh) find the
// kept set and summarise what it holds again; a draw reads one chunk more.
#pragma once

#include "cuda/proposal_filter.cuh"
#include "cuda/scan_chunks.cuh"

namespace MDM_NAMESPACE {

using cuda::ScoreTokensKernel;

// A warp's part of a dense draw.
struct DenseShare {
  double sum;  // of all keys
  int64_t index;
  float key;
  float value;
};

// What the block shares about one row.
struct ScoreShared {
  RowOutcome outcome;
  FilterState filter;
  DenseShare dense[cuda::kScoreThreads / kWarpLanes];
};

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

// The proposal's partials from the kept set alone.
__device__ inline void scan_kept(const ScoredRow& row, const RowPlan& plan, const KeptSet& kept) {
  const Terms terms{plan.proposal_sum, plan.proposal_dot, plan.second, plan.scale};
  float best = -__builtin_inff();
#pragma unroll 1
  for (int64_t index = warp_id(); index < row.chunks; index += warp_count()) {
    ChunkPartial partial{-__builtin_inff(), -__builtin_inff(), 0.0f, 0.0f, -1};
    if (row.proposal[index].max >= kept.threshold) {
      const ChunkReader reader = read_proposal(row, index);
      PlainChunk chunk;
#pragma unroll
      for (int slot = 0; slot < PlainChunk::kSlots; ++slot) {
        const float x = reader.value(slot);
        chunk.value[slot] = is_kept(kept, x, index * kChunkIds + chunk.id(slot)) ? x : -__builtin_inff();
      }
      partial = summarise(chunk, terms, &best);
    }
    __syncwarp();  // all lanes have read the maximum that one of them replaces
    if (lane_id() == 0) row.proposal[index] = partial;
  }
}

__device__ inline bool is_listed(const int64_t* ids, int64_t count, int64_t id) {
#pragma unroll 1
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] == id) return true;
  }
  return false;
}

// This warp's share of a race between all ids, an exponential for each: the largest e^(noisy logit), and the sum of all.
__device__ inline void enter_ids(const ScoredRow& row, const RowPlan& plan, const KeptSet& kept, float max,
                                 DenseShare* share) {
  const RowDraws draws = row_draws(row);
  RaceEntry own{0.0f, kChunkIds * row.chunks, 0.0f};
  double sum = 0.0;
#pragma unroll 1
  for (int64_t index = warp_id(); index < row.chunks; index += warp_count()) {
    if (!(row.proposal[index].max > -__builtin_inff())) continue;
    const ChunkReader reader = read_proposal(row, index);
    float keys = 0.0f;
#pragma unroll 1
    for (int slot = 0; slot < PlainChunk::kSlots; ++slot) {
      const float x = reader.value(slot);
      const int64_t id = index * kChunkIds + lane_id() + slot * kWarpLanes;
      if (x == -__builtin_inff() || !is_kept(kept, x, id)) continue;
      const RaceEntry entry{expf(plan.scale * (x - max)) / exponential_at(draws, id, Purpose::DENSE), id, x};
      if (comes_before(entry, own)) own = entry;
      keys += entry.key;
    }
    sum += static_cast<double>(warp_sum(keys));
  }
  own = race_winner(own);
  if (lane_id() == 0) *share = {sum, own.index, own.key, own.value};
}

// The winner of all warps' shares; *sum is that of all keys.
__device__ inline RaceEntry merge_shares(const DenseShare* shares, double* sum) {
  RaceEntry best{shares[0].key, shares[0].index, shares[0].value};
  *sum = shares[0].sum;
  for (int w = 1; w < warp_count(); ++w) {
    const RaceEntry entry{shares[w].key, shares[w].index, shares[w].value};
    if (comes_before(entry, best)) best = entry;
    *sum += shares[w].sum;
  }
  return best;
}

// What is known of rows once their partials are there: row(), the chunk that wins the race and the logit of `tokens`.
// score_hidden, which has forgotten the logits, knows it in its own way.
template <class Kernel>
struct Scanned;

template <>
struct Scanned<ScoreTokensKernel> {
  static __device__ __forceinline__ ScoredRow row(const ScoreTokensKernel& kernel, int64_t index) {
    return scored_row(kernel, index);
  }
  static __device__ __forceinline__ int64_t winner(const ScoreTokensKernel&, int64_t, const ScoredRow& row,
                                                   float scale) {
    return race_chunks(row, row_draws(row), scale, 0, row.chunks, {0.0, 0.0f, -1}).index;
  }
  static __device__ __forceinline__ float current(const ScoreTokensKernel&, int64_t, const ScoredRow& row, int64_t id) {
    return read_logit(row.data, row.params->type, row.guidance, id);
  }
};

// The logit of `tokens`, by one thread.
template <class Kernel>
__device__ inline void see_current(const Kernel& kernel, int64_t index, const ScoredRow& row, const KeptSet& kept,
                                   RowOutcome* outcome) {
  const ScoreTokensParams& params = *row.params;
  if (!wanted(params, TokenScore::current_logprob)) return;
  const int64_t id = at(params.tokens, row.b, row.l);
  if (id < 0 || id >= params.vocab) return;
  float x = Scanned<Kernel>::current(kernel, index, row, id);
  if (params.probabilities) x = log_weight(x);
  if (is_listed(params.suppress, params.suppress_count, id)) x = -__builtin_inff();
  outcome->current_value = x;
  outcome->current_outside = is_listed(params.forbid, params.forbid_count, id) || !is_kept(kept, x, id);
}

// Merges, filters, draws and writes, from the partials of the whole row; every thread of the block calls it. One piece of
// code for all kernels.
template <class Kernel>
__device__ __attribute__((noinline)) void conclude_row(const Kernel& kernel, int64_t index) {
  const ScoredRow row = Scanned<Kernel>::row(kernel, index);
  const RowPlan plan = plan_row(kernel.params, row.b, row.l);
  ScoreShared& shared = *shared_at<ScoreShared>(0);
  static_assert(sizeof(ScoreShared) <= cuda::kScoreSharedBytes, "the partials come after it");
  RowOutcome& outcome = shared.outcome;  // written by one thread, read after a barrier
  if (warp_id() == 0) {
    const MergedLaw raw = merge_chunks(row.raw, row.chunks, 1.0f);
    const MergedLaw proposal = merge_chunks(row.proposal, row.chunks, plan.scale);
    if (lane_id() == 0) outcome = {raw.valid, raw.stats, proposal.stats, -1, 0.0f, 0.0f, false, 0.0};
  }
  __syncthreads();
  KeptSet kept{-__builtin_inff(), kEveryTie};
  const bool proposable = outcome.valid && outcome.proposal.argmax >= 0;
  const float max = outcome.proposal.max;  // which filters keep
  if (plan.filtered && proposable) {
    kept = find_kept(row, shared.filter, max, plan);
    scan_kept(row, plan, kept);
    __syncthreads();
    if (warp_id() == 0) {
      const MergedLaw proposal = merge_chunks(row.proposal, row.chunks, plan.scale);
      if (lane_id() == 0) outcome.proposal = proposal.stats;
    }
  }
  const bool dense = plan.dense && proposable;
  if (dense) {
    enter_ids(row, plan, kept, max, shared.dense + warp_id());
    __syncthreads();
  }
  if (warp_id() != 0) return;
  __syncwarp();
  RaceEntry chosen{0.0f, outcome.proposal.argmax, max};  // -1: none
  if (dense) {
    double sum;
    chosen = merge_shares(shared.dense, &sum);
    if (lane_id() == 0) outcome.noised_logprob = log(static_cast<double>(chosen.key) / sum);
  } else if (plan.sampling && proposable) {
    const RowDraws draws = row_draws(row);
    const int64_t winner = Scanned<Kernel>::winner(kernel, index, row, plan.scale);
    chosen = draw_in_chunk(row, draws, plan.scale, winner, kept);
  }
  if (lane_id() != 0) return;
  outcome.token = chosen.index;
  outcome.token_value = chosen.value;
  see_current(kernel, index, row, kept, &outcome);
  write_row(*row.params, outcome, row.b, row.l);
}

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
    conclude_row(kernel, index);
    __syncthreads();  // warp 0 has read the partials before the next row's are written
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
