// What the bindings of score_tokens and score_hidden share: the options that say how to score, and the outputs.
#pragma once

#include <algorithm>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "core/score_tokens_params.h"
#include "torch/checks.h"

namespace mdmcorrect {

// Arguments that both operators have, in the order of their schemas.
struct ScoreOptions {
  int64_t want;
  const Tensor& temperature;
  const std::optional<Tensor>& tokens;
  const std::optional<Tensor>& positions;
  const std::optional<Tensor>& top_k;
  const std::optional<Tensor>& top_p;
  bool top_p_inclusive;
  bool top_p_first;
  const std::optional<Tensor>& suppress;
  const std::optional<Tensor>& forbid;
  bool proposal_law;
  ScalarType confidence_dtype;
  const Tensor& seed;
  const Tensor& step;
  const Tensor& call;
};

// Parameters without the logits, and the memory they point into.
struct ScoreCall {
  ScoreTokensParams params{};
  std::vector<int64_t> suppressed, forbidden;
  Tensor ids, stats;  // [wanted, B, L]

  // Rows that will not be scored.
  void mark_left_out() {
    torch::stable::fill_(ids, -1.0);
    torch::stable::fill_(stats, std::numeric_limits<double>::quiet_NaN());
  }
};

// Scratch of one thread of the kernel score_tokens.
inline int64_t score_scratch_words(const ScoreTokensParams& params) {
  const bool filters = params.top_k.data != nullptr || params.top_p.data != nullptr;
  return filters ? params.vocab + (params.vocab + params.vocab / kVocabularyChunk) / 2 + 64 : 0;
}

inline FloatType score_dtype(const char* op, const char* name, ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return FloatType::float32;
    case ScalarType::BFloat16:
      return FloatType::bfloat16;
    case ScalarType::Half:
      return FloatType::float16;
    default:
      check(false, op, name, ": expected float32, bfloat16 or float16");
      return FloatType::float32;
  }
}

// A number for each position, [B, L], or one for all, [].
template <class Number>
Grid<Number> number_grid(const char* op, const char* name, const Tensor& tensor, int64_t batch, int64_t length,
                         const Tensor& like) {
  constexpr bool kFloating = std::is_same_v<Number, double>;
  check(tensor.scalar_type() == (kFloating ? ScalarType::Double : ScalarType::Long), op, name,
        kFloating ? ": expected dtype float64" : ": expected dtype int64");
  const Number* data = static_cast<const Number*>(tensor.const_data_ptr());
  if (tensor.dim() != 0) {
    check_grid(op, name, tensor, batch, length, like);
    return {data, tensor.stride(0), tensor.stride(1)};
  }
  check(tensor.device() == like.device(), op, name, ": expected the device of the other tensors");
  return {data, 0, 0};
}

// A list of ids that stays on the device, where its values cannot be looked at: the kernels take any order and any id.
inline void device_ids(const char* op, const char* name, const std::optional<Tensor>& tensor, const Tensor& like,
                       const int64_t** ids, int64_t* count) {
  if (!tensor) return;
  check_ids(op, name, *tensor, like);
  check(tensor->is_contiguous(), op, name, ": expected contiguous ids");
  *ids = static_cast<const int64_t*>(tensor->const_data_ptr());
  *count = tensor->size(0);
}

// Checks the options and allocates the outputs. `like` is the op's first tensor.
inline void prepare_scores(const char* op, const ScoreOptions& options, int64_t batch, int64_t length, int64_t vocab,
                           const Tensor& like, ScoreCall* call) {
  const int64_t want = options.want;
  check(want >= 0 && want < (int64_t{1} << kTokenScores), op, "want: unknown score");
  // Masses of top_p are 40-bit integers whose sum must fit 64 bits; 8 million ids leave one bit spare.
  check(vocab <= (options.top_p ? int64_t{1} << 23 : std::numeric_limits<int32_t>::max()), op,
        "the vocabulary is too large, got ", vocab, " ids");
  ScoreTokensParams& params = call->params;
  params.batch = batch;
  params.length = length;
  params.vocab = vocab;
  params.row_count = batch * length;
  if (options.tokens) params.tokens = int_grid(op, "tokens", *options.tokens, batch, length, like);
  params.positions = position_grid(op, options.positions, batch, length, like);
  params.temperature = number_grid<double>(op, "temperature", options.temperature, batch, length, like);
  if (options.top_k) params.top_k = number_grid<int64_t>(op, "top_k", *options.top_k, batch, length, like);
  if (options.top_p) params.top_p = number_grid<double>(op, "top_p", *options.top_p, batch, length, like);
  params.top_p_inclusive = options.top_p_inclusive;
  params.top_p_first = options.top_p_first;
  if (like.is_cuda()) {
    device_ids(op, "suppress", options.suppress, like, &params.suppress, &params.suppress_count);
    device_ids(op, "forbid", options.forbid, like, &params.forbid, &params.forbid_count);
  } else {
    call->suppressed = sorted_ids(op, "suppress", options.suppress, vocab, like);
    call->forbidden = sorted_ids(op, "forbid", options.forbid, vocab, like);
    params.suppress = call->suppressed.data();
    params.suppress_count = static_cast<int64_t>(call->suppressed.size());
    params.forbid = call->forbidden.data();
    params.forbid_count = static_cast<int64_t>(call->forbidden.size());
  }
  params.proposal_law = options.proposal_law;
  params.confidence_type = score_dtype(op, "confidence_dtype", options.confidence_dtype);
  params.seed = row_seeds(op, options.seed, batch, like);
  params.step = row_ints(op, "step", options.step, batch, like);
  params.call = call_number(op, options.call, like);
  const auto wanted = [want](int score) { return (want >> score & 1) != 0; };
  check(!wanted(static_cast<int>(TokenScore::current_logprob)) || options.tokens.has_value(), op,
        "want: current_logprob needs tokens");

  int64_t id_count = 0, value_count = 0;
  for (int score = 0; score < kTokenScores; ++score) (score < kTokenIdScores ? id_count : value_count) += wanted(score);
  call->ids = allocate(op, {id_count, batch, length}, ScalarType::Long, like.device());
  call->stats = allocate(op, {value_count, batch, length}, ScalarType::Float, like.device());
  int64_t* next_ids = static_cast<int64_t*>(call->ids.mutable_data_ptr());
  float* next_values = static_cast<float*>(call->stats.mutable_data_ptr());
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
}

}  // namespace mdmcorrect
