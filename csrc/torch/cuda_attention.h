// What the CUDA kernels of attention ask of their tensors beyond what csrc/torch/attention.h checks.
#pragma once

#include <limits>

#include "torch/attention.h"

namespace mdmcorrect {

// The kernels move 16 bytes at a time. Slices of a projection are aligned as they are; others are copied.
inline Tensor aligned_heads(const char* op, const Tensor& tensor) {
  constexpr uint64_t kBytes = 16;
  uint64_t places = reinterpret_cast<uint64_t>(tensor.const_data_ptr());
  for (int64_t dim = 0; dim < 3; ++dim) {
    if (tensor.size(dim) > 1) places |= static_cast<uint64_t>(tensor.stride(dim)) * tensor.element_size();
  }
  if (places % kBytes == 0) return tensor;
  Tensor copy = empty_heads(op, tensor.size(0), tensor.size(1), tensor.size(2), tensor);
  return torch::stable::copy_(copy, tensor);
}

inline void check_cuda_attention(const char* op, const BidirectionalAttentionParams& params) {
  check(params.type == FloatType::bfloat16 || params.type == FloatType::float16, op,
        "q: the CUDA kernels take bfloat16 and float16; use torch's scaled_dot_product_attention for wider floats");
  check(params.batch * params.heads * params.queries <= std::numeric_limits<int32_t>::max(), op,
        "q: expected fewer than 2^31 rows on CUDA");
}

}  // namespace mdmcorrect
