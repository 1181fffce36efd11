// Which ids of a row may be proposed: forbidden ids, top_k and top_p, without a sort.
//
// Every filter keeps a prefix of the order "falling value, then rising id", so a kept set is a value and, among the ids
// that tie with it, the last one kept. The prefix ends where a cumulative weight crosses a limit (a count for top_k,
// probability mass for top_p), and that place is found by counting into 256 bins, eight bits of the value at a time;
// before that, top_p narrows the range of values by the mass above a few pivots until few candidates are left in it.
// Masses are integers, so their sums have no order.
#pragma once

#include "core/score_row.h"
#include "core/select_key.h"
#include "cpu/vocabulary_chunk.h"

namespace MDM_NAMESPACE {

// Memory for the candidates of one row; see filter_scratch_words.
struct FilterScratch {
  uint64_t* mass;    // [vocab]
  float* values;     // [vocab + kLanes]
  uint32_t* ids;     // [vocab + kLanes]
  float* chunk_max;  // [chunks + kLanes], of what may be proposed
};

MDM_INLINE FilterScratch carve_filter_scratch(uint64_t* words, int64_t vocab) {
  uint32_t* halves = reinterpret_cast<uint32_t*>(words + vocab);
  return {words, reinterpret_cast<float*>(halves), halves + vocab + kLanes,
          reinterpret_cast<float*>(halves + 2 * (vocab + kLanes))};
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
static uint64_t candidate_masses(const FilterScratch& scratch, int64_t count, float max, float scale, float smallest) {
  uint64_t total = 0;
  for (int64_t i = 0; i < count; i += kLanes) {
    uint32_t highs[kLanes], lows[kLanes];
    Words high, low;
    mass_digits(mul(sub(load(scratch.values + i), broadcast(max)), broadcast(scale)), &high, &low);
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

// Copies the proposable ids with smallest <= x <= largest, in rising order of id, and pads the values; returns how many.
// Gives up as soon as there are more than `most`.
static int64_t collect_candidates(const ProposalRow& row, const FilterScratch& scratch, float smallest, float largest,
                                  int64_t most) {
  int64_t count = 0;
  for (int64_t index = 0; index < row.chunks && count <= most; ++index) {
    if (!(scratch.chunk_max[index] >= smallest) || scratch.chunk_max[index] == -__builtin_inff()) continue;
    const FloatChunk chunk = read_proposal_chunk(row, index, nullptr);
    for (int i = 0; i < chunk.padded; i += kLanes) {
      const Floats x = load(chunk.values + i);
      uint32_t hits = bits(at_least(x, broadcast(smallest))) & bits(at_least(broadcast(largest), x));
      for (; hits != 0; hits &= hits - 1) {
        const int lane = i + __builtin_ctz(hits);
        if (chunk.values[lane] == -__builtin_inff()) continue;
        scratch.values[count] = chunk.values[lane];
        scratch.ids[count++] = static_cast<uint32_t>(index * kChunk + lane);
      }
    }
  }
  for (int64_t i = count; i < count + kLanes; ++i) scratch.values[i] = -__builtin_inff();
  return count;
}

// The k-th largest proposable value, -inf where there are no more than k. Leaves the candidates in scratch.
static float kth_largest(const ProposalRow& row, const FilterScratch& scratch, int64_t k, int64_t* count) {
  // The k-th largest chunk maximum is a lower bound, and usually close.
  const uint64_t limit = static_cast<uint64_t>(k - 1);
  const Crossing bound = find_crossing(scratch.chunk_max, nullptr, row.chunks, limit);
  *count = collect_candidates(row, scratch, bound.found ? bound.value : -__builtin_inff(), __builtin_inff(),
                              row.params->vocab);
  const Crossing kth = find_crossing(scratch.values, nullptr, *count, limit);
  return kth.found ? kth.value : -__builtin_inff();
}

// The id of the n-th candidate (from 1) that equals value; -1 for n = 0.
static int64_t nth_tie(const FilterScratch& scratch, int64_t count, float value, uint64_t n) {
  int64_t id = -1;
  for (int64_t i = 0; i < count && n > 0; ++i) {
    if (scratch.values[i] == value) id = scratch.ids[i], --n;
  }
  return id;
}

// Where a nucleus ends: at a value in [smallest, largest], above which lies a mass of `above` that is within the limit.
struct SearchRange {
  float smallest, largest;
  uint64_t above;
};

// The nucleus among the candidates, which are those of the range and whose masses are in scratch.
static KeptSet nucleus(const FilterScratch& scratch, int64_t count, const SearchRange& range, uint64_t limit,
                       bool inclusive) {
  const uint64_t left = limit - range.above;
  const Crossing crossing = find_crossing(scratch.values, scratch.mass, count, left);
  if (!crossing.found) return {range.smallest, INT64_MAX};
  uint64_t mass = 1;
  for (int64_t i = 0; i < count; ++i) {
    if (scratch.values[i] == crossing.value) {
      mass = scratch.mass[i];
      break;
    }
  }
  uint64_t ties = (left - crossing.before) / mass + (inclusive ? 1 : 0);
  if (ties == 0 && range.above + crossing.before == 0) ties = 1;  // the most likely id always stays
  return {crossing.value, nth_tie(scratch, count, crossing.value, ties)};
}

constexpr int kPivots = 4;

// Masses of the proposable ids that are at least as large as each of the pivots, which rise.
static void masses_from(const ProposalRow& row, const FilterScratch& scratch, float max, float scale,
                        const float* pivots, double* masses) {
  const ScaledExp exp = scaled_exp(scale);
  for (int k = 0; k < kPivots; ++k) masses[k] = 0.0;
  for (int64_t index = 0; index < row.chunks; ++index) {
    if (!(scratch.chunk_max[index] >= pivots[0])) continue;
    const FloatChunk chunk = read_proposal_chunk(row, index, nullptr);
    Floats sums[kPivots];
    for (int k = 0; k < kPivots; ++k) sums[k] = broadcast(0.0f);
    for (int i = 0; i < chunk.padded; i += kLanes) {
      const Floats x = load(chunk.values + i);
      const Floats w = evaluate(exp, bounded(exp, sub(x, broadcast(max))));
      for (int k = 0; k < kPivots; ++k) {
        sums[k] = add(sums[k], select(at_least(x, broadcast(pivots[k])), w, broadcast(0.0f)));
      }
    }
    for (int k = 0; k < kPivots; ++k) masses[k] += static_cast<double>(reduce_add(sums[k]));
  }
}

// Cuts the range at pivots and keeps the part in which the nucleus ends.
static SearchRange narrowed(const ProposalRow& row, const FilterScratch& scratch, float max, float scale,
                            SearchRange range, uint64_t limit) {
  const double smallest = range.smallest, width = range.largest - smallest;
  float pivots[kPivots];
  double masses[kPivots];
  for (int k = 0; k < kPivots; ++k) pivots[k] = static_cast<float>(smallest + width * (k + 1) / (kPivots + 1));
  masses_from(row, scratch, max, scale, pivots, masses);
  for (int k = 0; k < kPivots; ++k) {
    const uint64_t mass = static_cast<uint64_t>(masses[k] * static_cast<double>(kMassUnit));
    if (mass > limit) {
      range.smallest = pivots[k];
    } else {
      range.largest = value_of_key(static_cast<uint32_t>(ordered_bits(pivots[k])) - 1);  // the next smaller float
      range.above = mass;
      break;
    }
  }
  return range;
}

constexpr int64_t kFewCandidates = 1024;  // gathering and sorting out more takes longer than narrowing
constexpr int kMostNarrowings = 8;        // then it is ties that are many
constexpr double kReach = 4.0;            // nats below the maximum in which a nucleus usually ends

// The nucleus of everything proposable. Rows with a few likely ids are done at the first attempt, from the chunks that
// hold those.
static KeptSet find_nucleus(const ProposalRow& row, const FilterScratch& scratch, float max, double sum, float scale,
                            double p) {
  const uint64_t total = static_cast<uint64_t>(sum * static_cast<double>(kMassUnit));
  const uint64_t limit = static_cast<uint64_t>(p * static_cast<double>(total));
  const float everything = -__builtin_inff();
  if (limit >= total) return {everything, INT64_MAX};
  // Values below `bound` hold less than total - limit together, whatever their number, so the nucleus ends above it.
  const double share = static_cast<double>(total - limit) / (static_cast<double>(kMassUnit) * row.params->vocab);
  const double bound = max + (log(share) - 1e-3) / scale, near = max - kReach / scale;
  const bool inclusive = row.params->top_p_inclusive;
  SearchRange range{static_cast<float>(near > bound ? near : bound > -3e38 ? bound : -3e38), max, 0};
  int64_t count = collect_candidates(row, scratch, range.smallest, range.largest, kFewCandidates);
  if (count <= kFewCandidates) {
    const uint64_t mass = candidate_masses(scratch, count, max, scale, everything);
    if (mass > limit || near <= bound) return nucleus(scratch, count, range, limit, inclusive);
    range.largest = value_of_key(static_cast<uint32_t>(ordered_bits(range.smallest)) - 1);
    range.above = mass;
  }
  range.smallest = static_cast<float>(bound > -3e38 ? bound : -3e38);
  for (int pass = 0; pass < kMostNarrowings && range.smallest < range.largest; ++pass) {
    range = narrowed(row, scratch, max, scale, range, limit);
    count = collect_candidates(row, scratch, range.smallest, range.largest, kFewCandidates);
    if (count <= kFewCandidates) break;
  }
  if (count > kFewCandidates) {
    count = collect_candidates(row, scratch, range.smallest, range.largest, row.params->vocab);
  }
  candidate_masses(scratch, count, max, scale, everything);
  return nucleus(scratch, count, range, limit, inclusive);
}

// The kept set of a row whose largest proposable value is `max`; `sum` is that of its weights relative to it, which a
// nucleus of everything needs. top_k is at least 1; top_p not below 1 means no nucleus.
static inline KeptSet find_kept(const ProposalRow& row, const FilterScratch& scratch, float max, double sum,
                                float scale, int64_t top_k, double top_p) {
  const bool by_count = top_k < row.params->vocab, by_mass = top_p < 1.0;
  const double p = top_p > 0.0 ? top_p : 0.0;
  const float everything = -__builtin_inff();
  int64_t count = 0;
  const float kth = by_count ? kth_largest(row, scratch, top_k, &count) : everything;
  if (!by_mass) return {kth, INT64_MAX};

  if (by_count && !row.params->top_p_first) {
    const uint64_t total = candidate_masses(scratch, count, max, scale, kth);
    const uint64_t limit = static_cast<uint64_t>(p * static_cast<double>(total));
    return nucleus(scratch, count, {kth, max, 0}, limit, row.params->top_p_inclusive);
  }
  const KeptSet kept = find_nucleus(row, scratch, max, sum, scale, p);
  return kth > kept.threshold ? KeptSet{kth, INT64_MAX} : kept;
}

}  // namespace MDM_NAMESPACE
