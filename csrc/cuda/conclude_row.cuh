// From the partials of a whole row to its outputs, by one block: merges, filters, draws and writes.
//
// Laws are merged by a warp each, since their sums have one order. What has none is shared out: the race of chunks and the
// draw inside the winner compare keys of a total order, so it does not matter who compares what first.
#pragma once

#include "cuda/proposal_filter.cuh"
#include "cuda/scan_chunks.cuh"

namespace MDM_NAMESPACE {

using cuda::ScoreTokensKernel;

// A warp's part of a draw.
struct DrawShare {
  double sum;  // of all keys of a dense draw
  int64_t index;
  float key;
  float value;
};

// Warps with a part of their own while the laws are merged; the others race.
enum : int { kRawWarp = 0, kProposalWarp = 1, kCurrentWarp = 2, kFirstRaceWarp = 3 };
constexpr int kRaceWarps = kScoreWarps - kFirstRaceWarp;

// What the block shares about one row. A field is written between two barriers and read after the second.
struct ScoreShared {
  RowOutcome outcome;
  FilterState filter;
  RowDraws draws;
  ChunkEntry race[kRaceWarps];
  DrawShare draw[kScoreWarps];
};

// The proposal's partials from the kept set alone.
__device__ inline void scan_kept(const ScoredRow& row, const RowPlan& plan, const KeptSet& kept) {
  const Terms terms{plan.proposal_sum, plan.proposal_dot, plan.second, plan.scale};
  float best = -__builtin_inff();
#pragma unroll 1
  for (int64_t index = warp_id(); index < row.chunks; index += warp_count()) {
    ChunkPartial partial{-__builtin_inff(), -__builtin_inff(), 0.0f, 0.0f, -1};
    if (row.proposal[index].max >= kept.threshold) {
      const ChunkReader reader = read_proposal(row, index);
      PlainChunk chunk;
#pragma unroll
      for (int slot = 0; slot < PlainChunk::kSlots; ++slot) {
        const float x = reader.value(slot);
        chunk.value[slot] = is_kept(kept, x, index * kChunkIds + chunk.id(slot)) ? x : -__builtin_inff();
      }
      partial = summarise(chunk, terms, &best);
    }
    __syncwarp();  // all lanes have read the maximum that one of them replaces
    if (lane_id() == 0) row.proposal[index] = partial;
  }
}

// This warp's share of a race between all ids, an exponential for each: the largest e^(noisy logit), and the sum of all.
__device__ inline void enter_ids(const ScoredRow& row, const RowPlan& plan, const KeptSet& kept, float max,
                                 DrawShare* share) {
  const RowDraws draws = row_draws(row);
  RaceEntry own{0.0f, kChunkIds * row.chunks, 0.0f};
  double sum = 0.0;
#pragma unroll 1
  for (int64_t index = warp_id(); index < row.chunks; index += warp_count()) {
    if (!(row.proposal[index].max > -__builtin_inff())) continue;
    const ChunkReader reader = read_proposal(row, index);
    float keys = 0.0f;
#pragma unroll 1
    for (int slot = 0; slot < PlainChunk::kSlots; ++slot) {
      const float x = reader.value(slot);
      const int64_t id = index * kChunkIds + lane_id() + slot * kWarpLanes;
      if (x == -__builtin_inff() || !is_kept(kept, x, id)) continue;
      const RaceEntry entry{expf(plan.scale * (x - max)) / exponential_at(draws, id, Purpose::DENSE), id, x};
      if (comes_before(entry, own)) own = entry;
      keys += entry.key;
    }
    sum += static_cast<double>(warp_sum(keys));
  }
  own = race_winner(own);
  if (lane_id() == 0) *share = {sum, own.index, own.key, own.value};
}

// The winner of all warps' shares, by one warp.
__device__ __forceinline__ RaceEntry best_share(const DrawShare* shares) {
  const DrawShare own = shares[lane_id() % kScoreWarps];
  return race_winner({own.key, own.index, own.value});
}

// Of the winner of a dense draw: its probability among the noisy logits.
__device__ __forceinline__ double dense_logprob(const DrawShare* shares, float key) {
  double sum = shares[0].sum;
#pragma unroll 1
  for (int w = 1; w < kScoreWarps; ++w) sum += shares[w].sum;
  return log(static_cast<double>(key) / sum);
}

// What is known of rows once their partials are there: row(); race(), a warp's part of the race of chunks; find_logits(),
// of the chunk that wins it; current(), the logit of `tokens`. score_hidden, which has forgotten the logits, knows it in its
// own way.
template <class Kernel>
struct Scanned;

__device__ __forceinline__ bool is_listed(const int64_t* ids, int64_t count, int64_t id) {  // by one warp
  bool own = false;
#pragma unroll 1
  for (int64_t i = lane_id(); i < count; i += kWarpLanes) own = own || ids[i] == id;
  return __any_sync(kWholeWarp, own);
}

// The logit of `tokens`, filters aside, by one warp.
template <class Kernel>
__device__ inline void see_current(const Kernel& kernel, int64_t index, const ScoredRow& row, RowOutcome* outcome) {
  const ScoreTokensParams& params = *row.params;
  if (!wanted(params, TokenScore::current_logprob)) return;
  const int64_t id = at(params.tokens, row.b, row.l);
  if (id < 0 || id >= params.vocab) return;
  float x = Scanned<Kernel>::current(kernel, index, row, id);
  if (params.probabilities) x = log_weight(x);
  if (is_listed(params.suppress, params.suppress_count, id)) x = -__builtin_inff();
  const bool forbidden = is_listed(params.forbid, params.forbid_count, id);
  if (lane_id() != 0) return;
  outcome->current_value = x;
  outcome->current_outside = forbidden;
}

// Both laws from the partials, or of a row whose filters are known that of the proposal again; warps without a law race.
template <class Kernel>
__device__ __forceinline__ void merge_row(const Kernel& kernel, int64_t index, const ScoredRow& row,
                                          const RowPlan& plan, bool filtered, ScoreShared* shared) {
  const int warp = warp_id();
  if (warp == kProposalWarp || (warp == kRawWarp && !filtered)) {
    const bool raw = warp == kRawWarp;
    const MergedLaw law = merge_chunks(raw ? row.raw : row.proposal, row.chunks, raw ? 1.0f : plan.scale);
    if (lane_id() != 0) return;
    (raw ? shared->outcome.raw : shared->outcome.proposal) = law.stats;
    if (raw) shared->outcome.valid = law.valid;
  } else if (warp == kCurrentWarp && !filtered) {
    see_current(kernel, index, row, &shared->outcome);
  } else if (warp >= kFirstRaceWarp && plan.sampling && !plan.dense && filtered == plan.filtered) {
    const RowDraws draws = row_draws(row);
    const ChunkEntry entry =
        Scanned<Kernel>::race(kernel, index, row, draws, plan.scale, warp - kFirstRaceWarp, kRaceWarps);
    if (lane_id() != 0) return;
    shared->race[warp - kFirstRaceWarp] = entry;
    if (warp == kFirstRaceWarp) shared->draws = draws;
  }
}

// write_row of core/score_row.h, a score by each lane, so that their logarithms are taken at once; the first warp calls it.
__device__ inline void write_scores(const ScoredRow& row, const RowPlan& plan, const RowOutcome& outcome,
                                    const RaceEntry& chosen, const KeptSet& kept) {
  const ScoreTokensParams& params = *row.params;
  const int64_t place = row.b * params.length + row.l;
  if (lane_id() >= kTokenScores) return;
  const TokenScore score = static_cast<TokenScore>(lane_id());
  const bool raw_law = score == TokenScore::logprob || (!params.proposal_law && score != TokenScore::proposal_logprob &&
                                                        score != TokenScore::noised_logprob);
  const OnlineStats law = raw_law ? outcome.raw : outcome.proposal;
  const bool has_token = outcome.valid && chosen.index >= 0, has_law = outcome.valid && law.argmax >= 0;
  if (lane_id() < kTokenIdScores) {
    const bool token = score == TokenScore::token;
    put_id(params, score, place, token ? (has_token ? chosen.index : -1) : (has_law ? law.argmax : -1));
    return;
  }
  if (!wanted(params, score)) return;
  bool known = has_law;
  float x = law.max;  // whose probability it is
  if (score == TokenScore::second_logprob || score == TokenScore::margin) x = law.second;
  if (score == TokenScore::current_logprob) {
    const int64_t id = at(params.tokens, row.b, row.l);
    known = known && id >= 0 && id < params.vocab;
    if (known) {  // else nobody has looked
      x = outcome.current_value;
      if (params.proposal_law && (outcome.current_outside || !is_kept(kept, x, id))) x = -__builtin_inff();
    }
  }
  if (score == TokenScore::logprob || score == TokenScore::proposal_logprob || score == TokenScore::confidence ||
      score == TokenScore::noised_logprob) {
    known = has_token;
    x = chosen.value;
  }
  const double normaliser = log_sum(law);
  double value = log_probability(law, x, normaliser);
  if (score == TokenScore::confidence) {
    value = round_probability(static_cast<float>(exp(value)), params.confidence_type);
  } else if (score == TokenScore::noised_logprob) {
    if (plan.dense && has_token) value = outcome.noised_logprob;
  } else if (score == TokenScore::entropy) {
    value = entropy(law, normaliser);
  } else if (score == TokenScore::margin) {
    value = margin(law);
  } else if (score == TokenScore::logsumexp) {
    value = log_sum_exp(law, normaliser);
    if (!has_law && outcome.valid) {
      value = -__builtin_inf();
      known = true;
    }
  }
  put_value(params, score, place, known ? value : __builtin_nan(""));
}

// Every thread of the block calls it, once the partials of the whole row are there. One piece of code for all kernels.
template <class Kernel>
__device__ __forceinline__ void conclude_row(const Kernel& kernel, int64_t index) {
  ScoredRow row = Scanned<Kernel>::row(kernel, index);
  const RowPlan plan = plan_row(kernel.params, row.b, row.l);
  ScoreShared& shared = *shared_at<ScoreShared>(0);
  static_assert(sizeof(ScoreShared) <= cuda::kScoreSharedBytes, "the partials come after it");
  RowOutcome& outcome = shared.outcome;
  KeptSet kept{-__builtin_inff(), kEveryTie};
  float max = 0.0f;  // which filters keep
  bool proposable = false;
#pragma unroll 1
  for (bool filtered = false;; filtered = true) {
    merge_row(kernel, index, row, plan, filtered, &shared);
    __syncthreads();
    if (filtered) break;
    proposable = outcome.valid && outcome.proposal.argmax >= 0;
    max = outcome.proposal.max;
    if (!plan.filtered || !proposable) break;
    kept = find_kept(row, shared.filter, max, plan);
    scan_kept(row, plan, kept);
    __syncthreads();
  }
  RaceEntry chosen{0.0f, outcome.proposal.argmax, max};  // -1: none
  if (plan.sampling && proposable) {
    if (plan.dense) {
      enter_ids(row, plan, kept, max, shared.draw + warp_id());
    } else {
      const int64_t winner = first_of(shared.race, kRaceWarps, plan.scale).index;
      Scanned<Kernel>::find_logits(kernel, index, winner, &row);
      const RaceEntry own = draw_in_chunk(row, shared.draws, plan.scale, winner, kept);
      if (lane_id() == 0) shared.draw[warp_id()] = {0.0, own.index, own.key, own.value};
    }
    __syncthreads();
    if (warp_id() == 0) {
      chosen = best_share(shared.draw);
      if (plan.dense && lane_id() == 0) outcome.noised_logprob = dense_logprob(shared.draw, chosen.key);
    }
  }
  if (warp_id() != 0) return;
  __syncwarp();  // all lanes see the probability of a dense draw
  write_scores(row, plan, outcome, chosen, kept);
}

}  // namespace MDM_NAMESPACE
