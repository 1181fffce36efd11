// Binding of score_tokens: tensors in, params out, kernel called.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "cuda/score_tokens.h"
#include "torch/cuda_launcher.h"
#include "torch/parallel.h"
#include "torch/scoring.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "score_tokens";

// The rows asked for, so that threads share them evenly wherever they lie.
std::vector<int64_t> row_list(const Grid<uint8_t>& rows, int64_t batch, int64_t length) {
  std::vector<int64_t> list;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t l = 0; l < length; ++l) {
      if (rows.data[b * rows.row_stride + l * rows.col_stride] != 0) list.push_back(b * length + l);
    }
  }
  return list;
}

// The unconditional logits and how much of them to mix in.
void set_guidance(const Tensor& logits, const std::optional<Tensor>& uncond, const std::optional<Tensor>& guidance,
                  ScoreTokensParams* params) {
  check(uncond.has_value() == guidance.has_value(), kOp, "uncond_logits and guidance go together");
  if (!uncond) return;
  check(!params->probabilities, kOp, "guidance mixes logits, not probabilities");
  check(uncond->dim() == 3 && uncond->size(0) == params->batch && uncond->size(1) == params->length &&
            uncond->size(2) == params->vocab,
        kOp, "uncond_logits: expected shape ", shape_of(logits), " as logits has it, got ", shape_of(*uncond));
  check(uncond->scalar_type() == logits.scalar_type(), kOp, "uncond_logits: expected the dtype of logits");
  check(uncond->device() == logits.device(), kOp, "uncond_logits: expected the device of the other tensors");
  check(uncond->stride(2) == 1 || params->vocab == 1, kOp, "uncond_logits: expected a contiguous last dimension");
  params->uncond_logits = uncond->const_data_ptr();
  params->uncond_batch_stride = uncond->stride(0);
  params->uncond_position_stride = uncond->stride(1);
  params->guidance = number_grid<double>(kOp, "guidance", *guidance, params->batch, params->length, logits);
}

std::tuple<Tensor, Tensor> score_tokens(const Tensor& logits, const std::optional<Tensor>& uncond_logits,
                                        const std::optional<Tensor>& guidance, int64_t shift, int64_t want,
                                        const Tensor& temperature, const std::optional<Tensor>& tokens,
                                        const std::optional<Tensor>& rows, const std::optional<Tensor>& positions,
                                        const std::optional<Tensor>& top_k, const std::optional<Tensor>& top_p,
                                        bool top_p_inclusive, bool top_p_first, const std::optional<Tensor>& suppress,
                                        const std::optional<Tensor>& forbid, bool proposal_law, bool probabilities,
                                        bool dense_noise, ScalarType confidence_dtype, const Tensor& seed,
                                        const Tensor& step, const Tensor& call) {
  check(logits.dim() == 3 && logits.size(2) > 0, kOp, "logits: expected shape [B, L, V] with V >= 1, got ",
        shape_of(logits));
  check(logits.stride(2) == 1 || logits.size(2) == 1, kOp, "logits: expected a contiguous last dimension");
  const int64_t batch = logits.size(0), length = logits.size(1), vocab = logits.size(2);
  ScoreCall scores;
  prepare_scores(kOp,
                 {want, temperature, tokens, positions, top_k, top_p, top_p_inclusive, top_p_first, suppress, forbid,
                  proposal_law, confidence_dtype, seed, step, call},
                 batch, length, vocab, logits, &scores);
  ScoreTokensParams& params = scores.params;
  params.logits = logits.const_data_ptr();
  params.type = score_dtype(kOp, "logits", logits.scalar_type());
  params.batch_stride = logits.stride(0);
  params.position_stride = logits.stride(1);
  params.probabilities = probabilities;
  params.dense_noise = dense_noise;
  check(shift >= 0, kOp, "shift: expected at least 0, got ", shift);
  params.shift = shift;
  set_guidance(logits, uncond_logits, guidance, &params);

  if (logits.is_cuda()) {
    if (rows) params.rows = bool_grid(kOp, "rows", rows, batch, length, logits);
    CudaLauncher launcher(kOp, logits);
    const Tensor workspace = byte_tensor(kOp, cuda::score_tokens_workspace(params, launcher.multiprocessors()), logits);
    cuda::score_tokens(params, workspace.mutable_data_ptr(), launcher);
    return {scores.ids, scores.stats};
  }
  std::vector<int64_t> list;
  int64_t row_count = batch * length;
  if (rows) {
    scores.mark_left_out();
    list = row_list(bool_grid(kOp, "rows", rows, batch, length, logits), batch, length);
    params.row_index = list.data();
    row_count = static_cast<int64_t>(list.size());
  }
  if (row_count == 0) return {scores.ids, scores.stats};
  const CpuKernels& kernels = chosen_kernels(KernelGroup::rows);
  parallel_rows(kOp, row_count, vocab, scores.scratch_words(), [&](int64_t begin, int64_t end, uint64_t* scratch) {
    kernels.score_tokens(params, begin, end, scratch);
  });
  return {scores.ids, scores.stats};
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) { m.impl("score_tokens", TORCH_BOX(&mdmcorrect::score_tokens)); }
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) { m.impl("score_tokens", TORCH_BOX(&mdmcorrect::score_tokens)); }
