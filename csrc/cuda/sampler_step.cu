// The kernel of sampler_step. Device code alone, for nvcc and NVRTC.
#include "cuda/sampler_step.cuh"

extern "C" __global__ void __launch_bounds__(mdmcorrect::cuda::kCountThreads, 1)
    sampler_step_rows(const __grid_constant__ mdmcorrect::cuda::RowKernel<mdmcorrect::SamplerStepParams> rows) {
  mdmcorrect::portable::sampler_step(rows.params, rows.workspace);
}
