// Launcher of bidirectional_attention.cuh.
#pragma once

#include "core/bidirectional_attention_params.h"
#include "cuda/attention_shape.h"
#include "cuda/launch.h"

namespace mdmcorrect::cuda {

struct ForwardKernels {
  int width;
  int rows;  // per block
  unsigned bytes;
  const char* bfloat16;
  const char* float16;
};

template <int kWidth>
constexpr ForwardKernels forward_kernels(const char* bfloat16, const char* float16) {
  using Shape = ForwardShape<kWidth>;
  static_assert(Shape::kBytes <= kMostSharedBytes, "more shared memory than sm_86 gives a block");
  return {kWidth, Shape::kRows, Shape::kBytes, bfloat16, float16};
}

constexpr ForwardKernels kForwardKernels[] = {
    forward_kernels<32>("bidirectional_attention_bfloat16_32", "bidirectional_attention_float16_32"),
    forward_kernels<64>("bidirectional_attention_bfloat16_64", "bidirectional_attention_float16_64"),
    forward_kernels<96>("bidirectional_attention_bfloat16_96", "bidirectional_attention_float16_96"),
    forward_kernels<128>("bidirectional_attention_bfloat16_128", "bidirectional_attention_float16_128"),
    forward_kernels<192>("bidirectional_attention_bfloat16_192", "bidirectional_attention_float16_192"),
    forward_kernels<256>("bidirectional_attention_bfloat16_256", "bidirectional_attention_float16_256"),
};

inline int64_t bidirectional_attention_workspace(const BidirectionalAttentionParams&) { return 0; }

// All pointers of params are device pointers; q, k, v, out and their strides are multiples of 16 bytes, and q has fewer
// than 2^31 rows in all. bfloat16 and float16 only. A width without a kernel of its own takes the next wider one, whose
// further columns are 0.
inline void bidirectional_attention(const BidirectionalAttentionParams& params, void*, Launcher& launch) {
  if (params.batch == 0 || params.heads == 0 || params.queries == 0) return;
  const ForwardKernels* kernels = kForwardKernels;
  while (kernels->width < params.width) ++kernels;
  const int64_t tiles = (params.queries + kernels->rows - 1) / kernels->rows;
  launch({params.type == FloatType::bfloat16 ? kernels->bfloat16 : kernels->float16,
          static_cast<unsigned>(params.batch * params.heads * tiles), 1, kAttentionThreads, kernels->bytes},
         params);
}

}  // namespace mdmcorrect::cuda
