// A row's chunks from memory to their partials, in two ways that give the same bits:
//
//   scan_whole   whole chunks of a row that starts at a multiple of 16 bytes, with nothing dropped from them: the loop in
//                which score_tokens spends its time, the loads of the next two chunks under way
//   scan_any     everything else: the end of a row, rows at any address, guidance, probabilities, chunks with
//                suppressed or forbidden ids
#pragma once

#include "cuda/score_chunks.cuh"

namespace MDM_NAMESPACE {

constexpr int kScoreWarps = cuda::kScoreThreads / kWarpLanes;  // a warp takes every so many-th chunk

// What a warp carries from chunk to chunk: the largest values of each law so far (see summarise).
struct ScanBest {
  float raw, proposal;
};

// What is summed of each chunk.
struct ScanTerms {
  Terms raw, proposal;
  bool apart;  // of what may be proposed other sums, even where nothing is forbidden
};

__device__ __forceinline__ ScanTerms scan_terms(const RowPlan& plan) {
  const bool same_scale = plan.scale == 1.0f;
  const bool proposal_sum = plan.proposal_sum && !plan.filtered;
  const Terms raw{plan.raw_sum || (same_scale && proposal_sum),
                  plan.raw_dot || (same_scale && plan.proposal_dot && !plan.filtered), plan.second, 1.0f};
  return {raw, {proposal_sum, plan.proposal_dot, plan.second, plan.scale}, proposal_sum && !same_scale};
}

// ---- any chunk ----

// Of a call with guidance both rows are loaded at once.
template <FloatType type, bool guided>
struct LoadedLogits {
  LoadedChunk<type> row[guided ? 2 : 1];
};

template <FloatType type, bool guided>
__device__ __forceinline__ LoadedLogits<type, guided> load_logits(const ScoredRow& row, int64_t index) {
  LoadedLogits<type, guided> loaded;
  loaded.row[0] = load_chunk<type>(chunk_place<type>(row.data, row.params->vocab, index));
  if constexpr (guided) {
    const uint8_t* const uncond = row.guidance.uncond;
    loaded.row[1] =
        uncond == nullptr ? LoadedChunk<type>{} : load_chunk<type>(chunk_place<type>(uncond, row.params->vocab, index));
  }
  return loaded;
}

template <FloatType type, bool guided>
__device__ __forceinline__ Chunk<type> finish_chunk(const ScoredRow& row, const LoadedLogits<type, guided>& loaded,
                                                    int64_t index) {
  const ScoreTokensParams& params = *row.params;
  const ChunkPlace place = chunk_place<type>(row.data, params.vocab, index);
  Chunk<type> chunk = widen(align_chunk(loaded.row[0], place), place, params.probabilities ? 0.0f : -__builtin_inff());
  if constexpr (guided) {
    if (row.guidance.uncond != nullptr) {
      const ChunkPlace beside = chunk_place<type>(row.guidance.uncond, params.vocab, index);
      mix_chunk(&chunk, widen(align_chunk(loaded.row[1], beside), beside, 0.0f), row.guidance.strength);
      fill_absent(&chunk, place, -__builtin_inff());
    }
  } else if (params.probabilities) {
#pragma unroll
    for (int slot = 0; slot < chunk.kSlots; ++slot) chunk.value[slot] = log_weight(chunk.value[slot]);
  }
  drop_ids(&chunk, index * kChunkIds, params.suppress, params.suppress_count);
  return chunk;
}

// Chunks first, first + kScoreWarps, ... below `end`; the loads of the next chunk are under way while one is summed.
// Without guidance also while one is waited for. With it two rows' are, and registers do not reach for four, nor in float32
// for three: there nothing is loaded ahead.
template <FloatType type, bool guided>
__device__ __forceinline__ void scan_any(const ScoredRow& row, const ScanTerms& terms, int first, int end,
                                         ScanBest* best) {
  const ScoreTokensParams& params = *row.params;
  if (first >= end) return;
  constexpr bool kAhead = !guided || type != FloatType::float32, kAfterMix = guided && kAhead;
  LoadedLogits<type, guided> next{};
  if (kAhead) next = load_logits<type, guided>(row, first);
#pragma unroll 1
  for (int index = first; index < end; index += kScoreWarps) {
    const LoadedLogits<type, guided> current = kAhead ? next : load_logits<type, guided>(row, index);
    const bool more = index + kScoreWarps < end;
    if (kAhead && !kAfterMix && more) next = load_logits<type, guided>(row, index + kScoreWarps);
    Chunk<type> chunk = finish_chunk(row, current, index);
    if (kAfterMix && more) next = load_logits<type, guided>(row, index + kScoreWarps);
    const bool same_best = best->raw == best->proposal;
    const ChunkPartial raw = summarise(chunk, terms.raw, &best->raw);
    ChunkPartial proposal = raw;
    const bool dropped = drop_ids(&chunk, int64_t{index} * kChunkIds, params.forbid, params.forbid_count);
    if (dropped || !same_best || terms.apart) {
      proposal = summarise(chunk, terms.proposal, &best->proposal);
    } else {
      best->proposal = best->raw;
    }
    if (lane_id() == 0) {
      row.raw[index] = raw;
      row.proposal[index] = proposal;
    }
  }
}

// ---- whole chunks ----

// A lane's part of a whole chunk, its first vector at `address`.
template <FloatType type>
__device__ __forceinline__ ChunkWords<type> load_whole(const uint8_t* address) {
  ChunkWords<type> words;
#pragma unroll
  for (int i = 0; i < ChunkTraits<type>::kVectors; ++i) {
    words.vector[i] = ptx::load_streaming(address + 16 * kWarpLanes * i);
  }
  return words;
}

template <FloatType type>
__device__ __forceinline__ float largest_of(const ChunkWords<type>& words) {  // NaN if there is one
  float own;
  if constexpr (type == FloatType::float32) {
    own = widen_bits<type>(words.vector[0].word[0]);
#pragma unroll
    for (int i = 1; i < 4 * ChunkTraits<type>::kVectors; ++i) {
      own = ptx::max_or_nan(own, widen_bits<type>(words.vector[i / 4].word[i % 4]));
    }
  } else {
    uint32_t pair = words.vector[0].word[0];
#pragma unroll
    for (int i = 1; i < 4 * ChunkTraits<type>::kVectors; ++i) {
      const uint32_t other = words.vector[i / 4].word[i % 4];
      pair = type == FloatType::bfloat16 ? ptx::max_or_nan_bf16(pair, other) : ptx::max_or_nan_fp16(pair, other);
    }
    own = ptx::max_or_nan(widen_bits<type>(pair & 0xffffu), widen_bits<type>(pair >> 16));
  }
  return warp_max(own);
}

// What tells a lane apart, kept in registers: the compiler would compute it again for every chunk.
struct ScanLane {
  float unit;                   // of the sum that this lane ends with: 1 for lanes 0 to 15
  uint32_t sum_mask, max_mask;  // all ones where the word that it stores is a sum, the maximum
  uint32_t usual;  // what it stores otherwise, where an earlier chunk has as large a value; 0: another word

  __device__ __forceinline__ bool stores() const { return (sum_mask | max_mask | usual) != 0; }
  __device__ __forceinline__ bool upper() const { return unit != 1.0f; }
  __device__ __forceinline__ bool odd() const { return (lane_id() & 8) != 0; }  // of every sixteen the later eight
};

// Sums over the warp, each in the order of warp_sum, in one tree: of a for lanes 0 to 15, of b for the others.
__device__ __forceinline__ float warp_sums(const ScanLane& lane, float a, float b) {
  const bool upper = lane.upper();
  float x = (upper ? b : a) + __shfl_xor_sync(kWholeWarp, upper ? a : b, 16);
  for (int offset = 8; offset > 0; offset /= 2) x += __shfl_xor_sync(kWholeWarp, x, offset);
  return x;
}

// The same of four: a for lanes 0 to 7, c for 8 to 15, b for 16 to 23, d for the others.
__device__ __forceinline__ float warp_sums(const ScanLane& lane, float a, float b, float c, float d) {
  const bool upper = lane.upper(), odd = lane.odd();
  const float ab = (upper ? b : a) + __shfl_xor_sync(kWholeWarp, upper ? a : b, 16);
  const float cd = (upper ? d : c) + __shfl_xor_sync(kWholeWarp, upper ? c : d, 16);
  float x = (odd ? cd : ab) + __shfl_xor_sync(kWholeWarp, odd ? ab : cd, 8);
  for (int offset = 4; offset > 0; offset /= 2) x += __shfl_xor_sync(kWholeWarp, x, offset);
  return x;
}

// This lane's sum of e^y, and in *dot of y e^y in units of ln 2; y = scale below, factor = scale log2(e).
template <bool with_dot, FloatType type>
__device__ __forceinline__ float add_weights(const Chunk<type>& below, float factor, float* dot) {
  float sum = 0.0f;
#pragma unroll
  for (int slot = 0; slot < Chunk<type>::kSlots; ++slot) {
    const float exponent = below.value[slot] * factor;
    const float weight = ptx::exp2_approx(exponent);
    sum += weight;
    if (with_dot) *dot = fmaf(fmaxf(exponent, -126.0f), weight, *dot);
  }
  return sum;
}

// Ten lanes each store one word of a chunk's partials, where warp_sums leaves the sums: lanes 0, 16, 8 and 24 the raw
// sum and dot and the proposal's, lanes 1 and 9 the maximum, 2 and 10 the second, 3 and 11 the argmax.
__device__ __forceinline__ ScanLane scan_lane() {
  const int lane = lane_id(), kind = lane & 7;
  ScanLane own;
  own.unit = lane < 16 ? 1.0f : kLn2;
  own.sum_mask = kind == 0 ? 0xffffffffu : 0;
  own.max_mask = lane < 16 && kind == 1 ? 0xffffffffu : 0;
  own.usual = lane >= 16 ? 0 : kind == 2 ? 0xff800000u : kind == 3 ? 0xffffffffu : 0;  // -inf, -1
  ptx::settle(own.unit);
  ptx::settle(own.sum_mask);
  ptx::settle(own.usual);
  return own;
}

// Where this lane's word of a chunk's partials is.
__device__ __forceinline__ uint32_t* partial_word(const ScoredRow& row, int64_t index) {
  const int lane = lane_id(), kind = lane & 7;
  ChunkPartial* const partial = ((lane & 8) == 0 ? row.raw : row.proposal) + index;
  float* const sum = lane < 16 ? &partial->sum : &partial->dot;
  if (kind == 3) return reinterpret_cast<uint32_t*>(&partial->argmax);
  return reinterpret_cast<uint32_t*>(kind == 0 ? sum : kind == 1 ? &partial->max : &partial->second);
}

// As summarise, of both laws at once: this lane's word of the partials.
template <FloatType type>
__device__ __forceinline__ uint32_t summarise_whole(Chunk<type> chunk, float max, const ScanTerms& terms,
                                                    const ScanLane& lane, ScanBest* best) {
  uint32_t rest = lane.usual;
  float sums = 0.0f;
  if (fabsf(max) < __builtin_inff()) {
    if (max > fminf(best->raw, best->proposal)) {
      const int argmax = first_equal(chunk, max);
      const float second = terms.raw.second ? max_without(chunk, argmax) : -__builtin_inff();
      if (lane.usual != 0 && max > (lane.odd() ? best->proposal : best->raw)) {
        rest = (lane_id() & 7) == 2 ? bits_of_float(second) : static_cast<uint32_t>(argmax);
      }
      best->raw = fmaxf(best->raw, max);
      best->proposal = fmaxf(best->proposal, max);
    }
#pragma unroll
    for (int slot = 0; slot < Chunk<type>::kSlots; ++slot) chunk.value[slot] -= max;
    float raw_sum = 0.0f, raw_dot = 0.0f, sum = 0.0f, dot = 0.0f;
    if (terms.raw.dot) {
      raw_sum = add_weights<true>(chunk, kLog2E, &raw_dot);
    } else if (terms.raw.sum) {
      raw_sum = add_weights<false>(chunk, kLog2E, &raw_dot);
    }
    if (!terms.apart) {
      sums = warp_sums(lane, raw_sum, raw_dot);
    } else {
      const float factor = terms.proposal.scale * kLog2E;
      sum = terms.proposal.dot ? add_weights<true>(chunk, factor, &dot) : add_weights<false>(chunk, factor, &dot);
      sums = warp_sums(lane, raw_sum, raw_dot, sum, dot);
    }
    sums *= lane.unit;
  }
  return (bits_of_float(sums) & lane.sum_mask) | (bits_of_float(max) & lane.max_mask) | rest;
}

// Chunks first, first + kScoreWarps, ..., `count` of them, at least one; a float32 chunk is as much to have under way as two
// others.
template <FloatType type>
__device__ __forceinline__ void scan_whole(const ScoredRow& row, const ScanTerms& terms, int64_t first, int count,
                                           ScanBest* best) {
  constexpr int kBytes = kChunkIds * ChunkTraits<type>::kBytes, kStep = kScoreWarps * kBytes;
  constexpr int kWords = kScoreWarps * static_cast<int>(sizeof(ChunkPartial) / sizeof(uint32_t));
  constexpr int kAhead = type == FloatType::float32 ? 1 : 2;
  const uint8_t* address = row.data + first * kBytes + 16 * lane_id();
  uint32_t* word = partial_word(row, first);
  const ScanLane lane = scan_lane();
  ChunkWords<type> loaded[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (count > i) loaded[i] = load_whole<type>(address + i * kStep);
  }
#pragma unroll 1
  for (;; count -= kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const float max = largest_of<type>(loaded[i]);
      Chunk<type> chunk = widen(loaded[i]);
#pragma unroll
      for (int slot = 0; slot < Chunk<type>::kSlots; ++slot) ptx::settle(chunk.value[slot]);  // the words are free
      if (count > kAhead + i) loaded[i] = load_whole<type>(address + (kAhead + i) * kStep);
      const uint32_t value = summarise_whole(chunk, max, terms, lane, best);
      if (lane.stores()) word[i * kWords] = value;
      if (count == 1 + i) return;
    }
    address += kAhead * kStep;
    word += kAhead * kWords;
  }
}

// The first chunk at or after `index`, of those that the warp takes, from which an id of the list is dropped; `end` if none.
__device__ __forceinline__ int first_listed(const int64_t* ids, int64_t count, int index, int end) {
  unsigned own = static_cast<unsigned>(end);
#pragma unroll 1
  for (int64_t i = lane_id(); i < count; i += kWarpLanes) {
    const int64_t chunk = ids[i] >= 0 ? ids[i] / kChunkIds : end;
    if (chunk < index || chunk >= own || (chunk - index) % kScoreWarps != 0) continue;
    own = static_cast<unsigned>(chunk);
  }
  return static_cast<int>(__reduce_min_sync(kWholeWarp, own));
}

// Both laws of chunks first, first + kScoreWarps, ... below `last`, by one warp.
template <FloatType type, bool guided = false>
__device__ __forceinline__ void scan_chunks(const ScoredRow& row, const RowPlan& plan, int64_t first, int64_t last) {
  const ScoreTokensParams& params = *row.params;
  const ScanTerms terms = scan_terms(plan);
  ScanBest best{-__builtin_inff(), -__builtin_inff()};
  const int end = static_cast<int>(last);  // chunks are counted in 32 bits here, where registers are short
  int index = static_cast<int>(first);
  const bool plain = !guided && !params.probabilities && reinterpret_cast<uint64_t>(row.data) % 16 == 0;
  const int64_t whole = plain ? params.vocab / kChunkIds : 0;  // chunks
  const int whole_end = whole < last ? static_cast<int>(whole) : end;
#pragma unroll 1
  while (index < end) {
    if (!guided && index < whole_end) {
      int until = first_listed(params.suppress, params.suppress_count, index, whole_end);
      until = first_listed(params.forbid, params.forbid_count, index, until);
      const int count = (until - index + kScoreWarps - 1) / kScoreWarps;
      if constexpr (!guided) {
        if (count > 0) scan_whole<type>(row, terms, index, count, &best);
      }
      index += count * kScoreWarps;
    }
    const int next = index < whole_end ? index + kScoreWarps : end + kScoreWarps;
    scan_any<type, guided>(row, terms, index, index < whole_end ? index + 1 : end, &best);
    index = next;
  }
}

}  // namespace MDM_NAMESPACE
