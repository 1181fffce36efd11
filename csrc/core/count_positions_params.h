// count_positions: in every row, how many positions a rule on the scores admits.
#pragma once

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
  const double* bound;     // [B], bound_stride 0 for []
  int64_t bound_stride;
  CountRule rule;
  int64_t at_least;  // of those that take part

  int64_t* counts;  // [B]
};

}  // namespace mdmcorrect

namespace MDM_NAMESPACE {

// What the n-th score must reach by CountRule::factor.
MDM_INLINE double factor_limit(double bound, int64_t n) { return 1.0 - bound / static_cast<double>(n + 1); }

}  // namespace MDM_NAMESPACE
