// Products of matrices by torch's own kernels (cuBLAS on a device), through the dispatcher.
#pragma once

#include <array>

#include "torch/checks.h"

namespace mdmcorrect {

// out = a b, of any strides and rounded once. Factors of 16 bits may have a float32 `out`, on CUDA alone.
inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  using torch::stable::detail::from;
  if (out.scalar_type() == a.scalar_type()) {
    std::array<StableIValue, 3> stack{from(a), from(b), from(out)};
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
    (void)torch::stable::detail::to<Tensor>(stack[0]);
    return;
  }
  std::array<StableIValue, 4> stack{from(a), from(b), from(out.scalar_type()), from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "dtype_out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);
}

// out = rows layer^T + bias, of any strides and rounded once, by the kernels behind torch.nn.functional.linear.
inline void linear_out(const Tensor& rows, const Tensor& layer, const std::optional<Tensor>& bias, const Tensor& out) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(rows), from(layer), from(bias), from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::linear", "out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);
}

// The same memory as numbers of another type.
inline Tensor view_as(const Tensor& tensor, ScalarType type) {
  std::array<StableIValue, 2> stack{torch::stable::detail::from(tensor), torch::stable::detail::from(type)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::view", "dtype", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

inline Tensor rows_between(Tensor tensor, int64_t begin, int64_t end) {
  return torch::stable::narrow(tensor, 0, begin, end - begin);
}
inline Tensor columns_between(Tensor tensor, int64_t begin, int64_t end) {
  return torch::stable::narrow(tensor, 1, begin, end - begin);
}

}  // namespace mdmcorrect
