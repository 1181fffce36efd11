// Tiles of the attention kernels by width, for device code and launchers alike.
//
// A warp owns 16 rows of a product, or 32 where its accumulators leave room: every fragment of the other operand that it
// loads then serves twice as many products. Shared memory stays within the 99 KiB a block may have on sm_86 and sm_89,
// and within half of what an sm_80 has, so that two blocks share it there.
#pragma once

#include "core/config.h"

namespace mdmcorrect::cuda {

constexpr int kAttentionThreads = 128;
constexpr int kAttentionWarps = kAttentionThreads / 32;
constexpr int kMostSharedBytes = 99 * 1024;

// What a query sees, counted in keys of the sequence: [begin of the sequence, end) less `hidden` (-1: none).
struct QueryKeys {
  int32_t end;
  int32_t hidden;
};

// The block's summary of its rows, by each warp and then of all.
struct TileKeys {
  int32_t end;         // largest end: no key from here on is seen
  int32_t common_end;  // smallest end of the rows that see anything
  int32_t hidden_low;  // smallest and largest hidden key
  int32_t hidden_high;
};

// Forward: a block's query rows, and the keys it takes at a time, of which shared memory holds two tiles.
template <int kWidth>
struct ForwardShape {
  static constexpr int kRowTiles = kWidth <= 128 ? 2 : 1;  // of 16 rows per warp
  static constexpr int kRows = 16 * kRowTiles * kAttentionWarps;
  static constexpr int kKeys = kWidth <= 64 ? 64 : 32;
  static constexpr int kRowBytes = 2 * kWidth;
  // Offsets in shared memory: Q, then stages of a tile of K and one of V, then what the rows see.
  static constexpr int kStages = kRows * kRowBytes;
  static constexpr int kValues = kKeys * kRowBytes;  // within a stage
  static constexpr int kStageBytes = 2 * kValues;
  static constexpr int kQueryKeys = kStages + 2 * kStageBytes;
  static constexpr int kWarpKeys = kQueryKeys + kRows * static_cast<int>(sizeof(QueryKeys));
  static constexpr int kBytes = kWarpKeys + kAttentionWarps * static_cast<int>(sizeof(TileKeys));
};

}  // namespace mdmcorrect::cuda
