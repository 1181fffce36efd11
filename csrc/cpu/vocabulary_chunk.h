// One chunk of a row of logits: 512 consecutive ids of the vocabulary, where they lie or, if anything of it must change
// first, in a copy in the first-level cache.
#pragma once

#include "core/score_tokens_params.h"
#include "cpu/vector_math.h"

namespace MDM_NAMESPACE {

constexpr int kChunk = static_cast<int>(kVocabularyChunk);
constexpr int kPair = 2 * kLanes;  // chunks are padded to a multiple of this

// Values of a chunk, padded with -inf (probability 0).
struct Chunk {
  const void* data;
  FloatType type;
  int padded;
};

// A chunk as float32. `max` is -inf if nothing is in it.
struct FloatChunk {
  const float* values;
  int padded;
  float max;
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

// Ids i, ..., i + 31 for work that does not ask which lane holds which: bfloat16 splits into even and odd ids, one
// instruction each.
template <FloatType type>
MDM_INLINE void load_pair(const void* source, int i, Floats* a, Floats* b) {
  if constexpr (type == FloatType::bfloat16) {
    const Words words = load(reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(source) + i));
    *a = as_floats(shift_left<16>(words));
    *b = as_floats(and_words(words, words_from(0xffff0000u)));
  } else {
    *a = load_as_float<type>(source, i);
    *b = load_as_float<type>(source, i + kLanes);
  }
}

// Logarithm of an unnormalised probability. What is below 0 is 0: rounding makes such numbers. NaN stays, being the
// second operand.
MDM_INLINE Floats log_weight(Floats x) { return log_any(maximum(broadcast(0.0f), x)); }

template <FloatType type, bool probabilities>
static void widen_to(const void* source, int padded, float* buffer) {
  for (int i = 0; i < padded; i += kLanes) {
    const Floats x = load_as_float<type>(source, i);
    store(buffer + i, probabilities ? log_weight(x) : x);
  }
}

static void widen_probabilities(const Chunk& chunk, float* buffer) {
  switch (chunk.type) {
    case FloatType::bfloat16:
      return widen_to<FloatType::bfloat16, true>(chunk.data, chunk.padded, buffer);
    case FloatType::float16:
      return widen_to<FloatType::float16, true>(chunk.data, chunk.padded, buffer);
    default:
      return widen_to<FloatType::float32, true>(chunk.data, chunk.padded, buffer);
  }
}

// The chunk's values in order; float32 stays where it is.
static const float* widen(const Chunk& chunk, float* buffer) {
  switch (chunk.type) {
    case FloatType::bfloat16:
      widen_to<FloatType::bfloat16, false>(chunk.data, chunk.padded, buffer);
      return buffer;
    case FloatType::float16:
      widen_to<FloatType::float16, false>(chunk.data, chunk.padded, buffer);
      return buffer;
    default:
      return static_cast<const float*>(chunk.data);
  }
}

// ---- reading a row ----

// What the rows of one call have in common, and the memory a chunk is prepared in.
struct RowReader {
  FloatType type;
  bool probabilities;
  int element_size;                  // bytes
  uint32_t absent;                   // bits of what stands for "not there" in the raw type: -inf, or probability 0
  alignas(64) float logs[kChunk];    // logarithms of probabilities
  alignas(64) float wide[kChunk];    // a chunk as float32
  alignas(64) float masked[kChunk];  // a copy in which ids may be dropped
  alignas(64) uint8_t staging[kChunk * sizeof(float)];
};

static void prepare_reader(const ScoreTokensParams& params, RowReader* reader) {
  reader->type = params.type;
  reader->probabilities = params.probabilities;
  reader->element_size = params.type == FloatType::float32 ? 4 : 2;
  const uint32_t minus_infinity = params.type == FloatType::float32    ? 0xff800000u
                                  : params.type == FloatType::bfloat16 ? 0xff80u
                                                                       : 0xfc00u;
  reader->absent = params.probabilities ? 0 : minus_infinity;
}

// One row and everything that says what may be proposed there.
struct ProposalRow {
  const ScoreTokensParams* params;
  RowReader* reader;
  const uint8_t* data;
  int64_t chunks;
  const uint8_t* uncond = nullptr;  // unconditional logits to mix in, or null
  float strength = 0.0f;            // guidance + 1
};

// ---- guidance ----

template <FloatType type>
MDM_INLINE void store_rounded(void* to, int i, Floats x) {
  if constexpr (type == FloatType::bfloat16) store_bfloat16(static_cast<uint16_t*>(to) + i, x);
  if constexpr (type == FloatType::float16) store_float16(static_cast<uint16_t*>(to) + i, x);
  if constexpr (type == FloatType::float32) store(static_cast<float*>(to) + i, x);
}

template <FloatType type>
MDM_INLINE Floats rounded(Floats x) {
  if constexpr (type == FloatType::float32) return x;
  uint16_t halves[kLanes];
  store_rounded<type>(halves, 0, x);
  return load_as_float<type>(halves, 0);
}

// u + strength (c - u), each operation rounded to the dtype as tensor operations would; where c and u are equal, which for
// two infinities those would not say, c. `to` may be `cond`.
template <FloatType type>
static void mix_typed(const void* cond, const void* uncond, float strength, int padded, void* to) {
  for (int i = 0; i < padded; i += kLanes) {
    const Floats c = load_as_float<type>(cond, i), u = load_as_float<type>(uncond, i);
    const Floats moved = rounded<type>(mul(rounded<type>(sub(c, u)), broadcast(strength)));
    store_rounded<type>(to, i, select(equal(c, u), c, add(u, moved)));
  }
}

static void mix(FloatType type, const void* cond, const void* uncond, float strength, int padded, void* to) {
  switch (type) {
    case FloatType::bfloat16:
      return mix_typed<FloatType::bfloat16>(cond, uncond, strength, padded, to);
    case FloatType::float16:
      return mix_typed<FloatType::float16>(cond, uncond, strength, padded, to);
    default:
      return mix_typed<FloatType::float32>(cond, uncond, strength, padded, to);
  }
}

// ---- reading a row's ids ----

MDM_INLINE void store_absent(RowReader* reader, int64_t i) {
  __builtin_memcpy(reader->staging + i * reader->element_size, &reader->absent,
                   static_cast<size_t>(reader->element_size));  // the low bytes: little endian, as every target is
}

// Ids [begin, begin + count) of a row, suppressed ones absent. `count` is at most kChunk.
static Chunk read_ids(const ProposalRow& row, int64_t begin, int count) {
  RowReader* reader = row.reader;
  const uint8_t* source = row.data + begin * reader->element_size;
  const IdRange dropped = ids_between(row.params->suppress, row.params->suppress_count, begin, begin + count);
  const int padded = (count + kPair - 1) / kPair * kPair;
  const bool whole = padded == count;
  if (!whole || dropped.first != dropped.last || row.uncond != nullptr) {
    const size_t bytes = static_cast<size_t>(count) * static_cast<size_t>(reader->element_size);
    if (row.uncond == nullptr) {
      __builtin_memcpy(reader->staging, source, bytes);
    } else {
      const uint8_t* uncond = row.uncond + begin * reader->element_size;
      if (!whole) {
        __builtin_memcpy(reader->staging, source, bytes);
        __builtin_memcpy(reader->wide, uncond, bytes);
        source = reader->staging, uncond = reinterpret_cast<const uint8_t*>(reader->wide);
      }
      mix(reader->type, source, uncond, row.strength, padded, reader->staging);
    }
    for (int i = count; i < padded; ++i) store_absent(reader, i);
    for (int64_t i = dropped.first; i < dropped.last; ++i) store_absent(reader, row.params->suppress[i] - begin);
    source = reader->staging;
  }
  const Chunk chunk{source, reader->type, padded};
  if (!reader->probabilities) return chunk;
  widen_probabilities(chunk, reader->logs);
  return {reader->logs, FloatType::float32, padded};
}

MDM_INLINE Chunk read_chunk(const ProposalRow& row, int64_t index) {
  const int64_t begin = index * kChunk;
  const int64_t left = row.params->vocab - begin;
  return read_ids(row, begin, static_cast<int>(left < kChunk ? left : kChunk));
}

// The value of one id, by the same road as a chunk, so that it is the same to the last bit.
MDM_INLINE float read_value(const ProposalRow& row, int64_t id) {
  return widen(read_ids(row, id, 1), row.reader->wide)[0];
}

// ---- looking for single values ----

static float max_of(const float* values, int padded) {
  Floats max = broadcast(-__builtin_inff());
  for (int i = 0; i < padded; i += kLanes) max = maximum(load(values + i), max);
  return reduce_max(max);
}

static int first_equal(const float* values, int padded, float value) {
  for (int i = 0; i < padded; i += kLanes) {
    const uint32_t hits = bits(equal(load(values + i), broadcast(value)));
    if (hits != 0) return i + __builtin_ctz(hits);
  }
  return 0;
}

// Second largest value, equal to the largest on ties.
static float second_largest(const float* values, int padded) {
  Floats first = broadcast(-__builtin_inff()), second = first;
  for (int i = 0; i < padded; i += kLanes) {
    const Floats x = load(values + i);
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

}  // namespace MDM_NAMESPACE
