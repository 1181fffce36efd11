// score_tokens: statistics of every position's distribution over the vocabulary, and one token for it.
#pragma once

#include "core/tensor_view.h"

namespace mdmcorrect {

constexpr int64_t kVocabularyChunk = 512;  // ids; part of the random numbers' definition, never a tuning knob

// What the outputs are called in `want`, bit i for the i-th; mdmcorrect/ops/_scoring.py has the same order.
enum class TokenScore : int32_t {
  token = 0,
  argmax,
  logprob,
  proposal_logprob,
  current_logprob,
  max_logprob,
  second_logprob,
  entropy,
  margin,
  logsumexp,
  confidence,
  noised_logprob,
  count
};
constexpr int kTokenScores = static_cast<int>(TokenScore::count);
constexpr int kTokenIdScores = 2;  // the first two are int64 ids, the rest float32

struct ScoreTokensParams {
  int64_t batch;   // B
  int64_t length;  // L
  int64_t vocab;   // V

  const void* logits;  // [B, L, V], last stride 1
  FloatType type;
  int64_t batch_stride;     // in elements
  int64_t position_stride;  // in elements
  int64_t row_stride;       // not 0: the i-th row of row_index has its logits at i * row_stride instead
  int64_t shift;            // position l has its logits at max(l - shift, 0)
  bool probabilities;       // logits holds unnormalised probabilities

  // Classifier-free guidance: logits become u + (guidance + 1) (c - u), each operation rounded to their dtype.
  const void* uncond_logits;  // u, like logits, or null
  int64_t uncond_batch_stride;
  int64_t uncond_position_stride;
  Grid<double> guidance;  // [B, L]; 0: u is not read

  Grid<int64_t> tokens;      // [B, L] or null
  Grid<uint8_t> rows;        // [B, L] bool or null: all; on a device, whose values no row_index can be made of
  Grid<int64_t> positions;   // [B, L] or null: 0, 1, ..., L - 1
  Grid<double> temperature;  // [B, L]; not above 0: argmax
  Grid<int64_t> top_k;       // [B, L] or null
  Grid<double> top_p;        // [B, L] or null; not below 1: no nucleus
  bool top_p_inclusive;
  bool top_p_first;

  const int64_t* suppress;  // [suppress_count], ascending, each in [0, V)
  int64_t suppress_count;
  const int64_t* forbid;  // [forbid_count], likewise
  int64_t forbid_count;

  bool proposal_law;          // statistics after temperature and filters
  FloatType confidence_type;  // what confidence is rounded to

  bool dense_noise;     // a Gumbel for every id, purpose DENSE, instead of a lazy draw
  RowInts seed;         // [B]; one for all: sequence b's is philox(seed, b), purpose SEED
  RowInts step;         // [B]
  const int64_t* call;  // []

  // The rows b * L + l to do: ascending, or null for all B * L. On a device in any order, what is no row being padding, or
  // null for first_row, first_row + 1, ...
  const int64_t* row_index;
  int64_t first_row;
  int64_t row_count;

  // [B * L] each, null where not wanted.
  int64_t* ids[kTokenIdScores];
  float* values[kTokenScores];  // entries of the ids stay null
};

}  // namespace mdmcorrect
