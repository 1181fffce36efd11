// Binding of select_positions: tensors in, params out, kernel called.
#include <torch/csrc/stable/library.h>

#include "cuda/select_positions.h"
#include "torch/checks.h"
#include "torch/cuda_launcher.h"
#include "torch/parallel.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "select_positions";
constexpr int64_t kGumbelCost = 24;  // a Gumbel key takes about this many times what reading a score takes

Tensor select_positions(const Tensor& scores, const Tensor& k, const std::optional<Tensor>& eligible,
                        double temperature, const std::optional<Tensor>& positions, bool largest, const Tensor& seed,
                        const Tensor& step, const Tensor& call) {
  check(scores.dim() == 2, kOp, "scores: expected shape [B, L], got ", shape_of(scores));
  check(temperature >= 0.0 && temperature < std::numeric_limits<double>::infinity(), kOp,
        "temperature: expected a finite number >= 0, got ", temperature);
  const int64_t batch = scores.size(0), length = scores.size(1);
  Tensor selected = allocate(kOp, {batch, length}, ScalarType::Bool, scores.device());

  SelectPositionsParams params{};
  params.batch = batch;
  params.length = length;
  params.scores = float_grid(kOp, "scores", scores, batch, length, scores);
  params.eligible = bool_grid(kOp, "eligible", eligible, batch, length, scores);
  params.positions = position_grid(kOp, positions, batch, length, scores);
  params.k = row_ints(kOp, "k", k, batch, scores);
  params.seed = row_seeds(kOp, seed, batch, scores);
  params.step = row_ints(kOp, "step", step, batch, scores);
  params.call = call_number(kOp, call, scores);
  params.temperature = temperature;
  params.largest = largest;
  params.selected = static_cast<uint8_t*>(selected.mutable_data_ptr());
  if (batch == 0 || length == 0) return selected;

  if (scores.is_cuda()) {
    CudaLauncher launcher(kOp, scores);
    const Tensor workspace = byte_tensor(kOp, cuda::select_positions_workspace(params), scores);
    cuda::select_positions(params, workspace.mutable_data_ptr(), launcher);
    return selected;
  }
  const CpuKernels& kernels = chosen_kernels(KernelGroup::rows);
  const int64_t row_cost = temperature > 0.0 ? kGumbelCost * length : length;
  parallel_rows(kOp, batch, row_cost, 6 * length + 64, [&](int64_t begin, int64_t end, uint64_t* scratch) {
    kernels.select_positions(params, begin, end, scratch);
  });
  return selected;
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) { m.impl("select_positions", TORCH_BOX(&mdmcorrect::select_positions)); }
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) { m.impl("select_positions", TORCH_BOX(&mdmcorrect::select_positions)); }
