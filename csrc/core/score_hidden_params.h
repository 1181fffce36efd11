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

}  // namespace mdmcorrect
