// correct_pass: one pass of a corrector that rewrites a whole draft (samplers/correct.py, FixedPoint).
#pragma once

#include "core/tensor_view.h"

namespace mdmcorrect {

constexpr int kPassValues = 3;

struct CorrectPassParams {
  int64_t batch;   // B
  int64_t length;  // L
  int64_t mask_id;
  bool first;       // the draft is made of the canvas and the predictor's proposals; else it is rewritten
  bool carry_over;  // committed tokens stay in the first draft

  const int64_t* rows;  // [B, kRowFields]
  Grid<int64_t> draft;  // [B, L], as all grids; of the first pass, the canvas
  Grid<uint8_t> fixed;
  Grid<int64_t> block;     // null: one window
  Grid<int64_t> proposal;  // what the draft takes; negative: nothing

  // Scores of this pass, and of those before, which hold where this one scored no token; not of the first.
  Grid<int64_t> token, earlier_token;
  FloatGrid values[kPassValues], earlier_values[kPassValues];  // null: fewer

  int64_t* out_draft;  // [B, L]
  uint8_t* out_reach;  // [B, L] bool: positions of this and earlier windows; written by the first pass
  uint8_t* out_moved;  // [B] bool: whether the draft of a row changed
  int64_t* out_token;
  void* out_values[kPassValues];  // in the type of `values`
};

}  // namespace mdmcorrect
