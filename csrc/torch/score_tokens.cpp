// Binding of score_tokens: tensors in, params out, kernel called.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "core/round_to.h"
#include "cuda/score_tokens.h"
#include "torch/by_address.h"
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

// Rows that will not be scored.
void mark_left_out(const ScoreTokensParams& params) {
  const int64_t count = params.batch * params.length;
  for (int64_t* ids : params.ids) {
    if (ids != nullptr) std::fill_n(ids, count, int64_t{-1});
  }
  for (float* values : params.values) {
    if (values != nullptr) std::fill_n(values, count, std::numeric_limits<float>::quiet_NaN());
  }
}

// On the CPU, all that the parameters say, of these rows.
void score_rows(ScoreTokensParams* params, const Grid<uint8_t>& rows) {
  std::vector<int64_t> list;
  int64_t row_count = params->batch * params->length;
  if (rows.data != nullptr) {
    mark_left_out(*params);
    list = row_list(rows, params->batch, params->length);
    params->row_index = list.data();
    row_count = static_cast<int64_t>(list.size());
  }
  if (row_count == 0) return;
  const CpuKernels& kernels = chosen_kernels(KernelGroup::rows);
  parallel_rows(
      kOp, row_count, params->vocab, score_scratch_words(*params),
      [&](int64_t begin, int64_t end, uint64_t* scratch) { kernels.score_tokens(*params, begin, end, scratch); });
}

// Whatever lies before the first position would be read.
void check_shift(int64_t shift) { check(shift >= 0, kOp, "shift: expected at least 0, got ", shift); }

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
  check_shift(shift);
  params.shift = shift;
  set_guidance(logits, uncond_logits, guidance, &params);

  if (logits.is_cuda()) {
    if (rows) params.rows = bool_grid(kOp, "rows", rows, batch, length, logits);
    CudaLauncher launcher(kOp, logits);
    const Tensor workspace = byte_tensor(kOp, cuda::score_tokens_workspace(params, launcher.multiprocessors()), logits);
    cuda::score_tokens(params, workspace.mutable_data_ptr(), launcher);
    return {scores.ids, scores.stats};
  }
  score_rows(&params, bool_grid(kOp, "rows", rows, batch, length, logits));
  return {scores.ids, scores.stats};
}

// The confidences in the type that they were rounded to, which loses nothing.
void write_rounded(const ScoreTokensParams& params, void* to) {
  const float* values = params.values[static_cast<int>(TokenScore::confidence)];
  const bool brain = params.confidence_type == FloatType::bfloat16;
  std::transform(values, values + params.batch * params.length, static_cast<uint16_t*>(to), [&](float value) {
    return brain ? portable::float_to_bfloat16(value) : portable::float_to_float16(value);
  });
}

}  // namespace

int64_t call_by_address(const ScoreTokensAddresses& at) {
  const ScoringAddresses& how = *at.how;
  check_shift(at.shift);
  ScoreTokensParams params{};
  params.batch = at.batch;
  params.length = at.length;
  params.vocab = how.vocab;
  params.row_count = at.batch * at.length;
  params.logits = at.logits;
  params.type = static_cast<FloatType>(at.type);
  params.batch_stride = at.batch_stride;
  params.position_stride = at.position_stride;
  params.shift = at.shift;
  params.probabilities = how.probabilities != 0;
  params.tokens = grid_at(at.tokens, at.length);
  params.positions = {at.positions, at.position_row_stride, at.position_col_stride};
  params.temperature = {how.temperature, 0, 0};
  params.top_k = {how.top_k, 0, 0};
  params.top_p = {how.top_p, 0, 0};
  params.top_p_inclusive = how.top_p_inclusive != 0;
  params.top_p_first = how.top_p_first != 0;
  params.suppress = how.suppress;
  params.suppress_count = how.suppress_count;
  params.forbid = how.forbid;
  params.forbid_count = how.forbid_count;
  params.proposal_law = how.proposal_law != 0;
  params.confidence_type = static_cast<FloatType>(how.confidence_type);
  params.dense_noise = how.dense_noise != 0;
  params.seed = {at.seed, 1};
  params.step = {at.step, at.step_stride};
  params.call = at.call;
  void* const* next = at.outputs;
  for (int score = 0; score < kTokenScores; ++score) {
    if ((how.want >> score & 1) == 0) continue;
    if (score < kTokenIdScores) {
      params.ids[score] = static_cast<int64_t*>(*next++);
    } else {
      params.values[score] = static_cast<float*>(*next++);
    }
  }
  score_rows(&params, grid_at(at.rows, at.length));
  if (at.rounded != nullptr) write_rounded(params, at.rounded);
  const int64_t* argmax = params.ids[static_cast<int>(TokenScore::argmax)];
  if (argmax == nullptr || how.forbid_count == 0) return 0;
  return std::count_if(argmax, argmax + at.batch * at.length,
                       [&](int64_t id) { return std::binary_search(how.forbid, how.forbid + how.forbid_count, id); });
}

}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) { m.impl("score_tokens", TORCH_BOX(&mdmcorrect::score_tokens)); }
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) { m.impl("score_tokens", TORCH_BOX(&mdmcorrect::score_tokens)); }
