// Kernels of bidirectional_attention: one for each type and width. Device code alone, for nvcc and NVRTC.
#include "cuda/bidirectional_attention.cuh"

using mdmcorrect::BidirectionalAttentionParams;
using mdmcorrect::cuda::kAttentionThreads;
using mdmcorrect::portable::Bfloat16;
using mdmcorrect::portable::bidirectional_attention;
using mdmcorrect::portable::Float16;

#define MDM_ATTENTION(type, Type, width)                                                                      \
  extern "C" __global__ void __launch_bounds__(kAttentionThreads)                                             \
      bidirectional_attention_##type##_##width(const __grid_constant__ BidirectionalAttentionParams params) { \
    bidirectional_attention<Type, width>(params);                                                             \
  }
#define MDM_ATTENTION_WIDTHS(type, Type) \
  MDM_ATTENTION(type, Type, 32)          \
  MDM_ATTENTION(type, Type, 64)          \
  MDM_ATTENTION(type, Type, 96)          \
  MDM_ATTENTION(type, Type, 128)         \
  MDM_ATTENTION(type, Type, 192)         \
  MDM_ATTENTION(type, Type, 256)

MDM_ATTENTION_WIDTHS(bfloat16, Bfloat16)
MDM_ATTENTION_WIDTHS(float16, Float16)
