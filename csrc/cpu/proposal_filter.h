// Which ids of a row may be proposed: forbidden ids, top_k and top_p, without a sort.
//
// Every filter keeps a prefix of the order "falling value, then rising id", so a kept set is a value and, among the ids
// that tie with it, the last one kept. The prefix ends where a cumulative weight crosses a limit (a count for top_k,
// probability mass for top_p), and that place is found by counting into 256 bins, eight bits of the value at a time.
// Masses are integers, so their sums have no order. nucleus_search.h finds the few candidates to count.
#pragma once

#include "core/score_row.h"
#include "core/select_key.h"
#include "cpu/vocabulary_chunk.h"

namespace MDM_NAMESPACE {

// Memory for the candidates of one row (csrc/torch/scoring.h: scratch_words).
struct FilterScratch {
  uint64_t* mass;    // [vocab + kLanes]
  float* values;     // [vocab + kLanes]
  float* chunk_max;  // [chunks + kLanes], of what may be proposed
};

MDM_INLINE FilterScratch carve_filter_scratch(uint64_t* words, int64_t vocab) {
  float* values = reinterpret_cast<float*>(words + vocab + kLanes);
  return {words, values, values + vocab + kLanes};
}

// ---- chunks of a proposal ----

// Whether some of a chunk's ids are forbidden.
static IdRange forbidden_in(const ProposalRow& row, int64_t index, int padded) {
  const ScoreTokensParams& params = *row.params;
  return ids_between(params.forbid, params.forbid_count, index * kChunk, index * kChunk + padded);
}

// Sets what is outside the kept set to -inf; the first value is that of id `begin`.
static void drop_filtered(const KeptSet& kept, int64_t begin, int padded, float* values) {
  const Floats threshold = broadcast(kept.threshold), absent = broadcast(-__builtin_inff());
  for (int i = 0; i < padded; i += kLanes) {
    const Floats x = load(values + i);
    store(values + i, select(at_least(threshold, x), absent, x));
    for (uint32_t ties = bits(equal(x, threshold)); ties != 0; ties &= ties - 1) {
      const int lane = i + __builtin_ctz(ties);
      if (begin + lane <= kept.last_tie) values[lane] = kept.threshold;
    }
  }
}

// A chunk with the ids at -inf that may not be proposed: forbidden ones, and those outside the kept set unless it is
// null.
static FloatChunk proposable(const ProposalRow& row, const Chunk& chunk, int64_t index, const KeptSet* kept) {
  const ScoreTokensParams& params = *row.params;
  const float* values = widen(chunk, row.reader->wide);
  const IdRange dropped = forbidden_in(row, index, chunk.padded);
  if (dropped.first == dropped.last && kept == nullptr) return {values, chunk.padded, max_of(values, chunk.padded)};
  const int64_t begin = index * kChunk;
  float* masked = row.reader->masked;
  if (values != masked) __builtin_memcpy(masked, values, sizeof(float) * static_cast<size_t>(chunk.padded));
  for (int64_t i = dropped.first; i < dropped.last; ++i) masked[params.forbid[i] - begin] = -__builtin_inff();
  if (kept != nullptr) drop_filtered(*kept, begin, chunk.padded, masked);
  return {masked, chunk.padded, max_of(masked, chunk.padded)};
}

static FloatChunk read_proposal_chunk(const ProposalRow& row, int64_t index, const KeptSet* kept) {
  return proposable(row, read_chunk(row, index), index, kept);
}

// As it lies, where no id of it is forbidden.
static Chunk read_allowed_chunk(const ProposalRow& row, int64_t index) {
  const Chunk chunk = read_chunk(row, index);
  const IdRange forbidden = forbidden_in(row, index, chunk.padded);
  if (forbidden.first == forbidden.last) return chunk;
  const FloatChunk rest = proposable(row, chunk, index, nullptr);
  return {rest.values, FloatType::float32, rest.padded};
}

// The weight of an id is e^(scale (x - max)).
struct LawScale {
  float max, scale;
};

// ---- masses in fixed point ----

constexpr float kMassHalf = 0x1p20f;               // a mass has two digits to this base:
constexpr uint64_t kMassUnit = uint64_t{1} << 40;  // the most likely id's mass

// Both digits of trunc(2^40 e^y), y <= 0; each step is exact, so every lane is an exact integer.
MDM_INLINE void mass_digits(Floats y, Words* high, Words* low) {
  const Floats scaled = mul(exp_nonpositive(y), broadcast(kMassHalf));
  *high = truncate(scaled);
  *low = truncate(mul(sub(scaled, signed_to_float(*high)), broadcast(kMassHalf)));
}

MDM_INLINE uint64_t mass_from_digits(uint32_t high, uint32_t low) { return (static_cast<uint64_t>(high) << 20) + low; }

// Masses of candidates, 0 below `smallest`; returns their sum. values is padded with -inf.
static uint64_t candidate_masses(const FilterScratch& scratch, int64_t count, const LawScale& law, float smallest) {
  uint64_t total = 0;
  for (int64_t i = 0; i < count; i += kLanes) {
    uint32_t highs[kLanes], lows[kLanes];
    Words high, low;
    mass_digits(mul(sub(load(scratch.values + i), broadcast(law.max)), broadcast(law.scale)), &high, &low);
    store(highs, high);
    store(lows, low);
    for (int64_t lane = 0; lane < kLanes && i + lane < count; ++lane) {
      const uint64_t mass = scratch.values[i + lane] >= smallest ? mass_from_digits(highs[lane], lows[lane]) : 0;
      scratch.mass[i + lane] = mass;
      total += mass;
    }
  }
  return total;
}

// ---- finding the place ----

struct Crossing {
  bool found;
  float value;      // the value at which the running weight, largest value first, exceeds the limit
  uint64_t before;  // weight of all larger values
};

// weights null: 1 each.
static Crossing find_crossing(const float* values, const uint64_t* weights, int64_t count, uint64_t limit) {
  uint32_t prefix = 0;
  uint64_t before = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    uint64_t bins[256] = {};
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t key = static_cast<uint32_t>(ordered_bits(values[i]));
      const uint32_t above = shift == 24 ? 0 : key >> (shift + 8);
      if (above == prefix) bins[(key >> shift) & 255] += weights == nullptr ? 1 : weights[i];
    }
    int bin = 255;
    while (bin >= 0 && before + bins[bin] <= limit) before += bins[bin--];
    if (bin < 0) return {false, 0.0f, before};
    prefix = prefix << 8 | static_cast<uint32_t>(bin);
  }
  return {true, value_of_key(prefix), before};
}

// The key before that of 0 is of -0, which equals it.
MDM_INLINE float next_smaller(float x) { return value_of_key(ordered_bits(x) - (x == 0.0f ? 2u : 1u)); }
MDM_INLINE float next_larger(float x) { return value_of_key(ordered_bits(x) + 1u); }

constexpr float kLowest = -0x1.fffffep127f;  // above -inf, which nothing proposable is

// Copies the values of a chunk with low <= x <= high; returns how many. above: see collect_candidates.
template <FloatType type, bool weigh>
static int64_t collect_chunk(const Chunk& chunk, float low, float high, const LawScale& law, float* values,
                             double* above) {
  const ScaledExp exp = scaled_exp(law.scale);
  const Floats from = broadcast(low), to = broadcast(high);
  Floats sum = broadcast(0.0f);
  int64_t count = 0;
  for (int i = 0; i < chunk.padded; i += kLanes) {
    const Floats x = load_as_float<type>(chunk.data, i);
    const Mask inside = at_least(to, x);
    const uint32_t hits = bits(inside) & bits(at_least(x, from));
    if constexpr (weigh) {
      const Floats w = evaluate(exp, bounded(exp, sub(x, broadcast(law.max))));
      sum = add(sum, select(inside, broadcast(0.0f), w));
    }
    store_compressed(values + count, hits, x);
    count += __builtin_popcount(hits);
  }
  if constexpr (weigh) *above += static_cast<double>(reduce_add(sum));
  return count;
}

template <bool weigh>
static int64_t collect_chunk(const Chunk& chunk, float low, float high, const LawScale& law, float* values,
                             double* above) {
  switch (chunk.type) {
    case FloatType::bfloat16:
      return collect_chunk<FloatType::bfloat16, weigh>(chunk, low, high, law, values, above);
    case FloatType::float16:
      return collect_chunk<FloatType::float16, weigh>(chunk, low, high, law, values, above);
    default:
      return collect_chunk<FloatType::float32, weigh>(chunk, low, high, law, values, above);
  }
}

// Copies the proposable values with low <= x <= high, low at least kLowest, and pads them; returns how many. weigh: adds
// the weight of all larger ones to `above`.
template <bool weigh>
static int64_t collect_candidates(const ProposalRow& row, const FilterScratch& scratch, float low, float high,
                                  const LawScale& law, double* above) {
  int64_t count = 0;
  for (int64_t index = 0; index < row.chunks; ++index) {
    if (!(scratch.chunk_max[index] >= low)) continue;
    count += collect_chunk<weigh>(read_allowed_chunk(row, index), low, high, law, scratch.values + count, above);
  }
  for (int64_t i = count; i < count + kLanes; ++i) scratch.values[i] = -__builtin_inff();
  return count;
}

// The k-th largest proposable value, -inf where there are no more than k. Leaves the candidates in scratch.
static float kth_largest(const ProposalRow& row, const FilterScratch& scratch, int64_t k, int64_t* count) {
  // The k-th largest chunk maximum is a lower bound, and usually close.
  const uint64_t limit = static_cast<uint64_t>(k - 1);
  const Crossing bound = find_crossing(scratch.chunk_max, nullptr, row.chunks, limit);
  const float low = bound.found && bound.value > kLowest ? bound.value : kLowest;
  *count = collect_candidates<false>(row, scratch, low, __builtin_inff(), {}, nullptr);
  const Crossing kth = find_crossing(scratch.values, nullptr, *count, limit);
  return kth.found ? kth.value : -__builtin_inff();
}

// The id of the n-th proposable value (from 1) that equals `value`; -1 for n = 0.
static int64_t nth_tie(const ProposalRow& row, const FilterScratch& scratch, float value, uint64_t n) {
  if (n == 0) return -1;
  for (int64_t index = 0; index < row.chunks; ++index) {
    if (!(scratch.chunk_max[index] >= value)) continue;
    const Chunk chunk = read_allowed_chunk(row, index);
    const float* values = widen(chunk, row.reader->wide);
    for (int i = 0; i < chunk.padded; i += kLanes) {
      uint32_t hits = bits(equal(load(values + i), broadcast(value)));
      const uint64_t ties = static_cast<uint64_t>(__builtin_popcount(hits));
      if (ties < n) {
        n -= ties;
        continue;
      }
      while (--n > 0) hits &= hits - 1;
      return index * kChunk + i + __builtin_ctz(hits);
    }
  }
  return INT64_MAX;  // all
}

}  // namespace MDM_NAMESPACE
