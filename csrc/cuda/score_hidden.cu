// The kernels of score_hidden. Device code alone, for nvcc and NVRTC.
#include "cuda/score_hidden.cuh"

using mdmcorrect::FloatType;
using mdmcorrect::GatherRowsParams;
using mdmcorrect::cuda::kScoreThreads;
using mdmcorrect::cuda::ScoreHiddenKernel;
namespace device = mdmcorrect::portable;

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_hidden_scan_float32(const __grid_constant__ ScoreHiddenKernel kernel) {
  device::scan_hidden_row<FloatType::float32>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_hidden_scan_bfloat16(const __grid_constant__ ScoreHiddenKernel kernel) {
  device::scan_hidden_row<FloatType::bfloat16>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_hidden_scan_float16(const __grid_constant__ ScoreHiddenKernel kernel) {
  device::scan_hidden_row<FloatType::float16>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_hidden_conclude(const __grid_constant__ ScoreHiddenKernel kernel) {
  device::conclude_scanned_row(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads)
    score_hidden_gather(const __grid_constant__ GatherRowsParams params) {
  device::gather_row(params);
}
