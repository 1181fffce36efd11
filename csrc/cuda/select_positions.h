// Host entry of the CUDA kernel; the device code is in select_positions.cuh.
#pragma once

#include <cuda_runtime_api.h>

#include "core/select_positions_params.h"

namespace mdmcorrect::cuda {

// Launches on `stream` and returns without waiting. All pointers of params are device pointers of the current device.
cudaError_t select_positions(const SelectPositionsParams& params, cudaStream_t stream);

}  // namespace mdmcorrect::cuda
