// Binding of correct_pass: tensors in, params out, kernel called.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "core/sampler_step_params.h"
#include "cuda/correct_pass.h"
#include "torch/by_address.h"
#include "torch/checks.h"
#include "torch/cuda_launcher.h"
#include "torch/parallel.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "correct_pass";

using OptionalTensor = std::optional<Tensor>;

// On the CPU, all that the parameters say.
void correct_rows(const CorrectPassParams& params) {
  const CpuKernels& kernels = chosen_kernels(KernelGroup::rows);
  const int64_t length = params.length;
  parallel_rows(kOp, params.batch, 4 * length, 2 * length + 64, [&](int64_t begin, int64_t end, uint64_t* scratch) {
    kernels.correct_pass(params, begin, end, scratch);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> correct_pass(
    const Tensor& rows, const Tensor& draft, const Tensor& fixed, const OptionalTensor& block, int64_t mask_id,
    bool first, bool carry_over, const Tensor& proposal, const OptionalTensor& token,
    const OptionalTensor& earlier_token, const OptionalTensor& value_0, const OptionalTensor& earlier_0,
    const OptionalTensor& value_1, const OptionalTensor& earlier_1, const OptionalTensor& value_2,
    const OptionalTensor& earlier_2) {
  check(draft.dim() == 2, kOp, "draft: expected shape [B, L], got ", shape_of(draft));
  const int64_t batch = draft.size(0), length = draft.size(1);
  const auto device = draft.device();
  check_grid(kOp, "rows", rows, batch, kRowFields, draft);
  check(rows.scalar_type() == ScalarType::Long && rows.is_contiguous(), kOp, "rows: expected contiguous int64");
  check(first || (token && earlier_token), kOp, "token: expected the scores of this pass and of those before");

  CorrectPassParams params{};
  params.batch = batch;
  params.length = length;
  params.mask_id = mask_id;
  params.first = first;
  params.carry_over = carry_over;
  params.rows = static_cast<const int64_t*>(rows.const_data_ptr());
  params.draft = int_grid(kOp, "draft", draft, batch, length, draft);
  params.fixed = bool_grid(kOp, "fixed", fixed, batch, length, draft);
  if (block) params.block = int_grid(kOp, "block", *block, batch, length, draft);
  params.proposal = int_grid(kOp, "proposal", proposal, batch, length, draft);

  const auto room = [&](bool wanted, ScalarType type) {
    Tensor made = allocate(kOp, {wanted ? batch : 0, length}, type, device);
    return made;
  };
  Tensor out_draft = room(true, ScalarType::Long), out_reach = room(first, ScalarType::Bool);
  Tensor out_moved = allocate(kOp, {batch}, ScalarType::Bool, device), out_token = room(!first, ScalarType::Long);
  Tensor out_values[kPassValues] = {out_token, out_token, out_token};
  const OptionalTensor* values[kPassValues] = {&value_0, &value_1, &value_2};
  const OptionalTensor* earlier[kPassValues] = {&earlier_0, &earlier_1, &earlier_2};
  if (!first) {
    params.token = int_grid(kOp, "token", *token, batch, length, draft);
    params.earlier_token = int_grid(kOp, "earlier_token", *earlier_token, batch, length, draft);
  }
  for (int i = 0; i < kPassValues; ++i) {
    const bool given = !first && values[i]->has_value();
    out_values[i] = room(given, given ? (*values[i])->scalar_type() : ScalarType::Float);
    if (!given) continue;
    check(earlier[i]->has_value() && (*earlier[i])->scalar_type() == (*values[i])->scalar_type(), kOp,
          "value: expected one of the passes before, of the same dtype");
    params.values[i] = float_grid(kOp, "value", *values[i], batch, length, draft);
    params.earlier_values[i] = float_grid(kOp, "earlier", *earlier[i], batch, length, draft);
    params.out_values[i] = out_values[i].mutable_data_ptr();
  }
  params.out_draft = static_cast<int64_t*>(out_draft.mutable_data_ptr());
  params.out_reach = static_cast<uint8_t*>(out_reach.mutable_data_ptr());
  params.out_moved = static_cast<uint8_t*>(out_moved.mutable_data_ptr());
  params.out_token = static_cast<int64_t*>(out_token.mutable_data_ptr());

  if (batch > 0 && draft.is_cuda()) {
    CudaLauncher launcher(kOp, draft);
    cuda::correct_pass(params, nullptr, launcher);
  } else if (batch > 0) {
    correct_rows(params);
  }
  return {out_draft, out_reach, out_moved, out_token, out_values[0], out_values[1], out_values[2]};
}

}  // namespace

int64_t call_by_address(const CorrectPassAddresses& at) {
  const int64_t length = at.length;
  CorrectPassParams params{};
  params.batch = at.batch;
  params.length = length;
  params.mask_id = at.mask_id;
  params.first = at.first != 0;
  params.carry_over = at.carry_over != 0;
  params.rows = at.rows;
  params.draft = grid_at(at.draft, length);
  params.fixed = grid_at(at.fixed, length);
  params.block = grid_at(at.block, length);
  params.proposal = grid_at(at.proposal, length);
  params.token = grid_at(at.token, length);
  params.earlier_token = grid_at(at.earlier_token, length);
  for (int i = 0; i < kPassValues; ++i) {
    const CorrectPassAddresses::Value& given = at.values[i];
    params.values[i] = float_grid_at(given.value, given.type, length);
    params.earlier_values[i] = float_grid_at(given.earlier, given.type, length);
    params.out_values[i] = given.out;
  }
  params.out_draft = at.out_draft;
  params.out_reach = at.out_reach;
  params.out_moved = at.out_moved;
  params.out_token = at.out_token;
  correct_rows(params);
  return std::count(at.out_moved, at.out_moved + at.batch, uint8_t{1});
}

}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) { m.impl("correct_pass", TORCH_BOX(&mdmcorrect::correct_pass)); }
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) { m.impl("correct_pass", TORCH_BOX(&mdmcorrect::correct_pass)); }
