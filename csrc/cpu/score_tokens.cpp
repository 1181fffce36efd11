// score_tokens, one row at a time: one pass over the logits for every statistic and for the draw.
//
// A chunk of 512 ids is widened to float32 in the first-level cache while its maximum is taken, then its exponentials
// are summed relative to the largest value so far (core/online_stats.h). A draw needs one random number per chunk: the
// largest of a chunk's noisy logits is one Gumbel at the chunk's log-sum-exp, so with E exponential the chunk with the
// largest sum / E wins, and at temperature 1 that sum is the statistics' own. Which id of the winner is drawn does not
// depend on that maximum, so an exponential race with one number per id, in that chunk only, ends it. top_k and top_p
// come between: they read the row again to find the kept set (proposal_filter.h), then only chunks that hold some of
// it.
#include "core/online_stats.h"
#include "core/round_to.h"
#include "core/sequence_seed.h"
#include "cpu/kernels.h"
#include "cpu/proposal_filter.h"
#include "cpu/vector_random.h"

namespace MDM_NAMESPACE {

// ---- what is asked ----

static bool wanted(const ScoreTokensParams& params, TokenScore score) {
  return params.values[static_cast<int>(score)] != nullptr;
}

// What one row must collect; temperature and filters may differ between rows.
struct RowPlan {
  float scale;    // 1 / temperature; 1 at temperature 0
  bool sampling;  // temperature > 0
  bool filtered;  // top_k or top_p is on and something depends on it
  bool shared;    // the proposal is the raw distribution
  bool raw_sums;  // the raw distribution's normaliser
  bool raw_dot;   // its entropy
  bool proposal_sums;
  bool proposal_dot;
  bool second;
  int64_t top_k;
  double top_p;
};

static RowPlan plan_row(const ScoreTokensParams& params, int64_t b, int64_t l) {
  const double temperature = at(params.temperature, b, l);
  const double top_p = at_or(params.top_p, b, l, 1.0);
  int64_t top_k = at_or(params.top_k, b, l, params.vocab);
  top_k = top_k < 1 ? 1 : top_k;

  bool law_sums = wanted(params, TokenScore::confidence) || wanted(params, TokenScore::current_logprob);
  for (int i = static_cast<int>(TokenScore::max_logprob); i <= static_cast<int>(TokenScore::logsumexp); ++i) {
    law_sums = law_sums || params.values[i] != nullptr;
  }
  const bool dot = wanted(params, TokenScore::entropy);

  RowPlan plan{};
  plan.sampling = temperature > 0.0;
  // Finite even for a temperature so small that its reciprocal is not.
  plan.scale = !plan.sampling ? 1.0f : 1.0 / temperature < 3e38 ? static_cast<float>(1.0 / temperature) : 3e38f;
  plan.raw_sums = wanted(params, TokenScore::logprob) || (law_sums && !params.proposal_law);
  plan.raw_dot = dot && !params.proposal_law;
  plan.proposal_sums =
      plan.sampling || wanted(params, TokenScore::proposal_logprob) || (law_sums && params.proposal_law);
  plan.proposal_dot = dot && params.proposal_law;
  plan.filtered = plan.proposal_sums && (top_k < params.vocab || top_p < 1.0);
  plan.shared = !plan.filtered && params.forbid_count == 0 && plan.scale == 1.0f;
  if (plan.shared) {
    plan.raw_sums = plan.raw_sums || plan.proposal_sums;
    plan.raw_dot = dot;
  }
  plan.second = wanted(params, TokenScore::second_logprob) || wanted(params, TokenScore::margin);
  plan.top_k = top_k;
  plan.top_p = top_p;
  return plan;
}

// ---- draws ----

// The race between chunks, relative to the running maximum as the sums are.
struct ChunkRace {
  DrawKey key;
  double best;     // largest sum / E so far
  int64_t winner;  // its chunk, -1 before the first
  int64_t block;   // which sixteen chunks `noise` belongs to
  float noise[kLanes];
};

static void enter_chunk(ChunkRace* race, int64_t index, float sum) {
  if (race->block != index / kLanes) {
    race->block = index / kLanes;
    store(race->noise, exponential16(race->key, static_cast<uint32_t>(race->block * kLanes)));
  }
  const double key = static_cast<double>(sum) / static_cast<double>(race->noise[index % kLanes]);
  if (key > race->best) race->best = key, race->winner = index;
}

// The race inside the winning chunk: position of the largest weight / E, lowest on ties. An absent id's weight, 4e-38,
// cannot win against that of the chunk's maximum, 1, whatever the noise.
static int race_in_chunk(const Chunk& chunk, const DrawKey& key, int64_t index, float scale) {
  float keys[kChunk];
  for (int i = 0; i < chunk.padded; i += kLanes) {
    const Floats y = mul(sub(load(chunk.values + i), broadcast(chunk.max)), broadcast(scale));
    const Floats noise = exponential16(key, static_cast<uint32_t>(index * kChunk + i));
    store(keys + i, div(exp_nonpositive(y), noise));
  }
  const float best = max_of(keys, chunk.padded);
  return first_equal({keys, chunk.padded, best, false}, best);
}

// ---- collecting ----

// Takes the chunk's maximum into the statistics; returns the factor by which older weights shrink.
static double see_maximum(OnlineStats* stats, const Chunk& chunk, int64_t index, bool second) {
  if (chunk.max > stats->max) {
    if (second) {
      const float runner_up = second_largest(chunk);
      stats->second = runner_up > stats->max ? runner_up : stats->max;
    }
    return raise_max(stats, chunk.max, index * kChunk + first_equal(chunk, chunk.max));
  }
  if (chunk.max > stats->second) stats->second = chunk.max;
  return 1.0;
}

MDM_INLINE void add_sums(OnlineStats* stats, const ChunkSums& sums) {
  stats->sum += static_cast<double>(sums.sum);
  stats->dot += static_cast<double>(sums.dot);
}

struct RowScores {
  bool valid;  // no NaN, no +inf
  OnlineStats raw;
  OnlineStats proposal;
  KeptSet kept;
  int64_t token;
  float token_value;
};

// The pass over the whole row. chunk_max, where given, gets the largest proposable value of each chunk.
static void scan_row(const ProposalRow& row, const RowPlan& plan, float* chunk_max, ChunkRace* race,
                     RowScores* scores) {
  OnlineStats* raw = &scores->raw;
  OnlineStats* proposal = &scores->proposal;
  for (int64_t index = 0; index < row.chunks; ++index) {
    const Chunk chunk = read_chunk(row.reader, row.data, index);
    if (chunk.invalid) {
      scores->valid = false;
      return;
    }
    if (plan.filtered) chunk_max[index] = chunk.max;
    if (chunk.max == -__builtin_inff()) continue;
    const double raw_factor = see_maximum(raw, chunk, index, plan.second);
    ChunkSums sums{};
    if (plan.raw_sums) {
      sums = chunk_sums(chunk, raw->max, 1.0f, plan.raw_dot);
      add_sums(raw, sums);
    }
    if (plan.shared) {
      race->best *= raw_factor;
      if (plan.sampling) enter_chunk(race, index, sums.sum);
      continue;
    }
    const Chunk allowed = without_forbidden(row, chunk, index);
    if (plan.filtered) chunk_max[index] = allowed.max;
    if (allowed.max == -__builtin_inff()) continue;
    race->best *= see_maximum(proposal, allowed, index, plan.second);
    if (plan.filtered || !plan.proposal_sums) continue;
    const bool same_terms = plan.raw_sums && plan.scale == 1.0f && !plan.proposal_dot &&
                            allowed.values == chunk.values && raw->max == proposal->max;
    if (!same_terms) sums = chunk_sums(allowed, proposal->max, plan.scale, plan.proposal_dot);
    add_sums(proposal, sums);
    if (plan.sampling) enter_chunk(race, index, sums.sum);
  }
  if (plan.shared) *proposal = *raw;
}

// The proposal's statistics and draw from the kept set alone.
static void scan_kept(const ProposalRow& row, const RowPlan& plan, const float* chunk_max, ChunkRace* race,
                      RowScores* scores) {
  OnlineStats* proposal = &scores->proposal;
  *proposal = empty_stats(plan.scale);
  for (int64_t index = 0; index < row.chunks; ++index) {
    if (!(chunk_max[index] >= scores->kept.threshold)) continue;
    const Chunk chunk = read_proposal_chunk(row, index, &scores->kept);
    if (chunk.max == -__builtin_inff()) continue;
    race->best *= see_maximum(proposal, chunk, index, plan.second);
    const ChunkSums sums = chunk_sums(chunk, proposal->max, plan.scale, plan.proposal_dot);
    add_sums(proposal, sums);
    if (plan.sampling) enter_chunk(race, index, sums.sum);
  }
}

static RowScores score_row(const ProposalRow& row, const RowPlan& plan, int64_t b, int64_t l, uint64_t* scratch) {
  const ScoreTokensParams& params = *row.params;
  const int64_t seed = sequence_seed(params.seed, b), step = row_value(params.step, b), call = *params.call;
  const int64_t position = at_or<int64_t>(params.positions, b, l, l);
  ChunkRace race{draw_key(seed, position, step, Purpose::CHUNK, call), 0.0, -1, -1, {}};
  RowScores scores{true, empty_stats(1.0), empty_stats(plan.scale), {-__builtin_inff(), INT64_MAX}, -1, 0.0f};

  FilterScratch filter{};
  if (plan.filtered) filter = carve_filter_scratch(scratch, params.vocab);
  scan_row(row, plan, filter.chunk_max, &race, &scores);
  if (!scores.valid || scores.proposal.argmax < 0) return scores;
  if (plan.filtered) {
    scores.kept = find_kept(row, filter, scores.proposal.max, plan.scale, plan.top_k, plan.top_p);
    scan_kept(row, plan, filter.chunk_max, &race, &scores);
  }
  scores.token = scores.proposal.argmax;
  scores.token_value = scores.proposal.max;
  if (plan.sampling) {
    const Chunk chunk = read_proposal_chunk(row, race.winner, plan.filtered ? &scores.kept : nullptr);
    const DrawKey key = draw_key(seed, position, step, Purpose::TOKEN, call);
    const int lane = race_in_chunk(chunk, key, race.winner, plan.scale);
    scores.token = race.winner * kChunk + lane;
    scores.token_value = chunk.values[lane];
  }
  return scores;
}

// ---- writing ----

static bool is_forbidden(const ScoreTokensParams& params, int64_t id) {
  const IdRange found = ids_between(params.forbid, params.forbid_count, id, id + 1);
  return found.first != found.last;
}

// Log-probability of `tokens` under the law of the statistics.
static double current_logprob(const ProposalRow& row, const RowScores& scores, const OnlineStats& law, int64_t id) {
  if (id < 0 || id >= row.params->vocab) return __builtin_nan("");
  const float x = read_value(row.reader, row.data, id);
  const bool outside = row.params->proposal_law && (is_forbidden(*row.params, id) || !is_kept(scores.kept, x, id));
  return log_probability(law, outside ? -__builtin_inff() : x);
}

static void write_row(const ProposalRow& row, const RowScores& scores, int64_t b, int64_t l) {
  const ScoreTokensParams& params = *row.params;
  const int64_t place = b * params.length + l;
  const auto put = [&](TokenScore score, double value) {
    if (wanted(params, score)) params.values[static_cast<int>(score)][place] = static_cast<float>(value);
  };
  const auto put_id = [&](TokenScore score, int64_t id) {
    if (params.ids[static_cast<int>(score)] != nullptr) params.ids[static_cast<int>(score)][place] = id;
  };
  const OnlineStats& law = params.proposal_law ? scores.proposal : scores.raw;
  const double nan = __builtin_nan("");
  const bool chosen = scores.valid && scores.token >= 0;
  put_id(TokenScore::token, chosen ? scores.token : -1);
  const double p = chosen ? exp(log_probability(law, scores.token_value)) : nan;
  put(TokenScore::logprob, chosen ? log_probability(scores.raw, scores.token_value) : nan);
  put(TokenScore::proposal_logprob, chosen ? log_probability(scores.proposal, scores.token_value) : nan);
  put(TokenScore::confidence, round_probability(static_cast<float>(p), params.confidence_type));

  if (!scores.valid || law.argmax < 0) {
    put_id(TokenScore::argmax, -1);
    for (int i = static_cast<int>(TokenScore::current_logprob); i <= static_cast<int>(TokenScore::logsumexp); ++i) {
      put(static_cast<TokenScore>(i), nan);
    }
    if (scores.valid) put(TokenScore::logsumexp, -__builtin_inf());
    return;
  }
  put_id(TokenScore::argmax, law.argmax);
  if (wanted(params, TokenScore::current_logprob)) {
    put(TokenScore::current_logprob, current_logprob(row, scores, law, at(params.tokens, b, l)));
  }
  put(TokenScore::max_logprob, log_probability(law, law.max));
  put(TokenScore::second_logprob, log_probability(law, law.second));
  put(TokenScore::entropy, entropy(law));
  put(TokenScore::margin, margin(law));
  put(TokenScore::logsumexp, log_sum_exp(law));
}

void score_tokens(const ScoreTokensParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  RowReader reader;
  prepare_reader(params, &reader);
  const int64_t chunks = (params.vocab + kChunk - 1) / kChunk;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t place = params.row_index == nullptr ? i : params.row_index[i];
    const int64_t b = place / params.length, l = place % params.length;
    const int64_t offset = b * params.batch_stride + l * params.position_stride;
    const uint8_t* data = static_cast<const uint8_t*>(params.logits) + offset * reader.element_size;
    const ProposalRow row{&params, &reader, data, chunks};
    write_row(row, score_row(row, plan_row(params, b, l), b, l, scratch), b, l);
  }
}

}  // namespace MDM_NAMESPACE
