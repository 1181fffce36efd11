// torch's current CUDA stream and the device guard, without linking a CUDA torch.
//
// This library must load beside a CPU torch too, whose libtorch lacks aoti_torch_get_current_cuda_stream. A CUDA tensor
// can only come from a CUDA torch, and then libtorch_cuda.so is in the process: the function is looked up there.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace mdmcorrect {

cudaStream_t current_cuda_stream(int32_t device);

// Makes `device` current for one scope.
class CudaDeviceGuard {
 public:
  explicit CudaDeviceGuard(int32_t device);
  ~CudaDeviceGuard();
  CudaDeviceGuard(const CudaDeviceGuard&) = delete;
  CudaDeviceGuard& operator=(const CudaDeviceGuard&) = delete;

 private:
  int previous_ = -1;
  bool changed_ = false;
};

// Throws a sentence with op and CUDA's own words if `error` is one.
void check_cuda(const char* op, cudaError_t error);

}  // namespace mdmcorrect
