// Launcher of bidirectional_attention_backward.cuh.
#pragma once

#include "cuda/attention_backward.h"
#include "cuda/launch.h"

namespace mdmcorrect::cuda {

struct BackwardKernels {
  int width;
  int tile;  // queries of a tile of the workspace
  int rows;  // of a block's own
  unsigned bytes;
  const char* queries[2];  // bfloat16, float16
  const char* keys[2];
};

template <int kWidth>
constexpr BackwardKernels backward_kernels(const char* queries_bfloat16, const char* queries_float16,
                                           const char* keys_bfloat16, const char* keys_float16) {
  using Shape = BackwardShape<kWidth>;
  static_assert(Shape::kBytes <= kMostSharedBytes, "more shared memory than sm_86 gives a block");
  return {kWidth,
          Shape::kTile,
          Shape::kRows,
          Shape::kBytes,
          {queries_bfloat16, queries_float16},
          {keys_bfloat16, keys_float16}};
}

constexpr int kWidestBackward = 128;
constexpr BackwardKernels kBackwardKernels[] = {
    backward_kernels<32>("attention_backward_queries_bfloat16_32", "attention_backward_queries_float16_32",
                         "attention_backward_keys_bfloat16_32", "attention_backward_keys_float16_32"),
    backward_kernels<64>("attention_backward_queries_bfloat16_64", "attention_backward_queries_float16_64",
                         "attention_backward_keys_bfloat16_64", "attention_backward_keys_float16_64"),
    backward_kernels<96>("attention_backward_queries_bfloat16_96", "attention_backward_queries_float16_96",
                         "attention_backward_keys_bfloat16_96", "attention_backward_keys_float16_96"),
    backward_kernels<128>("attention_backward_queries_bfloat16_128", "attention_backward_queries_float16_128",
                          "attention_backward_keys_bfloat16_128", "attention_backward_keys_float16_128"),
};

inline const BackwardKernels& backward_kernels_of(const BidirectionalAttentionParams& forward) {
  const BackwardKernels* kernels = kBackwardKernels;
  while (kernels->width < forward.width) ++kernels;
  return *kernels;
}

// Query rows of one sequence, padded to whole tiles.
inline int64_t padded_queries(const BidirectionalAttentionParams& forward) {
  const int64_t tile = backward_kernels_of(forward).tile;
  return (forward.queries + tile - 1) / tile * tile;
}

// Bytes of device memory a call needs as workspace; its content matters neither before nor after.
inline int64_t bidirectional_attention_backward_workspace(const BidirectionalAttentionBackwardParams& params) {
  const BidirectionalAttentionParams& forward = params.forward;
  const int64_t rows = forward.batch * padded_queries(forward);
  return rows * forward.heads * static_cast<int64_t>(sizeof(RowStatistics)) +
         rows * static_cast<int64_t>(sizeof(QueryKeys)) +
         rows / backward_kernels_of(forward).tile * static_cast<int64_t>(sizeof(QueryTile));
}

// As for bidirectional_attention, with out, grad_out and the gradients aligned like q, widths up to kWidestBackward and
// fewer than 2^31 rows of k in all.
inline void bidirectional_attention_backward(const BidirectionalAttentionBackwardParams& params, void* workspace,
                                             Launcher& launch) {
  const BidirectionalAttentionParams& forward = params.forward;
  const BackwardKernels& kernels = backward_kernels_of(forward);
  const int half = forward.type == FloatType::bfloat16 ? 0 : 1;
  AttentionBackward work{params, padded_queries(forward), nullptr, nullptr, nullptr};
  const int64_t rows = forward.batch * work.padded_queries;
  work.statistics = static_cast<RowStatistics*>(workspace);
  work.query_keys = reinterpret_cast<QueryKeys*>(work.statistics + rows * forward.heads);
  work.tiles = reinterpret_cast<QueryTile*>(work.query_keys + rows);
  const auto start = [&](const char* kernel, int64_t heads, int64_t length, int block_rows, unsigned bytes) {
    const int64_t blocks = forward.batch * heads * ((length + block_rows - 1) / block_rows);
    if (blocks > 0) launch({kernel, static_cast<unsigned>(blocks), 1, kAttentionThreads, bytes}, work);
  };
  const unsigned row_bytes =
      static_cast<unsigned>(kernels.tile * sizeof(QueryKeys) + kAttentionWarps * sizeof(TileKeys));
  start(kernels.tile == 32 ? "attention_backward_rows_32" : "attention_backward_rows_64", forward.heads,
        forward.queries, kernels.tile, row_bytes);
  start(kernels.keys[half], forward.kv_heads, forward.keys, kernels.rows, kernels.bytes);
  start(kernels.queries[half], forward.heads, forward.queries, kernels.rows, kernels.bytes);
}

}  // namespace mdmcorrect::cuda
