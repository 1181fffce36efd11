// linear_cross_entropy where somebody else multiplies matrices: the rows that count are packed, their logits come for a
// block of ids at a time, and turn into statistics or into their own gradient.
#pragma once

#include "core/tensor_view.h"

namespace mdmcorrect {

// Forward where grad_losses is null, else backward. Rows of `logits` start at multiples of 16 bytes.
struct LinearCrossEntropyBlocksParams {
  int64_t all_rows;   // N
  int64_t rows;       // R: entries of row_index, or N
  int64_t vocab;      // V
  int64_t width;      // D
  int64_t block_ids;  // ids whose logits exist at once, a multiple of 8
  FloatType type;     // of hidden and of gradients of logits and hidden

  const void* hidden;  // [N, D], last dimension contiguous
  int64_t hidden_stride;
  const int64_t* targets;  // [N]
  int64_t ignore_index;
  const int64_t* row_index;  // [R] contiguous, numbers outside [0, N) name no row; null: every row
  const float* bias;         // [V]; null: none
  const int64_t* suppress;   // ids of probability 0, in any order, those outside the vocabulary mean nothing
  int64_t suppress_count;
  float label_smoothing;  // share of the loss that is the mean over the ids that are not suppressed; 0: none
  float softcap;          // logits become softcap tanh(logit / softcap); 0: they stay

  // What products read and write. A row that does not count is zeros in the first, whatever hidden holds there.
  void* packed_hidden;  // [R, D]
  float* logits;        // [R, block_ids]; each row's first half holds the gradient where that has 16 bits

  // Forward.
  float* losses;     // [N], 0 where a row does not count; so are those below
  float* maximum;    // [N]: the largest logit,
  float* log_sum;    // [N]: and the log of the sum of exponentials relative to it
  uint8_t* correct;  // [N] bool: no logit exceeds the target's
  uint8_t* counted;  // [N] bool

  // Backward.
  const float* grad_losses;    // [N]
  const float* known_maximum;  // [N], the forward's
  const float* known_log_sum;  // [N]
  float* hidden_product;       // [R, D]: gradient of a block's logits times their weight
  float* hidden_sums;          // [R, D]: of those products
  void* grad_hidden;           // [N, D] contiguous; written where a row counts. Null: not asked for
};

}  // namespace mdmcorrect
