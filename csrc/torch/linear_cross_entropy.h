// What the bindings of linear_cross_entropy for CPU and CUDA share.
#pragma once

#include <optional>
#include <vector>

#include "torch/checks.h"

namespace mdmcorrect {

using OptionalTensor = std::optional<Tensor>;

// Shapes, dtypes and devices. value_type: of losses and bias.
inline void check_loss_arguments(const char* op, const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                                 const OptionalTensor& bias, const OptionalTensor& row_index, ScalarType value_type) {
  check(hidden.dim() == 2 && hidden.size(1) > 0, op, "hidden: expected shape [N, D] with D >= 1, got ",
        shape_of(hidden));
  check(weight.dim() == 2 && weight.size(1) == hidden.size(1) && weight.size(0) > 0, op, "weight: expected shape [V, ",
        hidden.size(1), "] with V >= 1, got ", shape_of(weight));
  check(weight.scalar_type() == hidden.scalar_type(), op, "weight: expected the dtype of hidden");
  check(hidden.stride(1) == 1 || hidden.size(1) == 1, op, "hidden: expected a contiguous last dimension");
  check(weight.stride(1) == 1 || weight.size(1) == 1, op, "weight: expected a contiguous last dimension");
  check(targets.dim() == 1 && targets.size(0) == hidden.size(0), op, "targets: expected shape [", hidden.size(0),
        "], got ", shape_of(targets));
  check(targets.scalar_type() == ScalarType::Long, op, "targets: expected dtype int64");
  for (const Tensor* tensor : {&weight, &targets}) {
    check(tensor->device() == hidden.device(), op, "weight, targets: expected the device of hidden");
  }
  if (row_index) {
    check(row_index->dim() == 1, op, "row_index: expected shape [R], got ", shape_of(*row_index));
    check(row_index->scalar_type() == ScalarType::Long, op, "row_index: expected dtype int64");
    check(row_index->device() == hidden.device(), op, "row_index: expected the device of hidden");
  }
  if (bias) {
    check(bias->dim() == 1 && bias->size(0) == weight.size(0) && (bias->stride(0) == 1 || bias->size(0) == 1), op,
          "bias: expected contiguous shape [", weight.size(0), "], got ", shape_of(*bias));
    check(bias->scalar_type() == value_type, op, "bias: expected float32, or float64 where hidden is");
    check(bias->device() == hidden.device(), op, "bias: expected the device of hidden");
  }
}

// softcap 0: none.
inline void check_loss_options(const char* op, double label_smoothing, double softcap) {
  check(label_smoothing >= 0.0 && label_smoothing <= 1.0, op, "label_smoothing: expected a number in [0, 1], got ",
        label_smoothing);
  check(softcap == 0.0 || (softcap >= 1e-30 && softcap <= 1e30), op,
        "softcap: expected 0 or a number in [1e-30, 1e30], got ", softcap);
}

// grad_losses [N] and normaliser [2, N] of a backward.
inline void check_loss_gradient(const char* op, const Tensor& grad_losses, const Tensor& normaliser,
                                const Tensor& hidden, ScalarType value_type) {
  check(grad_losses.dim() == 1 && grad_losses.size(0) == hidden.size(0) && normaliser.dim() == 2 &&
            normaliser.size(0) == 2 && normaliser.size(1) == hidden.size(0),
        op, "backward: expected grad_losses [", hidden.size(0), "] and the forward's normaliser [2, ", hidden.size(0),
        "], got ", shape_of(grad_losses), " and ", shape_of(normaliser));
  for (const Tensor* tensor : {&grad_losses, &normaliser}) {
    check(tensor->scalar_type() == value_type && tensor->device() == hidden.device(), op,
          "backward: expected grad_losses and normaliser of the dtype and device of the forward's losses");
  }
}

// Memory for the gradient of an input, [0] where nobody needs it.
inline Tensor empty_gradient(const char* op, const Tensor& input, bool needed) {
  std::vector<int64_t> shape;
  for (int64_t i = 0; needed && i < input.dim(); ++i) shape.push_back(input.size(i));
  if (!needed) shape.push_back(0);
  return allocate(op, shape, input.scalar_type(), input.device());
}

}  // namespace mdmcorrect
