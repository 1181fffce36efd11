// Argument checks of the bindings. The Python wrappers have said everything in a user's words before; these hold the
// contract for whoever calls torch.ops.mdmcorrect directly, so that no wrong argument can crash a kernel.
//
// Only shapes, dtypes and devices are looked at, never values: a value on a device would cost a synchronisation.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/tensor_view.h"
#include "cpu/isa_choice.h"
#include "torch/memory.h"

namespace mdmcorrect {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A shape as a check's sentence says it: written only where there is something to say, for a sentence takes longer than
// a small kernel.
struct ShapeOf {
  const Tensor& tensor;
};

inline ShapeOf shape_of(const Tensor& tensor) { return {tensor}; }

inline std::ostream& operator<<(std::ostream& out, ShapeOf shape) {
  out << '[';
  for (int64_t i = 0; i < shape.tensor.dim(); ++i) out << (i == 0 ? "" : ", ") << shape.tensor.size(i);
  return out << ']';
}

// Plain runtime_error: STD_TORCH_CHECK would put file and line before a sentence meant for users.
template <class... Parts>
void check(bool condition, const char* op, const Parts&... parts) {
  if (condition) return;
  std::ostringstream out;
  out << "mdmcorrect::" << op << ": ";
  (out << ... << parts);
  throw std::runtime_error(out.str());
}

// Shape, dtype and device of an argument against what `like` (the op's first tensor) has.
inline void check_grid(const char* op, const char* name, const Tensor& tensor, int64_t batch, int64_t length,
                       const Tensor& like) {
  check(tensor.dim() == 2 && tensor.size(0) == batch && tensor.size(1) == length, op, name, ": expected shape [", batch,
        ", ", length, "], got ", shape_of(tensor));
  check(tensor.device() == like.device(), op, name, ": expected the device of the other tensors");
}

inline FloatGrid float_grid(const char* op, const char* name, const std::optional<Tensor>& tensor, int64_t batch,
                            int64_t length, const Tensor& like) {
  if (!tensor) return {nullptr, 0, 0, FloatType::float32};
  check_grid(op, name, *tensor, batch, length, like);
  FloatType type = FloatType::float32;
  switch (tensor->scalar_type()) {
    case ScalarType::Float:
      break;
    case ScalarType::BFloat16:
      type = FloatType::bfloat16;
      break;
    case ScalarType::Half:
      type = FloatType::float16;
      break;
    default:
      check(false, op, name, ": expected float32, bfloat16 or float16");
  }
  return {tensor->const_data_ptr(), tensor->stride(0), tensor->stride(1), type};
}

inline Grid<uint8_t> bool_grid(const char* op, const char* name, const std::optional<Tensor>& tensor, int64_t batch,
                               int64_t length, const Tensor& like) {
  if (!tensor) return {nullptr, 0, 0};
  check_grid(op, name, *tensor, batch, length, like);
  check(tensor->scalar_type() == ScalarType::Bool, op, name, ": expected dtype bool");
  return {static_cast<const uint8_t*>(tensor->const_data_ptr()), tensor->stride(0), tensor->stride(1)};
}

inline Grid<int64_t> int_grid(const char* op, const char* name, const Tensor& tensor, int64_t batch, int64_t length,
                              const Tensor& like) {
  check_grid(op, name, tensor, batch, length, like);
  check(tensor.scalar_type() == ScalarType::Long, op, name, ": expected dtype int64");
  return {static_cast<const int64_t*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1)};
}

// positions: absent, [L] or [B, L].
inline Grid<int64_t> position_grid(const char* op, const std::optional<Tensor>& tensor, int64_t batch, int64_t length,
                                   const Tensor& like, const char* name = "positions") {
  if (!tensor) return {nullptr, 0, 0};
  if (tensor->dim() == 2) return int_grid(op, name, *tensor, batch, length, like);
  check(tensor->dim() == 1 && tensor->size(0) == length, op, name, ": expected shape [", length, "] or [", batch, ", ",
        length, "], got ", shape_of(*tensor));
  check(tensor->scalar_type() == ScalarType::Long, op, name, ": expected dtype int64");
  check(tensor->device() == like.device(), op, name, ": expected the device of the other tensors");
  return {static_cast<const int64_t*>(tensor->const_data_ptr()), 0, tensor->stride(0)};
}

// One integer per row, [B], or one for all, [].
inline RowInts row_ints(const char* op, const char* name, const std::optional<Tensor>& tensor, int64_t batch,
                        const Tensor& like) {
  if (!tensor) return {nullptr, 0};
  const bool shared = tensor->dim() == 0;
  check(shared || (tensor->dim() == 1 && tensor->size(0) == batch), op, name, ": expected shape [] or [", batch,
        "], got ", shape_of(*tensor));
  check(tensor->scalar_type() == ScalarType::Long, op, name, ": expected dtype int64");
  check(tensor->device() == like.device(), op, name, ": expected the device of the other tensors");
  return {static_cast<const int64_t*>(tensor->const_data_ptr()), shared ? 0 : tensor->stride(0)};
}

// [B], one seed per sequence, or [], from which each gets its own: a stride of 0 tells the kernels so.
inline RowInts row_seeds(const char* op, const Tensor& tensor, int64_t batch, const Tensor& like) {
  RowInts seeds = row_ints(op, "seed", tensor, batch, like);
  if (tensor.dim() == 1 && batch <= 1) seeds.row_stride = 1;
  check(seeds.row_stride != 0 || tensor.dim() == 0, op, "seed: expected no stride of 0, call .contiguous() first");
  return seeds;
}

// call: [], one number for the whole call.
inline const int64_t* call_number(const char* op, const Tensor& tensor, const Tensor& like) {
  check(tensor.dim() == 0, op, "call: expected shape [], got ", shape_of(tensor));
  return row_ints(op, "call", tensor, 1, like).data;
}

// ids: int64 [n].
inline void check_ids(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  check(tensor.dim() == 1, op, name, ": expected shape [n], got ", shape_of(tensor));
  check(tensor.scalar_type() == ScalarType::Long, op, name, ": expected dtype int64");
  check(tensor.device() == like.device(), op, name, ": expected the device of the other tensors");
}

// A list of ids, sorted; ids outside the vocabulary name nothing and are dropped.
inline std::vector<int64_t> sorted_ids(const char* op, const char* name, const std::optional<Tensor>& tensor,
                                       int64_t vocab, const Tensor& like) {
  std::vector<int64_t> ids;
  if (!tensor) return ids;
  check_ids(op, name, *tensor, like);
  const int64_t* data = static_cast<const int64_t*>(tensor->const_data_ptr());
  for (int64_t i = 0; i < tensor->size(0); ++i) {
    const int64_t id = data[i * tensor->stride(0)];
    if (id >= 0 && id < vocab) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

// The kernels of this process for a group of them, or the sentence about MDMCORRECT_ISA.
inline const CpuKernels& chosen_kernels(KernelGroup group) {
  const CpuKernels* kernels = cpu_kernels_of(group);
  if (kernels == nullptr) throw std::runtime_error(isa_error());
  return *kernels;
}

// What an op answers to a CUDA tensor when there is no CUDA kernel for it.
[[noreturn]] inline void throw_no_cuda_kernel(const char* op) {
  throw std::runtime_error("mdmcorrect::" + std::string(op) +
                           ": got a CUDA tensor, but there is no CUDA kernel for this op here; move its tensors to the "
                           "CPU, or see `mdmcorrect doctor` for how to get CUDA kernels.");
}

}  // namespace mdmcorrect
