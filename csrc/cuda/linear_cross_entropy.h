// Launcher of linear_cross_entropy.cuh: forward and backward, in blocks of the vocabulary.
//
// All rows are multiplied at once and the vocabulary in blocks, so that a block's gradient of the weight is one product,
// never added to, and what is held does not grow with the vocabulary. Logits are made twice, as on the CPU.
#pragma once

#include "cuda/launch.h"
#include "cuda/loss_rows.h"

namespace mdmcorrect::cuda {

// The products of a call, on the tensors that its parameters point into. `gradient` is what `logits` have become.
class LossProducts {
 public:
  virtual ~LossProducts() = default;
  virtual void logits(int64_t first_id, int64_t ids) = 0;  // packed_hidden times weight[first_id, + ids) transposed
  virtual void grad_weight(int64_t first_id, int64_t ids) = 0;     // gradient transposed times packed_hidden
  virtual void grad_bias(int64_t first_id, int64_t ids) = 0;       // gradient summed over rows
  virtual void hidden_product(int64_t first_id, int64_t ids) = 0;  // gradient times weight[first_id, + ids)
};

constexpr int64_t kLeastBlockIds = 2048;
constexpr int64_t kMostBlockIds = 16384;
constexpr int64_t kBlockLogits = int64_t{1} << 26;  // 256 MiB, where that leaves every row kLeastBlockIds

// How many ids a block has: products large enough for any GPU, and few enough blocks that adding up the gradient of hidden
// states costs little beside them.
inline int64_t loss_block_ids(int64_t rows, int64_t vocab) {
  const int64_t fitting = rows > 0 ? kBlockLogits / rows : kMostBlockIds;
  const int64_t most = fitting < kLeastBlockIds ? kLeastBlockIds : fitting < kMostBlockIds ? fitting : kMostBlockIds;
  const int64_t blocks = (vocab + most - 1) / most;
  return ((vocab + blocks - 1) / blocks + 63) / 64 * 64;
}

inline int64_t linear_cross_entropy_blocks_workspace(const LinearCrossEntropyBlocksParams& params) {
  constexpr int64_t kBytesPerRow = sizeof(int64_t) + sizeof(double) + 2 * sizeof(float);
  const int64_t named = params.row_index == nullptr ? 0 : params.all_rows;
  const int64_t smoothing = params.label_smoothing > 0 ? (params.rows + 1) * static_cast<int64_t>(sizeof(double)) : 0;
  return smoothing + params.rows * kBytesPerRow + named * static_cast<int64_t>(sizeof(uint32_t));
}

inline unsigned loss_blocks(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

// Makes the rows ready; outputs of the forward are cleared.
inline LossKernel pack_loss_rows(const LinearCrossEntropyBlocksParams& params, void* workspace, Launcher& launch) {
  auto* places = static_cast<int64_t*>(workspace);
  auto* sums = reinterpret_cast<double*>(places + params.rows);
  const bool smoothed = params.label_smoothing > 0;
  double* logit_sums = smoothed ? sums + params.rows : nullptr;
  int64_t* kept = smoothed ? reinterpret_cast<int64_t*>(logit_sums + params.rows) : nullptr;
  auto* maxima = smoothed ? reinterpret_cast<float*>(kept + 1) : reinterpret_cast<float*>(sums + params.rows);
  float* target_logits = maxima + params.rows;
  auto* first_named = reinterpret_cast<uint32_t*>(target_logits + params.rows);
  const LossKernel kernel{params, places, sums, maxima, target_logits, logit_sums, kept, first_named, 0, 0};
  const bool forward = params.grad_losses == nullptr;
  if (params.all_rows > 0 && (forward || params.row_index != nullptr)) {
    launch({"linear_cross_entropy_clear", loss_blocks(params.all_rows, kLossThreads), 1, kLossThreads, 0}, kernel);
  }
  if (params.rows == 0) return kernel;
  if (params.row_index != nullptr) {
    launch({"linear_cross_entropy_name", loss_blocks(params.rows, kLossThreads), 1, kLossThreads, 0}, kernel);
  }
  if (smoothed) launch({"linear_cross_entropy_kept", 1, 1, kLossThreads, 0}, kernel);
  launch({"linear_cross_entropy_pack", loss_blocks(params.rows, kRowsPerBlock), 1, kLossThreads, 0}, kernel);
  return kernel;
}

// All pointers are device pointers. products.grad_weight and grad_bias are called whether or not somebody wants them.
inline void linear_cross_entropy_blocks(const LinearCrossEntropyBlocksParams& params, void* workspace,
                                        LossProducts& products, Launcher& launch) {
  static constexpr const char* kGradient[] = {"linear_cross_entropy_gradient_float32",
                                              "linear_cross_entropy_gradient_bfloat16",
                                              "linear_cross_entropy_gradient_float16"};
  static constexpr const char* kAddHidden[] = {"linear_cross_entropy_add_hidden_float32",
                                               "linear_cross_entropy_add_hidden_bfloat16",
                                               "linear_cross_entropy_add_hidden_float16"};
  LossKernel kernel = pack_loss_rows(params, workspace, launch);
  if (params.rows == 0) return;
  const unsigned row_blocks = loss_blocks(params.rows, kRowsPerBlock);
  const bool forward = params.grad_losses == nullptr;
  for (int64_t first = 0; first < params.vocab; first += params.block_ids) {
    kernel.first_id = first;
    kernel.ids = params.vocab - first < params.block_ids ? params.vocab - first : params.block_ids;
    products.logits(first, kernel.ids);
    if (forward) {
      launch({"linear_cross_entropy_statistics", row_blocks, 1, kLossThreads, 0}, kernel);
      continue;
    }
    launch({kGradient[static_cast<int>(params.type)], row_blocks, 1, kLossThreads, 0}, kernel);
    products.grad_weight(first, kernel.ids);
    products.grad_bias(first, kernel.ids);
    if (params.grad_hidden == nullptr) continue;
    products.hidden_product(first, kernel.ids);
    launch({kAddHidden[static_cast<int>(params.type)], row_blocks, 1, kLossThreads, 0}, kernel);
  }
  if (!forward) return;
  launch({"linear_cross_entropy_losses", loss_blocks(params.rows, kLossThreads), 1, kLossThreads, 0}, kernel);
}

}  // namespace mdmcorrect::cuda
