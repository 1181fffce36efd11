// What score_hidden's bindings for the CPU and for CUDA share.
#pragma once

#include <optional>

#include "torch/scoring.h"

namespace mdmcorrect {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Scores rows of hidden [B, L, D] into the outputs of `scores`, where rows left out are marked already. Arguments are
// checked but for row_index.
void score_hidden_on_cuda(ScoreCall* scores, const Tensor& hidden, const Tensor& weight,
                          const std::optional<Tensor>& bias, const std::optional<Tensor>& row_index);

}  // namespace mdmcorrect
