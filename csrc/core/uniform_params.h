// uniform: one uniform number for each position of each sequence.
#pragma once

#include "core/tensor_view.h"

namespace mdmcorrect {

struct UniformParams {
  int64_t batch;   // B
  int64_t length;  // L

  Grid<int64_t> positions;  // [B, L], row_stride 0 for [L]
  RowInts seed;             // [B], each sequence's own
  RowInts step;             // [B]
  const int64_t* call;      // []
  int32_t purpose;          // a Purpose

  FloatType type;  // float32 or float64
  void* values;    // [B, L] of that type, contiguous
};

}  // namespace mdmcorrect
