// One chunk of a row of logits, 512 consecutive ids of the vocabulary, in the registers of a warp.
#pragma once

#include "core/score_tokens_params.h"
#include "core/select_key.h"
#include "cuda/warp_chunk.cuh"

namespace MDM_NAMESPACE {

constexpr int kChunkIds = static_cast<int>(kVocabularyChunk);
static_assert(kChunkIds == kChunkValues, "a chunk is what a warp holds");

// A chunk in the plainest order: slot s of lane i is id 32 s + i.
struct PlainChunk {
  static constexpr int kSlots = kChunkIds / kWarpLanes;
  float value[kSlots];

  __device__ __forceinline__ int id(int slot) const { return lane_id() + slot * kWarpLanes; }
};

// A chunk that is read again, one logit at a time in the order of PlainChunk: one short piece of code for all dtypes, where
// little is left to read.
struct ChunkReader {
  const ScoreTokensParams* params;
  const uint8_t* row;
  int64_t begin;
  uint32_t dropped;  // a bit for each slot of this lane

  __device__ __forceinline__ float value(int slot) const {
    const int64_t id = begin + lane_id() + slot * kWarpLanes;
    if (id >= params->vocab || (dropped >> slot & 1) != 0) return -__builtin_inff();
    const float x = read_value(row, params->type, id);
    return params->probabilities ? logf(x) : x;
  }
};

// Marks ids of a list, in any order, as dropped.
__device__ __forceinline__ void drop_ids(ChunkReader* reader, const int64_t* ids, int64_t count) {
#pragma unroll 1
  for (int64_t first = 0; first < count; first += kWarpLanes) {
    const int64_t at = first + lane_id();
    const int64_t id = at < count ? ids[at] - reader->begin : -1;
    unsigned hits = __ballot_sync(kWholeWarp, id >= 0 && id < kChunkIds);
#pragma unroll 1
    for (; hits != 0; hits &= hits - 1) {
      const int dropped = static_cast<int>(__shfl_sync(kWholeWarp, id, __ffs(hits) - 1));
      if (dropped % kWarpLanes == lane_id()) reader->dropped |= 1u << (dropped / kWarpLanes);
    }
  }
}

// Ids of a list, in any order, become -inf, or what is said, in the chunk that starts at id `begin`; says whether there was one.
template <class AnyChunk>
__device__ __forceinline__ bool drop_ids(AnyChunk* chunk, int64_t begin, const int64_t* ids, int64_t count,
                                         float become = -__builtin_inff()) {
  bool any = false;
#pragma unroll 1
  for (int64_t first = 0; first < count; first += kWarpLanes) {
    const int64_t at = first + lane_id();
    const int64_t id = at < count ? ids[at] - begin : -1;
    unsigned hits = __ballot_sync(kWholeWarp, id >= 0 && id < kChunkIds);
    any = any || hits != 0;
#pragma unroll 1
    for (; hits != 0; hits &= hits - 1) {
      const int dropped = static_cast<int>(__shfl_sync(kWholeWarp, id, __ffs(hits) - 1));
#pragma unroll
      for (int slot = 0; slot < AnyChunk::kSlots; ++slot) {
        if (chunk->id(slot) == dropped) chunk->value[slot] = become;
      }
    }
  }
  return any;
}

// ---- reductions over a warp; every lane gets the result ----

__device__ __forceinline__ float warp_max(float x) {  // NaN if there is one
  return value_of_key(__reduce_max_sync(kWholeWarp, ordered_bits(x)));
}

template <class AnyChunk>
__device__ __forceinline__ float chunk_max(const AnyChunk& chunk) {
  float own = -__builtin_inff();
#pragma unroll
  for (int slot = 0; slot < AnyChunk::kSlots; ++slot) own = ptx::max_or_nan(own, chunk.value[slot]);
  return warp_max(own);
}

// The lowest id that has this value, which one has.
template <class AnyChunk>
__device__ __forceinline__ int first_equal(const AnyChunk& chunk, float value) {
  unsigned own = kChunkIds;
#pragma unroll
  for (int slot = 0; slot < AnyChunk::kSlots; ++slot) {
    const unsigned id = static_cast<unsigned>(chunk.id(slot));
    if (chunk.value[slot] == value && id < own) own = id;
  }
  return static_cast<int>(__reduce_min_sync(kWholeWarp, own));
}

// The largest value but for that of one id.
template <class AnyChunk>
__device__ __forceinline__ float max_without(const AnyChunk& chunk, int left_out) {
  float own = -__builtin_inff();
#pragma unroll
  for (int slot = 0; slot < AnyChunk::kSlots; ++slot) {
    if (chunk.id(slot) != left_out) own = ptx::max_or_nan(own, chunk.value[slot]);
  }
  return warp_max(own);
}

}  // namespace MDM_NAMESPACE
