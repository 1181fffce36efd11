// Binding of score_tokens: tensors in, params out, kernel called.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

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

std::tuple<Tensor, Tensor> score_tokens(const Tensor& logits, int64_t want, const Tensor& temperature,
                                        const std::optional<Tensor>& tokens, const std::optional<Tensor>& rows,
                                        const std::optional<Tensor>& positions, const std::optional<Tensor>& top_k,
                                        const std::optional<Tensor>& top_p, bool top_p_inclusive, bool top_p_first,
                                        const std::optional<Tensor>& suppress, const std::optional<Tensor>& forbid,
                                        bool proposal_law, bool probabilities, ScalarType confidence_dtype,
                                        const Tensor& seed, const Tensor& step, const Tensor& call) {
  check(logits.dim() == 3 && logits.size(2) > 0, kOp, "logits: expected shape [B, L, V] with V >= 1, got ",
        shape_of(logits));
  check(logits.stride(2) == 1 || logits.size(2) == 1, kOp, "logits: expected a contiguous last dimension");
  if (logits.is_cuda()) throw_no_cuda_kernel(kOp);
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

  std::vector<int64_t> list;
  int64_t row_count = batch * length;
  if (rows) {
    scores.mark_left_out();
    list = row_list(bool_grid(kOp, "rows", rows, batch, length, logits), batch, length);
    params.row_index = list.data();
    row_count = static_cast<int64_t>(list.size());
  }
  if (row_count == 0) return {scores.ids, scores.stats};
  const CpuKernels& kernels = chosen_kernels();
  parallel_rows(row_count, vocab, scores.scratch_words(), [&](int64_t begin, int64_t end, uint64_t* scratch) {
    kernels.score_tokens(params, begin, end, scratch);
  });
  return {scores.ids, scores.stats};
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) { m.impl("score_tokens", TORCH_BOX(&mdmcorrect::score_tokens)); }
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) { m.impl("score_tokens", TORCH_BOX(&mdmcorrect::score_tokens)); }
