// Binding of uniform: tensors in, params out, kernel called.
#include <torch/csrc/stable/library.h>

#include "cuda/uniform.h"
#include "torch/checks.h"
#include "torch/cuda_launcher.h"
#include "torch/parallel.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "uniform";
constexpr int64_t kCost = 2;  // nanoseconds a number takes

Tensor uniform(const Tensor& seed, const Tensor& positions, const Tensor& step, int64_t purpose, const Tensor& call,
               ScalarType dtype) {
  check(seed.dim() == 1, kOp, "seed: expected shape [B], got ", shape_of(seed));
  check(positions.dim() == 1 || positions.dim() == 2, kOp, "positions: expected shape [L] or [B, L], got ",
        shape_of(positions));
  check(dtype == ScalarType::Float || dtype == ScalarType::Double, kOp, "dtype: expected float32 or float64");
  check(purpose >= 0 && purpose < 65536, kOp, "purpose: expected a number in [0, 65536), got ", purpose);
  const int64_t batch = seed.size(0), length = positions.size(positions.dim() - 1);
  Tensor values = allocate(kOp, {batch, length}, dtype, seed.device());

  UniformParams params{};
  params.batch = batch;
  params.length = length;
  params.positions = position_grid(kOp, positions, batch, length, seed);
  params.seed = row_ints(kOp, "seed", seed, batch, seed);
  params.step = row_ints(kOp, "step", step, batch, seed);
  params.call = call_number(kOp, call, seed);
  params.purpose = static_cast<int32_t>(purpose);
  params.type = dtype == ScalarType::Float ? FloatType::float32 : FloatType::float64;
  params.values = values.mutable_data_ptr();
  if (batch == 0 || length == 0) return values;

  if (seed.is_cuda()) {
    CudaLauncher launcher(kOp, seed);
    cuda::uniform(params, nullptr, launcher);
    return values;
  }
  const CpuKernels& kernels = chosen_kernels(KernelGroup::rows);
  parallel_rows(kOp, batch, kCost * length, length,
                [&](int64_t begin, int64_t end, uint64_t* scratch) { kernels.uniform(params, begin, end, scratch); });
  return values;
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) { m.impl("uniform", TORCH_BOX(&mdmcorrect::uniform)); }
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) { m.impl("uniform", TORCH_BOX(&mdmcorrect::uniform)); }
