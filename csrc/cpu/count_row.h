// How many positions of one row a CountRule admits: thresholds by one pass, the rules that read an order after a radix sort
// of the positions that take part. Sums run in float64 in sorted order, so they depend on nothing but the scores.
#pragma once

#include "core/count_positions_params.h"
#include "core/select_key.h"
#include "cpu/radix_sort.h"

namespace MDM_NAMESPACE {

static inline bool is_sorted_rule(CountRule rule) {
  return rule != CountRule::threshold && rule != CountRule::strict_threshold;
}

// How many of n sorted keys the rule admits from the first on. descending: keys are those of negated scores.
static inline int64_t admitted(CountRule rule, const uint32_t* keys, int64_t n, double bound) {
  if (rule == CountRule::cut_off) {
    if (!(bound > 0.0)) return 0;
    if (bound >= static_cast<double>(n)) return n;
    const uint32_t cut = keys[static_cast<int64_t>(bound)];
    int64_t below = static_cast<int64_t>(bound);
    while (below > 0 && keys[below - 1] == cut) --below;
    return below;
  }
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const double score = static_cast<double>(value_of_key(keys[i]));
    if (rule == CountRule::factor) {
      if (!(-score >= factor_limit(bound, i + 1))) return i;
      continue;
    }
    const double with = sum + score;
    if (!((rule == CountRule::cumulative ? with : sum) <= bound)) return i;
    sum = with;
  }
  return n;
}

// keys and other: `length` words of scratch each.
static inline int64_t count_row(CountRule rule, const float* scores, const uint8_t* eligible, int64_t length,
                                double bound, int64_t at_least, uint32_t* keys, uint32_t* other) {
  int64_t taking_part = 0, count = 0;
  if (is_sorted_rule(rule)) {
    const bool factor = rule == CountRule::factor;
    // What the factor admits is at least its first, lowest limit: nothing below needs an order.
    const double least = factor && bound >= 0.0 ? factor_limit(bound, 1) : -__builtin_inf();
    int64_t kept = 0;
    for (int64_t col = 0; col < length; ++col) {
      const uint32_t key = eligible[col] != 0 ? score_key(scores[col], !factor) : kLeftOut;
      taking_part += key != kLeftOut;
      keys[kept] = key;  // the write never overtakes the read
      kept += (key != kLeftOut) & (static_cast<double>(scores[col]) >= least);
    }
    count = admitted(rule, radix_sort(keys, other, kept), kept, bound);
  } else {
    const bool strict = rule == CountRule::strict_threshold;
    for (int64_t col = 0; col < length; ++col) {
      const double score = static_cast<double>(scores[col]);
      const bool open = eligible[col] != 0;
      taking_part += open & (score == score);
      count += open & (strict ? score > bound : score >= bound);
    }
  }
  if (count < at_least) count = at_least < taking_part ? at_least : taking_part;
  return count;
}

}  // namespace MDM_NAMESPACE
