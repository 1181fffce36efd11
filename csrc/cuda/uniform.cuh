// uniform on CUDA: a thread per number, each of which is its own draw.
#pragma once

#include "core/gumbel.h"
#include "core/uniform_params.h"

namespace MDM_NAMESPACE {

__device__ inline void uniform(const UniformParams& params) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t i = first; i < params.batch * params.length; i += threads) {
    const int64_t row = i / params.length;
    const uint64_t bits =
        philox_bits(row_value(params.seed, row), 0, at(params.positions, row, i - row * params.length),
                    row_value(params.step, row), static_cast<Purpose>(params.purpose), *params.call);
    if (params.type == FloatType::float32) {
      static_cast<float*>(params.values)[i] = uniform_from_bits(bits);
    } else {
      static_cast<double*>(params.values)[i] = double_uniform_from_bits(bits);
    }
  }
}

}  // namespace MDM_NAMESPACE
