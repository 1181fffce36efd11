// Launcher of correct_pass.cuh.
#pragma once

#include "core/correct_pass_params.h"
#include "cuda/row_launch.h"

namespace mdmcorrect::cuda {

inline int64_t correct_pass_workspace(const CorrectPassParams&) { return 0; }

// All pointers are device pointers. Of rows without positions it is written that nothing moved.
inline void correct_pass(const CorrectPassParams& params, void*, Launcher& launch) {
  if (params.batch == 0) return;
  const unsigned threads = params.length <= 256 ? 256 : kCountThreads;
  launch({"correct_pass_rows", static_cast<unsigned>(row_blocks(params.batch, 0)), 1, threads, kCountState}, params);
}

}  // namespace mdmcorrect::cuda
