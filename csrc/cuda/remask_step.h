// Launcher of remask_step.cuh.
#pragma once

#include "core/remask_step_params.h"
#include "cuda/row_launch.h"

namespace mdmcorrect::cuda {

// Bytes of device memory a call needs as workspace; its content matters neither before nor after.
inline int64_t remask_step_workspace(const RemaskStepParams& params) {
  return row_workspace(params.batch, params.length);
}

// All pointers are device pointers.
inline void remask_step(const RemaskStepParams& params, void* workspace, Launcher& launch) {
  launch_rows("remask_step_rows", params, workspace, launch);
}

}  // namespace mdmcorrect::cuda
