// Launcher of select_positions.cuh.
#pragma once

#include "core/select_positions_params.h"
#include "cuda/launch.h"

namespace mdmcorrect::cuda {

constexpr int64_t kCachedLength = 4096;  // 32 KiB of keys, within the 48 KiB every launch may have

// All pointers of params are device pointers.
inline void select_positions(const SelectPositionsParams& params, Launcher& launch) {
  if (params.batch == 0 || params.length == 0) return;
  constexpr int64_t kMaxBlocks = 65535;  // rows beyond it are taken in turns
  const unsigned blocks = static_cast<unsigned>(params.batch < kMaxBlocks ? params.batch : kMaxBlocks);
  const unsigned threads = params.length <= 1024 ? 256 : params.length <= 8192 ? 512 : 1024;
  if (params.length <= kCachedLength) {
    const unsigned key_bytes = static_cast<unsigned>(params.length) * sizeof(uint64_t);
    launch({"select_positions_cached", blocks, 1, threads, key_bytes}, params);
  } else {
    launch({"select_positions_long", blocks, 1, threads, 0}, params);
  }
}

}  // namespace mdmcorrect::cuda
