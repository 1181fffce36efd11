// The kernel of correct_pass. Device code alone, for nvcc and NVRTC.
#include "cuda/correct_pass.cuh"

extern "C" __global__ void __launch_bounds__(mdmcorrect::cuda::kCountThreads, 1)
    correct_pass_rows(const __grid_constant__ mdmcorrect::CorrectPassParams params) {
  mdmcorrect::portable::correct_pass(params);
}
