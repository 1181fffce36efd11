// Launching a kernel of row_keys.h.
#pragma once

#include "cuda/launch.h"
#include "cuda/row_keys.h"

namespace mdmcorrect::cuda {

inline int64_t row_blocks(int64_t batch, int64_t length) {
  const int64_t most = length <= kSharedKeys ? kSharedRowBlocks : kWorkspaceRowBlocks;
  return batch < most ? batch : most;
}

// Bytes of workspace for `batch` rows of `length` positions.
inline int64_t row_workspace(int64_t batch, int64_t length) {
  return length <= kSharedKeys ? 0 : row_blocks(batch, length) * length * static_cast<int64_t>(sizeof(uint64_t));
}

struct RowLaunch {
  int64_t state_bytes = kSharedState;
  unsigned most_threads = kMaxThreads;
  int64_t least_length = 1;  // of rows of which the kernel writes anything
  int64_t short_row = 1024;  // positions up to which 256 threads are enough
};

template <class Params>
void launch_rows(const char* kernel, const Params& params, void* workspace, Launcher& launch,
                 const RowLaunch& how = RowLaunch{}) {
  const int64_t length = params.length;
  if (params.batch == 0 || length < how.least_length) return;
  const unsigned wanted = length <= how.short_row ? 256 : length <= 8192 ? 512 : kMaxThreads;
  const unsigned threads = wanted < how.most_threads ? wanted : how.most_threads;
  const int64_t key_bytes = length <= kSharedKeys ? length * static_cast<int64_t>(sizeof(uint64_t)) : 0;
  launch({kernel, static_cast<unsigned>(row_blocks(params.batch, length)), 1, threads,
          static_cast<unsigned>(how.state_bytes + key_bytes)},
         RowKernel<Params>{params, static_cast<uint64_t*>(workspace)});
}

}  // namespace mdmcorrect::cuda
