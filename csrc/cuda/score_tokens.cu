// The kernels of score_tokens. Device code alone, for nvcc and NVRTC.
#include "cuda/score_tokens.cuh"

using mdmcorrect::FloatType;
using mdmcorrect::cuda::kScoreThreads;
using mdmcorrect::cuda::ScoreTokensKernel;
namespace device = mdmcorrect::portable;

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_tokens_rows_float32(const __grid_constant__ ScoreTokensKernel kernel) {
  device::score_rows<FloatType::float32, false>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_tokens_rows_bfloat16(const __grid_constant__ ScoreTokensKernel kernel) {
  device::score_rows<FloatType::bfloat16, false>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_tokens_rows_float16(const __grid_constant__ ScoreTokensKernel kernel) {
  device::score_rows<FloatType::float16, false>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_tokens_rows_guided_float32(const __grid_constant__ ScoreTokensKernel kernel) {
  device::score_rows<FloatType::float32, true>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_tokens_rows_guided_bfloat16(const __grid_constant__ ScoreTokensKernel kernel) {
  device::score_rows<FloatType::bfloat16, true>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_tokens_rows_guided_float16(const __grid_constant__ ScoreTokensKernel kernel) {
  device::score_rows<FloatType::float16, true>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_tokens_scan_float32(const __grid_constant__ ScoreTokensKernel kernel) {
  device::scan_piece<FloatType::float32, false>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_tokens_scan_bfloat16(const __grid_constant__ ScoreTokensKernel kernel) {
  device::scan_piece<FloatType::bfloat16, false>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_tokens_scan_float16(const __grid_constant__ ScoreTokensKernel kernel) {
  device::scan_piece<FloatType::float16, false>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_tokens_scan_guided_float32(const __grid_constant__ ScoreTokensKernel kernel) {
  device::scan_piece<FloatType::float32, true>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_tokens_scan_guided_bfloat16(const __grid_constant__ ScoreTokensKernel kernel) {
  device::scan_piece<FloatType::bfloat16, true>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_tokens_scan_guided_float16(const __grid_constant__ ScoreTokensKernel kernel) {
  device::scan_piece<FloatType::float16, true>(kernel);
}

extern "C" __global__ void __launch_bounds__(kScoreThreads, 2)
    score_tokens_conclude(const __grid_constant__ ScoreTokensKernel kernel) {
  device::conclude_scanned_row(kernel);
}
