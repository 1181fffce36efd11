// Binding of linear_cross_entropy and its backward on CUDA: torch multiplies, our kernels do the rest.
#include "cuda/linear_cross_entropy.h"

#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "torch/cuda_launcher.h"
#include "torch/linear_cross_entropy.h"
#include "torch/matmul.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "linear_cross_entropy";

FloatType cuda_element_type(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return FloatType::float32;
    case ScalarType::BFloat16:
      return FloatType::bfloat16;
    default:
      check(type == ScalarType::Half, kOp, "hidden: expected float32, bfloat16 or float16 on CUDA");
      return FloatType::float16;
  }
}

Tensor matrix(int64_t rows, int64_t columns, ScalarType type, const Tensor& like) {
  return allocate(kOp, {rows, columns}, type, like.device());
}

// Parameters of a call and the memory they point into.
class CudaCall final : public cuda::LossProducts {
 public:
  CudaCall(const Tensor& hidden, const Tensor& weight, const Tensor& targets, const OptionalTensor& bias,
           const OptionalTensor& suppress, const OptionalTensor& row_index, int64_t ignore_index,
           double label_smoothing, double softcap)
      : weight_(weight), targets_(torch::stable::contiguous(targets)) {
    check_loss_arguments(kOp, hidden, weight, targets, bias, row_index, ScalarType::Float);
    params.type = cuda_element_type(hidden.scalar_type());
    params.all_rows = hidden.size(0);
    params.rows = row_index && params.all_rows > 0 ? row_index->size(0) : params.all_rows;
    check(params.rows < std::numeric_limits<int32_t>::max(), kOp, "hidden: expected fewer than 2^31 rows on CUDA");
    params.vocab = weight.size(0);
    params.width = weight.size(1);
    params.block_ids = cuda::loss_block_ids(params.rows, params.vocab);
    params.hidden = hidden.const_data_ptr();
    params.hidden_stride = hidden.stride(0);
    params.targets = static_cast<const int64_t*>(targets_.const_data_ptr());
    params.ignore_index = ignore_index;
    if (row_index) {
      rows_ = torch::stable::contiguous(*row_index);
      params.row_index = static_cast<const int64_t*>(rows_->const_data_ptr());
    }
    check_loss_options(kOp, label_smoothing, softcap);
    params.label_smoothing = static_cast<float>(label_smoothing);
    params.softcap = static_cast<float>(softcap);
    if (bias) params.bias = static_cast<const float*>(bias->const_data_ptr());
    if (suppress) {
      check_ids(kOp, "suppress", *suppress, hidden);
      suppress_ = torch::stable::contiguous(*suppress);
      params.suppress = static_cast<const int64_t*>(suppress_->const_data_ptr());
      params.suppress_count = suppress_->size(0);
    }
    const ScalarType type = hidden.scalar_type();
    packed_hidden_ = matrix(params.rows, params.width, type, hidden);
    logits_ = matrix(params.rows, params.block_ids, ScalarType::Float, hidden);
    gradient_ = type == ScalarType::Float ? *logits_ : view_as(*logits_, type);
    params.packed_hidden = packed_hidden_->mutable_data_ptr();
    params.logits = static_cast<float*>(logits_->mutable_data_ptr());
  }

  // Where gradients go; those not set are not computed.
  void set_gradients(const Tensor* grad_hidden, const Tensor* grad_weight, const Tensor* grad_bias) {
    if (grad_weight != nullptr) grad_weight_ = *grad_weight;
    if (grad_bias != nullptr) {
      grad_bias_ = torch::stable::reshape(*grad_bias, {1, params.vocab});
      ones_ = matrix(1, params.rows, weight_.scalar_type(), weight_);
      torch::stable::fill_(*ones_, 1.0);
    }
    if (grad_hidden == nullptr) return;
    product_ = matrix(params.rows, params.width, ScalarType::Float, weight_);
    sums_ = matrix(params.rows, params.width, ScalarType::Float, weight_);
    params.hidden_product = static_cast<float*>(product_->mutable_data_ptr());
    params.hidden_sums = static_cast<float*>(sums_->mutable_data_ptr());
    params.grad_hidden = grad_hidden->mutable_data_ptr();
  }

  void run() {
    CudaLauncher launcher(kOp, weight_);
    const Tensor workspace = byte_tensor(kOp, cuda::linear_cross_entropy_blocks_workspace(params), weight_);
    cuda::linear_cross_entropy_blocks(params, workspace.mutable_data_ptr(), *this, launcher);
  }

  void logits(int64_t first_id, int64_t ids) override {
    const Tensor weight = rows_between(weight_, first_id, first_id + ids);
    multiply(*packed_hidden_, torch::stable::transpose(weight, 0, 1), columns_between(*logits_, 0, ids));
  }
  void grad_weight(int64_t first_id, int64_t ids) override {
    if (!grad_weight_) return;
    const Tensor gradient = columns_between(*gradient_, 0, ids);
    multiply(torch::stable::transpose(gradient, 0, 1), *packed_hidden_,
             rows_between(*grad_weight_, first_id, first_id + ids));
  }
  void grad_bias(int64_t first_id, int64_t ids) override {
    if (!grad_bias_) return;
    multiply(*ones_, columns_between(*gradient_, 0, ids), columns_between(*grad_bias_, first_id, first_id + ids));
  }
  void hidden_product(int64_t first_id, int64_t ids) override {
    multiply(columns_between(*gradient_, 0, ids), rows_between(weight_, first_id, first_id + ids), *product_);
  }

  LinearCrossEntropyBlocksParams params{};

 private:
  const Tensor weight_, targets_;
  OptionalTensor rows_, suppress_, packed_hidden_, logits_, gradient_, product_, sums_;
  OptionalTensor grad_weight_, grad_bias_, ones_;
};

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_cross_entropy(const Tensor& hidden, const Tensor& weight,
                                                                const Tensor& targets, const OptionalTensor& bias,
                                                                const OptionalTensor& suppress,
                                                                const OptionalTensor& row_index, int64_t ignore_index,
                                                                double label_smoothing, double softcap) {
  CudaCall call(hidden, weight, targets, bias, suppress, row_index, ignore_index, label_smoothing, softcap);
  const auto empty = [&](ScalarType type) { return allocate(kOp, {hidden.size(0)}, type, hidden.device()); };
  const Tensor losses = empty(ScalarType::Float);
  const Tensor normaliser = allocate(kOp, {2, hidden.size(0)}, ScalarType::Float, hidden.device());
  const Tensor correct = empty(ScalarType::Bool), counted = empty(ScalarType::Bool);
  call.params.losses = static_cast<float*>(losses.mutable_data_ptr());
  call.params.maximum = static_cast<float*>(normaliser.mutable_data_ptr());
  call.params.log_sum = call.params.maximum + hidden.size(0);
  call.params.correct = static_cast<uint8_t*>(correct.mutable_data_ptr());
  call.params.counted = static_cast<uint8_t*>(counted.mutable_data_ptr());
  call.run();
  return {losses, normaliser, correct, counted};
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(
    const Tensor& grad_losses, const Tensor& hidden, const Tensor& weight, const Tensor& targets,
    const OptionalTensor& bias, const OptionalTensor& suppress, const OptionalTensor& row_index, int64_t ignore_index,
    const Tensor& normaliser, bool needs_hidden, bool needs_weight, bool needs_bias, double label_smoothing,
    double softcap) {
  CudaCall call(hidden, weight, targets, bias, suppress, row_index, ignore_index, label_smoothing, softcap);
  check_loss_gradient(kOp, grad_losses, normaliser, hidden, ScalarType::Float);
  check(!needs_bias || bias.has_value(), kOp, "backward: there is no bias to differentiate");
  const Tensor upstream = torch::stable::contiguous(grad_losses), known = torch::stable::contiguous(normaliser);
  Tensor grad_hidden = empty_gradient(kOp, hidden, needs_hidden),
         grad_weight = empty_gradient(kOp, weight, needs_weight);
  Tensor grad_bias = empty_gradient(kOp, bias ? *bias : hidden, needs_bias);
  torch::stable::zero_(grad_hidden);
  if (call.params.rows == 0) {
    torch::stable::zero_(grad_weight);
    torch::stable::zero_(grad_bias);
    return {grad_hidden, grad_weight, grad_bias};
  }
  call.params.grad_losses = static_cast<const float*>(upstream.const_data_ptr());
  call.params.known_maximum = static_cast<const float*>(known.const_data_ptr());
  call.params.known_log_sum = call.params.known_maximum + hidden.size(0);
  call.set_gradients(needs_hidden ? &grad_hidden : nullptr, needs_weight ? &grad_weight : nullptr,
                     needs_bias ? &grad_bias : nullptr);
  call.run();
  return {grad_hidden, grad_weight, grad_bias};
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) {
  m.impl("linear_cross_entropy", TORCH_BOX(&mdmcorrect::linear_cross_entropy));
  m.impl("linear_cross_entropy_backward", TORCH_BOX(&mdmcorrect::linear_cross_entropy_backward));
}
