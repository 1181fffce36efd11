// sampler_step on CUDA: core/sampler_step.h by one block per row, in one launch for the whole step.
#pragma once

#include "core/sampler_step.h"
#include "cuda/block_team.cuh"

namespace MDM_NAMESPACE {

__device__ inline void sampler_step(const SamplerStepParams& params, uint64_t* workspace) {
  BlockTeam team{*shared_at<StepState>(0), params.length,
                 row_keys<StepState, cuda::kCountState>(workspace, params.length), 0};
  for (int64_t row = blockIdx.x; row < params.batch; row += gridDim.x) sampler_step_row(params, row, team);
}

}  // namespace MDM_NAMESPACE
