// What the backward kernels of attention share with their launcher: the argument, and the workspace's layout.
#pragma once

#include "core/bidirectional_attention_params.h"
#include "cuda/attention_shape.h"

namespace mdmcorrect::cuda {

// The argument of every kernel. Query rows are padded to whole tiles.
struct AttentionBackward {
  BidirectionalAttentionBackwardParams params;
  int64_t padded_queries;
  RowStatistics* statistics;  // [B, Hq, padded]
  QueryKeys* query_keys;      // [B, padded]
  QueryTile* tiles;           // [B, padded / rows of a tile]
};

}  // namespace mdmcorrect::cuda
