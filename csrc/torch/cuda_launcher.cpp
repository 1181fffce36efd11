#include "torch/cuda_launcher.h"

#include <dlfcn.h>
#include <torch/csrc/stable/library.h>

#include <stdexcept>
#include <string>

namespace mdmcorrect {

namespace {

using GetCurrentStream = int32_t (*)(int32_t device, void** stream);

// A CPU torch lacks this function, and the stable ABI at 2.10 gives no native handle of a stream. A CUDA tensor can only
// come from a CUDA torch, and then its library is in the process.
void* current_stream(const char* op, int32_t device) {
  static const GetCurrentStream get = []() -> GetCurrentStream {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    if (library == nullptr) return nullptr;
    return reinterpret_cast<GetCurrentStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  void* stream = nullptr;
  if (get == nullptr || get(device, &stream) != 0) {
    throw std::runtime_error("mdmcorrect::" + std::string(op) +
                             ": torch did not give the current CUDA stream of device " + std::to_string(device) + ".");
  }
  return stream;
}

void add_cuda_image(std::string op, const Tensor& image) {
  check(image.dim() == 1 && image.scalar_type() == ScalarType::Byte && image.is_cpu() && image.is_contiguous(),
        "add_cuda_image", "image: expected contiguous uint8 [n] on the CPU, got ", shape_of(image));
  cuda::add_image(op, image.const_data_ptr(), static_cast<size_t>(image.numel()));
}

void load_cuda_kernels(std::string op, int64_t device) {
  const auto index = static_cast<int32_t>(device);
  const torch::stable::accelerator::DeviceGuard guard(index);
  cuda::DriverLauncher(op.c_str(), index, nullptr).load();
}

}  // namespace

CudaLauncher::CudaLauncher(const char* op, const Tensor& tensor)
    : guard_(tensor.get_device_index()),
      driver_(op, tensor.get_device_index(), current_stream(op, tensor.get_device_index())) {}

}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CompositeExplicitAutograd, m) {
  m.impl("add_cuda_image", TORCH_BOX(&mdmcorrect::add_cuda_image));
  m.impl("load_cuda_kernels", TORCH_BOX(&mdmcorrect::load_cuda_kernels));
}
