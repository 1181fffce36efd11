// One chunk of a row of logits: 512 consecutive ids of the vocabulary, widened to float32 in the first-level cache, and
// the sums a pass needs of it.
#pragma once

#include "core/score_tokens_params.h"
#include "cpu/vector_math.h"

namespace MDM_NAMESPACE {

constexpr int kChunk = static_cast<int>(kVocabularyChunk);

// Values of a chunk, padded with -inf to a whole number of vectors.
struct Chunk {
  const float* values;
  int padded;    // multiple of kLanes
  float max;     // -inf: nothing in it
  bool invalid;  // NaN or +inf among the values
};

// Half-open range of positions in an ascending list of ids.
struct IdRange {
  int64_t first, last;
};

static int64_t lower_bound(const int64_t* ids, int64_t count, int64_t id) {
  int64_t first = 0;
  while (count > 0) {
    const int64_t half = count / 2;
    const bool right = ids[first + half] < id;
    first += right ? half + 1 : 0;
    count = right ? count - half - 1 : half;
  }
  return first;
}

MDM_INLINE IdRange ids_between(const int64_t* ids, int64_t count, int64_t begin, int64_t end) {
  if (count == 0) return {0, 0};
  return {lower_bound(ids, count, begin), lower_bound(ids, count, end)};
}

// ---- loading ----

template <FloatType type>
MDM_INLINE Floats load_as_float(const void* source, int i) {
  if constexpr (type == FloatType::bfloat16) return load_bfloat16(static_cast<const uint16_t*>(source) + i);
  if constexpr (type == FloatType::float16) return load_float16(static_cast<const uint16_t*>(source) + i);
  return load(static_cast<const float*>(source) + i);
}

// `padded` raw values at source to a Chunk; float32 logits stay where they are, everything else goes through buffer.
// Loads need no alignment: lanes follow ids, never addresses, so a row of 50257 gives the same bits wherever it starts.
template <FloatType type, bool probabilities>
static Chunk widen(const void* source, int padded, float* buffer) {
  constexpr bool in_place = type == FloatType::float32 && !probabilities;
  Floats max0 = broadcast(-__builtin_inff()), max1 = max0;
  uint32_t nan = 0;
  int i = 0;
  for (; i + 2 * kLanes <= padded; i += 2 * kLanes) {
    Floats a = load_as_float<type>(source, i), b = load_as_float<type>(source, i + kLanes);
    if constexpr (probabilities) a = log_any(a), b = log_any(b);
    if constexpr (!in_place) store(buffer + i, a), store(buffer + i + kLanes, b);
    nan |= bits(unordered(a, b));
    max0 = maximum(a, max0);
    max1 = maximum(b, max1);
  }
  if (i < padded) {
    Floats a = load_as_float<type>(source, i);
    if constexpr (probabilities) a = log_any(a);
    if constexpr (!in_place) store(buffer + i, a);
    nan |= bits(unordered(a, a));
    max0 = maximum(a, max0);
  }
  const float max = reduce_max(maximum(max0, max1));
  const float* values = in_place ? static_cast<const float*>(source) : buffer;
  return {values, padded, max, nan != 0 || max == __builtin_inff()};
}

using WidenFunction = Chunk (*)(const void* source, int padded, float* buffer);

static WidenFunction widen_function(FloatType type, bool probabilities) {
  switch (type) {
    case FloatType::bfloat16:
      return probabilities ? widen<FloatType::bfloat16, true> : widen<FloatType::bfloat16, false>;
    case FloatType::float16:
      return probabilities ? widen<FloatType::float16, true> : widen<FloatType::float16, false>;
    default:
      return probabilities ? widen<FloatType::float32, true> : widen<FloatType::float32, false>;
  }
}

// Where the rows of one call come from, and the memory a chunk is widened in.
struct RowReader {
  WidenFunction widen;
  int element_size;  // bytes
  uint32_t absent;   // bits of what stands for "not there" in the raw type: -inf, or probability 0
  int64_t vocab;
  const int64_t* suppress;
  int64_t suppress_count;
  alignas(64) float values[kChunk];
  alignas(64) float masked[kChunk];  // a copy in which ids may be dropped
  alignas(64) uint8_t staging[kChunk * sizeof(float)];
};

static void prepare_reader(const ScoreTokensParams& params, RowReader* reader) {
  reader->widen = widen_function(params.type, params.probabilities);
  reader->element_size = params.type == FloatType::float32 ? 4 : 2;
  const uint32_t minus_infinity = params.type == FloatType::float32    ? 0xff800000u
                                  : params.type == FloatType::bfloat16 ? 0xff80u
                                                                       : 0xfc00u;
  reader->absent = params.probabilities ? 0 : minus_infinity;
  reader->vocab = params.vocab;
  reader->suppress = params.suppress;
  reader->suppress_count = params.suppress_count;
}

MDM_INLINE void store_absent(RowReader* reader, int64_t i) {
  __builtin_memcpy(reader->staging + i * reader->element_size, &reader->absent,
                   static_cast<size_t>(reader->element_size));  // the low bytes: little endian, as every target is
}

// Ids [begin, begin + count) of a row, suppressed ones at -inf. `count` is at most kChunk.
static Chunk read_ids(RowReader* reader, const uint8_t* row, int64_t begin, int count) {
  const uint8_t* source = row + begin * reader->element_size;
  const IdRange dropped = ids_between(reader->suppress, reader->suppress_count, begin, begin + count);
  const int padded = (count + kLanes - 1) / kLanes * kLanes;
  if (padded == count && dropped.first == dropped.last) return reader->widen(source, padded, reader->values);
  __builtin_memcpy(reader->staging, source, static_cast<size_t>(count) * static_cast<size_t>(reader->element_size));
  for (int i = count; i < padded; ++i) store_absent(reader, i);
  for (int64_t i = dropped.first; i < dropped.last; ++i) store_absent(reader, reader->suppress[i] - begin);
  return reader->widen(reader->staging, padded, reader->values);
}

MDM_INLINE Chunk read_chunk(RowReader* reader, const uint8_t* row, int64_t chunk) {
  const int64_t begin = chunk * kChunk;
  const int64_t left = reader->vocab - begin;
  return read_ids(reader, row, begin, static_cast<int>(left < kChunk ? left : kChunk));
}

// The value of one id, by the same road as a chunk, so that it is the same to the last bit.
MDM_INLINE float read_value(RowReader* reader, const uint8_t* row, int64_t id) {
  return read_ids(reader, row, id, 1).values[0];
}

// ---- sums ----

static int first_equal(const Chunk& chunk, float value) {
  for (int i = 0; i < chunk.padded; i += kLanes) {
    const uint32_t hits = bits(equal(load(chunk.values + i), broadcast(value)));
    if (hits != 0) return i + __builtin_ctz(hits);
  }
  return 0;
}

// Second largest value, equal to the largest on ties.
static float second_largest(const Chunk& chunk) {
  Floats first = broadcast(-__builtin_inff()), second = first;
  for (int i = 0; i < chunk.padded; i += kLanes) {
    const Floats x = load(chunk.values + i);
    second = maximum(second, select(at_least(first, x), x, first));
    first = maximum(first, x);
  }
  // Between lanes: every lane but one that holds the maximum offers its first, that one its second.
  float firsts[kLanes], seconds[kLanes];
  store(firsts, first);
  store(seconds, second);
  const int holder = __builtin_ctz(bits(equal(first, broadcast(reduce_max(first)))));
  firsts[holder] = seconds[holder];
  return reduce_max(load(firsts));
}

struct ChunkSums {
  float sum;  // of e^y, y = scale (x - max)
  float dot;  // of y e^y
};

template <bool with_dot, bool with_scale>
static ChunkSums sum_weights(const Chunk& chunk, float max, float scale) {
  const Floats reference = broadcast(max), factor = broadcast(scale), floor = broadcast(-86.0f);
  Floats sum0 = broadcast(0.0f), sum1 = sum0, dot0 = sum0, dot1 = sum0;
  int i = 0;
  for (; i + 2 * kLanes <= chunk.padded; i += 2 * kLanes) {
    Floats y0 = sub(load(chunk.values + i), reference), y1 = sub(load(chunk.values + i + kLanes), reference);
    if constexpr (with_scale) y0 = mul(y0, factor), y1 = mul(y1, factor);
    const Floats w0 = exp_nonpositive(y0), w1 = exp_nonpositive(y1);
    sum0 = add(sum0, w0);
    sum1 = add(sum1, w1);
    if constexpr (with_dot) {  // not below exp_nonpositive's floor: -inf times a weight must stay finite
      dot0 = multiply_add(maximum(y0, floor), w0, dot0);
      dot1 = multiply_add(maximum(y1, floor), w1, dot1);
    }
  }
  if (i < chunk.padded) {
    Floats y = sub(load(chunk.values + i), reference);
    if constexpr (with_scale) y = mul(y, factor);
    const Floats w = exp_nonpositive(y);
    sum0 = add(sum0, w);
    if constexpr (with_dot) dot0 = multiply_add(maximum(y, floor), w, dot0);
  }
  return {reduce_add(add(sum0, sum1)), with_dot ? reduce_add(add(dot0, dot1)) : 0.0f};
}

static ChunkSums chunk_sums(const Chunk& chunk, float max, float scale, bool with_dot) {
  if (scale == 1.0f) {
    return with_dot ? sum_weights<true, false>(chunk, max, scale) : sum_weights<false, false>(chunk, max, scale);
  }
  return with_dot ? sum_weights<true, true>(chunk, max, scale) : sum_weights<false, true>(chunk, max, scale);
}

}  // namespace MDM_NAMESPACE
