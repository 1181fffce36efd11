// One chunk of a row of logits, 512 consecutive ids of the vocabulary, in the registers of a warp.
//
// Every logit is read once, by loads of 16 bytes. Where a chunk does not start at a multiple of 16 bytes (V = 50257), the
// ids before the first such place and after the last whole vector, at most 14, are read singly, one by each of as many
// lanes: a lane holds whole vectors and at most one more value.
#pragma once

#include "core/score_tokens_params.h"
#include "core/select_key.h"
#include "cuda/ptx.cuh"

namespace MDM_NAMESPACE {

constexpr int kWarpLanes = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kChunkIds = static_cast<int>(kVocabularyChunk);

template <FloatType type>
struct ChunkTraits {
  static constexpr int kBytes = type == FloatType::float32 ? 4 : 2;
  static constexpr int kPerVector = 16 / kBytes;
  static constexpr int kVectors = kChunkIds / kPerVector / kWarpLanes;  // of a lane
  static constexpr int kSlots = kVectors * kPerVector + 1;              // values of a lane
};

// Where a chunk's ids are in the warp; the same for every lane.
struct ChunkShape {
  int count;    // ids
  int head;     // ids before the first vector
  int vectors;  // whole ones
};

template <FloatType type>
struct RawChunk {
  ChunkShape shape;
  ptx::Bytes16 vector[ChunkTraits<type>::kVectors];
  uint32_t single;
};

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x) % kWarpLanes; }
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x) / kWarpLanes; }
__device__ __forceinline__ int warp_count() { return static_cast<int>(blockDim.x) / kWarpLanes; }

// Id within the chunk that a slot of this lane stands for, or -1.
template <FloatType type>
__device__ __forceinline__ int slot_id(const ChunkShape& shape, int slot) {
  using Traits = ChunkTraits<type>;
  if (slot == Traits::kSlots - 1) {
    const int singles = shape.count - shape.vectors * Traits::kPerVector;
    if (lane_id() >= singles) return -1;
    return lane_id() < shape.head ? lane_id() : lane_id() + shape.vectors * Traits::kPerVector;
  }
  const int vector = lane_id() + slot / Traits::kPerVector * kWarpLanes;
  return vector < shape.vectors ? shape.head + vector * Traits::kPerVector + slot % Traits::kPerVector : -1;
}

// What a warp holds of a chunk, as float32: value[slot] of lane i belongs to id(slot) of the chunk, -1 where it is padding.
template <FloatType type>
struct Chunk {
  static constexpr int kSlots = ChunkTraits<type>::kSlots;
  ChunkShape shape;
  float value[kSlots];  // -inf where there is none

  __device__ __forceinline__ int id(int slot) const { return slot_id<type>(shape, slot); }
};

// The same in the plainest order: slot s of lane i is id 32 s + i.
struct PlainChunk {
  static constexpr int kSlots = kChunkIds / kWarpLanes;
  float value[kSlots];

  __device__ __forceinline__ int id(int slot) const { return lane_id() + slot * kWarpLanes; }
};

// Starts the loads of a chunk. row: the logits of id 0.
template <FloatType type>
__device__ __forceinline__ RawChunk<type> load_chunk(const uint8_t* row, int64_t vocab, int64_t index) {
  using Traits = ChunkTraits<type>;
  const int64_t begin = index * kChunkIds, left = vocab - begin;
  const uint8_t* source = row + begin * Traits::kBytes;
  const int past = static_cast<int>(reinterpret_cast<uint64_t>(source) % 16) / Traits::kBytes;
  RawChunk<type> raw;
  raw.shape.count = left < kChunkIds ? static_cast<int>(left) : kChunkIds;
  const int head = past == 0 ? 0 : Traits::kPerVector - past;
  raw.shape.head = head < raw.shape.count ? head : raw.shape.count;
  raw.shape.vectors = (raw.shape.count - raw.shape.head) / Traits::kPerVector;
#pragma unroll
  for (int i = 0; i < Traits::kVectors; ++i) {
    const int id = slot_id<type>(raw.shape, i * Traits::kPerVector);
    raw.vector[i] = id >= 0 ? ptx::load_streaming(source + id * Traits::kBytes) : ptx::Bytes16{};
  }
  const int single = slot_id<type>(raw.shape, Traits::kSlots - 1);
  raw.single = 0;
  if (single >= 0) {
    raw.single = type == FloatType::float32 ? reinterpret_cast<const uint32_t*>(source)[single]
                                            : reinterpret_cast<const uint16_t*>(source)[single];
  }
  return raw;
}

template <FloatType type>
__device__ __forceinline__ float widen_bits(uint32_t bits) {
  if (type == FloatType::float32) return float_from_bits(bits);
  return type == FloatType::bfloat16 ? bfloat16_to_float(static_cast<uint16_t>(bits))
                                     : float16_to_float(static_cast<uint16_t>(bits));
}

template <FloatType type>
__device__ __forceinline__ Chunk<type> widen(const RawChunk<type>& raw, bool probabilities) {
  using Traits = ChunkTraits<type>;
  Chunk<type> chunk;
  chunk.shape = raw.shape;
#pragma unroll
  for (int slot = 0; slot < Traits::kSlots; ++slot) {
    uint32_t bits = raw.single;
    if (slot < Traits::kSlots - 1) {
      const int byte = slot % Traits::kPerVector * Traits::kBytes;
      bits = raw.vector[slot / Traits::kPerVector].word[byte / 4] >> (8 * (byte % 4));
    }
    const float x = widen_bits<type>(bits);
    const bool there = slot_id<type>(raw.shape, slot) >= 0;
    chunk.value[slot] = there ? probabilities ? logf(x) : x : -__builtin_inff();
  }
  return chunk;
}

__device__ __forceinline__ float read_logit(const void* row, FloatType type, int64_t id) {
  if (type == FloatType::float32) return static_cast<const float*>(row)[id];
  const uint16_t bits = static_cast<const uint16_t*>(row)[id];
  return type == FloatType::bfloat16 ? bfloat16_to_float(bits) : float16_to_float(bits);
}

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
    const float x = read_logit(row, params->type, id);
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

// Ids of a list, in any order, become -inf in the chunk that starts at id `begin`; says whether there was one.
template <class AnyChunk>
__device__ __forceinline__ bool drop_ids(AnyChunk* chunk, int64_t begin, const int64_t* ids, int64_t count) {
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
        if (chunk->id(slot) == dropped) chunk->value[slot] = -__builtin_inff();
      }
    }
  }
  return any;
}

// ---- reductions over a warp; every lane gets the result ----

__device__ __forceinline__ float warp_max(float x) {  // NaN if there is one
  return value_of_key(__reduce_max_sync(kWholeWarp, ordered_bits(x)));
}

template <class T>
__device__ __forceinline__ T warp_sum(T x) {  // in one fixed order
  for (int offset = kWarpLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kWholeWarp, x, offset);
  return x;
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
    const int id = chunk.id(slot);
    if (id >= 0 && chunk.value[slot] == value && static_cast<unsigned>(id) < own) own = static_cast<unsigned>(id);
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
