// linear_cross_entropy: cross-entropy of softmax(hidden weight^T + bias) on the rows that count, and its gradients.
#pragma once

#include "core/tensor_view.h"

namespace mdmcorrect {

// Ids whose products with a panel of rows are held at once, and how many such slices share one entry of `partial`.
constexpr int64_t kVocabSlice = 192;
constexpr int64_t kSlicesPerBlock = 4;
// Granularity of what threads share: rows of hidden whose logits one unit computes again, columns of the weight's
// gradient, and rows of hidden's gradient. Packed rows and columns are padded to multiples of 32, rows of
// `grad_interleaved` to multiples of 48.
constexpr int64_t kRowsPerUnit = 256;
constexpr int64_t kColumnsPerUnit = 256;
constexpr int64_t kInterleavedRows = 48;
constexpr int64_t kPanelPadding = 32;

// A "word" is what one multiplication takes of each operand: a pair of bfloat16 where the machine multiplies such pairs
// (CpuKernels::bfloat16_pairs), else one float32 or float64. A "value" is what sums are kept in: float64 for float64,
// else float32.
struct LinearCrossEntropyParams {
  int64_t rows;   // R: rows that count
  int64_t vocab;  // V
  int64_t width;  // D
  FloatType type;

  const void* hidden;  // [N, D], last dimension contiguous
  int64_t hidden_stride;
  const void* weight;  // [V, D], last dimension contiguous
  int64_t weight_stride;
  const void* bias;         // [V] values; null: none
  const int64_t* suppress;  // ids of probability 0, sorted, each once
  int64_t suppress_count;
  int64_t kept;              // ids that are not suppressed
  double label_smoothing;    // share of the loss that is the mean over the kept ids; 0: none
  double softcap;            // logits become softcap tanh(logit / softcap); 0: they stay
  const int64_t* row_index;  // [R] into hidden, targets and every [N] below
  const int64_t* targets;    // [N]

  void* hidden_columns;  // [R / panel][D words][panel]: hidden as the right operand of the logits
  // [blocks of ids][statistics_kept][R padded] values: maximum, sum of exponentials relative to it, and with label smoothing
  // the sum of how far the kept ids' logits are behind it, times kLogitScale.
  void* partial;
  void* target_logit;  // [R padded] values
  void* losses;        // [N] values
  void* maximum;     // [N] values: the largest logit, and the log of the sum of exponentials relative to it, NaN where
  void* log_sum;     // there is no loss; read by the backward
  uint8_t* correct;  // [N] bool: no logit exceeds the target's

  // The backward goes through the vocabulary by ids [first_id, first_id + ids).
  int64_t first_id;
  int64_t ids;
  const void* grad_losses;  // [N] values
  void* hidden_rows;       // [D / panel][R words][panel]: hidden as the right operand of the weight's gradient; or null
  void* weight_rows;       // [D / panel][ids words][panel]: weight as the right operand of hidden's gradient; or null
  void* grad_logits;       // [ids][R padded]: gradient of the logits, left operand of the weight's gradient
  void* grad_interleaved;  // the same, left operand of hidden's gradient: store_left_of_hidden; or null
  void* hidden_sums;       // [D / panel][R padded][panel] values; or null
  void* grad_hidden;       // [N, D] contiguous; or null
  void* grad_weight;       // [V, D] contiguous; or null
  void* grad_bias;         // [V] values; or null
};

// A power of two by which logits are multiplied before differences are added up, so that no block's sum overflows.
constexpr double kLogitScale = 0x1p-10;

constexpr int64_t statistics_kept(const LinearCrossEntropyParams& params) { return params.label_smoothing > 0 ? 3 : 2; }

// What a call of the kernel does, and what its units [begin, end) are. Forward: the first three in turn. Backward:
// pack_hidden, then for each stretch of ids pack_weight and grad_logits, then grad_weight, grad_bias and grad_hidden,
// each if asked for; at last write_grad_hidden.
enum class LinearCrossEntropyPhase : int32_t {
  pack_hidden,        // 32 rows
  statistics,         // kSlicesPerBlock slices of ids; scratch
  losses,             // rows
  pack_weight,        // slices of the stretch
  grad_logits,        // (slice of the stretch, kRowsPerUnit rows); scratch
  grad_weight,        // (slice of the stretch, kColumnsPerUnit columns); scratch
  grad_bias,          // slices of the stretch
  grad_hidden,        // (32 columns, kInterleavedRows rows)
  write_grad_hidden,  // rows
};

}  // namespace mdmcorrect
