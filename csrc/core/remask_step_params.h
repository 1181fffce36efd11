// remask_step: commit some masked positions of every row and mask some committed ones again.
#pragma once

#include "core/tensor_view.h"

namespace mdmcorrect {

struct RemaskStepParams {
  int64_t batch;   // B
  int64_t length;  // L
  int64_t mask_id;

  Grid<int64_t> tokens;     // [B, L]
  Grid<int64_t> proposals;  // [B, L]
  Grid<uint8_t> fixed;      // [B, L] bool; null: none
  Grid<uint8_t> eligible;   // [B, L] bool; null: all

  // Which masked positions are committed: a mask, or the unmask_count best scores.
  Grid<uint8_t> commit;    // [B, L] bool or null
  FloatGrid unmask_score;  // [B, L] or null
  RowInts unmask_count;    // [B] or null

  // Which committed positions are masked again: a mask, or the remask_count worst scores; neither: none.
  Grid<uint8_t> remask;  // [B, L] bool or null
  FloatGrid keep_score;  // [B, L] or null
  RowInts remask_count;  // [B] or null

  RowInts keep_count;    // [B]; not null: one pool, in which both scores are ranked together
  bool refill_if_short;  // committed positions stay when there are too few masked ones to commit

  int64_t* out_tokens;     // [B, L], contiguous, as the two below
  uint8_t* out_committed;  // bool
  uint8_t* out_remasked;   // bool
};

}  // namespace mdmcorrect
