// score_hidden on CUDA: torch multiplies a block of rows by a block of the vocabulary, our kernels take what they need of the
// logits, and the next block overwrites them.
#include <algorithm>

#include "cuda/score_hidden.h"
#include "torch/cuda_launcher.h"
#include "torch/matmul.h"
#include "torch/row_index.h"
#include "torch/score_hidden.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "score_hidden";

// A block of logits stays in the second-level cache, and its product has rows enough to repay reading the weights.
constexpr int64_t kBlockRows = 4096;
constexpr int64_t kBlockLogits = int64_t{1} << 23;
// Filters need whole rows: as many as this holds, since the weights are read again for each such group.
constexpr int64_t kFilteredBytes = int64_t{256} << 20;

int64_t element_size(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Float ? 4 : 2; }

Tensor matrix(int64_t rows, int64_t columns, const Tensor& like) {
  return allocate(kOp, {rows, columns}, like.scalar_type(), like.device());
}

// The rows of row_index side by side.
Tensor gathered(const Tensor& hidden, const Tensor& row_index) {
  const int64_t size = element_size(hidden);
  Tensor out = matrix(row_index.size(0), hidden.size(2), hidden);
  GatherRowsParams params{};
  params.hidden = hidden.const_data_ptr();
  params.batch = hidden.size(0);
  params.length = hidden.size(1);
  params.batch_stride = hidden.stride(0) * size;
  params.position_stride = hidden.stride(1) * size;
  params.row_bytes = hidden.size(2) * size;
  params.row_index = static_cast<const int64_t*>(row_index.const_data_ptr());
  params.row_count = row_index.size(0);
  params.out = out.mutable_data_ptr();
  CudaLauncher launcher(kOp, hidden);
  cuda::gather_rows(params, nullptr, launcher);
  return out;
}

// A block of rows and the output layer.
struct Product {
  Tensor rows;  // [R, D]
  const Tensor& weight;
  const std::optional<Tensor>& bias;

  // Logits of the ids [begin, end) into the first columns of `block`.
  void logits(int64_t begin, int64_t end, const Tensor& block) const {
    Tensor ids = rows_between(weight, begin, end);
    if (ids.scalar_type() != rows.scalar_type()) ids = torch::stable::to(ids, rows.scalar_type());
    linear_out(rows, ids, bias ? std::optional<Tensor>(rows_between(*bias, begin, end)) : std::nullopt,
               columns_between(block, 0, end - begin));
  }
};

void score_in_blocks(const Product& product, ScoreTokensParams params, const Tensor& block) {
  params.row_stride = block.stride(0);
  CudaLauncher launcher(kOp, block);
  const Tensor workspace = byte_tensor(kOp, cuda::score_hidden_workspace(params, launcher.multiprocessors()), block);
  cuda::score_hidden(params, block.size(1), workspace.mutable_data_ptr(), launcher, [&](int64_t first, int64_t last) {
    product.logits(first, last, block);
    return block.const_data_ptr();
  });
}

void score_whole(const Product& product, ScoreTokensParams params, const Tensor& block) {
  product.logits(0, params.vocab, block);
  params.logits = block.const_data_ptr();
  params.row_stride = block.stride(0);
  CudaLauncher launcher("score_tokens", block);
  const Tensor workspace = byte_tensor(kOp, cuda::score_tokens_workspace(params, launcher.multiprocessors()), block);
  cuda::score_tokens(params, workspace.mutable_data_ptr(), launcher);
}

}  // namespace

void score_hidden_on_cuda(ScoreCall* scores, const Tensor& hidden, const Tensor& weight,
                          const std::optional<Tensor>& bias, const std::optional<Tensor>& row_index) {
  std::optional<Tensor> index;
  if (row_index) {
    check_row_index(kOp, *row_index, hidden);
    index = torch::stable::contiguous(*row_index);
  }
  const int64_t count = index ? index->size(0) : hidden.size(0) * hidden.size(1);
  if (count == 0 || hidden.size(0) * hidden.size(1) == 0) return;
  const Tensor rows = index ? gathered(hidden, *index) : torch::stable::reshape(hidden, {count, hidden.size(2)});

  ScoreTokensParams params = scores->params;
  const bool filters = params.top_k.data != nullptr || params.top_p.data != nullptr;
  const int64_t columns = divide_up(params.vocab, kVocabularyChunk) * kVocabularyChunk;
  const int64_t most = filters ? std::max<int64_t>(1, kFilteredBytes / (columns * element_size(hidden))) : kBlockRows;
  const int64_t blocks = divide_up(count, most), block_rows = divide_up(count, blocks);
  const int64_t fitting = std::max<int64_t>(1, kBlockLogits / block_rows / kVocabularyChunk) * kVocabularyChunk;
  const Tensor block = matrix(block_rows, filters ? columns : std::min(columns, fitting), hidden);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t begin = count * i / blocks, end = count * (i + 1) / blocks;
    params.row_count = end - begin;
    params.first_row = begin;
    params.row_index = index ? static_cast<const int64_t*>(index->const_data_ptr()) + begin : nullptr;
    const Product product{rows_between(rows, begin, end), weight, bias};
    (filters ? score_whole : score_in_blocks)(product, params, rows_between(block, 0, end - begin));
  }
}

}  // namespace mdmcorrect
