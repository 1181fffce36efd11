// Binding of remask_step: tensors in, params out, kernel called.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/remask_step.h"
#include "torch/checks.h"
#include "torch/cuda_launcher.h"
#include "torch/parallel.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "remask_step";

using OptionalTensor = std::optional<Tensor>;

std::tuple<Tensor, Tensor, Tensor> remask_step(const Tensor& tokens, const Tensor& proposals,
                                               const OptionalTensor& unmask_score, const OptionalTensor& keep_score,
                                               const OptionalTensor& unmask_count, const OptionalTensor& remask_count,
                                               int64_t mask_id, const OptionalTensor& fixed,
                                               const OptionalTensor& eligible, bool refill_if_short,
                                               const OptionalTensor& keep_count, const OptionalTensor& commit,
                                               const OptionalTensor& remask) {
  check(tokens.dim() == 2, kOp, "tokens: expected shape [B, L], got ", shape_of(tokens));
  if (keep_count) {
    check(unmask_score && keep_score, kOp, "keep_count: needs unmask_score and keep_score");
    check(!commit && !remask && !unmask_count && !remask_count, kOp,
          "keep_count: excludes commit, remask, unmask_count and remask_count");
  } else {
    check(commit.has_value() != (unmask_score && unmask_count), kOp,
          "commit: expected either commit, or unmask_score and unmask_count");
    check(!remask || !remask_count, kOp, "remask: expected either remask, or keep_score and remask_count, or neither");
    check(!remask_count || keep_score, kOp, "remask_count: needs keep_score");
  }
  const int64_t batch = tokens.size(0), length = tokens.size(1);
  const auto device = tokens.device();
  Tensor out = allocate(kOp, {batch, length}, ScalarType::Long, device);
  Tensor committed = allocate(kOp, {batch, length}, ScalarType::Bool, device);
  Tensor remasked = allocate(kOp, {batch, length}, ScalarType::Bool, device);

  RemaskStepParams params{};
  params.batch = batch;
  params.length = length;
  params.mask_id = mask_id;
  params.tokens = int_grid(kOp, "tokens", tokens, batch, length, tokens);
  params.proposals = int_grid(kOp, "proposals", proposals, batch, length, tokens);
  params.fixed = bool_grid(kOp, "fixed", fixed, batch, length, tokens);
  params.eligible = bool_grid(kOp, "eligible", eligible, batch, length, tokens);
  params.commit = bool_grid(kOp, "commit", commit, batch, length, tokens);
  params.unmask_score = float_grid(kOp, "unmask_score", unmask_score, batch, length, tokens);
  params.unmask_count = row_ints(kOp, "unmask_count", unmask_count, batch, tokens);
  params.remask = bool_grid(kOp, "remask", remask, batch, length, tokens);
  params.keep_score = float_grid(kOp, "keep_score", keep_score, batch, length, tokens);
  params.remask_count = row_ints(kOp, "remask_count", remask_count, batch, tokens);
  params.keep_count = row_ints(kOp, "keep_count", keep_count, batch, tokens);
  params.refill_if_short = refill_if_short;
  params.out_tokens = static_cast<int64_t*>(out.mutable_data_ptr());
  params.out_committed = static_cast<uint8_t*>(committed.mutable_data_ptr());
  params.out_remasked = static_cast<uint8_t*>(remasked.mutable_data_ptr());

  // An empty tensor's pointer is null, which would read as an argument that was not given.
  if (batch == 0 || length == 0) return {out, committed, remasked};
  if (tokens.is_cuda()) {
    CudaLauncher launcher(kOp, tokens);
    const Tensor workspace = byte_tensor(kOp, cuda::remask_step_workspace(params), tokens);
    cuda::remask_step(params, workspace.mutable_data_ptr(), launcher);
    return {out, committed, remasked};
  }
  const CpuKernels& kernels = chosen_kernels(KernelGroup::rows);
  parallel_rows(kOp, batch, 4 * length, 6 * length + 64, [&](int64_t begin, int64_t end, uint64_t* scratch) {
    kernels.remask_step(params, begin, end, scratch);
  });
  return {out, committed, remasked};
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) { m.impl("remask_step", TORCH_BOX(&mdmcorrect::remask_step)); }
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) { m.impl("remask_step", TORCH_BOX(&mdmcorrect::remask_step)); }
