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
  // [D] each, followed by zeros up to a multiple of 16.
  const float* weight;
  const float* norm_weight;
  const float* norm_bias;
  float bias;
  FloatRows shift;  // [B, L, D], null: 0; position_stride 0: one for each sequence, as for scale
  FloatRows scale;  // [B, L, D], null: 0
  QualityNorm norm;
  double eps;
  bool logit;  // before the sigmoid

  const int64_t* row_index;  // the rows b * L + l to do, ascending
  float* quality;            // [B * L]
};

}  // namespace mdmcorrect
