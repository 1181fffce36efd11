// Binding of score_quality: tensors in, params out, kernel called.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <vector>

#include "cuda/score_quality.h"
#include "torch/cuda_launcher.h"
#include "torch/parallel.h"
#include "torch/row_index.h"
#include "torch/scoring.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "score_quality";
constexpr int64_t kLanesOfKernels = 16;

// [B, L, D] with a contiguous last dimension.
FloatRows float_rows(const char* name, const Tensor& tensor, const Tensor& hidden) {
  check(tensor.dim() == 3, kOp, name, ": expected shape [B, L, D], got ", shape_of(tensor));
  for (int64_t i = 0; i < 3; ++i) {
    check(tensor.size(i) == hidden.size(i), kOp, name, ": expected shape ", shape_of(hidden), ", got ",
          shape_of(tensor));
  }
  check(tensor.stride(2) == 1 || tensor.size(2) == 1, kOp, name, ": expected a contiguous last dimension");
  check(tensor.device() == hidden.device(), kOp, name, ": expected the device of the other tensors");
  return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(1), score_dtype(kOp, name, tensor.scalar_type())};
}

void check_head(const char* name, const std::optional<Tensor>& tensor, const Tensor& hidden) {
  if (!tensor) return;
  const int64_t size = hidden.size(2);
  check(tensor->dim() == 1 && tensor->size(0) == size, kOp, name, ": expected shape [", size, "], got ",
        shape_of(*tensor));
  check(tensor->scalar_type() == ScalarType::Float, kOp, name, ": expected dtype float32");
  check(tensor->device() == hidden.device(), kOp, name, ": expected the device of the other tensors");
}

// The head's vectors [D].
struct Head {
  const Tensor& weight;
  const std::optional<Tensor>& norm_weight;
  const std::optional<Tensor>& norm_bias;
};

void score_on_cuda(ScoreQualityParams params, const Head& head, const std::optional<Tensor>& row_index,
                   const Tensor& hidden) {
  std::vector<Tensor> held;  // until the launch
  const auto data = [&held](const std::optional<Tensor>& tensor) -> const void* {
    if (!tensor) return nullptr;
    held.push_back(torch::stable::contiguous(*tensor));
    return held.back().const_data_ptr();
  };
  params.weight = static_cast<const float*>(data(head.weight));
  params.norm_weight = static_cast<const float*>(data(head.norm_weight));
  params.norm_bias = static_cast<const float*>(data(head.norm_bias));
  if (row_index) check_row_index(kOp, *row_index, hidden);
  params.rows = row_index ? row_index->size(0) : params.batch * params.length;
  params.row_index = static_cast<const int64_t*>(data(row_index));
  CudaLauncher launcher(kOp, hidden);
  cuda::score_quality(params, nullptr, launcher);
}

// The vector, or `absent` throughout, followed by the zeros that the CPU's kernel asks for.
std::vector<float> padded_vector(const std::optional<Tensor>& tensor, float absent, int64_t size) {
  std::vector<float> values(static_cast<size_t>(size + kLanesOfKernels));
  const float* data = tensor ? static_cast<const float*>(tensor->const_data_ptr()) : nullptr;
  for (int64_t i = 0; i < size; ++i) values[static_cast<size_t>(i)] = tensor ? data[i * tensor->stride(0)] : absent;
  return values;
}

void score_on_cpu(ScoreQualityParams params, const Head& head, const std::optional<Tensor>& row_index,
                  const Tensor& hidden) {
  const std::vector<float> weight = padded_vector(head.weight, 0.0f, params.size);
  const std::vector<float> norm_weight = padded_vector(head.norm_weight, 1.0f, params.size);
  const std::vector<float> norm_bias = padded_vector(head.norm_bias, 0.0f, params.size);
  const std::vector<int64_t> rows = indexed_rows(kOp, row_index, params.batch * params.length, hidden);
  params.weight = weight.data();
  params.norm_weight = norm_weight.data();
  params.norm_bias = norm_bias.data();
  params.rows = static_cast<int64_t>(rows.size());
  params.row_index = rows.data();
  if (params.rows == 0) return;
  const CpuKernels& kernels = chosen_kernels(KernelGroup::rows);
  parallel_rows(
      kOp, params.rows, params.size / 4, 2 * (params.size + kLanesOfKernels),
      [&](int64_t begin, int64_t end, uint64_t* scratch) { kernels.score_quality(params, begin, end, scratch); });
}

Tensor score_quality(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias, int64_t norm,
                     const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias,
                     const std::optional<Tensor>& shift, const std::optional<Tensor>& scale, double eps, bool logit,
                     const std::optional<Tensor>& row_index) {
  check(hidden.dim() == 3 && hidden.size(2) > 0, kOp, "hidden: expected shape [B, L, D] with D >= 1, got ",
        shape_of(hidden));
  check(norm >= 0 && norm <= 2, kOp, "norm: expected 0 (none), 1 (layer) or 2 (rms), got ", norm);
  const int64_t batch = hidden.size(0), length = hidden.size(1), size = hidden.size(2);
  ScoreQualityParams params{};
  params.batch = batch;
  params.length = length;
  params.size = size;
  params.hidden = float_rows("hidden", hidden, hidden);
  check_head("weight", weight, hidden);
  check_head("norm_weight", norm_weight, hidden);
  check_head("norm_bias", norm_bias, hidden);
  if (bias) {
    check(bias->dim() == 0, kOp, "bias: expected shape [], got ", shape_of(*bias));
    check(bias->scalar_type() == ScalarType::Float, kOp, "bias: expected dtype float32");
    check(bias->device() == hidden.device(), kOp, "bias: expected the device of the other tensors");
    params.bias = static_cast<const float*>(bias->const_data_ptr());
  }
  if (shift) params.shift = float_rows("shift", *shift, hidden);
  if (scale) params.scale = float_rows("scale", *scale, hidden);
  params.norm = static_cast<QualityNorm>(norm);
  params.eps = eps;
  params.logit = logit;

  Tensor quality = allocate(kOp, {batch, length}, ScalarType::Float, hidden.device());
  params.quality = static_cast<float*>(quality.mutable_data_ptr());
  if (row_index) torch::stable::fill_(quality, std::numeric_limits<double>::quiet_NaN());
  (hidden.is_cuda() ? score_on_cuda : score_on_cpu)(params, {weight, norm_weight, norm_bias}, row_index, hidden);
  return quality;
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) { m.impl("score_quality", TORCH_BOX(&mdmcorrect::score_quality)); }
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) { m.impl("score_quality", TORCH_BOX(&mdmcorrect::score_quality)); }
