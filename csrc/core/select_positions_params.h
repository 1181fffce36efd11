// select_positions: in every row, mark the k[b] best of the eligible positions.
#pragma once

#include "core/tensor_view.h"

namespace mdmcorrect {

struct SelectPositionsParams {
  int64_t batch;   // B
  int64_t length;  // L

  FloatGrid scores;         // [B, L]
  Grid<uint8_t> eligible;   // [B, L] bool; null: every position
  Grid<int64_t> positions;  // [B, L], row_stride 0 for [L]; null: 0, 1, ..., L - 1
  RowInts k;                // [B]
  RowInts seed;             // [B]; one for all: core/sequence_seed.h
  RowInts step;             // [B]
  const int64_t* call;      // []

  double temperature;  // 0: rank by score; > 0: Gumbel top-k
  bool largest;

  uint8_t* selected;  // [B, L] bool, contiguous
};

}  // namespace mdmcorrect
