// Statistics of softmax(scale * x) collected in one pass, chunk after chunk, with every sum relative to the largest x
// so far.
//
// Chunks are always merged in the order of the vocabulary, so the result does not depend on how rows were shared out.
// Sums over a chunk are float32; across chunks they are added in float64, which costs one addition per 512 ids.
#pragma once

#include "core/config.h"

#if !defined(__CUDACC_RTC__)
#include <math.h>
#endif

namespace mdmcorrect {

struct OnlineStats {
  double scale;    // 1 / temperature
  float max;       // largest x, -inf before the first finite one
  float second;    // second largest, equal to max on ties
  int64_t argmax;  // lowest id that attains max, -1 before
  double sum;      // sum of e^y, y = scale (x - max)
  double dot;      // sum of y e^y
};

}  // namespace mdmcorrect

namespace MDM_NAMESPACE {

MDM_INLINE OnlineStats empty_stats(double scale) { return {scale, -__builtin_inff(), -__builtin_inff(), -1, 0.0, 0.0}; }

// Moves the reference from stats->max to `max`, which is larger, and returns the factor by which weights shrink.
MDM_INLINE double raise_max(OnlineStats* stats, float max, int64_t argmax) {
  const bool first = stats->argmax < 0;
  const double drop = first ? 0.0 : stats->scale * (static_cast<double>(stats->max) - static_cast<double>(max));
  const double factor = first ? 0.0 : exp(drop);
  // Where the factor underflows the old terms are gone; drop * 0 stays 0 because drop is finite.
  stats->dot = factor * (stats->dot + drop * stats->sum);
  stats->sum *= factor;
  stats->max = max;
  stats->argmax = argmax;
  return factor;
}

MDM_INLINE double log_sum(const OnlineStats& stats) { return log(stats.sum); }

// log of the probability of x under these statistics; `normaliser`, here and below, is log_sum(stats).
MDM_INLINE double log_probability(const OnlineStats& stats, float x, double normaliser) {
  return stats.scale * (static_cast<double>(x) - static_cast<double>(stats.max)) - normaliser;
}

MDM_INLINE double log_probability(const OnlineStats& stats, float x) {
  return log_probability(stats, x, log_sum(stats));
}

MDM_INLINE double log_sum_exp(const OnlineStats& stats, double normaliser) {
  return stats.scale * static_cast<double>(stats.max) + normaliser;
}

MDM_INLINE double log_sum_exp(const OnlineStats& stats) { return log_sum_exp(stats, log_sum(stats)); }

MDM_INLINE double entropy(const OnlineStats& stats, double normaliser) {
  const double nats = normaliser - stats.dot / stats.sum;
  return nats > 0.0 ? nats : 0.0;  // rounding may leave -1e-17 for a one-hot row
}

MDM_INLINE double entropy(const OnlineStats& stats) { return entropy(stats, log_sum(stats)); }

// Difference of the two largest probabilities.
MDM_INLINE double margin(const OnlineStats& stats) {
  const double gap = stats.scale * (static_cast<double>(stats.second) - static_cast<double>(stats.max));
  return -expm1(gap) / stats.sum;
}

}  // namespace MDM_NAMESPACE
