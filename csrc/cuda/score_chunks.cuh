// From chunks to the statistics of a row: each chunk by a warp, relative to its own maximum, then all of them merged in
// one fixed order. A chunk's partial depends on its logits alone, so the result is the same however chunks were shared
// out among warps and blocks.
#pragma once

#include "core/score_row.h"
#include "core/sequence_seed.h"
#include "cuda/chunk_partials.h"
#include "cuda/memory.cuh"
#include "cuda/vocabulary_chunk.cuh"

namespace MDM_NAMESPACE {

using cuda::ChunkPartial;

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147182f;

// One row, as every thread of its block sees it.
struct ScoredRow {
  const ScoreTokensParams* params;
  const uint8_t* data;  // logits of id 0
  Guidance guidance;
  ChunkPartial* raw;       // [chunks]
  ChunkPartial* proposal;  // [chunks]
  int64_t b, l;
  int64_t chunks;
  bool exists;  // false: padding of row_index
};

// What may be proposed of a chunk, filters aside.
__device__ __forceinline__ ChunkReader read_proposal(const ScoredRow& row, int64_t index) {
  const ScoreTokensParams& params = *row.params;
  ChunkReader reader{&params, row.data, row.guidance, index * kChunkIds, 0};
  drop_ids(&reader, params.suppress, params.suppress_count);
  drop_ids(&reader, params.forbid, params.forbid_count);
  return reader;
}

// ---- one chunk ----

struct Terms {
  bool sum;
  bool dot;
  bool second;
  float scale;
};

// best: the largest value of this warp's chunks so far. Only a chunk above it can hold the row's argmax.
template <class AnyChunk>
__device__ __forceinline__ ChunkPartial summarise(const AnyChunk& chunk, const Terms& terms, float* best) {
  constexpr int kSlots = AnyChunk::kSlots;
  const float minus_infinity = -__builtin_inff();
  ChunkPartial partial{chunk_max(chunk), minus_infinity, 0.0f, 0.0f, -1};
  if (!(partial.max > minus_infinity) || partial.max == __builtin_inff()) return partial;
  if (partial.max > *best) {
    *best = partial.max;
    partial.argmax = first_equal(chunk, partial.max);
    if (terms.second) partial.second = max_without(chunk, partial.argmax);
  }
  if (!terms.sum) return partial;
  const float factor = terms.scale * kLog2E;
  float sum = 0.0f, dot = 0.0f;
  if (terms.dot) {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const float exponent = (chunk.value[slot] - partial.max) * factor;
      const float weight = ptx::exp2_approx(exponent);
      sum += weight;  // as without the dot: a draw does not depend on what else is wanted
      dot = fmaf(fmaxf(exponent, -126.0f), weight, dot);  // -inf * 0 would be NaN
    }
    partial.dot = warp_sum(dot) * kLn2;
  } else {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) sum += ptx::exp2_approx((chunk.value[slot] - partial.max) * factor);
  }
  partial.sum = warp_sum(sum);
  return partial;
}

// ---- all chunks of a row, by one warp: lane i takes chunks i, i + 32, ... ----

struct MergedLaw {
  bool valid;  // no NaN, no +inf
  OnlineStats stats;
};

__device__ inline MergedLaw merge_chunks(const ChunkPartial* partials, int64_t chunks, float scale) {
  MergedLaw merged{true, empty_stats(scale)};
  float own_max = -__builtin_inff();
#pragma unroll 1
  for (int64_t c = lane_id(); c < chunks; c += kWarpLanes) own_max = ptx::max_or_nan(own_max, partials[c].max);
  const float max = warp_max(own_max);
  if (max != max || max == __builtin_inff()) return {false, merged.stats};
  if (max == -__builtin_inff()) return merged;

  double sum = 0.0, dot = 0.0;
  unsigned winner = 0xffffffffu;  // the first chunk that attains the maximum
#pragma unroll 1
  for (int64_t c = lane_id(); c < chunks; c += kWarpLanes) {
    const ChunkPartial partial = partials[c];
    if (partial.max == -__builtin_inff()) continue;
    const float drop = scale * (partial.max - max);
    const double weight = static_cast<double>(expf(drop));
    sum += weight * static_cast<double>(partial.sum);
    // Where the weight underflows, so does its term, whatever the drop.
    const double shift = weight == 0.0 ? 0.0 : static_cast<double>(drop) * static_cast<double>(partial.sum);
    dot += weight * (static_cast<double>(partial.dot) + shift);
    if (partial.max == max && winner == 0xffffffffu) winner = static_cast<unsigned>(c);
  }
  winner = __reduce_min_sync(kWholeWarp, winner);
  float own_second = -__builtin_inff();
#pragma unroll 1
  for (int64_t c = lane_id(); c < chunks; c += kWarpLanes) {
    own_second = fmaxf(own_second, c == winner ? partials[c].second : partials[c].max);
  }
  merged.stats.max = max;
  merged.stats.second = warp_max(own_second);
  merged.stats.argmax = static_cast<int64_t>(winner) * kChunkIds + partials[winner].argmax;
  merged.stats.sum = warp_sum(sum);
  merged.stats.dot = warp_sum(dot);
  return merged;
}

// ---- draws (core/gumbel.h), by one warp ----

struct RaceEntry {
  float key;  // weight / E
  int64_t index;
  float value;
};

__device__ __forceinline__ bool comes_before(const RaceEntry& a, const RaceEntry& b) {
  return a.key > b.key || (a.key == b.key && a.index < b.index);
}

__device__ __forceinline__ RaceEntry race_winner(RaceEntry own) {
  for (int offset = kWarpLanes / 2; offset > 0; offset /= 2) {
    const RaceEntry other{__shfl_xor_sync(kWholeWarp, own.key, offset), __shfl_xor_sync(kWholeWarp, own.index, offset),
                          __shfl_xor_sync(kWholeWarp, own.value, offset)};
    if (comes_before(other, own)) own = other;
  }
  return own;
}

// What the draws of one row share.
struct RowDraws {
  int64_t seed, position, step, call;
};

__device__ __forceinline__ RowDraws row_draws(const ScoredRow& row) {
  const ScoreTokensParams& params = *row.params;
  return {sequence_seed(params.seed, row.b), at_or<int64_t>(params.positions, row.b, row.l, row.l),
          row_value(params.step, row.b), *params.call};
}

__device__ __forceinline__ float exponential_at(const RowDraws& draws, int64_t index, Purpose purpose) {
  return exponential_from_bits(philox_bits(draws.seed, index, draws.position, draws.step, purpose, draws.call));
}

// A chunk in the race for the draw: the largest of its noisy logits is one Gumbel at its log-sum-exp. Chunks are compared
// with each other and not with the row's maximum, so a race may be interrupted and goes on to the same end.
struct ChunkEntry {
  double noise;  // log (sum / E): relative to `max`
  float max;
  int64_t index;  // -1: none
};

__device__ __forceinline__ bool comes_before(const ChunkEntry& a, const ChunkEntry& b, float scale) {
  if (a.index < 0 || b.index < 0) return a.index > b.index;
  const double ahead = scale * (static_cast<double>(a.max) - static_cast<double>(b.max)) + (a.noise - b.noise);
  return ahead > 0.0 || (ahead == 0.0 && a.index < b.index);
}

__device__ __forceinline__ ChunkEntry race_winner(ChunkEntry own, float scale) {
  for (int offset = kWarpLanes / 2; offset > 0; offset /= 2) {
    const ChunkEntry other{__shfl_xor_sync(kWholeWarp, own.noise, offset), __shfl_xor_sync(kWholeWarp, own.max, offset),
                           __shfl_xor_sync(kWholeWarp, own.index, offset)};
    if (comes_before(other, own, scale)) own = other;
  }
  return own;
}

__device__ __forceinline__ ChunkEntry first_of(const ChunkEntry* entries, int count, float scale) {
  ChunkEntry first = entries[0];
#pragma unroll 1
  for (int i = 1; i < count; ++i) {
    if (comes_before(entries[i], first, scale)) first = entries[i];
  }
  return first;
}

// The winner among what a warp takes of chunks [first, last), as one of `warps` that share them by 32, and `own`; each lane
// gets it.
__device__ inline ChunkEntry race_chunks(const ScoredRow& row, const RowDraws& draws, float scale, int64_t first,
                                         int64_t last, int warp, int warps, ChunkEntry own) {
#pragma unroll 1
  for (int64_t c = first + warp * kWarpLanes + lane_id(); c < last; c += warps * kWarpLanes) {
    const ChunkPartial partial = row.proposal[c];
    if (!(partial.sum > 0.0f)) continue;  // nothing there, or an invalid row
    const double mass = partial.sum, hurdle = exponential_at(draws, c, Purpose::CHUNK);
    const ChunkEntry entry{log(mass / hurdle), partial.max, c};
    if (comes_before(entry, own, scale)) own = entry;
  }
  return race_winner(own, scale);
}

// The id drawn in that chunk among those that this warp of the block tries, and its logit.
__device__ inline RaceEntry draw_in_chunk(const ScoredRow& row, const RowDraws& draws, float scale, int64_t index,
                                          const KeptSet& kept) {
  const ChunkReader reader = read_proposal(row, index);
  const float max = row.proposal[index].max;
  RaceEntry own{0.0f, kChunkIds * row.chunks, 0.0f};
#pragma unroll 1
  for (int slot = warp_id(); slot < PlainChunk::kSlots; slot += warp_count()) {
    const float x = reader.value(slot);
    const int64_t id = index * kChunkIds + lane_id() + slot * kWarpLanes;
    if (x == -__builtin_inff() || !is_kept(kept, x, id)) continue;
    const RaceEntry entry{expf(scale * (x - max)) / exponential_at(draws, id, Purpose::TOKEN), id, x};
    if (comes_before(entry, own)) own = entry;
  }
  return race_winner(own);
}

}  // namespace MDM_NAMESPACE
