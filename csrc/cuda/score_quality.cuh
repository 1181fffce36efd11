// score_quality on CUDA: one read of the hidden states, a block for each row.
//
// As on the CPU (cpu/score_quality.cpp) the logit is r sum_d a (x - mean) + c, where a and c belong to the sequence. A warp
// takes a chunk of 512 values: it holds that chunk's part of a in registers for as long as rows of one sequence follow one another, takes the
// chunk's own mean, and sums squares and products of what is left. The parts of a row are then moved to its mean
// exactly: sum (x - mean)^2 = sum_parts [sum (x - m)^2 + n (m - mean)^2], and the products likewise. So nothing cancels,
// and a row of any width is read once.
#pragma once

#include "core/score_quality_params.h"
#include "cuda/memory.cuh"
#include "cuda/quality_part.h"
#include "cuda/warp_chunk.cuh"

namespace MDM_NAMESPACE {

using cuda::kKeptSlices;
using cuda::QualityPart;
using cuda::QualitySlice;

__device__ __forceinline__ bool has_rows(const FloatRows& rows) { return rows.data != nullptr; }

__device__ __forceinline__ const uint8_t* row_of(const FloatRows& rows, int64_t b, int64_t l) {
  const int64_t offset = b * rows.batch_stride + l * rows.position_stride;
  return static_cast<const uint8_t*>(rows.data) + offset * (rows.type == FloatType::float32 ? 4 : 2);
}

// Where a slice of the head has the value of id `id` of its chunk: lanes read four at a time, without bank conflicts.
template <FloatType type>
__device__ __forceinline__ int slice_place(int id) {
  using Traits = ChunkTraits<type>;
  const int vector = id / Traits::kPerVector, slot = vector / kWarpLanes * Traits::kPerVector + id % Traits::kPerVector;
  return slot / 4 * (4 * kWarpLanes) + vector % kWarpLanes * 4 + slot % 4;
}

// Four values of a for this lane.
__device__ __forceinline__ ptx::Bytes16 slice_words(const QualitySlice& slice, int four) {
  return reinterpret_cast<const ptx::Bytes16*>(slice.a)[four * kWarpLanes + lane_id()];
}

// Makes a warp's slice of the head; its sums are lane 0's alone.
template <FloatType type>
__device__ __forceinline__ void fill_slice(const ScoreQualityParams& params, int64_t b, int64_t l, int chunk,
                                           QualitySlice* slice) {
  const int64_t begin = int64_t{kChunkValues} * chunk;
  const void* scale = row_of(params.scale, b, l);
  const void* shift = row_of(params.shift, b, l);
  float constant = 0.0f;
  __syncwarp();  // no lane still reads the slice as it was
#pragma unroll 4
  for (int id = lane_id(); id < kChunkValues; id += kWarpLanes) {
    const int64_t d = begin + id;
    float a = 0.0f;
    if (d < params.size) {
      const float w = params.weight[d];
      const float gain = has_rows(params.scale) ? 1.0f + read_value(scale, params.scale.type, d) : 1.0f;
      a = w * (params.norm_weight != nullptr ? gain * params.norm_weight[d] : gain);
      float offset = params.norm_bias != nullptr ? gain * params.norm_bias[d] : 0.0f;
      if (has_rows(params.shift)) offset += read_value(shift, params.shift.type, d);
      constant = fmaf(w, offset, constant);
    }
    slice->a[slice_place<type>(id)] = a;
  }
  __syncwarp();
  float weight = 0.0f;
#pragma unroll
  for (int four = 0; four < Chunk<type>::kSlots / 4; ++four) {
    const ptx::Bytes16 a = slice_words(*slice, four);
    for (int i = 0; i < 4; ++i) weight += float_from_bits(a.word[i]);
  }
  weight = warp_sum(weight);
  constant = warp_sum(constant);
  if (lane_id() == 0) slice->weight = weight, slice->constant = constant;
}

template <FloatType type>
__device__ __forceinline__ QualityPart quality_part(Chunk<type> chunk, const ChunkPlace& place,
                                                    const QualitySlice& slice, bool centred) {
  using Traits = ChunkTraits<type>;
  QualityPart part{};
  if (centred) {
    float sum = 0.0f;
#pragma unroll
    for (int slot = 0; slot < Traits::kSlots; ++slot) sum += chunk.value[slot];
    part.mean = warp_sum(sum) / static_cast<float>(place.bytes / Traits::kBytes);
    fill_absent(&chunk, place, part.mean);
  }
#pragma unroll
  for (int four = 0; four < Traits::kSlots / 4; ++four) {
    const ptx::Bytes16 a = slice_words(slice, four);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float d = chunk.value[4 * four + i] - part.mean;
      part.squares = fmaf(d, d, part.squares);
      part.product = fmaf(d, float_from_bits(a.word[i]), part.product);
    }
  }
  part.squares = warp_sum(part.squares);
  part.product = warp_sum(part.product);
  return part;
}

// The logit of a row, by one warp; every lane gets it.
__device__ inline float quality_logit(const ScoreQualityParams& params, const QualityPart* parts, int chunks) {
  const float size = static_cast<float>(params.size);
  const auto count_of = [&](int chunk) {
    const int64_t left = params.size - int64_t{kChunkValues} * chunk;
    return static_cast<float>(left < kChunkValues ? left : kChunkValues);
  };
  float sum = 0.0f;
  for (int c = lane_id(); c < chunks; c += kWarpLanes) sum = fmaf(parts[c].mean, count_of(c), sum);
  const float mean = warp_sum(sum) / size;
  float squares = 0.0f, product = 0.0f, constant = 0.0f;
  for (int c = lane_id(); c < chunks; c += kWarpLanes) {
    const QualityPart part = parts[c];
    const float off = part.mean - mean;
    squares += fmaf(count_of(c) * off, off, part.squares);
    product += fmaf(part.weight, off, part.product);
    constant += part.constant;
  }
  squares = warp_sum(squares);
  product = warp_sum(product);
  constant = warp_sum(constant) + (params.bias != nullptr ? *params.bias : 0.0f);
  if (params.norm == QualityNorm::none) return product + constant;
  return product / sqrtf(squares / size + static_cast<float>(params.eps)) + constant;
}

// Rows of a block's stretch, one after the other; entries that are no row are passed over.
struct QualityRows {
  const ScoreQualityParams* params;
  int64_t next, last;

  // The place b * L + l of the next row; -1 at the end.
  __device__ __forceinline__ int64_t take() {
#pragma unroll 1
    while (next < last) {
      const int64_t place = params->row_index == nullptr ? next : params->row_index[next];
      ++next;
      if (place >= 0 && place < params->batch * params->length) return place;
    }
    return -1;
  }
};

__device__ __forceinline__ const uint8_t* hidden_row(const ScoreQualityParams& params, int64_t place) {
  return row_of(params.hidden, place / params.length, place % params.length);
}

// Block i scores the i-th stretch of rows. A warp's next values, of this row or the next, are under way while it sums.
template <FloatType type>
__device__ void score_quality_rows(const ScoreQualityParams& params) {
  const int chunks = static_cast<int>((params.size + kChunkValues - 1) / kChunkValues);
  QualityRows rows{&params, params.rows * blockIdx.x / gridDim.x, params.rows * (blockIdx.x + 1) / gridDim.x};
  const bool each_row = params.scale.position_stride != 0 || params.shift.position_stride != 0;
  const bool each_sequence = has_rows(params.scale) || has_rows(params.shift);
  const bool centred = params.norm == QualityNorm::layer;
  bool odd = false;  // rows done: warp 0 still reads the parts of one while those of the next are written
  const bool kept = chunks <= kKeptSlices;  // else a warp has one slice for all its chunks, and makes it each time
  const int slices = kept ? chunks : warp_count();
  int64_t known = -1;  // what the slices belong to
  int64_t place = rows.take();
  if (place < 0) return;
  const uint8_t* row = hidden_row(params, place);
  LoadedChunk<type> loaded{};
  if (warp_id() < chunks) loaded = load_chunk<type>(chunk_place<type>(row, params.size, warp_id()));
#pragma unroll 1
  while (place >= 0) {
    const int64_t following = rows.take();
    const uint8_t* const following_row = following < 0 ? nullptr : hidden_row(params, following);
    QualityPart* const parts = shared_at<QualityPart>(slices * sizeof(QualitySlice)) + (odd ? chunks : 0);
    const int64_t b = place / params.length, l = place % params.length;
    const int64_t needed = each_row ? place : each_sequence ? b : 0;
#pragma unroll 1
    for (int c = warp_id(); c < chunks; c += warp_count()) {
      QualitySlice* const slice = shared_at<QualitySlice>((kept ? c : warp_id()) * sizeof(QualitySlice));
      if (known != needed || !kept) fill_slice<type>(params, b, l, c, slice);
      const ChunkPlace here = chunk_place<type>(row, params.size, c);
      const Chunk<type> chunk = widen(align_chunk(loaded, here), here, 0.0f);
      const bool more = c + warp_count() < chunks;  // in this row
      const uint8_t* const from = more ? row : following_row;
      if (from != nullptr) {
        loaded = load_chunk<type>(chunk_place<type>(from, params.size, more ? c + warp_count() : warp_id()));
      }
      const QualityPart part = quality_part<type>(chunk, here, *slice, centred);
      if (lane_id() != 0) continue;
      parts[c] = part;
      parts[c].weight = slice->weight;
      parts[c].constant = slice->constant;
    }
    known = needed;
    __syncthreads();
    if (warp_id() == 0) {
      const float logit = quality_logit(params, parts, chunks);
      if (lane_id() == 0) params.quality[place] = params.logit ? logit : 1.0f / (1.0f + expf(-logit));
    }
    odd = !odd;
    place = following;
    row = following_row;
  }
}

}  // namespace MDM_NAMESPACE
