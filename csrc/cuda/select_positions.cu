// Kernels of select_positions: rows whose keys fit shared memory, and longer ones. Device code alone, for nvcc and NVRTC.
#include "cuda/select_positions.cuh"

using mdmcorrect::SelectPositionsParams;
using mdmcorrect::portable::kMaxThreads;
using mdmcorrect::portable::select_positions;

extern "C" __global__ void __launch_bounds__(kMaxThreads, 1)
    select_positions_cached(const __grid_constant__ SelectPositionsParams params) {
  select_positions<true>(params);
}

extern "C" __global__ void __launch_bounds__(kMaxThreads, 1)
    select_positions_long(const __grid_constant__ SelectPositionsParams params) {
  select_positions<false>(params);
}
