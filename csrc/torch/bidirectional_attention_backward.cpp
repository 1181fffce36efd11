// Binding of bidirectional_attention_backward: tensors in, params, tiles and heads out, kernel called.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/bidirectional_attention_backward.h"
#include "torch/attention.h"
#include "torch/cuda_attention.h"
#include "torch/cuda_launcher.h"
#include "torch/parallel.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "bidirectional_attention_backward";

void check_values(const char* name, const Tensor& tensor, const Tensor& q) {
  check(tensor.scalar_type() == lse_type(q), kOp, name, ": expected dtype float32, or float64 where q is");
  check(tensor.is_contiguous(), kOp, name, ": expected a contiguous tensor");
  check(tensor.device() == q.device(), kOp, name, ": expected the device of q");
}

void check_rows(const char* name, const Tensor& tensor, const BidirectionalAttentionParams& params, const Tensor& q) {
  check(tensor.dim() == 3 && tensor.size(0) == params.batch && tensor.size(1) == params.heads &&
            tensor.size(2) == params.queries,
        kOp, name, ": expected shape [", params.batch, ", ", params.heads, ", ", params.queries, "], got ",
        shape_of(tensor));
  check_values(name, tensor, q);
}

std::tuple<Tensor, Tensor, Tensor> bidirectional_attention_backward(
    const Tensor& grad_out, const std::optional<Tensor>& grad_lse, const Tensor& q, const Tensor& k, const Tensor& v,
    const Tensor& out, const Tensor& normaliser, const std::optional<Tensor>& starts,
    const std::optional<Tensor>& lengths, const std::optional<Tensor>& q_positions, int64_t mask, bool hide_self,
    int64_t block_size, const std::optional<Tensor>& shadow_of, double scale) {
  BidirectionalAttentionBackwardParams params{};
  params.forward =
      attention_params(kOp, q, k, v, starts, lengths, q_positions, mask, hide_self, block_size, shadow_of, scale);
  BidirectionalAttentionParams& forward = params.forward;
  check_heads(kOp, "out", out, forward.batch, forward.heads, forward.queries, q);
  check_heads(kOp, "grad_out", grad_out, forward.batch, forward.heads, forward.queries, q);
  check(normaliser.dim() == 4 && normaliser.size(0) == 2 && normaliser.size(1) == forward.batch &&
            normaliser.size(2) == forward.heads && normaliser.size(3) == forward.queries,
        kOp, "normaliser: expected shape [2, ", forward.batch, ", ", forward.heads, ", ", forward.queries, "], got ",
        shape_of(normaliser));
  check_values("normaliser", normaliser, q);
  if (grad_lse) check_rows("grad_lse", *grad_lse, forward, q);
  Tensor grad_q = empty_heads(kOp, forward.batch, forward.heads, forward.queries, q);
  Tensor grad_k = empty_heads(kOp, forward.batch, forward.kv_heads, forward.keys, q);
  Tensor grad_v = empty_heads(kOp, forward.batch, forward.kv_heads, forward.keys, q);
  params.out = heads_of(out);
  params.grad_out = heads_of(grad_out);
  std::tie(params.maximum, params.log_sum) = normaliser_parts<const float*>(normaliser.const_data_ptr(), forward);
  params.grad_lse = grad_lse ? static_cast<const float*>(grad_lse->const_data_ptr()) : nullptr;
  params.grad_q = mutable_heads_of(grad_q);
  params.grad_k = mutable_heads_of(grad_k);
  params.grad_v = mutable_heads_of(grad_v);

  if (q.is_cuda()) {
    check_cuda_attention(kOp, forward);
    check(forward.width <= cuda::kWidestBackward, kOp, "q: expected D of at most ", cuda::kWidestBackward,
          " for a gradient on CUDA, got ", forward.width);
    check(forward.batch * forward.kv_heads * forward.keys <= std::numeric_limits<int32_t>::max(), kOp,
          "k: expected fewer than 2^31 rows on CUDA");
    const Tensor aligned[] = {aligned_heads(kOp, q), aligned_heads(kOp, k), aligned_heads(kOp, v),
                              aligned_heads(kOp, out), aligned_heads(kOp, grad_out)};
    forward.q = heads_of(aligned[0]);
    forward.k = heads_of(aligned[1]);
    forward.v = heads_of(aligned[2]);
    params.out = heads_of(aligned[3]);
    params.grad_out = heads_of(aligned[4]);
    CudaLauncher launcher(kOp, q);
    const Tensor workspace = byte_tensor(kOp, cuda::bidirectional_attention_backward_workspace(params), q);
    cuda::bidirectional_attention_backward(params, workspace.mutable_data_ptr(), launcher);
    return {grad_q, grad_k, grad_v};
  }
  std::vector<AttentionTile> tiles;
  std::vector<AttentionHead> heads;
  int64_t cost = 0;
  for (const Sequence& sequence : attention_sequences(forward)) {
    const int64_t first = static_cast<int64_t>(tiles.size());
    for (const CostedTile& tile : sequence.tiles) tiles.push_back({sequence.index, 0, tile.first, tile.count});
    const int64_t end = static_cast<int64_t>(tiles.size());
    for (int64_t head = 0; head < forward.kv_heads; ++head) heads.push_back({sequence.index, head, first, end});
    cost += sequence.cost * forward.heads;
  }
  forward.tiles = tiles.data();
  params.heads = heads.data();
  const CpuKernels& kernels = chosen_kernels(KernelGroup::attention);
  const int64_t words = forward.keys * forward.width + 256 * forward.width + 7184;
  parallel_items(kOp, static_cast<int64_t>(heads.size()), 3 * cost * forward.width / 8, words,
                 [&](int64_t begin, int64_t end, uint64_t* scratch) {
                   kernels.bidirectional_attention_backward(params, begin, end, scratch);
                 });
  return {grad_q, grad_k, grad_v};
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) {
  m.impl("bidirectional_attention_backward", TORCH_BOX(&mdmcorrect::bidirectional_attention_backward));
}
STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CUDA, m) {
  m.impl("bidirectional_attention_backward", TORCH_BOX(&mdmcorrect::bidirectional_attention_backward));
}
