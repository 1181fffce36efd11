// Binding of score_hidden: a block of rows is multiplied by a block of the vocabulary, the kernel takes what it needs of
// the result, and the next block overwrites it. Pairs of bfloat16, where the machine multiplies them, are multiplied by
// hidden_product, everything else by torch.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#include "torch/matmul.h"
#include "torch/parallel.h"
#include "torch/row_index.h"
#include "torch/score_hidden.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "score_hidden";

// A block of logits stays in cache, and the product of so many rows and ids gains little from more.
constexpr int64_t kBlockRows = 512;
constexpr int64_t kBlockIds = 4 * kVocabularyChunk;
constexpr int64_t kBlockLogits = kBlockRows * kBlockIds;
constexpr int64_t kMostBlockIds = 32 * kVocabularyChunk;
// Filters need whole rows, so fewer of them: as many as this holds.
constexpr int64_t kFilteredBytes = 16 << 20;

int64_t element_size(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Float ? 4 : 2; }

Tensor matrix(int64_t rows, int64_t cols, const Tensor& like) {
  return allocate(kOp, {rows, cols}, like.scalar_type(), like.device());
}

// Rows of hidden [B, L, D] as [count, D]: a view where they lie side by side, else a copy.
Tensor rows_of(const Tensor& hidden, const int64_t* rows, int64_t count) {
  const int64_t batch = hidden.size(0), length = hidden.size(1);
  const bool even = batch == 1 || length == 1 || hidden.stride(0) == length * hidden.stride(1);
  if (even && rows[count - 1] - rows[0] == count - 1) {
    return rows_between(torch::stable::reshape(hidden, {batch * length, hidden.size(2)}), rows[0], rows[0] + count);
  }
  const int64_t size = element_size(hidden);
  const int64_t row_bytes = hidden.size(2) * size;
  Tensor out = matrix(count, hidden.size(2), hidden);
  const char* source = static_cast<const char*>(hidden.const_data_ptr());
  char* target = static_cast<char*>(out.mutable_data_ptr());
  parallel_rows(kOp, count, hidden.size(2), 0, [&](int64_t begin, int64_t end, uint64_t*) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t offset = rows[i] / length * hidden.stride(0) + rows[i] % length * hidden.stride(1);
      std::memcpy(target + i * row_bytes, source + offset * size, static_cast<size_t>(row_bytes));
    }
  });
  return out;
}

// A block of rows and what it is multiplied with.
class Product {
 public:
  // hidden is [B, L, D].
  Product(const Tensor& hidden, const int64_t* rows, int64_t count, const Tensor& weight,
          const std::optional<Tensor>& bias)
      : weight_(weight), bias_(bias), rows_(count) {
    const bool pairs = hidden.scalar_type() == ScalarType::BFloat16 && weight.scalar_type() == ScalarType::BFloat16 &&
                       hidden.size(2) > 0 && hidden.size(2) % 2 == 0 && weight.stride(0) % 2 == 0 &&
                       weight.stride(1) == 1;
    if (pairs && chosen_kernels(KernelGroup::hidden).bfloat16_pairs) {
      pack(hidden, rows);
    } else {
      hidden_ = rows_of(hidden, rows, count);
    }
  }

  int64_t rows() const { return rows_; }

  // Logits of the ids [begin, end) into out [rows, end - begin].
  void logits(int64_t begin, int64_t end, const Tensor& out) const {
    if (!panels_.empty()) return packed_logits(begin, end, out);
    Tensor ids = rows_between(weight_, begin, end);
    if (weight_.scalar_type() != hidden_.scalar_type()) ids = torch::stable::to(ids, hidden_.scalar_type());
    linear_out(hidden_, ids, bias_ ? std::optional<Tensor>(rows_between(*bias_, begin, end)) : std::nullopt, out);
  }

 private:
  // Hidden states as HiddenProductParams::panels wants them, rows that fill up the last panel being zeros.
  void pack(const Tensor& hidden, const int64_t* rows) {
    const int64_t steps = hidden.size(2) / 2, length = hidden.size(1);
    const int64_t panels = (rows_ + kHiddenPanel - 1) / kHiddenPanel;
    panels_.resize(static_cast<size_t>(panels * steps * kHiddenPanel));
    parallel_rows(kOp, panels, steps * kHiddenPanel, 0, [&](int64_t begin, int64_t end, uint64_t*) {
      for (int64_t row = begin * kHiddenPanel; row < std::min(end * kHiddenPanel, rows_); ++row) {
        const int64_t offset = rows[row] / length * hidden.stride(0) + rows[row] % length * hidden.stride(1);
        const uint16_t* values = static_cast<const uint16_t*>(hidden.const_data_ptr()) + offset;
        uint32_t* out = panels_.data() + row / kHiddenPanel * steps * kHiddenPanel + row % kHiddenPanel;
        for (int64_t step = 0; step < steps; ++step) {
          std::memcpy(out + step * kHiddenPanel, values + 2 * step, sizeof(uint32_t));
        }
      }
    });
  }

  void packed_logits(int64_t begin, int64_t end, const Tensor& out) const {
    HiddenProductParams params{};
    params.weight = static_cast<const uint16_t*>(weight_.const_data_ptr());
    params.weight_stride = weight_.stride(0);
    if (bias_) params.bias = static_cast<const uint16_t*>(bias_->const_data_ptr());
    params.bias_stride = bias_ ? bias_->stride(0) : 0;
    params.vocab = weight_.size(0);
    params.size = weight_.size(1);
    params.panels = panels_.data();
    params.rows = rows();
    params.first_id = begin;
    params.last_id = end;
    params.logits = static_cast<uint16_t*>(out.mutable_data_ptr());
    params.logits_stride = out.stride(0);
    const int64_t units = (end - begin + kHiddenProductIds - 1) / kHiddenProductIds;
    const int64_t words = 1152 + 3 * params.size;
    parallel_items(kOp, units, units * params.rows * params.size / 8, words,
                   [&](int64_t first, int64_t last, uint64_t* scratch) {
                     chosen_kernels(KernelGroup::hidden).hidden_product(params, first, last, scratch);
                   });
  }

  const Tensor& weight_;
  const std::optional<Tensor>& bias_;
  const int64_t rows_;
  std::vector<uint32_t> panels_;  // or, where empty, torch multiplies
  Tensor hidden_;                 // [rows, D]
};

// Rows without filters: the state of each waits for the next block of the vocabulary.
void score_in_blocks(const Product& product, ScoreTokensParams scores, const int64_t* rows, const Tensor& block) {
  const int64_t count = product.rows(), width = block.size(1), vocab = scores.vocab;
  const int64_t size = element_size(block);
  const CpuKernels& kernels = chosen_kernels(KernelGroup::hidden);
  std::vector<uint64_t> states(static_cast<size_t>(count * kernels.score_hidden_state_words()));
  const std::unique_ptr<uint8_t[]> winners(new uint8_t[static_cast<size_t>(count * kVocabularyChunk * size)]);
  scores.row_index = rows;
  scores.logits = block.const_data_ptr();
  scores.row_stride = width;
  for (int64_t first = 0; first < vocab; first += width) {
    const int64_t last = std::min(vocab, first + width);
    product.logits(first, last, columns_between(rows_between(block, 0, count), 0, last - first));
    const ScoreHiddenParams params{scores, first, last, states.data(), winners.get()};
    parallel_rows(kOp, count, last - first, 0,
                  [&](int64_t begin, int64_t end, uint64_t*) { kernels.score_hidden(params, begin, end); });
  }
}

// Rows with filters, which need them whole: score_tokens on a few at a time.
void score_whole(const Product& product, const ScoreCall& call, const int64_t* rows, const Tensor& block) {
  const int64_t count = product.rows(), vocab = call.params.vocab;
  for (int64_t first = 0; first < vocab; first += kMostBlockIds) {
    const int64_t last = std::min(vocab, first + kMostBlockIds);
    product.logits(first, last, columns_between(rows_between(block, 0, count), first, last));
  }
  ScoreTokensParams params = call.params;
  params.row_index = rows;
  params.logits = block.const_data_ptr();
  params.row_stride = vocab;
  const CpuKernels& kernels = chosen_kernels(KernelGroup::hidden);
  parallel_rows(
      kOp, count, vocab, score_scratch_words(call.params),
      [&](int64_t begin, int64_t end, uint64_t* scratch) { kernels.score_tokens(params, begin, end, scratch); });
}

// How many rows fit kFilteredBytes, in full panels if there is one.
int64_t whole_rows(int64_t row_bytes) {
  const int64_t fitting = std::max<int64_t>(1, kFilteredBytes / row_bytes);
  return fitting < kHiddenPanel ? fitting : fitting / kHiddenPanel * kHiddenPanel;
}

std::tuple<Tensor, Tensor> score_hidden(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias,
                                        const std::optional<Tensor>& row_index, int64_t want, const Tensor& temperature,
                                        const std::optional<Tensor>& tokens, const std::optional<Tensor>& positions,
                                        const std::optional<Tensor>& top_k, const std::optional<Tensor>& top_p,
                                        bool top_p_inclusive, bool top_p_first, const std::optional<Tensor>& suppress,
                                        const std::optional<Tensor>& forbid, bool proposal_law,
                                        ScalarType confidence_dtype, const Tensor& seed, const Tensor& step,
                                        const Tensor& call) {
  check(hidden.dim() == 3, kOp, "hidden: expected shape [B, L, D], got ", shape_of(hidden));
  check(hidden.stride(2) == 1 || hidden.size(2) == 1, kOp, "hidden: expected a contiguous last dimension");
  check(weight.dim() == 2 && weight.size(0) > 0 && weight.size(1) == hidden.size(2), kOp, "weight: expected shape [V, ",
        hidden.size(2), "] with V >= 1, got ", shape_of(weight));
  check(weight.device() == hidden.device(), kOp, "weight: expected the device of the other tensors");
  score_dtype(kOp, "weight", weight.scalar_type());
  const int64_t batch = hidden.size(0), length = hidden.size(1), vocab = weight.size(0);
  if (bias) {
    check(bias->dim() == 1 && bias->size(0) == vocab, kOp, "bias: expected shape [", vocab, "], got ", shape_of(*bias));
    check(bias->scalar_type() == hidden.scalar_type(), kOp, "bias: expected the dtype of hidden");
    check(bias->device() == hidden.device(), kOp, "bias: expected the device of the other tensors");
  }
  ScoreCall scores;
  prepare_scores(kOp,
                 {want, temperature, tokens, positions, top_k, top_p, top_p_inclusive, top_p_first, suppress, forbid,
                  proposal_law, confidence_dtype, seed, step, call},
                 batch, length, vocab, hidden, &scores);
  scores.params.type = score_dtype(kOp, "hidden", hidden.scalar_type());
  if (row_index) scores.mark_left_out();
  if (hidden.is_cuda()) {
    score_hidden_on_cuda(&scores, hidden, weight, bias, row_index);
    return {scores.ids, scores.stats};
  }

  const std::vector<int64_t> rows = indexed_rows(kOp, row_index, batch * length, hidden);
  const int64_t count = static_cast<int64_t>(rows.size());
  if (count == 0) return {scores.ids, scores.stats};
  const bool filters = top_k || top_p;
  const int64_t most = filters ? whole_rows(vocab * element_size(hidden)) : kBlockRows;
  const int64_t blocks = (count + most - 1) / most, block_rows = (count + blocks - 1) / blocks;
  const int64_t fitting = kBlockLogits / block_rows / kVocabularyChunk * kVocabularyChunk;
  const Tensor block = matrix(block_rows, filters ? vocab : std::min({vocab, fitting, kMostBlockIds}), hidden);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t begin = count * i / blocks, end = count * (i + 1) / blocks;
    const Product product(hidden, rows.data() + begin, end - begin, weight, bias);
    if (filters) {
      score_whole(product, scores, rows.data() + begin, block);
    } else {
      score_in_blocks(product, scores.params, rows.data() + begin, block);
    }
  }
  return {scores.ids, scores.stats};
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) { m.impl("score_hidden", TORCH_BOX(&mdmcorrect::score_hidden)); }
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) { m.impl("score_hidden", TORCH_BOX(&mdmcorrect::score_hidden)); }
