// Launcher of select_positions.cuh.
#include "cuda/select_positions.cuh"
#include "cuda/select_positions.h"

namespace mdmcorrect::cuda {

cudaError_t select_positions(const SelectPositionsParams& params, cudaStream_t stream) {
  if (params.batch == 0 || params.length == 0) return cudaSuccess;
  constexpr int64_t kMaxBlocks = 65535;  // rows beyond it are taken in turns
  const unsigned blocks = static_cast<unsigned>(params.batch < kMaxBlocks ? params.batch : kMaxBlocks);
  const unsigned threads = params.length <= 1024 ? 256 : params.length <= 8192 ? 512 : portable::kMaxThreads;
  if (params.length <= portable::kCachedLength) {
    const size_t shared_bytes = static_cast<size_t>(params.length) * sizeof(uint64_t);
    portable::select_positions_kernel<true><<<blocks, threads, shared_bytes, stream>>>(params);
  } else {
    portable::select_positions_kernel<false><<<blocks, threads, 0, stream>>>(params);
  }
  return cudaGetLastError();
}

}  // namespace mdmcorrect::cuda
