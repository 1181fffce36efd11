// The kernel of select_positions. Device code alone, for nvcc and NVRTC.
#include "cuda/select_positions.cuh"

extern "C" __global__ void __launch_bounds__(mdmcorrect::cuda::kMaxThreads, 1)
    select_positions_rows(const __grid_constant__ mdmcorrect::cuda::RowKernel<mdmcorrect::SelectPositionsParams> rows) {
  mdmcorrect::portable::select_positions(rows.params, rows.workspace);
}
