// The kernel of remask_step. Device code alone, for nvcc and NVRTC.
#include "cuda/remask_step.cuh"

extern "C" __global__ void __launch_bounds__(mdmcorrect::cuda::kMaxThreads, 1)
    remask_step_rows(const __grid_constant__ mdmcorrect::cuda::RowKernel<mdmcorrect::RemaskStepParams> rows) {
  mdmcorrect::portable::remask_step(rows.params, rows.workspace);
}
