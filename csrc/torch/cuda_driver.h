// Running our CUDA kernels through NVIDIA's driver, found at run time.
//
// Nothing of CUDA is linked or included: the library loads, and runs its CPU kernels, on any machine. Kernels come as
// images (fatbins or cubins): those nvcc made are part of the library, those NVRTC made are added by mdmcorrect/jit.py,
// and both are launched by the same code.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <cstdint>
#include <string>

#include "cuda/launch.h"
#include "torch/checks.h"

namespace mdmcorrect {

// Image of an op's kernels that nvcc made, or null.
struct CudaImage {
  const char* op;
  const unsigned char* data;
};
const CudaImage* embedded_images();  // ends with a null op

// An image of op's kernels, such as NVRTC makes; the bytes are copied and kept for the life of the process. It comes
// before one that the library holds.
void add_cuda_image(const std::string& op, const void* data, size_t size);

// Launches on torch's current stream of the device of `tensor`, which is current for the life of this object.
// Throws one sentence that names op where there is no kernel, no driver, or the driver refuses.
class CudaLauncher final : public cuda::Launcher {
 public:
  CudaLauncher(const char* op, const Tensor& tensor);
  void launch(const cuda::Launch& launch, const void* params, size_t size) override;

 private:
  const char* op_;
  torch::stable::accelerator::DeviceGuard guard_;
  int32_t device_;
  void* stream_;
};

}  // namespace mdmcorrect
