// Kernels of bidirectional_attention_backward: of query rows for each size of tile, of queries and of keys for each type
// and width. Device code alone, for nvcc and NVRTC.
#include "cuda/bidirectional_attention_backward.cuh"

using mdmcorrect::cuda::AttentionBackward;
using mdmcorrect::cuda::kAttentionThreads;
using mdmcorrect::portable::backward_keys;
using mdmcorrect::portable::backward_queries;
using mdmcorrect::portable::backward_rows;
using mdmcorrect::portable::Bfloat16;
using mdmcorrect::portable::Float16;

#define MDM_BACKWARD(name, ...)                                                   \
  extern "C" __global__ void __launch_bounds__(kAttentionThreads)                 \
      attention_backward_##name(const __grid_constant__ AttentionBackward work) { \
    __VA_ARGS__(work);                                                            \
  }
#define MDM_BACKWARD_WIDTHS(type, Type)                           \
  MDM_BACKWARD(queries_##type##_32, backward_queries<Type, 32>)   \
  MDM_BACKWARD(queries_##type##_64, backward_queries<Type, 64>)   \
  MDM_BACKWARD(queries_##type##_96, backward_queries<Type, 96>)   \
  MDM_BACKWARD(queries_##type##_128, backward_queries<Type, 128>) \
  MDM_BACKWARD(keys_##type##_32, backward_keys<Type, 32>)         \
  MDM_BACKWARD(keys_##type##_64, backward_keys<Type, 64>)         \
  MDM_BACKWARD(keys_##type##_96, backward_keys<Type, 96>)         \
  MDM_BACKWARD(keys_##type##_128, backward_keys<Type, 128>)

MDM_BACKWARD(rows_32, backward_rows<32>)
MDM_BACKWARD(rows_64, backward_rows<64>)
MDM_BACKWARD_WIDTHS(bfloat16, Bfloat16)
MDM_BACKWARD_WIDTHS(float16, Float16)
