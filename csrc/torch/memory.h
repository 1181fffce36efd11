// Memory of outputs, workspaces and scratch. Where there is none, the error names the op and the size: across the ABI
// torch's own message is lost.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace mdmcorrect {

// " out of memory." is what programs look for that try again with a smaller batch.
[[noreturn]] inline void throw_out_of_memory(const char* op, const std::string& device, double bytes) {
  char size[32];
  std::snprintf(size, sizeof size, "%.4g", bytes / 1e9);
  throw std::runtime_error("mdmcorrect::" + std::string(op) + ": " + device + " out of memory. It could not have " +
                           size + " GB; give fewer rows at a time.");
}

inline double bytes_of(torch::headeronly::ScalarType type) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Byte:
    case ScalarType::Bool:
      return 1;
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return 2;
    case ScalarType::Float:
      return 4;
    default:
      return 8;
  }
}

inline int32_t dtype_code(torch::headeronly::ScalarType type) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Byte:
      return aoti_torch_dtype_uint8();
    case ScalarType::Bool:
      return aoti_torch_dtype_bool();
    case ScalarType::Half:
      return aoti_torch_dtype_float16();
    case ScalarType::BFloat16:
      return aoti_torch_dtype_bfloat16();
    case ScalarType::Float:
      return aoti_torch_dtype_float32();
    case ScalarType::Double:
      return aoti_torch_dtype_float64();
    default:
      return aoti_torch_dtype_int64();
  }
}

// A contiguous tensor of nothing yet, of at most five dimensions. By the C function: torch::stable::empty looks the
// operator up by name, which takes longer than a small kernel.
inline torch::stable::Tensor allocate(const char* op, const std::vector<int64_t>& shape,
                                      torch::headeronly::ScalarType type, const torch::stable::Device& device) {
  int64_t strides[5];
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape[i] > 1 ? shape[i] : 1;
  }
  const int32_t kind = device.is_cpu() ? aoti_torch_device_type_cpu() : aoti_torch_device_type_cuda();
  const int32_t index = device.is_cpu() ? 0 : device.index();
  AtenTensorHandle handle = nullptr;
  if (aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides, dtype_code(type), kind, index,
                               &handle) == AOTI_TORCH_SUCCESS) {
    return torch::stable::Tensor(handle);
  }
  double bytes = bytes_of(type);
  for (const int64_t size : shape) bytes *= static_cast<double>(size);
  throw_out_of_memory(op, device.is_cpu() ? "CPU" : "CUDA", bytes);
}

// A kernel's workspace on the device of `like`.
inline torch::stable::Tensor byte_tensor(const char* op, int64_t bytes, const torch::stable::Tensor& like) {
  return allocate(op, {bytes}, torch::headeronly::ScalarType::Byte, like.device());
}

inline std::unique_ptr<uint64_t[]> scratch_words(const char* op, int64_t words) {
  std::unique_ptr<uint64_t[]> scratch(new (std::nothrow) uint64_t[static_cast<size_t>(words)]);
  if (!scratch) throw_out_of_memory(op, "CPU", 8.0 * static_cast<double>(words));
  return scratch;
}

}  // namespace mdmcorrect
