// What one row's distribution over the vocabulary is found to hold, chunk after chunk, and how its outputs are written.
//
// The exponentials of a chunk of 512 ids are summed relative to the largest value so far (core/online_stats.h), in the
// pass that takes its maximum (chunk_scan.h). A draw needs one random number per chunk: the
// largest of a chunk's noisy logits is one Gumbel at the chunk's log-sum-exp, so with E exponential the chunk with the
// largest sum / E wins, and at temperature 1 that sum is the statistics' own. Which id of the winner is drawn does not
// depend on that maximum, so an exponential race with one number per id, in that chunk only, ends it.
//
// The state between chunks is RowScores, so a row may come whole (score_tokens) or in pieces (score_hidden): the same
// chunks in the same order give the same bits.
#pragma once

#include "core/score_row.h"
#include "core/sequence_seed.h"
#include "cpu/chunk_scan.h"
#include "cpu/nucleus_search.h"
#include "cpu/vector_random.h"

namespace MDM_NAMESPACE {

// ---- what is asked ----

// What one row collects, and by which loops.
struct ScanPlan : RowPlan {
  Terms raw;         // what to sum of the raw distribution
  Terms proposal;    // of what is proposable; where filtered, only what top_p needs
  Terms kept;        // of what the filters keep
  Scanner both;      // chunks that are proposable as they are
  Scanner alone[2];  // chunks with forbidden ids: as they are, and without those, as float32
};

static Terms terms_of(bool sum, bool dot) { return dot ? Terms::sum_and_dot : sum ? Terms::sum : Terms::none; }

// How to scan, given what to sum. Laws of one scale share their terms, others a pass.
static void plan_scans(const ScoreTokensParams& params, ScanPlan* plan) {
  const FloatType type = params.probabilities ? FloatType::float32 : params.type;
  const bool same = plan->scale == 1.0f;
  const Terms more = plan->raw > plan->proposal ? plan->raw : plan->proposal;
  if (same || plan->proposal == Terms::none) {
    plan->both = scanner_of(type, more, 1.0f, Terms::none, 1.0f);
  } else if (plan->raw == Terms::none) {
    plan->both = scanner_of(type, plan->proposal, plan->scale, Terms::none, 1.0f);
  } else {
    plan->both = scanner_of(type, plan->raw, 1.0f, plan->proposal, plan->scale);
  }
  plan->alone[0] = scanner_of(type, plan->raw, 1.0f, Terms::none, 1.0f);
  plan->alone[1] = scanner_of(FloatType::float32, plan->proposal, plan->scale, Terms::none, 1.0f);
}

static ScanPlan plan_scan(const ScoreTokensParams& params, int64_t b, int64_t l) {
  ScanPlan plan{};
  static_cast<RowPlan&>(plan) = plan_row(params, b, l);
  plan.raw = terms_of(plan.raw_sum, plan.raw_dot);
  plan.kept = terms_of(plan.proposal_sum, plan.proposal_dot);
  plan.proposal = !plan.filtered ? plan.kept : plan.top_p < 1.0 ? Terms::sum : Terms::none;
  plan_scans(params, &plan);
  return plan;
}

// ---- draws ----

static DrawKey row_draw_key(const ScoreTokensParams& params, int64_t b, int64_t l, Purpose purpose) {
  const int64_t position = at_or<int64_t>(params.positions, b, l, l);
  return draw_key(sequence_seed(params.seed, b), position, row_value(params.step, b), purpose, *params.call);
}

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
static int race_in_chunk(const FloatChunk& chunk, const DrawKey& key, int64_t index, float scale) {
  float keys[kChunk];
  for (int i = 0; i < chunk.padded; i += kLanes) {
    const Floats y = mul(sub(load(chunk.values + i), broadcast(chunk.max)), broadcast(scale));
    const Floats noise = exponential16(key, static_cast<uint32_t>(index * kChunk + i));
    store(keys + i, div(exp_nonpositive(y), noise));
  }
  return first_equal(keys, chunk.padded, max_of(keys, chunk.padded));
}

// The race of all ids, relative to the running maximum.
struct DenseRace {
  DrawKey key;
  double best;     // largest e^(noisy logit) = weight / E so far
  double sum;      // of all
  int64_t winner;  // its id, -1 before the first
};

static void enter_ids(DenseRace* race, const FloatChunk& chunk, int64_t index, float max, float scale) {
  float keys[kChunk];
  Floats sum = broadcast(0.0f);
  for (int i = 0; i < chunk.padded; i += kLanes) {
    const Floats y = mul(sub(load(chunk.values + i), broadcast(max)), broadcast(scale));
    const Floats noise = exponential16(race->key, static_cast<uint32_t>(index * kChunk + i));
    const Floats key = div(exp_nonpositive(y), noise);
    store(keys + i, key);
    sum = add(sum, key);
  }
  race->sum += static_cast<double>(reduce_add(sum));
  const float best = max_of(keys, chunk.padded);
  if (static_cast<double>(best) > race->best) {
    race->best = static_cast<double>(best);
    race->winner = index * kChunk + first_equal(keys, chunk.padded, best);
  }
}

// ---- collecting ----

// Takes a chunk's maximum into the statistics; returns the factor by which older weights shrink.
static double see_maximum(OnlineStats* stats, RowReader* reader, const Chunk& chunk, float max, int64_t index,
                          bool second) {
  if (max > stats->max) {
    const float* values = widen(chunk, reader->wide);
    if (second) {
      const float runner_up = second_largest(values, chunk.padded);
      stats->second = runner_up > stats->max ? runner_up : stats->max;
    }
    return raise_max(stats, max, index * kChunk + first_equal(values, chunk.padded, max));
  }
  if (max > stats->second) stats->second = max;
  return 1.0;
}

MDM_INLINE void add_sums(OnlineStats* stats, const ChunkSums& sums) {
  stats->sum += static_cast<double>(sums.sum);
  stats->dot += stats->scale * static_cast<double>(sums.dot);
}

struct RowScores : RowOutcome {
  ScanPlan plan;
  ChunkRace race;
  DenseRace dense;
  KeptSet kept;
};

static RowScores begin_row(const ScoreTokensParams& params, const ScanPlan& plan, int64_t b, int64_t l) {
  RowScores scores;
  scores.plan = plan;
  scores.valid = true;
  scores.raw = empty_stats(1.0);
  scores.proposal = empty_stats(plan.scale);
  scores.current_value = scores.token_value = 0.0f;
  scores.current_outside = false;
  scores.noised_logprob = 0.0;
  scores.race.winner = scores.race.block = -1;
  scores.race.best = scores.dense.best = scores.dense.sum = 0.0;
  scores.dense.winner = -1;
  if (plan.dense) {
    scores.dense.key = row_draw_key(params, b, l, Purpose::DENSE);
  } else if (plan.sampling) {
    scores.race.key = row_draw_key(params, b, l, Purpose::CHUNK);
  }
  scores.kept = {-__builtin_inff(), INT64_MAX};
  scores.token = -1;
  return scores;
}

// One or two laws that take the same chunk, with the same largest value so far; the second may be null.
struct Laws {
  OnlineStats* first;
  OnlineStats* second;
  double shrink;  // factor by which the weights of older chunks shrank
};

// Scans a chunk relative to the largest value so far, its own included. false: NaN or +inf.
//
// Sums relative to what a value exceeds are of exponentials outside their domain, finite or not: they say nothing, not
// even whether there is a NaN, until the chunk is scanned again. Relative to a finite maximum all terms are finite, so
// then a sum that is NaN means that a value is.
static bool take_chunk(const ProposalRow& row, const Scanner& scanner, const Chunk& chunk, int64_t index, bool second,
                       Laws* laws, ChunkScan* scan) {
  const float reference = laws->first->max;
  const bool summing = scanner.function != nullptr;
  *scan = ChunkScan{};
  if (summing && reference != -__builtin_inff()) {
    *scan = run(scanner, chunk, reference);
  } else {
    scan->max = top_of(chunk);
  }
  if (scan->max != scan->max || scan->max == __builtin_inff()) return false;
  if (summing && scan->max > reference) *scan = run(scanner, chunk, scan->max);
  if (scan->first.sum != scan->first.sum) return false;
  laws->shrink = see_maximum(laws->first, row.reader, chunk, scan->max, index, second);
  if (laws->second != nullptr) {
    laws->shrink = see_maximum(laws->second, row.reader, chunk, scan->max, index, second);
  }
  return true;
}

// Takes a chunk of the proposal, whose weights sum to `sum`, into the draw. shrink: see Laws.
static void draw_from_chunk(const ProposalRow& row, const Chunk& chunk, int64_t index, double shrink, float max,
                            float sum, RowScores* scores) {
  const ScanPlan& plan = scores->plan;
  scores->race.best *= shrink;
  scores->dense.best *= shrink;
  scores->dense.sum *= shrink;
  if (!plan.sampling || max == -__builtin_inff()) return;
  if (plan.dense) {
    enter_ids(&scores->dense, proposable(row, chunk, index, nullptr), index, scores->proposal.max, plan.scale);
  } else if (row.chunks == 1) {
    scores->race.winner = index;  // it has no rival
  } else {
    enter_chunk(&scores->race, index, sum);
  }
}

// Takes chunks [first, last), the next of the row. chunk_max, where given, gets the largest proposable value of each.
static void scan_chunks(const ProposalRow& row, int64_t first, int64_t last, float* chunk_max, RowScores* scores) {
  const ScanPlan& plan = scores->plan;
  OnlineStats* raw = &scores->raw;
  OnlineStats* proposal = &scores->proposal;
  for (int64_t index = first; index < last && scores->valid; ++index) {
    const Chunk chunk = read_chunk(row, index);
    const IdRange forbidden = forbidden_in(row, index, chunk.padded);
    ChunkScan scan;
    float sum, max;  // of the proposal
    double shrink;
    if (forbidden.first == forbidden.last && raw->max == proposal->max) {
      Laws laws{raw, proposal, 1.0};
      scores->valid = take_chunk(row, plan.both, chunk, index, plan.second, &laws, &scan);
      if (!scores->valid) return;
      const ChunkSums& proposed = plan.both.second == Terms::none ? scan.first : scan.second;
      add_sums(raw, scan.first);
      add_sums(proposal, proposed);
      sum = proposed.sum, max = scan.max, shrink = laws.shrink;
    } else {
      Laws laws{raw, nullptr, 1.0};
      scores->valid = take_chunk(row, plan.alone[0], chunk, index, plan.second, &laws, &scan);
      if (!scores->valid) return;
      add_sums(raw, scan.first);
      const FloatChunk allowed = proposable(row, chunk, index, nullptr);
      const Chunk rest{allowed.values, FloatType::float32, allowed.padded};
      laws = {proposal, nullptr, 1.0};
      take_chunk(row, plan.alone[1], rest, index, plan.second, &laws, &scan);
      add_sums(proposal, scan.first);
      sum = scan.first.sum, max = scan.max, shrink = laws.shrink;
    }
    if (plan.filtered) chunk_max[index] = max;
    if (!plan.filtered) draw_from_chunk(row, chunk, index, shrink, max, sum, scores);
  }
}

// Looks up the logit of `tokens` where it lies in chunks [first, last).
static void see_current(const ProposalRow& row, int64_t first, int64_t last, int64_t b, int64_t l, RowScores* scores) {
  if (!wanted(*row.params, TokenScore::current_logprob)) return;
  const int64_t id = at(row.params->tokens, b, l);
  if (id < 0 || id >= row.params->vocab || id / kChunk < first || id / kChunk >= last) return;
  scores->current_value = read_value(row, id);
}

// Ends the row. Of the logits only the winning chunk is read, and only when sampling.
static void choose_token(const ProposalRow& row, int64_t b, int64_t l, RowScores* scores) {
  const ScanPlan& plan = scores->plan;
  if (!scores->valid || scores->proposal.argmax < 0) return;
  scores->token = scores->proposal.argmax;
  scores->token_value = scores->proposal.max;
  if (!plan.sampling) return;
  if (plan.dense) {
    scores->token = scores->dense.winner;
    scores->token_value = read_value(row, scores->token);
    scores->noised_logprob = log(scores->dense.best / scores->dense.sum);
    return;
  }
  const int64_t winner = scores->race.winner;
  const FloatChunk chunk = read_proposal_chunk(row, winner, plan.filtered ? &scores->kept : nullptr);
  const int lane = race_in_chunk(chunk, row_draw_key(*row.params, b, l, Purpose::TOKEN), winner, plan.scale);
  scores->token = winner * kChunk + lane;
  scores->token_value = chunk.values[lane];
}

// ---- writing ----

static bool is_forbidden(const ScoreTokensParams& params, int64_t id) {
  const IdRange found = ids_between(params.forbid, params.forbid_count, id, id + 1);
  return found.first != found.last;
}

// Writes the outputs, once the kept set is known.
static void write_row(const ScoreTokensParams& params, RowScores* scores, int64_t b, int64_t l) {
  if (wanted(params, TokenScore::current_logprob)) {
    const int64_t id = at(params.tokens, b, l);
    scores->current_outside = is_forbidden(params, id) || !is_kept(scores->kept, scores->current_value, id);
  }
  write_row(params, static_cast<const RowOutcome&>(*scores), b, l);
}

}  // namespace MDM_NAMESPACE
