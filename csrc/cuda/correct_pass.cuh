// correct_pass on CUDA: core/correct_pass.h by one block per row.
#pragma once

#include "core/correct_pass.h"
#include "cuda/block_team.cuh"

namespace MDM_NAMESPACE {

__device__ inline void correct_pass(const CorrectPassParams& params) {
  BlockTeam team{*shared_at<StepState>(0), params.length, /*keys=*/nullptr, 0};  // nothing is ranked
  for (int64_t row = blockIdx.x; row < params.batch; row += gridDim.x) correct_pass_row(params, row, team);
}

}  // namespace MDM_NAMESPACE
