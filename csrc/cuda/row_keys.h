// Kernels that give each row a block and keep a 64-bit key for each of its positions (radix_select.cuh): their argument,
// and where the keys are.
#pragma once

#include "core/config.h"

namespace mdmcorrect::cuda {

constexpr int kMaxThreads = 1024;
constexpr int kCountThreads = 512;     // count_positions at most: with 1024, sm_120 would spill its registers
constexpr int64_t kSharedKeys = 4096;  // 32 KiB, within the 48 KiB every launch may have; longer rows use the workspace
constexpr int64_t kSharedState = 1536;      // bytes before the keys, for what the block shares otherwise
constexpr int64_t kCountState = 3584;       // the same for count_positions, which keeps sums too
constexpr int64_t kSharedRowBlocks = 2048;  // blocks that together keep any GPU busy; each takes row after row
// Each has room for one row's keys in the workspace: two blocks of 1024 threads for each of 148 multiprocessors.
constexpr int64_t kWorkspaceRowBlocks = 296;

// The argument of such a kernel.
template <class Params>
struct RowKernel {
  Params params;
  uint64_t* workspace;  // [blocks, length], where length is above kSharedKeys
};

}  // namespace mdmcorrect::cuda
