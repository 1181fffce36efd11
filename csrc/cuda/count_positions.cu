// The kernel of count_positions. Device code alone, for nvcc and NVRTC.
#include "cuda/count_positions.cuh"

extern "C" __global__ void __launch_bounds__(mdmcorrect::cuda::kCountThreads)
    count_positions_rows(const __grid_constant__ mdmcorrect::cuda::RowKernel<mdmcorrect::CountPositionsParams> rows) {
  mdmcorrect::portable::count_positions(rows.params, rows.workspace);
}
