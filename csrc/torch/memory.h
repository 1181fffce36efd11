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

inline torch::stable::Tensor allocate(const char* op, const std::vector<int64_t>& shape,
                                      torch::headeronly::ScalarType type, const torch::stable::Device& device) {
  try {
    return torch::stable::empty(shape, type, std::nullopt, device);
  } catch (const std::exception&) {
    double bytes = bytes_of(type);
    for (const int64_t size : shape) bytes *= static_cast<double>(size);
    throw_out_of_memory(op, device.is_cpu() ? "CPU" : "CUDA", bytes);
  }
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
