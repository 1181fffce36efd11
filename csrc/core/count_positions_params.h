// count_positions: in every row, how many positions a rule on the scores admits.
#pragma once

#include "core/round_to.h"
#include "core/tensor_view.h"

namespace mdmcorrect {

// In the order of mdmcorrect/ops/count_positions.py. x_(1), x_(2), ... are a row's scores in the order of the rule.
enum class CountRule : int32_t {
  threshold = 0,         // x >= bound
  strict_threshold = 1,  // x > bound
  factor = 2,            // descending, while x_(n) >= 1 - bound / (n + 1)
  entropy_bound = 3,     // ascending, while x_(1) + ... + x_(n - 1) <= bound
  cumulative = 4,        // ascending, while x_(1) + ... + x_(n) <= bound
  cut_off = 5,           // x below x_(bound + 1), ascending
};

struct CountPositionsParams {
  int64_t batch;   // B
  int64_t length;  // L

  FloatGrid scores;        // [B, L]
  Grid<uint8_t> eligible;  // [B, L] bool; null: every position
  const double* bound;     // [B], bound_stride 0 for []; see count_bound()
  int64_t bound_stride;
  CountRule rule;
  int64_t at_least;  // of those that take part

  int64_t* counts;  // [B]
};

}  // namespace mdmcorrect

namespace MDM_NAMESPACE {

// A row's bound. A threshold is rounded to the scores' type, as torch rounds a number that it compares a tensor with;
// here and not before the kernel, where a compiler may keep more digits than it was told to.
MDM_INLINE double count_bound(const CountPositionsParams& params, int64_t row) {
  const double bound = params.bound[row * params.bound_stride];
  if (params.rule != CountRule::threshold && params.rule != CountRule::strict_threshold) return bound;
  const float rounded = static_cast<float>(bound);
  switch (params.scores.type) {
    case FloatType::bfloat16:
      return static_cast<double>(bfloat16_to_float(float_to_bfloat16(rounded)));
    case FloatType::float16:
      return static_cast<double>(float16_to_float(float_to_float16(rounded)));
    default:
      return static_cast<double>(rounded);
  }
}

// What the n-th score must reach by CountRule::factor.
MDM_INLINE double factor_limit(double bound, int64_t n) { return 1.0 - bound / static_cast<double>(n + 1); }

}  // namespace MDM_NAMESPACE
