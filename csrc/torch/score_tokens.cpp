// Binding of score_tokens: tensors in, params out, kernel called.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "core/score_tokens_params.h"
#include "torch/checks.h"
#include "torch/parallel.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "score_tokens";

FloatType float_type(const char* name, ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return FloatType::float32;
    case ScalarType::BFloat16:
      return FloatType::bfloat16;
    case ScalarType::Half:
      return FloatType::float16;
    default:
      check(false, kOp, name, ": expected float32, bfloat16 or float16");
      return FloatType::float32;
  }
}

Grid<double> double_grid(const char* name, const Tensor& tensor, int64_t batch, int64_t length, const Tensor& like) {
  check_grid(kOp, name, tensor, batch, length, like);
  check(tensor.scalar_type() == ScalarType::Double, kOp, name, ": expected dtype float64");
  return {static_cast<const double*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1)};
}

// A list of ids, sorted; ids outside the vocabulary name nothing and are dropped.
std::vector<int64_t> sorted_ids(const char* name, const std::optional<Tensor>& tensor, int64_t vocab,
                                const Tensor& like) {
  std::vector<int64_t> ids;
  if (!tensor) return ids;
  check(tensor->dim() == 1, kOp, name, ": expected shape [n], got ", shape_of(*tensor));
  check(tensor->scalar_type() == ScalarType::Long, kOp, name, ": expected dtype int64");
  check(tensor->device() == like.device(), kOp, name, ": expected the device of the other tensors");
  const int64_t* data = static_cast<const int64_t*>(tensor->const_data_ptr());
  for (int64_t i = 0; i < tensor->size(0); ++i) {
    const int64_t id = data[i * tensor->stride(0)];
    if (id >= 0 && id < vocab) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

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
  check(want >= 0 && want < (int64_t{1} << kTokenScores), kOp, "want: unknown score");
  if (logits.is_cuda()) throw_no_cuda_kernel(kOp);
  const int64_t batch = logits.size(0), length = logits.size(1), vocab = logits.size(2);
  // Masses of top_p are 40-bit integers whose sum must fit 64 bits; 8 million ids leave one bit spare.
  check(vocab <= (top_p ? int64_t{1} << 23 : std::numeric_limits<int32_t>::max()), kOp,
        "logits: the vocabulary is too large");

  ScoreTokensParams params{};
  params.batch = batch;
  params.length = length;
  params.vocab = vocab;
  params.logits = logits.const_data_ptr();
  params.type = float_type("logits", logits.scalar_type());
  params.batch_stride = logits.stride(0);
  params.position_stride = logits.stride(1);
  params.probabilities = probabilities;
  if (tokens) params.tokens = int_grid(kOp, "tokens", *tokens, batch, length, logits);
  params.positions = position_grid(kOp, positions, batch, length, logits);
  params.temperature = double_grid("temperature", temperature, batch, length, logits);
  if (top_k) params.top_k = int_grid(kOp, "top_k", *top_k, batch, length, logits);
  if (top_p) params.top_p = double_grid("top_p", *top_p, batch, length, logits);
  params.top_p_inclusive = top_p_inclusive;
  params.top_p_first = top_p_first;
  const std::vector<int64_t> suppressed = sorted_ids("suppress", suppress, vocab, logits);
  const std::vector<int64_t> forbidden = sorted_ids("forbid", forbid, vocab, logits);
  params.suppress = suppressed.data();
  params.suppress_count = static_cast<int64_t>(suppressed.size());
  params.forbid = forbidden.data();
  params.forbid_count = static_cast<int64_t>(forbidden.size());
  params.proposal_law = proposal_law;
  params.confidence_type = float_type("confidence_dtype", confidence_dtype);
  params.seed = row_seeds(kOp, seed, batch, logits);
  params.step = row_ints(kOp, "step", step, batch, logits);
  params.call = call_number(kOp, call, logits);
  const auto wanted = [want](int score) { return (want >> score & 1) != 0; };
  check(!wanted(static_cast<int>(TokenScore::current_logprob)) || tokens.has_value(), kOp,
        "want: current_logprob needs tokens");

  int64_t id_count = 0, value_count = 0;
  for (int score = 0; score < kTokenScores; ++score) (score < kTokenIdScores ? id_count : value_count) += wanted(score);
  Tensor ids = torch::stable::empty({id_count, batch, length}, ScalarType::Long, std::nullopt, logits.device());
  Tensor stats = torch::stable::empty({value_count, batch, length}, ScalarType::Float, std::nullopt, logits.device());
  int64_t* next_ids = static_cast<int64_t*>(ids.mutable_data_ptr());
  float* next_values = static_cast<float*>(stats.mutable_data_ptr());
  for (int score = 0; score < kTokenScores; ++score) {
    if (!wanted(score)) continue;
    if (score < kTokenIdScores) {
      params.ids[score] = next_ids;
      next_ids += batch * length;
    } else {
      params.values[score] = next_values;
      next_values += batch * length;
    }
  }

  std::vector<int64_t> list;
  int64_t row_count = batch * length;
  if (rows) {
    torch::stable::fill_(ids, -1.0);
    torch::stable::fill_(stats, std::numeric_limits<double>::quiet_NaN());
    list = row_list(bool_grid(kOp, "rows", rows, batch, length, logits), batch, length);
    params.row_index = list.data();
    row_count = static_cast<int64_t>(list.size());
  }
  if (row_count == 0) return {ids, stats};
  const CpuKernels& kernels = chosen_kernels();
  const int64_t scratch_words = top_k || top_p ? 2 * vocab + vocab / 1024 + 64 : 0;
  parallel_rows(row_count, vocab, scratch_words, [&](int64_t begin, int64_t end, uint64_t* scratch) {
    kernels.score_tokens(params, begin, end, scratch);
  });
  return {ids, stats};
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) { m.impl("score_tokens", TORCH_BOX(&mdmcorrect::score_tokens)); }
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) { m.impl("score_tokens", TORCH_BOX(&mdmcorrect::score_tokens)); }
