// One row of score_tokens, apart from how its sums are made: what it must collect, and what its results make of the
// outputs. CPU and CUDA share it.
#pragma once

#include "core/online_stats.h"
#include "core/round_to.h"
#include "core/score_tokens_params.h"

namespace mdmcorrect {

// The ids a filter keeps: x > threshold, or x == threshold and id <= last_tie.
struct KeptSet {
  float threshold;
  int64_t last_tie;
};

// What is asked of one row; temperature and filters may differ between rows.
struct RowPlan {
  float scale;        // 1 / temperature; 1 at temperature 0
  bool sampling;      // temperature > 0
  bool dense;         // sampling with a Gumbel for every id
  bool filtered;      // top_k or top_p is on and something depends on it
  bool raw_sum;       // the raw distribution's normaliser
  bool raw_dot;       // its entropy
  bool proposal_sum;  // of what may be proposed, filters included
  bool proposal_dot;
  bool second;  // the second largest value
  int64_t top_k;
  double top_p;
};

// What the row was found to hold.
struct RowOutcome {
  bool valid;  // no NaN, no +inf
  OnlineStats raw;
  OnlineStats proposal;
  int64_t token;          // -1: none
  float token_value;      // its logit
  float current_value;    // the logit of `tokens`
  bool current_outside;   // of what may be proposed
  double noised_logprob;  // of a dense draw
};

}  // namespace mdmcorrect

namespace MDM_NAMESPACE {

MDM_INLINE bool is_kept(const KeptSet& kept, float x, int64_t id) {
  return x > kept.threshold || (x == kept.threshold && id <= kept.last_tie);
}

MDM_INLINE bool wanted(const ScoreTokensParams& params, TokenScore score) {
  return params.values[static_cast<int>(score)] != nullptr;
}

MDM_INLINE RowPlan plan_row(const ScoreTokensParams& params, int64_t b, int64_t l) {
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
  plan.dense = plan.sampling && params.dense_noise;
  // Within what float32 sums of scaled differences can take.
  const double scale = plan.sampling ? 1.0 / temperature : 1.0;
  plan.scale = static_cast<float>(scale < 1e-30 ? 1e-30 : scale < 1e30 ? scale : 1e30);
  plan.raw_sum = wanted(params, TokenScore::logprob) || (law_sums && !params.proposal_law);
  plan.raw_dot = dot && !params.proposal_law;
  plan.proposal_sum = plan.sampling || wanted(params, TokenScore::proposal_logprob) ||
                      wanted(params, TokenScore::noised_logprob) || (law_sums && params.proposal_law);
  plan.proposal_dot = dot && params.proposal_law;
  plan.filtered = plan.proposal_sum && (top_k < params.vocab || top_p < 1.0);
  plan.second = wanted(params, TokenScore::second_logprob) || wanted(params, TokenScore::margin);
  plan.top_k = top_k;
  plan.top_p = top_p;
  return plan;
}

// Log-probability of `tokens` under the law of the statistics.
MDM_INLINE double current_logprob(const ScoreTokensParams& params, const RowOutcome& row, const OnlineStats& law,
                                  int64_t id) {
  if (id < 0 || id >= params.vocab) return __builtin_nan("");
  return log_probability(law, params.proposal_law && row.current_outside ? -__builtin_inff() : row.current_value);
}

MDM_INLINE void put_value(const ScoreTokensParams& params, TokenScore score, int64_t place, double value) {
  if (wanted(params, score)) params.values[static_cast<int>(score)][place] = static_cast<float>(value);
}

MDM_INLINE void put_id(const ScoreTokensParams& params, TokenScore score, int64_t place, int64_t id) {
  if (params.ids[static_cast<int>(score)] != nullptr) params.ids[static_cast<int>(score)][place] = id;
}

// A row without statistics: NaN in all that come from the law, argmax -1.
MDM_INLINE void put_no_law(const ScoreTokensParams& params, int64_t place) {
  put_id(params, TokenScore::argmax, place, -1);
  for (int i = static_cast<int>(TokenScore::current_logprob); i <= static_cast<int>(TokenScore::logsumexp); ++i) {
    put_value(params, static_cast<TokenScore>(i), place, __builtin_nan(""));
  }
}

// Of a dense draw that of the noisy logits; at temperature 0 there is no noise.
MDM_INLINE double noised_logprob(const ScoreTokensParams& params, const RowOutcome& row, int64_t b, int64_t l) {
  const bool dense = params.dense_noise && at(params.temperature, b, l) > 0.0;
  return dense ? row.noised_logprob : log_probability(row.proposal, row.token_value);
}

MDM_INLINE void write_row(const ScoreTokensParams& params, const RowOutcome& row, int64_t b, int64_t l) {
  const int64_t place = b * params.length + l;
  const OnlineStats& law = params.proposal_law ? row.proposal : row.raw;
  const double nan = __builtin_nan("");
  const bool chosen = row.valid && row.token >= 0;
  put_id(params, TokenScore::token, place, chosen ? row.token : -1);
  const double p = chosen ? exp(log_probability(law, row.token_value)) : nan;
  put_value(params, TokenScore::logprob, place, chosen ? log_probability(row.raw, row.token_value) : nan);
  put_value(params, TokenScore::proposal_logprob, place, chosen ? log_probability(row.proposal, row.token_value) : nan);
  put_value(params, TokenScore::noised_logprob, place, chosen ? noised_logprob(params, row, b, l) : nan);
  put_value(params, TokenScore::confidence, place, round_probability(static_cast<float>(p), params.confidence_type));

  if (!row.valid || law.argmax < 0) {
    put_no_law(params, place);
    if (row.valid) put_value(params, TokenScore::logsumexp, place, -__builtin_inf());
    return;
  }
  put_id(params, TokenScore::argmax, place, law.argmax);
  if (wanted(params, TokenScore::current_logprob)) {
    put_value(params, TokenScore::current_logprob, place, current_logprob(params, row, law, at(params.tokens, b, l)));
  }
  put_value(params, TokenScore::max_logprob, place, log_probability(law, law.max));
  put_value(params, TokenScore::second_logprob, place, log_probability(law, law.second));
  put_value(params, TokenScore::entropy, place, entropy(law));
  put_value(params, TokenScore::margin, place, margin(law));
  put_value(params, TokenScore::logsumexp, place, log_sum_exp(law));
}

}  // namespace MDM_NAMESPACE
