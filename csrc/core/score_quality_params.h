// score_quality: normalise, modulate, project to one logit, sigmoid.
#pragma once

#include "core/tensor_view.h"

namespace mdmcorrect {

enum class QualityNorm : int32_t { none = 0, layer = 1, rms = 2 };

// [B, L, D] of float32, bfloat16 or float16, last stride 1; data null when not given.
struct FloatRows {
  const void* data;
  int64_t batch_stride;
  int64_t position_stride;
  FloatType type;
};

struct ScoreQualityParams {
  int64_t batch;   // B
  int64_t length;  // L
  int64_t size;    // D

  FloatRows hidden;  // [B, L, D]
  // [D] each. For the CPU's kernel followed by zeros up to a multiple of 16, and none of them null.
  const float* weight;
  const float* norm_weight;  // null: 1
  const float* norm_bias;    // null: 0
  const float* bias;         // null: 0
  FloatRows shift;           // [B, L, D], null: 0; position_stride 0: one for each sequence, as for scale
  FloatRows scale;           // [B, L, D], null: 0
  QualityNorm norm;
  double eps;
  bool logit;  // before the sigmoid

  int64_t rows;  // how many to do
  // Which, b * L + l, ascending. On a device in any order, what is no row being padding; or null: all.
  const int64_t* row_index;
  float* quality;  // [B * L]
};

}  // namespace mdmcorrect
