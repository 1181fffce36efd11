// Launcher of score_quality.cuh.
#pragma once

#include "cuda/launch.h"
#include "cuda/quality_part.h"

namespace mdmcorrect::cuda {

// Warps that a multiprocessor holds at least, by registers: of float32 more values are under way, by fewer warps.
inline int64_t resident_quality_warps(FloatType type) { return type == FloatType::float32 ? 16 : 24; }

inline int64_t score_quality_workspace(const ScoreQualityParams&) { return 0; }

// All pointers are device pointers; row_index may hold anything, in any order.
inline void score_quality(const ScoreQualityParams& params, void*, Launcher& launch) {
  static constexpr const char* kKernels[] = {"score_quality_rows_float32", "score_quality_rows_bfloat16",
                                             "score_quality_rows_float16"};
  if (params.rows == 0) return;
  const int64_t chunks = (params.size + 511) / 512;
  const int64_t turns = (chunks + kMostQualityWarps - 1) / kMostQualityWarps;  // of a warp for one row
  const int64_t warps = (chunks + turns - 1) / turns;
  // All that are resident, so that every block has as many rows as the others, but for one; it reads the head once for them.
  const int64_t most = launch.multiprocessors() * (resident_quality_warps(params.hidden.type) / warps),
                slices = chunks <= kKeptSlices ? chunks : warps;
  launch({kKernels[static_cast<int>(params.hidden.type)],
          static_cast<unsigned>(params.rows < most ? params.rows : most), 1, static_cast<unsigned>(32 * warps),
          static_cast<unsigned>(slices * sizeof(QualitySlice) + 2 * chunks * sizeof(QualityPart))},
         params);
}

}  // namespace mdmcorrect::cuda
