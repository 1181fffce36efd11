// Binding of count_positions: tensors in, params out, kernel called.
#include <torch/csrc/stable/library.h>

#include "cuda/count_positions.h"
#include "torch/checks.h"
#include "torch/cuda_launcher.h"
#include "torch/parallel.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "count_positions";
constexpr int64_t kRules = 6;
constexpr int64_t kSortCost = 8;  // sorting a position takes about this many times what comparing it takes

Tensor count_positions(const Tensor& scores, int64_t rule, const Tensor& bound, const std::optional<Tensor>& eligible,
                       int64_t at_least) {
  check(scores.dim() == 2, kOp, "scores: expected shape [B, L], got ", shape_of(scores));
  check(rule >= 0 && rule < kRules, kOp, "rule: expected a number below ", kRules, ", got ", rule);
  const int64_t batch = scores.size(0), length = scores.size(1);
  check(bound.scalar_type() == ScalarType::Double, kOp, "bound: expected dtype float64");
  check(bound.dim() == 0 || (bound.dim() == 1 && bound.size(0) == batch), kOp, "bound: expected shape [] or [", batch,
        "], got ", shape_of(bound));
  check(bound.device() == scores.device(), kOp, "bound: expected it on the device of scores");
  Tensor counts = allocate(kOp, {batch}, ScalarType::Long, scores.device());

  CountPositionsParams params{};
  params.batch = batch;
  params.length = length;
  params.scores = float_grid(kOp, "scores", scores, batch, length, scores);
  params.eligible = bool_grid(kOp, "eligible", eligible, batch, length, scores);
  params.bound = static_cast<const double*>(bound.const_data_ptr());
  params.bound_stride = bound.dim() == 0 ? 0 : bound.stride(0);
  params.rule = static_cast<CountRule>(rule);
  params.at_least = at_least;
  params.counts = static_cast<int64_t*>(counts.mutable_data_ptr());

  if (scores.is_cuda()) {
    if (length == 0) torch::stable::zero_(counts);
    CudaLauncher launcher(kOp, scores);
    const Tensor workspace = byte_tensor(kOp, cuda::count_positions_workspace(params), scores);
    cuda::count_positions(params, workspace.mutable_data_ptr(), launcher);
    return counts;
  }
  const bool sorts = params.rule != CountRule::threshold && params.rule != CountRule::strict_threshold;
  parallel_rows(kOp, batch, (sorts ? kSortCost : 1) * length, 6 * length + 64,
                [&, kernels = &chosen_kernels(KernelGroup::rows)](int64_t begin, int64_t end, uint64_t* scratch) {
                  kernels->count_positions(params, begin, end, scratch);
                });
  return counts;
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) { m.impl("count_positions", TORCH_BOX(&mdmcorrect::count_positions)); }
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) { m.impl("count_positions", TORCH_BOX(&mdmcorrect::count_positions)); }
