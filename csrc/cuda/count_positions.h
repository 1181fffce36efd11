// Launcher of count_positions.cuh.
#pragma once

#include "core/count_positions_params.h"
#include "cuda/row_launch.h"

namespace mdmcorrect::cuda {

// Bytes of device memory a call needs as workspace; its content matters neither before nor after.
inline int64_t count_positions_workspace(const CountPositionsParams& params) {
  return row_workspace(params.batch, params.length);
}

// All pointers are device pointers. Rows without positions are not written.
inline void count_positions(const CountPositionsParams& params, void* workspace, Launcher& launch) {
  launch_rows("count_positions_rows", params, workspace, launch, RowLaunch{kCountState, kCountThreads});
}

}  // namespace mdmcorrect::cuda
