// Launcher of select_positions.cuh.
#pragma once

#include "core/select_positions_params.h"
#include "cuda/row_launch.h"

namespace mdmcorrect::cuda {

// Bytes of device memory a call needs as workspace; its content matters neither before nor after.
inline int64_t select_positions_workspace(const SelectPositionsParams& params) {
  return row_workspace(params.batch, params.length);
}

// All pointers are device pointers.
inline void select_positions(const SelectPositionsParams& params, void* workspace, Launcher& launch) {
  launch_rows("select_positions_rows", params, workspace, launch);
}

}  // namespace mdmcorrect::cuda
