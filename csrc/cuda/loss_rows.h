// What linear_cross_entropy's kernels share beside their parameters, for host and device.
#pragma once

#include "core/linear_cross_entropy_blocks_params.h"

namespace mdmcorrect::cuda {

constexpr int kLossThreads = 128;
constexpr int kRowsPerBlock = kLossThreads / 32;  // one for each warp

constexpr float kLossLogitScale = 0x1p-10f;  // by which differences of logits are multiplied, so that no sum overflows

struct LossKernel {
  LinearCrossEntropyBlocksParams params;
  int64_t* places;        // [R]: a packed row's number in hidden; -1: it does not count
  double* sums;           // [R]: of exponentials relative to `maxima`
  float* maxima;          // [R]: of the logits so far
  float* target_logits;   // [R]; NaN before
  double* logit_sums;     // [R]: of the kept ids' logits; null without label smoothing
  int64_t* kept;          // [1]: ids that are not suppressed; null likewise
  uint32_t* first_named;  // [N]: the first entry of row_index that names a row
  int64_t first_id, ids;  // the block of ids at hand
};

}  // namespace mdmcorrect::cuda
