// The kernels of score_quality. Device code alone, for nvcc and NVRTC.
#include "cuda/score_quality.cuh"

using mdmcorrect::FloatType;
using mdmcorrect::ScoreQualityParams;
namespace device = mdmcorrect::portable;

constexpr int kThreads = mdmcorrect::cuda::kMostQualityWarps * device::kWarpLanes;

extern "C" __global__ void __launch_bounds__(kThreads, 2)
    score_quality_rows_float32(const __grid_constant__ ScoreQualityParams params) {
  device::score_quality_rows<FloatType::float32>(params);
}

extern "C" __global__ void __launch_bounds__(kThreads, 3)
    score_quality_rows_bfloat16(const __grid_constant__ ScoreQualityParams params) {
  device::score_quality_rows<FloatType::bfloat16>(params);
}

extern "C" __global__ void __launch_bounds__(kThreads, 3)
    score_quality_rows_float16(const __grid_constant__ ScoreQualityParams params) {
  device::score_quality_rows<FloatType::float16>(params);
}
