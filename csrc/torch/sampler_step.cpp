// Binding of sampler_step: tensors in, params out, kernel called.
#include <torch/csrc/stable/library.h>

#include <string.h>

#include <string>
#include <tuple>

#include "cuda/sampler_step.h"
#include "torch/by_address.h"
#include "torch/checks.h"
#include "torch/cuda_launcher.h"
#include "torch/parallel.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "sampler_step";

using OptionalTensor = std::optional<Tensor>;

int hexadecimal(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

// The bytes of both structs, from their hexadecimal digits.
void unpack_plan(const std::string& digits, StepInts* ints, StepReals* reals) {
  constexpr size_t kBytes = sizeof(StepInts) + sizeof(StepReals);
  check(digits.size() == 2 * kBytes, kOp, "plan: expected ", 2 * kBytes, " digits, got ", digits.size());
  unsigned char bytes[kBytes];
  int worst = 0;
  for (size_t i = 0; i < kBytes; ++i) {
    const int high = hexadecimal(digits[2 * i]), low = hexadecimal(digits[2 * i + 1]);
    worst |= high | low;
    bytes[i] = static_cast<unsigned char>(high << 4 | low);
  }
  check(worst >= 0, kOp, "plan: expected hexadecimal digits");
  memcpy(ints, bytes, sizeof(*ints));
  memcpy(reals, bytes + sizeof(*ints), sizeof(*reals));
}

Grid<int64_t> optional_ints(const char* name, const OptionalTensor& tensor, int64_t batch, int64_t length,
                            const Tensor& like) {
  return tensor ? int_grid(kOp, name, *tensor, batch, length, like) : Grid<int64_t>{nullptr, 0, 0};
}

const float* table(const char* name, const OptionalTensor& tensor, const Tensor& like, int64_t* size) {
  if (!tensor) return nullptr;
  check(tensor->dim() == 1 && tensor->scalar_type() == ScalarType::Float && tensor->is_contiguous() &&
            tensor->size(0) > 0 && tensor->device() == like.device(),
        kOp, name, ": expected contiguous float32 [n], n > 0, on the device of the other tensors");
  *size = tensor->size(0);
  return static_cast<const float*>(tensor->const_data_ptr());
}

// On the CPU, all that the parameters say.
void step_rows(const SamplerStepParams& params) {
  const CpuKernels& kernels = chosen_kernels(KernelGroup::rows);
  const int64_t length = params.length;
  parallel_rows(kOp, params.batch, 8 * length, 2 * length + 64, [&](int64_t begin, int64_t end, uint64_t* scratch) {
    kernels.sampler_step(params, begin, end, scratch);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> sampler_step(
    const Tensor& rows, const Tensor& tokens, const Tensor& fixed, const OptionalTensor& block, const Tensor& positions,
    const OptionalTensor& real, const Tensor& commit_score, const Tensor& commits, const OptionalTensor& drawn,
    const std::string& plan, int64_t close, int64_t open, const OptionalTensor& token, const OptionalTensor& argmax,
    const OptionalTensor& confidence, const OptionalTensor& rank, const OptionalTensor& keep,
    const OptionalTensor& revised, const OptionalTensor& revised_logprob, const OptionalTensor& nfe, int64_t forwards,
    const OptionalTensor& kept_share, const OptionalTensor& noise_scales) {
  check(tokens.dim() == 2, kOp, "tokens: expected shape [B, L], got ", shape_of(tokens));
  const int64_t batch = tokens.size(0), length = tokens.size(1);
  check_grid(kOp, "rows", rows, batch, kRowFields, tokens);
  check(rows.scalar_type() == ScalarType::Long && rows.is_contiguous(), kOp, "rows: expected contiguous int64");
  check(!revised || revised_logprob, kOp, "revised: needs revised_logprob");

  SamplerStepParams params{};
  params.batch = batch;
  params.length = length;
  params.close_mode = close;
  params.open_mode = open;
  unpack_plan(plan, &params.ints, &params.reals);
  const bool draws = params.ints.plan == static_cast<int64_t>(PlanKind::drawn);
  check((close & kClose) == 0 || !draws || drawn, kOp, "drawn: expected the marks of the step's opening");
  params.rows = static_cast<const int64_t*>(rows.const_data_ptr());
  params.tokens = int_grid(kOp, "tokens", tokens, batch, length, tokens);
  params.fixed = bool_grid(kOp, "fixed", fixed, batch, length, tokens);
  params.block = optional_ints("block", block, batch, length, tokens);
  params.positions = position_grid(kOp, positions, batch, length, tokens);
  params.real = bool_grid(kOp, "real", real, batch, length, tokens);
  params.commit_score = float_grid(kOp, "commit_score", commit_score, batch, length, tokens);
  params.commits = int_grid(kOp, "commits", commits, batch, length, tokens);
  if (drawn) {
    check(drawn->dim() == 3 && drawn->size(0) == kMarks && drawn->size(1) == batch && drawn->size(2) == length &&
              drawn->scalar_type() == ScalarType::Bool && drawn->is_contiguous() && drawn->device() == tokens.device(),
          kOp, "drawn: expected contiguous bool [", kMarks, ", ", batch, ", ", length, "], got ", shape_of(*drawn));
    params.drawn = static_cast<const uint8_t*>(drawn->const_data_ptr());
  }
  params.token = optional_ints("token", token, batch, length, tokens);
  params.argmax = optional_ints("argmax", argmax, batch, length, tokens);
  params.confidence = float_grid(kOp, "confidence", confidence, batch, length, tokens);
  params.rank = float_grid(kOp, "rank", rank, batch, length, tokens);
  params.keep = float_grid(kOp, "keep", keep, batch, length, tokens);
  params.revised = optional_ints("revised", revised, batch, length, tokens);
  params.revised_logprob = float_grid(kOp, "revised_logprob", revised_logprob, batch, length, tokens);
  params.nfe = row_ints(kOp, "nfe", nfe, batch, tokens);
  params.forwards = forwards;
  params.kept_share = table("kept_share", kept_share, tokens, &params.kept_steps);
  params.noise_scales = table("noise_scales", noise_scales, tokens, &params.noise_steps);

  const auto device = tokens.device();
  Tensor out_rows = allocate(kOp, {batch, kRowFields}, ScalarType::Long, device);
  Tensor out_tokens = allocate(kOp, {batch, length}, ScalarType::Long, device);
  Tensor out_commit_score = allocate(kOp, {batch, length}, ScalarType::Float, device);
  Tensor out_commits = allocate(kOp, {batch, length}, ScalarType::Long, device);
  Tensor out_marks = allocate(kOp, {kMarks, batch, length}, ScalarType::Bool, device);
  Tensor out_time = allocate(kOp, {batch}, ScalarType::Double, device);
  params.out_rows = static_cast<int64_t*>(out_rows.mutable_data_ptr());
  params.out_tokens = static_cast<int64_t*>(out_tokens.mutable_data_ptr());
  params.out_commit_score = static_cast<float*>(out_commit_score.mutable_data_ptr());
  params.out_commits = static_cast<int64_t*>(out_commits.mutable_data_ptr());
  params.out_marks = static_cast<uint8_t*>(out_marks.mutable_data_ptr());
  params.out_time = static_cast<double*>(out_time.mutable_data_ptr());

  if (batch == 0) return {out_rows, out_tokens, out_commit_score, out_commits, out_marks, out_time};
  if (tokens.is_cuda()) {
    CudaLauncher launcher(kOp, tokens);
    const Tensor workspace = byte_tensor(kOp, cuda::sampler_step_workspace(params), tokens);
    cuda::sampler_step(params, workspace.mutable_data_ptr(), launcher);
  } else {
    step_rows(params);
  }
  return {out_rows, out_tokens, out_commit_score, out_commits, out_marks, out_time};
}

}  // namespace

int64_t call_by_address(const SamplerStepAddresses& at) {
  const int64_t length = at.length;
  SamplerStepParams params{};
  params.batch = at.batch;
  params.length = length;
  params.close_mode = at.close_mode;
  params.open_mode = at.open_mode;
  memcpy(&params.ints, at.plan, sizeof(params.ints));
  memcpy(&params.reals, at.plan + sizeof(params.ints), sizeof(params.reals));
  params.rows = at.rows;
  params.tokens = grid_at(at.tokens, length);
  params.fixed = grid_at(at.fixed, length);
  params.block = grid_at(at.block, length);
  params.positions = grid_at(at.positions, length);
  params.real = grid_at(at.real, length);
  params.commit_score = float_grid_at(at.commit_score, static_cast<int64_t>(FloatType::float32), length);
  params.commits = grid_at(at.commits, length);
  params.drawn = at.drawn;
  params.token = grid_at(at.token, length);
  params.argmax = grid_at(at.argmax, length);
  params.confidence = float_grid_at(at.confidence, at.confidence_type, length);
  params.rank = float_grid_at(at.rank, at.rank_type, length);
  params.keep = float_grid_at(at.keep, at.keep_type, length);
  params.revised = grid_at(at.revised, length);
  params.revised_logprob = float_grid_at(at.revised_logprob, at.revised_logprob_type, length);
  params.nfe = {at.nfe, 1};
  params.forwards = at.forwards;
  params.kept_share = at.kept_share;
  params.kept_steps = at.kept_steps;
  params.noise_scales = at.noise_scales;
  params.noise_steps = at.noise_steps;
  params.out_rows = at.out_rows;
  params.out_tokens = at.out_tokens;
  params.out_commit_score = at.out_commit_score;
  params.out_commits = at.out_commits;
  params.out_marks = at.out_marks;
  params.out_time = at.out_time;
  step_rows(params);
  return 0;
}

}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) { m.impl("sampler_step", TORCH_BOX(&mdmcorrect::sampler_step)); }
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) { m.impl("sampler_step", TORCH_BOX(&mdmcorrect::sampler_step)); }
