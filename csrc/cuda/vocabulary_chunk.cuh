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

// ---- guidance ----

// What is mixed into a row of logits: unconditional ones, from id 0 on, and how much of the difference; null: nothing.
struct Guidance {
  const uint8_t* uncond;
  float strength;  // guidance + 1
};

template <FloatType type>
__device__ __forceinline__ void round_pair(float* a, float* b) {
  if (type == FloatType::float32) return;
  const uint32_t packed = type == FloatType::bfloat16 ? ptx::pack_bf16(*a, *b) : ptx::pack_fp16(*a, *b);
  *a = widen_bits<type>(packed & 0xffffu);
  *b = widen_bits<type>(packed >> 16);
}

// u + strength (c - u) for two logits, each operation rounded to their dtype as tensor operations would; where c and u are
// equal, which for two infinities those would not say, c.
template <FloatType type>
__device__ __forceinline__ void mix_pair(float* a, float* b, float uncond_a, float uncond_b, float strength) {
  const bool equal_a = *a == uncond_a, equal_b = *b == uncond_b;
  *a -= uncond_a;
  *b -= uncond_b;
  round_pair<type>(a, b);
  *a *= strength;
  *b *= strength;
  round_pair<type>(a, b);
  *a += uncond_a;
  *b += uncond_b;
  round_pair<type>(a, b);
  if (equal_a) *a = uncond_a;
  if (equal_b) *b = uncond_b;
}

template <FloatType type>
__device__ __forceinline__ void mix_chunk(Chunk<type>* chunk, const Chunk<type>& uncond, float strength) {
#pragma unroll
  for (int slot = 0; slot < Chunk<type>::kSlots; slot += 2) {
    mix_pair<type>(&chunk->value[slot], &chunk->value[slot + 1], uncond.value[slot], uncond.value[slot + 1], strength);
  }
}

template <FloatType type>
__device__ __forceinline__ float mixed(float cond, float uncond, float strength) {
  float other = cond;
  mix_pair<type>(&cond, &other, uncond, uncond, strength);
  return cond;
}

// One logit of a row.
__device__ __forceinline__ float read_logit(const uint8_t* row, FloatType type, const Guidance& guidance, int64_t id) {
  const float cond = read_value(row, type, id);
  if (guidance.uncond == nullptr) return cond;
  const float uncond = read_value(guidance.uncond, type, id);
  if (type == FloatType::float32) return mixed<FloatType::float32>(cond, uncond, guidance.strength);
  return type == FloatType::bfloat16 ? mixed<FloatType::bfloat16>(cond, uncond, guidance.strength)
                                     : mixed<FloatType::float16>(cond, uncond, guidance.strength);
}

// Logarithm of an unnormalised probability. What is below 0 is 0: rounding makes such numbers. NaN stays.
__device__ __forceinline__ float log_weight(float x) { return logf(x < 0.0f ? 0.0f : x); }

// A chunk that is read again, one logit at a time in the order of PlainChunk: one short piece of code for all dtypes, where
// little is left to read.
struct ChunkReader {
  const ScoreTokensParams* params;
  const uint8_t* row;
  Guidance guidance;
  int64_t begin;
  uint32_t dropped;  // a bit for each slot of this lane

  __device__ __forceinline__ float value(int slot) const {
    const int64_t id = begin + lane_id() + slot * kWarpLanes;
    if (id >= params->vocab || (dropped >> slot & 1) != 0) return -__builtin_inff();
    const float x = read_logit(row, params->type, guidance, id);
    return params->probabilities ? log_weight(x) : x;
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
