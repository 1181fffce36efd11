// Binding of bidirectional_attention: tensors in, params and tiles out, kernel called.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/bidirectional_attention.h"
#include "torch/attention.h"
#include "torch/cuda_attention.h"
#include "torch/cuda_launcher.h"
#include "torch/parallel.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "bidirectional_attention";

// Tiles of every head, sequences and tiles that cost most first, heads together: threads that take the next one from
// this list share a head's keys in cache and finish at about the same time.
std::vector<AttentionTile> tiles_of_all(const BidirectionalAttentionParams& params, int64_t* total_cost) {
  std::vector<AttentionTile> tiles;
  *total_cost = 0;
  for (Sequence& sequence : attention_sequences(params)) {
    std::stable_sort(sequence.tiles.begin(), sequence.tiles.end(),
                     [](const CostedTile& a, const CostedTile& b) { return a.cost > b.cost; });
    *total_cost += sequence.cost * params.heads;
    for (int64_t head = 0; head < params.heads; ++head) {
      for (const CostedTile& tile : sequence.tiles) tiles.push_back({sequence.index, head, tile.first, tile.count});
    }
  }
  return tiles;
}

std::tuple<Tensor, Tensor, Tensor> bidirectional_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                                           const std::optional<Tensor>& starts,
                                                           const std::optional<Tensor>& lengths,
                                                           const std::optional<Tensor>& q_positions, int64_t mask,
                                                           bool hide_self, int64_t block_size,
                                                           const std::optional<Tensor>& shadow_of, double scale) {
  BidirectionalAttentionParams params =
      attention_params(kOp, q, k, v, starts, lengths, q_positions, mask, hide_self, block_size, shadow_of, scale);
  Tensor out = empty_heads(kOp, params.batch, params.heads, params.queries, q);
  Tensor lse = allocate(kOp, {params.batch, params.heads, params.queries}, lse_type(q), q.device());
  params.out = mutable_heads_of(out);
  params.lse = static_cast<float*>(lse.mutable_data_ptr());
  Tensor normaliser = allocate(kOp, {2, params.batch, params.heads, params.queries}, lse_type(q), q.device());
  std::tie(params.maximum, params.log_sum) = normaliser_parts<float*>(normaliser.mutable_data_ptr(), params);
  if (q.is_cuda()) {
    check_cuda_attention(kOp, params);
    const Tensor aligned[] = {aligned_heads(kOp, q), aligned_heads(kOp, k), aligned_heads(kOp, v)};
    params.q = heads_of(aligned[0]);
    params.k = heads_of(aligned[1]);
    params.v = heads_of(aligned[2]);
    CudaLauncher launcher(kOp, q);
    cuda::bidirectional_attention(params, nullptr, launcher);
    return {out, lse, normaliser};
  }
  int64_t cost = 0;
  const std::vector<AttentionTile> tiles = tiles_of_all(params, &cost);
  params.tiles = tiles.data();
  const CpuKernels& kernels = chosen_kernels(KernelGroup::attention);
  // Sixteen queries meet a key in 2 * width products, a nanosecond for 8 to 16 of the width.
  parallel_items(kOp, static_cast<int64_t>(tiles.size()), cost * params.width / 8, 192 * params.width + 4112,
                 [&](int64_t begin, int64_t end, uint64_t* scratch) {
                   kernels.bidirectional_attention(params, begin, end, scratch);
                 });
  return {out, lse, normaliser};
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) {
  m.impl("bidirectional_attention", TORCH_BOX(&mdmcorrect::bidirectional_attention));
}
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) {
  m.impl("bidirectional_attention", TORCH_BOX(&mdmcorrect::bidirectional_attention));
}
