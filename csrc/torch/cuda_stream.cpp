#include "torch/cuda_stream.h"

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace mdmcorrect {

namespace {

using GetCurrentStream = int32_t (*)(int32_t device_index, void** stream);

GetCurrentStream find_get_current_stream() {
  void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);  // already loaded, or nothing
  if (library == nullptr) return nullptr;
  return reinterpret_cast<GetCurrentStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
}

}  // namespace

cudaStream_t current_cuda_stream(int32_t device) {
  static const GetCurrentStream get_current_stream = find_get_current_stream();
  if (get_current_stream == nullptr) {
    throw std::runtime_error(
        "mdmcorrect: got a CUDA tensor, but this torch has no libtorch_cuda.so to give its stream.");
  }
  void* stream = nullptr;
  if (get_current_stream(device, &stream) != 0) {
    throw std::runtime_error("mdmcorrect: torch did not give the current CUDA stream of device " +
                             std::to_string(device) + ".");
  }
  return static_cast<cudaStream_t>(stream);
}

CudaDeviceGuard::CudaDeviceGuard(int32_t device) {
  check_cuda("cudaGetDevice", cudaGetDevice(&previous_));
  if (previous_ == device) return;
  check_cuda("cudaSetDevice", cudaSetDevice(device));
  changed_ = true;
}

CudaDeviceGuard::~CudaDeviceGuard() {
  if (changed_) cudaSetDevice(previous_);
}

void check_cuda(const char* op, cudaError_t error) {
  if (error == cudaSuccess) return;
  std::string sentence = "mdmcorrect::" + std::string(op) + ": CUDA says: " + cudaGetErrorString(error);
  if (error == cudaErrorInsufficientDriver) sentence += " (a build with nvcc 13 needs driver 580 or newer)";
  if (error == cudaErrorNoKernelImageForDevice) {
    sentence += " (rebuild with MDMCORRECT_CUDA_ARCHS naming this device's architecture; `mdmcorrect doctor` names it)";
  }
  throw std::runtime_error(sentence + ".");
}

}  // namespace mdmcorrect
