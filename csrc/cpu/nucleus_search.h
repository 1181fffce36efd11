// Where the nucleus of a row ends (top_p), without a sort.
//
// A row with a few likely ids is done from the chunks that hold them. For the others a sample of the row says between
// which two values the nucleus very likely ends; one pass then sums what lies above and gathers what lies between, and
// the rest happens among the gathered. A sample that misled costs a second pass, nothing else.
#pragma once

#include "cpu/proposal_filter.h"

namespace MDM_NAMESPACE {

// The nucleus that ends among the candidates: all values from `low` on but some larger ones, whose mass, `above`, is
// within the limit. The candidates' own masses are in scratch.
static KeptSet nucleus(const ProposalRow& row, const FilterScratch& scratch, int64_t count, float low, uint64_t above,
                       uint64_t limit) {
  const uint64_t left = limit - above;
  const Crossing crossing = find_crossing(scratch.values, scratch.mass, count, left);
  if (!crossing.found) return {low, INT64_MAX};
  uint64_t mass = 1, ties = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (scratch.values[i] == crossing.value) mass = scratch.mass[i], ++ties;
  }
  uint64_t kept = (left - crossing.before) / mass + (row.params->top_p_inclusive ? 1 : 0);
  if (kept == 0 && above + crossing.before == 0) kept = 1;  // the most likely id always stays
  return {crossing.value, kept >= ties ? INT64_MAX : nth_tie(row, scratch, crossing.value, kept)};
}

// ---- among values in memory ----

// Values with weights, padded to whole registers with -inf and 0.
struct WeightedValues {
  float* values;
  float* weights;
  int64_t count;
};

// The weights of the first `count` values of scratch; they lie where the masses will.
static WeightedValues weighted(const FilterScratch& scratch, int64_t count, const LawScale& law) {
  const ScaledExp exp = scaled_exp(law.scale);
  WeightedValues all{scratch.values, reinterpret_cast<float*>(scratch.mass), count};
  for (int64_t i = 0; i < count; i += kLanes) {
    store(all.weights + i, evaluate(exp, bounded(exp, sub(load(all.values + i), broadcast(law.max)))));
  }
  for (int64_t i = count; i % kLanes != 0; ++i) all.weights[i] = 0.0f;
  return all;
}

constexpr int64_t kBlock = 32 * kLanes;  // values in one float32 sum: of more, it would lose what it adds

// Sum of f(value, weight).
template <typename F>
MDM_INLINE double sum_over(const WeightedValues& all, F f) {
  double total = 0.0;
  for (int64_t first = 0; first < all.count; first += kBlock) {
    const int64_t end = all.count < first + kBlock ? all.count : first + kBlock;
    Floats sum = broadcast(0.0f);
    for (int64_t i = first; i < end; i += kLanes) sum = add(sum, f(load(all.values + i), load(all.weights + i)));
    total += static_cast<double>(reduce_add(sum));
  }
  return total;
}

static double weight_of(const WeightedValues& all) {
  return sum_over(all, [](Floats, Floats w) { return w; });
}

// Values between which a running weight, largest value first, passes a limit: `above` is that of the values larger than
// `high` and within it, and what starts at `low` exceeds it.
struct Bracket {
  float low, high;
  double above;
};

constexpr int kPivots = 4;

// Weight of the values that are at least as large as each of the pivots.
static void weights_from(const WeightedValues& all, const float* pivots, double* weights) {
  for (int k = 0; k < kPivots; ++k) weights[k] = 0.0;
  for (int64_t first = 0; first < all.count; first += kBlock) {
    const int64_t end = all.count < first + kBlock ? all.count : first + kBlock;
    Floats sums[kPivots];
    for (int k = 0; k < kPivots; ++k) sums[k] = broadcast(0.0f);
    for (int64_t i = first; i < end; i += kLanes) {
      const Floats x = load(all.values + i), w = load(all.weights + i);
      for (int k = 0; k < kPivots; ++k) {
        sums[k] = add(sums[k], select(at_least(x, broadcast(pivots[k])), w, broadcast(0.0f)));
      }
    }
    for (int k = 0; k < kPivots; ++k) weights[k] += static_cast<double>(reduce_add(sums[k]));
  }
}

// Cuts the bracket at pivots and keeps the part in which the limit is passed. outside: weight above its first `high` of
// values that are not among these.
static Bracket narrowed(const WeightedValues& all, Bracket bracket, double limit, double outside) {
  const double low = bracket.low, width = bracket.high - low;
  float pivots[kPivots];
  double weights[kPivots];
  for (int k = 0; k < kPivots; ++k) pivots[k] = static_cast<float>(low + width * (k + 1) / (kPivots + 1));
  weights_from(all, pivots, weights);
  for (int k = 0; k < kPivots; ++k) {
    if (outside + weights[k] > limit) {
      bracket.low = pivots[k];
    } else {
      bracket.high = next_smaller(pivots[k]);
      bracket.above = outside + weights[k];
      break;
    }
  }
  return bracket;
}

// ---- a guess from a sample ----

constexpr int kSampled = kPair;      // ids read of a chunk
constexpr int kSampledChunks = 128;  // at most
constexpr int64_t kFewChunks = 32;   // of fewer, all ids are looked at at once
constexpr int kGuessRounds = 4;      // cut the range into 625
constexpr double kDeviations = 3.0;  // how sure a guess is

// Copies values from all over the row, since vocabularies are often sorted by frequency; returns how many.
static int64_t sample_row(const ProposalRow& row, const FilterScratch& scratch, float largest) {
  int64_t count = 0;
  const int64_t step = (row.chunks + kSampledChunks - 1) / kSampledChunks;
  for (int64_t index = 0; index < row.chunks; index += step) {
    const int64_t begin = index * kChunk + index % (kChunk / kSampled) * kSampled;
    if (begin + kSampled > row.params->vocab) continue;
    const float* values = widen(read_ids(row, begin, kSampled), row.reader->wide);
    for (int i = 0; i < kSampled; i += kLanes) {
      const Floats x = load(values + i);
      const uint32_t hits = bits(at_least(broadcast(largest), x));
      store_compressed(scratch.values + count, hits, x);
      count += __builtin_popcount(hits);
    }
  }
  for (int64_t i = count; i < count + kLanes; ++i) scratch.values[i] = -__builtin_inff();
  return count;
}

// Where the share of the sample's weight passes `limit`.
static Bracket sample_quantile(const WeightedValues& sample, Bracket bracket, double limit) {
  bracket.above = 0.0;
  for (int round = 0; round < kGuessRounds; ++round) bracket = narrowed(sample, bracket, limit, 0.0);
  return bracket;
}

// Two values between which a share of the mass of what is not larger than range.high is very likely passed.
static Bracket guess(const ProposalRow& row, const FilterScratch& scratch, const LawScale& law, Bracket range,
                     double share) {
  const WeightedValues sample = weighted(scratch, sample_row(row, scratch, range.high), law);
  const double sum = weight_of(sample);
  const float middle = sample_quantile(sample, range, share * sum).low;
  // Of the weight above `middle` less its share of all, the ids taken as independent.
  const double variance = sum_over(sample, [&](Floats x, Floats w) {
    const float of_larger = static_cast<float>(1.0 - share), of_others = static_cast<float>(share);
    const Floats part = mul(w, select(at_least(x, broadcast(middle)), broadcast(of_larger), broadcast(of_others)));
    return mul(part, part);
  });
  const double margin = kDeviations * sqrt(variance);
  const float low = sample_quantile(sample, range, share * sum + margin).low;
  const float high = share * sum > margin ? sample_quantile(sample, range, share * sum - margin).high : range.high;
  return {low, high, 0.0};
}

// ---- the search ----

constexpr int64_t kFewCandidates = 1024;  // gathering and sorting out more takes longer than narrowing
constexpr int kMostNarrowings = 12;       // then it is ties that are many
constexpr double kReach = 4.0;            // nats below the maximum in which a nucleus usually ends

// Gathers the candidates of a range that holds the end, hardly more than there must be: range becomes what they span.
static WeightedValues gather(const ProposalRow& row, const FilterScratch& scratch, const LawScale& law, double limit,
                             double sum, Bracket* bracket) {
  const Bracket whole = *bracket;
  if (row.chunks >= kFewChunks) *bracket = guess(row, scratch, law, whole, (limit - whole.above) / (sum - whole.above));
  for (;;) {
    bracket->above = 0.0;
    const int64_t count = collect_candidates<true>(row, scratch, bracket->low, bracket->high, law, &bracket->above);
    const WeightedValues all = weighted(scratch, count, law);
    const bool within = bracket->above <= limit && bracket->above + weight_of(all) > limit;
    if (within || (bracket->low == whole.low && bracket->high == whole.high)) return all;
    *bracket = whole;  // the sample misled
  }
}

// Leaves of the gathered those within the bracket.
static void keep_bracket(const Bracket& bracket, WeightedValues* all) {
  int64_t kept = 0;
  for (int64_t i = 0; i < all->count; i += kLanes) {
    const Floats x = load(all->values + i), w = load(all->weights + i);
    const uint32_t hits = bits(at_least(x, broadcast(bracket.low))) & bits(at_least(broadcast(bracket.high), x));
    store_compressed(all->values + kept, hits, x);
    store_compressed(all->weights + kept, hits, w);
    kept += __builtin_popcount(hits);
  }
  for (int64_t i = kept; i < kept + kLanes; ++i) all->values[i] = -__builtin_inff();
  for (int64_t i = kept; i % kLanes != 0; ++i) all->weights[i] = 0.0f;
  all->count = kept;
}

// Whether a look at all ids from `low` on is a small part of a pass.
static bool is_in_few_chunks(const ProposalRow& row, const FilterScratch& scratch, float low) {
  int64_t count = 0;
  for (int64_t index = 0; index < row.chunks; ++index) count += scratch.chunk_max[index] >= low ? 1 : 0;
  return 4 * count <= row.chunks;
}

// The nucleus of everything proposable.
static KeptSet find_nucleus(const ProposalRow& row, const FilterScratch& scratch, const LawScale& law, double sum,
                            double p) {
  const double unit = static_cast<double>(kMassUnit);
  const uint64_t total = static_cast<uint64_t>(sum * unit);
  const uint64_t limit = static_cast<uint64_t>(p * static_cast<double>(total));
  const float everything = -__builtin_inff();
  if (limit >= total) return {everything, INT64_MAX};
  // Values below `bound` hold less than total - limit together, whatever their number, so the nucleus ends above it.
  const double share = static_cast<double>(total - limit) / (unit * row.params->vocab);
  const double least = law.max + (log(share) - 1e-3) / law.scale;
  Bracket bracket{least > kLowest ? static_cast<float>(least) : kLowest, law.max, 0.0};
  const float near = law.max - kReach / law.scale, low = near > bracket.low ? near : bracket.low;
  if (is_in_few_chunks(row, scratch, low)) {
    const int64_t count = collect_candidates<false>(row, scratch, low, law.max, law, nullptr);
    if (count <= kFewCandidates) {
      const uint64_t mass = candidate_masses(scratch, count, law, kLowest);
      if (mass > limit || low == bracket.low) return nucleus(row, scratch, count, low, 0, limit);
      bracket.high = next_smaller(low);
      bracket.above = static_cast<double>(mass) / unit;
    }
  }
  const double end = static_cast<double>(limit) / unit;
  WeightedValues all = gather(row, scratch, law, end, sum, &bracket);
  for (int cut = 0; cut < kMostNarrowings && all.count > kFewCandidates && bracket.low < bracket.high; ++cut) {
    bracket = narrowed(all, bracket, end, bracket.above);
    keep_bracket(bracket, &all);
  }
  candidate_masses(scratch, all.count, law, kLowest);
  const uint64_t above = static_cast<uint64_t>(bracket.above * unit);
  return nucleus(row, scratch, all.count, bracket.low, above < limit ? above : limit, limit);
}

// The kept set of a row whose largest proposable value is law.max; `sum` is that of its weights, which a nucleus of
// everything needs. top_k is at least 1; top_p not below 1 means no nucleus.
static inline KeptSet find_kept(const ProposalRow& row, const FilterScratch& scratch, const LawScale& law, double sum,
                                int64_t top_k, double top_p) {
  const bool by_count = top_k < row.params->vocab, by_mass = top_p < 1.0;
  const double p = top_p > 0.0 ? top_p : 0.0;
  const float everything = -__builtin_inff();
  int64_t count = 0;
  const float kth = by_count ? kth_largest(row, scratch, top_k, &count) : everything;
  if (!by_mass) return {kth, INT64_MAX};

  if (by_count && !row.params->top_p_first) {
    const uint64_t total = candidate_masses(scratch, count, law, kth);
    const uint64_t limit = static_cast<uint64_t>(p * static_cast<double>(total));
    return nucleus(row, scratch, count, kth, 0, limit);
  }
  const KeptSet kept = find_nucleus(row, scratch, law, sum, p);
  return kth > kept.threshold ? KeptSet{kth, INT64_MAX} : kept;
}

}  // namespace MDM_NAMESPACE
