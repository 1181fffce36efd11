// Launcher of sampler_step.cuh.
#pragma once

#include "core/sampler_step_params.h"
#include "cuda/row_launch.h"

namespace mdmcorrect::cuda {

// Bytes of device memory a call needs as workspace; its content matters neither before nor after.
inline int64_t sampler_step_workspace(const SamplerStepParams& params) {
  return row_workspace(params.batch, params.length);
}

// All pointers are device pointers. Rows without positions have fields all the same, which are written. A row is met some
// twenty times, so that a thread for each position pays early.
inline void sampler_step(const SamplerStepParams& params, void* workspace, Launcher& launch) {
  launch_rows("sampler_step_rows", params, workspace, launch,
              RowLaunch{kCountState, kCountThreads, /*least_length=*/0, /*short_row=*/256});
}

}  // namespace mdmcorrect::cuda
