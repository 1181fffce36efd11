// Launcher of uniform.cuh.
#pragma once

#include "core/uniform_params.h"
#include "cuda/launch.h"

namespace mdmcorrect::cuda {

constexpr unsigned kUniformThreads = 256;
constexpr int64_t kUniformBlocks = 1024;

inline int64_t uniform_workspace(const UniformParams&) { return 0; }

// All pointers are device pointers.
inline void uniform(const UniformParams& params, void*, Launcher& launch) {
  const int64_t numbers = params.batch * params.length;
  if (numbers == 0) return;
  const int64_t blocks = (numbers + kUniformThreads - 1) / kUniformThreads;
  launch({"uniform_numbers", static_cast<unsigned>(blocks < kUniformBlocks ? blocks : kUniformBlocks), 1,
          kUniformThreads, 0},
         params);
}

}  // namespace mdmcorrect::cuda
