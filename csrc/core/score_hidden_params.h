// score_hidden: score_tokens on logits that arrive in blocks of the vocabulary and are then gone.
#pragma once

#include "core/score_tokens_params.h"

namespace mdmcorrect {

// One block of logits for the rows of `scores.row_index`. Blocks come in the order of the vocabulary; what a row needs
// of earlier ones is in its state.
struct ScoreHiddenParams {
  ScoreTokensParams scores;  // with scores.row_stride; logits holds the ids [first_id, last_id) of each row
  int64_t first_id;          // multiple of kVocabularyChunk
  int64_t last_id;           // likewise, or vocab
  uint64_t* states;          // CpuKernels::score_hidden_state_words for each row
  uint8_t* winners;          // kVocabularyChunk logits for each row: of the chunk that leads the race
};

// Rows of hidden states side by side, on a device.
struct GatherRowsParams {
  const void* hidden;  // [B, L, D]
  int64_t batch;
  int64_t length;
  int64_t batch_stride;  // in bytes, as is position_stride
  int64_t position_stride;
  int64_t row_bytes;
  const int64_t* row_index;  // [row_count], as ScoreTokensParams has it
  int64_t row_count;
  void* out;  // [row_count, D]; zeros where row_index names no row
};

constexpr int64_t kHiddenPanel = 32;       // rows of hidden states packed side by side
constexpr int64_t kHiddenProductIds = 48;  // ids of one unit of work

// logits[row][id - first_id] = hidden[row] . weight[id] + bias[id] for ids [first_id, last_id), all of it bfloat16, sums
// in float32.
struct HiddenProductParams {
  const uint16_t* weight;  // [V, D], last stride 1; D and weight_stride even
  int64_t weight_stride;
  const uint16_t* bias;  // [V] or null
  int64_t bias_stride;
  int64_t vocab;           // V
  int64_t size;            // D
  const uint32_t* panels;  // [rows / 32, rounded up][D / 2][32]: values 2 k and 2 k + 1 of a row in one word
  int64_t rows;
  int64_t first_id;
  int64_t last_id;
  uint16_t* logits;
  int64_t logits_stride;
};

}  // namespace mdmcorrect
