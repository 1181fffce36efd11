// 512 consecutive values of a row in the registers of a warp, each read once and by loads of 16 bytes.
//
// Lane i holds the vectors of 16 bytes i, i + 32, ..., counted from the chunk's first value wherever that lies in memory,
// so what is computed of them does not depend on the row's address. Of a row that does not start at a multiple of 16
// bytes (V = 50257) the whole vectors after the first such place are loaded, what comes before and after them as words,
// one by each of eight lanes, and then each vector is put together from two.
#pragma once

#include "core/tensor_view.h"
#include "cuda/ptx.cuh"

namespace MDM_NAMESPACE {

constexpr int kWarpLanes = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kChunkValues = 512;

template <FloatType type>
struct ChunkTraits {
  static constexpr int kBytes = type == FloatType::float32 ? 4 : 2;
  static constexpr int kPerVector = 16 / kBytes;
  static constexpr int kVectors = kChunkValues / kPerVector / kWarpLanes;  // of a lane
  static constexpr int kSlots = kVectors * kPerVector;                     // values of a lane
};

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x) % kWarpLanes; }
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x) / kWarpLanes; }
__device__ __forceinline__ int warp_count() { return static_cast<int>(blockDim.x) / kWarpLanes; }

// Where a chunk lies, in bytes; the same for every lane.
struct ChunkPlace {
  const uint8_t* source;
  int bytes;    // of all its values
  int past;     // by how much `source` is past a multiple of 16
  int head;     // of what comes before the first whole vector
  int vectors;  // whole ones

  __device__ __forceinline__ int tail() const { return head + 16 * vectors; }  // where the last whole vector ends
  __device__ __forceinline__ bool is_whole() const { return head == 0 && tail() == bytes; }
};

// Chunk `index` of the `count` values at `row`.
template <FloatType type>
__device__ __forceinline__ ChunkPlace chunk_place(const uint8_t* row, int64_t count, int64_t index) {
  constexpr int kBytes = ChunkTraits<type>::kBytes;
  const int64_t begin = index * kChunkValues, left = count - begin;
  ChunkPlace place;
  place.source = row + begin * kBytes;
  place.bytes = (left < kChunkValues ? static_cast<int>(left) : kChunkValues) * kBytes;
  place.past = static_cast<int>(reinterpret_cast<uint64_t>(row) % 16);  // a whole chunk is a multiple of 16 bytes
  const int head = place.past == 0 ? 0 : 16 - place.past;
  place.head = head < place.bytes ? head : place.bytes;
  place.vectors = (place.bytes - place.head) / 16;
  return place;
}

// What a lane loads; nobody has waited for it yet.
template <FloatType type>
struct LoadedChunk {
  ptx::Bytes16 vector[ChunkTraits<type>::kVectors];  // whole ones: i, i + 32, ... for lane i
  uint32_t edge;  // lanes 0 to 3: the words of the vector before those, lanes 4 to 7: of the one after
};

template <FloatType type>
__device__ __forceinline__ LoadedChunk<type> load_chunk(const ChunkPlace& place) {
  LoadedChunk<type> loaded;
#pragma unroll
  for (int i = 0; i < ChunkTraits<type>::kVectors; ++i) {
    const int vector = lane_id() + i * kWarpLanes;
    loaded.vector[i] =
        vector < place.vectors ? ptx::load_streaming(place.source + place.head + 16 * vector) : ptx::Bytes16{};
  }
  loaded.edge = 0;
  if (place.is_whole() || lane_id() >= 8) return loaded;
  const bool before = lane_id() < 4;
  const int first = before ? 0 : place.tail(), end = before ? place.head : place.bytes;
  const int word = before ? 4 * lane_id() - place.past : first + 4 * (lane_id() - 4);
  if (word >= first && word + 4 <= end) {
    loaded.edge = *reinterpret_cast<const uint32_t*>(place.source + word);
  } else if (type != FloatType::float32) {  // half of it may belong to the chunk
    const int half = word >= first ? word : word + 2;
    if (half >= first && half + 2 <= end) loaded.edge = *reinterpret_cast<const uint16_t*>(place.source + half);
  }
  return loaded;
}

// A chunk where its values belong; what is beyond its last value is arbitrary.
template <FloatType type>
struct ChunkWords {
  ptx::Bytes16 vector[ChunkTraits<type>::kVectors];
};

// Vectors that start kWords words and `bits` bits after those of `words`, less a whole vector: `before` comes before the
// first.
template <FloatType type, int kWords>
__device__ __forceinline__ ChunkWords<type> shift_vectors(const ChunkWords<type>& words, ptx::Bytes16 before,
                                                          int bits) {
  ChunkWords<type> out;
#pragma unroll
  for (int i = 0; i < ChunkTraits<type>::kVectors; ++i) {
    uint32_t stream[8];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      stream[4 + w] = words.vector[i].word[w];
      if (w < kWords) continue;
      const uint32_t neighbour = __shfl_sync(kWholeWarp, stream[4 + w], (lane_id() + kWarpLanes - 1) % kWarpLanes);
      stream[w] = lane_id() == 0 ? before.word[w] : neighbour;
      before.word[w] = neighbour;  // lane 0 has lane 31's, which its next vector continues
    }
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const uint32_t low = stream[kWords + w];
      out.vector[i].word[w] =
          type == FloatType::float32 ? low : __funnelshift_r(low, stream[kWords + w + (kWords + w < 7)], bits);
    }
  }
  return out;
}

template <FloatType type>
__device__ __forceinline__ ChunkWords<type> align_chunk(const LoadedChunk<type>& loaded, const ChunkPlace& place) {
  ChunkWords<type> words;
#pragma unroll
  for (int i = 0; i < ChunkTraits<type>::kVectors; ++i) words.vector[i] = loaded.vector[i];
  if (place.is_whole()) return words;
  // Of a word cut in half by the chunk's start the upper half was loaded.
  const bool upper = place.past % 4 != 0 && lane_id() == place.past / 4;
  const uint32_t edge = upper ? loaded.edge << 16 : loaded.edge;
  ptx::Bytes16 before;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    before.word[w] = __shfl_sync(kWholeWarp, edge, w);
    const uint32_t after = __shfl_sync(kWholeWarp, edge, 4 + w);
#pragma unroll
    for (int i = 0; i < ChunkTraits<type>::kVectors; ++i) {
      if (lane_id() + i * kWarpLanes == place.vectors) words.vector[i].word[w] = after;
    }
  }
  if (place.past == 0) return words;
  const int bits = place.past % 4 * 8;
  switch (place.past / 4) {
    case 0:
      return shift_vectors<type, 0>(words, before, bits);
    case 1:
      return shift_vectors<type, 1>(words, before, bits);
    case 2:
      return shift_vectors<type, 2>(words, before, bits);
    default:
      return shift_vectors<type, 3>(words, before, bits);
  }
}

template <FloatType type>
__device__ __forceinline__ float widen_bits(uint32_t bits) {
  if (type == FloatType::float32) return float_from_bits(bits);
  return type == FloatType::bfloat16 ? bfloat16_to_float(static_cast<uint16_t>(bits)) : ptx::widen_fp16(bits);
}

__device__ __forceinline__ float read_value(const void* row, FloatType type, int64_t index) {
  if (type == FloatType::float32) return static_cast<const float*>(row)[index];
  const uint16_t bits = static_cast<const uint16_t*>(row)[index];
  return type == FloatType::bfloat16 ? bfloat16_to_float(bits) : float16_to_float(bits);
}

// What a warp holds of a chunk, as float32: value[slot] of lane i belongs to place id(slot) of the chunk.
template <FloatType type>
struct Chunk {
  using Traits = ChunkTraits<type>;
  static constexpr int kSlots = Traits::kSlots;
  float value[kSlots];

  __device__ __forceinline__ static int id(int slot) {
    return (lane_id() + slot / Traits::kPerVector * kWarpLanes) * Traits::kPerVector + slot % Traits::kPerVector;
  }
};

// `absent` for what is beyond the last value.
template <FloatType type>
__device__ __forceinline__ void fill_absent(Chunk<type>* chunk, const ChunkPlace& place, float absent) {
  using Traits = ChunkTraits<type>;
  if (place.bytes == kChunkValues * Traits::kBytes) return;
#pragma unroll
  for (int slot = 0; slot < Traits::kSlots; ++slot) {
    if (Chunk<type>::id(slot) * Traits::kBytes >= place.bytes) chunk->value[slot] = absent;
  }
}

// All of a whole chunk.
template <FloatType type>
__device__ __forceinline__ Chunk<type> widen(const ChunkWords<type>& words) {
  using Traits = ChunkTraits<type>;
  Chunk<type> chunk;
#pragma unroll
  for (int slot = 0; slot < Traits::kSlots; ++slot) {
    const int byte = slot % Traits::kPerVector * Traits::kBytes;
    chunk.value[slot] = widen_bits<type>(words.vector[slot / Traits::kPerVector].word[byte / 4] >> (8 * (byte % 4)));
  }
  return chunk;
}

template <FloatType type>
__device__ __forceinline__ Chunk<type> widen(const ChunkWords<type>& words, const ChunkPlace& place, float absent) {
  Chunk<type> chunk = widen(words);
  fill_absent(&chunk, place, absent);
  return chunk;
}

template <class T>
__device__ __forceinline__ T warp_sum(T x) {  // in one fixed order; every lane gets it
  for (int offset = kWarpLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kWholeWarp, x, offset);
  return x;
}

}  // namespace MDM_NAMESPACE
