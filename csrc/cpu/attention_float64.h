// Attention of float64 tensors and its gradients, a row at a time: for those who compare gradients with finite
// differences, so plain rather than fast. Needs no scratch.
#pragma once

#include <math.h>

#include "cpu/attention_panels.h"

namespace MDM_NAMESPACE {

MDM_INLINE double dot(const double* a, const double* b, int64_t width) {
  double sum = 0.0;
  for (int64_t i = 0; i < width; ++i) sum += a[i] * b[i];
  return sum;
}

// to += factor * row
MDM_INLINE void add_row(double* to, double factor, const double* row, int64_t width) {
  for (int64_t i = 0; i < width; ++i) to[i] += factor * row[i];
}

MDM_INLINE void clear_row(double* row, int64_t width) {
  for (int64_t i = 0; i < width; ++i) row[i] = 0.0;
}

MDM_INLINE const double* float64_row(const Heads& heads, int64_t b, int64_t h, int64_t row) {
  return reinterpret_cast<const double*>(row_address(heads, FloatType::float64, b, h, row));
}
MDM_INLINE double* float64_row(const MutableHeads& heads, int64_t b, int64_t h, int64_t row) {
  return reinterpret_cast<double*>(row_address(heads, FloatType::float64, b, h, row));
}

// visit(key, score) for each key that query `row` sees, scores not scaled.
template <class Visit>
MDM_INLINE void for_each_score(const BidirectionalAttentionParams& params, int64_t b, int64_t head, int64_t row,
                               const Visit& visit) {
  const VisibleKeys seen = visible_keys(params, b, row);
  const int64_t kv_head = head / (params.heads / params.kv_heads);
  const double* q = float64_row(params.q, b, head, row);
  for (int64_t key = seen.begin; key < seen.end; ++key) {
    if (key == seen.hidden) continue;
    visit(key, dot(q, float64_row(params.k, b, kv_head, key), params.width));
  }
}

// NaN scores are no maximum, and give NaN as weights.
static inline void attend_float64(const BidirectionalAttentionParams& params, const AttentionTile& tile) {
  const int64_t b = tile.batch, head = tile.head, kv_head = head / (params.heads / params.kv_heads);
  for (int64_t row = tile.first; row < tile.first + tile.count; ++row) {
    double* out = float64_row(params.out, b, head, row);
    clear_row(out, params.width);
    double maximum = -__builtin_inf(), sum = 0.0;
    bool any = false;  // score beside -inf
    for_each_score(params, b, head, row, [&](int64_t, double score) {
      maximum = score > maximum ? score : maximum;
      any = any || score != -__builtin_inf();
    });
    if (any) {
      for_each_score(params, b, head, row, [&](int64_t key, double score) {
        const double weight = exp(params.scale * (score - maximum));
        sum += weight;
        add_row(out, weight, float64_row(params.v, b, kv_head, key), params.width);
      });
      for (int64_t i = 0; i < params.width; ++i) out[i] /= sum;
    }
    const int64_t place = (b * params.heads + head) * params.queries + row;
    const double log_sum = log(sum);
    reinterpret_cast<double*>(params.lse)[place] = any ? params.scale * maximum + log_sum : -__builtin_inf();
    reinterpret_cast<double*>(params.maximum)[place] = any ? maximum : 0.0;
    reinterpret_cast<double*>(params.log_sum)[place] = any ? log_sum : __builtin_inf();
  }
}

static inline void differentiate_row(const BidirectionalAttentionBackwardParams& params, int64_t b, int64_t head,
                                     int64_t row) {
  const BidirectionalAttentionParams& forward = params.forward;
  const int64_t width = forward.width, kv_head = head / (forward.heads / forward.kv_heads);
  const int64_t place = (b * forward.heads + head) * forward.queries + row;
  double* grad_q = float64_row(params.grad_q, b, head, row);
  clear_row(grad_q, width);
  const double maximum = reinterpret_cast<const double*>(params.maximum)[place];
  const double log_sum = reinterpret_cast<const double*>(params.log_sum)[place];
  if (log_sum == __builtin_inf()) return;
  const double* grad = float64_row(params.grad_out, b, head, row);
  const double lse_grad = params.grad_lse == nullptr ? 0.0 : reinterpret_cast<const double*>(params.grad_lse)[place];
  const double mean = dot(grad, float64_row(params.out, b, head, row), width) - lse_grad;
  for_each_score(forward, b, head, row, [&](int64_t key, double score) {
    const double weight = exp(forward.scale * (score - maximum) - log_sum);
    const double product = dot(grad, float64_row(forward.v, b, kv_head, key), width);
    const double slope = forward.scale * weight * (product - mean);
    add_row(grad_q, slope, float64_row(forward.k, b, kv_head, key), width);
    add_row(float64_row(params.grad_k, b, kv_head, key), slope, float64_row(forward.q, b, head, row), width);
    add_row(float64_row(params.grad_v, b, kv_head, key), weight, grad, width);
  });
}

static inline void differentiate_float64(const BidirectionalAttentionBackwardParams& params,
                                         const AttentionHead& head) {
  const BidirectionalAttentionParams& forward = params.forward;
  const int64_t group = forward.heads / forward.kv_heads;
  for (int64_t key = 0; key < forward.keys; ++key) {
    clear_row(float64_row(params.grad_k, head.batch, head.kv_head, key), forward.width);
    clear_row(float64_row(params.grad_v, head.batch, head.kv_head, key), forward.width);
  }
  for (int64_t q_head = head.kv_head * group; q_head < (head.kv_head + 1) * group; ++q_head) {
    for (int64_t row = 0; row < forward.queries; ++row) differentiate_row(params, head.batch, q_head, row);
  }
}

}  // namespace MDM_NAMESPACE
