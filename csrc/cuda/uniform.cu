// The kernel of uniform. Device code alone, for nvcc and NVRTC.
#include "cuda/uniform.cuh"

extern "C" __global__ void __launch_bounds__(256)
    uniform_numbers(const __grid_constant__ mdmcorrect::UniformParams params) {
  mdmcorrect::portable::uniform(params);
}
