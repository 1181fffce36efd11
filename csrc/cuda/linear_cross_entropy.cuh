// linear_cross_entropy on CUDA, what is not a product: a warp does a row, 512 logits at a time, in the order of their ids.
#pragma once

#include "cuda/loss_rows.h"
#include "cuda/score_chunks.cuh"

namespace MDM_NAMESPACE {

using cuda::LossKernel;
using LogitChunk = Chunk<FloatType::float32>;

// ---- rows that count ----

// A thread per row of hidden.
__device__ inline void clear_row(const LossKernel& kernel) {
  const LinearCrossEntropyBlocksParams& params = kernel.params;
  const int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n >= params.all_rows) return;
  if (params.row_index != nullptr) kernel.first_named[n] = 0xffffffffu;
  if (params.grad_losses != nullptr) return;
  params.losses[n] = params.maximum[n] = params.log_sum[n] = 0.0f;
  params.correct[n] = params.counted[n] = 0;
}

// A thread per entry of row_index.
__device__ inline void name_row(const LossKernel& kernel) {
  const LinearCrossEntropyBlocksParams& params = kernel.params;
  const int64_t r = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (r >= params.rows) return;
  const int64_t place = params.row_index[r];
  if (place >= 0 && place < params.all_rows) atomicMin(&kernel.first_named[place], static_cast<uint32_t>(r));
}

// One warp counts the ids that are not suppressed; of the list it takes each id within the vocabulary once.
__device__ inline void count_kept(const LossKernel& kernel) {
  if (warp_id() != 0) return;
  const LinearCrossEntropyBlocksParams& params = kernel.params;
  int64_t dropped = 0;
  for (int64_t i = lane_id(); i < params.suppress_count; i += kWarpLanes) {
    const int64_t id = params.suppress[i];
    bool counts = id >= 0 && id < params.vocab;
    for (int64_t before = 0; counts && before < i; ++before) counts = params.suppress[before] != id;
    dropped += counts ? 1 : 0;
  }
  dropped = warp_sum(dropped);
  if (lane_id() == 0) *kernel.kept = params.vocab - dropped;
}

// Row of hidden that packed row r stands for; -1: it does not count, or an earlier entry names the same.
__device__ inline int64_t place_of(const LossKernel& kernel, int64_t r) {
  const LinearCrossEntropyBlocksParams& params = kernel.params;
  int64_t place = r;
  if (params.row_index != nullptr) {
    place = params.row_index[r];
    if (place < 0 || place >= params.all_rows || kernel.first_named[place] != r) return -1;
  }
  return params.targets[place] == params.ignore_index ? -1 : place;
}

// `count` numbers of T, or zeros where there is no source.
template <class T>
__device__ __forceinline__ void copy_row(const void* source, void* target, int64_t count) {
  const T* from = static_cast<const T*>(source);
  T* to = static_cast<T*>(target);
  for (int64_t i = lane_id(); i < count; i += kWarpLanes) to[i] = from == nullptr ? T{} : from[i];
}

__device__ inline int64_t row_of_warp() { return int64_t{blockIdx.x} * cuda::kRowsPerBlock + warp_id(); }

__device__ inline void pack_row(const LossKernel& kernel) {
  const LinearCrossEntropyBlocksParams& params = kernel.params;
  const int64_t r = row_of_warp();
  if (r >= params.rows) return;
  const int64_t place = place_of(kernel, r);
  if (lane_id() == 0) {
    kernel.places[r] = place;
    kernel.sums[r] = 0.0;
    if (kernel.logit_sums != nullptr) kernel.logit_sums[r] = 0.0;
    kernel.maxima[r] = -__builtin_inff();
    kernel.target_logits[r] = static_cast<float>(__builtin_nan(""));
  }
  const int64_t size = params.type == FloatType::float32 ? 4 : 2, bytes = params.width * size;
  const uint8_t* hidden = static_cast<const uint8_t*>(params.hidden) + place * params.hidden_stride * size;
  const void* source = place < 0 ? nullptr : hidden;
  uint8_t* target = static_cast<uint8_t*>(params.packed_hidden) + r * bytes;
  const uint64_t addresses = reinterpret_cast<uint64_t>(params.hidden) | reinterpret_cast<uint64_t>(target);
  const bool vectors = (addresses | static_cast<uint64_t>(params.hidden_stride * size | bytes)) % 16 == 0;
  if (vectors) {
    copy_row<ptx::Bytes16>(source, target, bytes / 16);
  } else if (size == 4) {
    copy_row<float>(source, target, params.width);
  } else {
    copy_row<uint16_t>(source, target, params.width);
  }
}

// ---- logits ----

__device__ __forceinline__ float* logits_of(const LossKernel& kernel, int64_t r) {
  return kernel.params.logits + r * kernel.params.block_ids;
}

// Logits of ids 512 index to 512 index + 511 of the block, -inf beyond its end, without bias. These are plain loads: where a
// gradient takes the logits' place they must stay before its stores.
__device__ __forceinline__ LogitChunk load_logits(const float* row, int64_t ids, int64_t index) {
  LogitChunk chunk;
  const int64_t begin = index * kChunkIds;
#pragma unroll
  for (int slot = 0; slot < LogitChunk::kSlots; slot += 4) {
    const int64_t id = begin + chunk.id(slot);
    if (id + 4 <= ids) {
      const ptx::Bytes16 vector = *reinterpret_cast<const ptx::Bytes16*>(row + id);
#pragma unroll
      for (int i = 0; i < 4; ++i) chunk.value[slot + i] = float_from_bits(vector.word[i]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) chunk.value[slot + i] = id + i < ids ? row[id + i] : -__builtin_inff();
    }
  }
  return chunk;
}

// How many ids of the block chunk `index` has.
__device__ __forceinline__ int ids_of_chunk(const LossKernel& kernel, int64_t index) {
  const int64_t left = kernel.ids - index * kChunkIds;
  return static_cast<int>(left < kChunkIds ? left : kChunkIds);
}

// Products into logits: the bias added, the cap applied.
__device__ __forceinline__ void complete(const LossKernel& kernel, int64_t index, LogitChunk* chunk) {
  const int ids = ids_of_chunk(kernel, index);
  if (kernel.params.bias != nullptr) {
    const float* bias = kernel.params.bias + kernel.first_id + index * kChunkIds;
#pragma unroll
    for (int slot = 0; slot < LogitChunk::kSlots; ++slot) {
      if (chunk->id(slot) < ids) chunk->value[slot] += bias[chunk->id(slot)];
    }
  }
  const float cap = kernel.params.softcap;
  if (cap == 0.0f) return;
#pragma unroll
  for (int slot = 0; slot < LogitChunk::kSlots; ++slot) {
    // Rounded by itself: what is compared with a log-sum-exp must not be more exact than what that was made of.
    if (chunk->id(slot) < ids) chunk->value[slot] = __fmul_rn(cap, tanhf(chunk->value[slot] / cap));
  }
}

// Derivative of the cap where it gives y; 1 without one.
__device__ __forceinline__ float cap_slope(float cap, float y) {
  return cap == 0.0f ? 1.0f : 1.0f - y / cap * (y / cap);
}

// Sum of the logits of a chunk's ids that are neither suppressed nor beyond the block's end; `top` is the largest. Made of
// how far they are behind it, since beside large logits their mean would be rounded away. Spoils the chunk.
__device__ __forceinline__ double sum_of_logits(const LossKernel& kernel, int64_t index, float top, LogitChunk* chunk) {
  constexpr float kScale = cuda::kLossLogitScale;
  const float suppressed = __builtin_inff();  // a logit of +inf leaves its row without a loss anyway
  drop_ids(chunk, kernel.first_id + index * kChunkIds, kernel.params.suppress, kernel.params.suppress_count,
           suppressed);
  const float reference = kScale * top;
  const int ids = ids_of_chunk(kernel, index);
  float behind = 0.0f;
  int count = 0;
#pragma unroll
  for (int slot = 0; slot < LogitChunk::kSlots; ++slot) {
    const bool kept = chunk->id(slot) < ids && chunk->value[slot] != suppressed;
    behind += kept ? kScale * chunk->value[slot] - reference : 0.0f;
    count += kept ? 1 : 0;
  }
  behind = warp_sum(behind);
  count = warp_sum(count);
  if (count == 0) return 0.0;
  if (top == -__builtin_inff()) return static_cast<double>(top);
  return static_cast<double>(behind) / kScale + static_cast<double>(count) * static_cast<double>(top);
}

// Calls work(slot) in the lane that holds the target of a row, if the chunk does.
template <class Work>
__device__ __forceinline__ void at_target(const LossKernel& kernel, int64_t target, int64_t index, const Work& work) {
  const int64_t id = target - kernel.first_id - index * kChunkIds;
  if (id < 0 || id >= kChunkIds || target - kernel.first_id >= kernel.ids) return;
#pragma unroll
  for (int slot = 0; slot < LogitChunk::kSlots; ++slot) {
    if (LogitChunk::id(slot) == id) work(slot);
  }
}

// ---- forward ----

// Merges a block's logits into what is known of their row.
__device__ inline void merge_statistics(const LossKernel& kernel) {
  const LinearCrossEntropyBlocksParams& params = kernel.params;
  const int64_t r = row_of_warp();
  if (r >= params.rows || kernel.places[r] < 0) return;
  const int64_t target = params.targets[kernel.places[r]];
  const float* row = logits_of(kernel, r);
  const int64_t chunks = (kernel.ids + kChunkIds - 1) / kChunkIds;
  float max = kernel.maxima[r], unused = __builtin_inff();
  double sum = kernel.sums[r];
  const bool smoothed = kernel.logit_sums != nullptr;
  double logit_sum = smoothed ? kernel.logit_sums[r] : 0.0;
  LogitChunk next = load_logits(row, kernel.ids, 0);
#pragma unroll 1
  for (int64_t index = 0; index < chunks; ++index) {
    LogitChunk chunk = next;
    if (index + 1 < chunks) next = load_logits(row, kernel.ids, index + 1);
    complete(kernel, index, &chunk);
    drop_ids(&chunk, kernel.first_id + index * kChunkIds, params.suppress, params.suppress_count);
    at_target(kernel, target, index, [&](int slot) { kernel.target_logits[r] = chunk.value[slot]; });
    const ChunkPartial partial = summarise(chunk, Terms{true, false, false, 1.0f}, &unused);
    if (smoothed) logit_sum += sum_of_logits(kernel, index, partial.max, &chunk);
    if (partial.max == -__builtin_inff()) continue;
    const float top = ptx::max_or_nan(max, partial.max);  // once a NaN, always one
    sum = sum * static_cast<double>(expf(max - top)) +
          static_cast<double>(partial.sum) * static_cast<double>(expf(partial.max - top));
    max = top;
  }
  __syncwarp();  // all have read what is known of the row
  if (lane_id() != 0) return;
  kernel.maxima[r] = max;
  kernel.sums[r] = sum;
  if (smoothed) kernel.logit_sums[r] = logit_sum;
}

// A thread per packed row.
__device__ inline void write_loss(const LossKernel& kernel) {
  const LinearCrossEntropyBlocksParams& params = kernel.params;
  const int64_t r = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (r >= params.rows || kernel.places[r] < 0) return;
  const int64_t place = kernel.places[r];
  const float max = kernel.maxima[r], target = kernel.target_logits[r];
  const bool proper = max > -__builtin_inff() && max < __builtin_inff();
  const double log_sum = proper ? log(kernel.sums[r]) : __builtin_nan("");
  // Differences first: beside large logits the logarithm is rounded away.
  double loss = static_cast<double>(max) - static_cast<double>(target) + log_sum;
  if (kernel.logit_sums != nullptr) {
    const double smoothing = static_cast<double>(params.label_smoothing), target_share = 1.0 - smoothing;
    const double mean = kernel.logit_sums[r] / static_cast<double>(*kernel.kept);
    // At a share of 0 an infinite loss is nobody's.
    loss = (target_share > 0.0 || loss != loss ? target_share * loss : 0.0) +
           smoothing * (static_cast<double>(max) - mean + log_sum);
  }
  params.losses[place] = static_cast<float>(loss);
  params.maximum[place] = max;
  params.log_sum[place] = static_cast<float>(log_sum);
  params.correct[place] = proper && target >= max;
  params.counted[place] = 1;
}

// ---- backward ----

// Rounds four numbers to `type` and stores the first `count` of them; a row of them starts at a multiple of their size.
template <FloatType type>
__device__ __forceinline__ void store_four(void* row, int64_t place, const float* x, int64_t count) {
  if (type == FloatType::float32) {
    float* target = static_cast<float*>(row) + place;
    if (count >= 4) {
      const ptx::Bytes16 vector{
          {__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3])}};
      *reinterpret_cast<ptx::Bytes16*>(target) = vector;
    } else {
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        if (i < count) target[i] = x[i];
      }
    }
    return;
  }
  const uint32_t low = type == FloatType::bfloat16 ? ptx::pack_bf16(x[0], x[1]) : ptx::pack_fp16(x[0], x[1]);
  const uint32_t high = type == FloatType::bfloat16 ? ptx::pack_bf16(x[2], x[3]) : ptx::pack_fp16(x[2], x[3]);
  uint64_t bits = low | static_cast<uint64_t>(high) << 32;
  uint16_t* target = static_cast<uint16_t*>(row) + place;
  if (count >= 4) {
    *reinterpret_cast<uint64_t*>(target) = bits;
  } else {
#pragma unroll
    for (int i = 0; i < 3; ++i, bits >>= 16) {
      if (i < count) target[i] = static_cast<uint16_t>(bits);
    }
  }
}

// Turns a block's logits into upstream (softmax - onehot), in place: a 16-bit gradient comes to lie in the first half of
// its row, where it overwrites logits of chunks that every lane has read.
template <FloatType type>
__device__ inline void logits_to_gradient(const LossKernel& kernel) {
  const LinearCrossEntropyBlocksParams& params = kernel.params;
  const int64_t r = row_of_warp();
  if (r >= params.rows) return;
  const int64_t place = kernel.places[r], target = place < 0 ? -1 : params.targets[place];
  const float top = place < 0 ? 0.0f : params.known_maximum[place];
  const float log_sum = place < 0 ? 0.0f : params.known_log_sum[place];
  const bool proper = log_sum == log_sum && target >= 0 && target < params.vocab;
  const float upstream = proper ? params.grad_losses[place] : static_cast<float>(__builtin_nan(""));
  float* row = logits_of(kernel, r);
  const float cap = params.softcap, target_share = 1.0f - params.label_smoothing;
  const float share = kernel.kept == nullptr ? 0.0f : params.label_smoothing / static_cast<float>(*kernel.kept);
  const int64_t chunks = (kernel.ids + kChunkIds - 1) / kChunkIds;
  LogitChunk next = load_logits(row, kernel.ids, 0);
#pragma unroll 1
  for (int64_t index = 0; index < chunks; ++index) {
    LogitChunk chunk = next;
    if (index + 1 < chunks) next = load_logits(row, kernel.ids, index + 1);
    complete(kernel, index, &chunk);
    float at_it = 0.0f;  // what the target takes, in the lane that holds it
    at_target(kernel, target, index,
              [&](int slot) { at_it = upstream * (target_share * cap_slope(cap, chunk.value[slot])); });
#pragma unroll
    for (int slot = 0; slot < LogitChunk::kSlots; ++slot) {
      // A product made twice may differ in its last bit, which of a large logit is much: no probability exceeds 1.
      const float behind = fminf(chunk.value[slot] - top, 0.0f);
      const float probability = ptx::exp2_approx((behind - log_sum) * kLog2E);
      const float slope = cap_slope(cap, chunk.value[slot]);
      chunk.value[slot] = place < 0 ? 0.0f : upstream * ((probability - share) * slope);
    }
    at_target(kernel, target, index, [&](int slot) { chunk.value[slot] -= at_it; });
    drop_ids(&chunk, kernel.first_id + index * kChunkIds, params.suppress, params.suppress_count, 0.0f);
    __syncwarp();  // every lane has its logits of this chunk and the next
#pragma unroll
    for (int slot = 0; slot < LogitChunk::kSlots; slot += 4) {
      const int64_t id = index * kChunkIds + chunk.id(slot);
      store_four<type>(row, id, chunk.value + slot, kernel.ids - id);
    }
  }
}

// kNumbers at a time of one row's product, added to its sums; with the last block the row is done.
template <FloatType type, int kNumbers>
__device__ __forceinline__ void add_hidden_row(const LossKernel& kernel, int64_t r, int64_t place) {
  const LinearCrossEntropyBlocksParams& params = kernel.params;
  const bool first = kernel.first_id == 0, last = kernel.first_id + kernel.ids == params.vocab;
  constexpr int64_t kSize = type == FloatType::float32 ? 4 : 2;
  const float* product = params.hidden_product + r * params.width;
  float* sums = params.hidden_sums + r * params.width;
  uint8_t* out = static_cast<uint8_t*>(params.grad_hidden) + place * params.width * kSize;
  for (int64_t i = lane_id() * kNumbers; i < params.width; i += kWarpLanes * kNumbers) {
    float x[4];
    if (kNumbers == 4) {
      const ptx::Bytes16 vector = *reinterpret_cast<const ptx::Bytes16*>(product + i);
      const ptx::Bytes16 before = first ? ptx::Bytes16{} : *reinterpret_cast<const ptx::Bytes16*>(sums + i);
#pragma unroll
      for (int k = 0; k < 4; ++k) x[k] = float_from_bits(before.word[k]) + float_from_bits(vector.word[k]);
    } else {
      x[0] = (first ? 0.0f : sums[i]) + product[i];
      x[1] = x[2] = x[3] = 0.0f;
    }
    last ? store_four<type>(out, i, x, kNumbers) : store_four<FloatType::float32>(sums, i, x, kNumbers);
  }
}

template <FloatType type>
__device__ inline void add_hidden(const LossKernel& kernel) {
  const int64_t r = row_of_warp();
  if (r >= kernel.params.rows || kernel.places[r] < 0) return;
  kernel.params.width % 4 == 0 ? add_hidden_row<type, 4>(kernel, r, kernel.places[r])
                               : add_hidden_row<type, 1>(kernel, r, kernel.places[r]);
}

}  // namespace MDM_NAMESPACE
