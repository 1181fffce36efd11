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
  // Offsets in shared memory: Q, then stages of a tile of K and one of V, then what the rows see. The warps' summaries
  // lie where the second stage will, which nothing is copied to before everyone has read them: 64 bytes more, and sm_86
  // would hold one block of width 64 or 96 instead of two.
  static constexpr int kStages = kRows * kRowBytes;
  static constexpr int kValues = kKeys * kRowBytes;  // within a stage
  static constexpr int kStageBytes = 2 * kValues;
  static constexpr int kWarpKeys = kStages + kStageBytes;
  static constexpr int kQueryKeys = kStages + 2 * kStageBytes;
  static constexpr int kBytes = kQueryKeys + kRows * static_cast<int>(sizeof(QueryKeys));
};

// What the backward kernels need of a query row besides q and grad_out.
struct alignas(16) RowStatistics {
  float maximum;   // what scores are counted from
  float log2_sum;  // of their exponentials; +inf where nothing is visible, so that probabilities are 0
  float delta;     // grad_out . out - grad_lse
  float padding;   // to what one copy takes
};

// A tile of queries as the key kernel meets it.
struct QueryTile {
  TileKeys keys;
  uint64_t live;  // bit r: row r sees something
};

// Backward: a block owns 64 rows, 16 per warp, and takes the other side's rows in tiles, two stages of them in shared
// memory. grad_q's kernel owns queries and takes keys; that of grad_k and grad_v owns keys and takes queries.
template <int kWidth>
struct BackwardShape {
  static_assert(kWidth <= 128, "two gradients of wider rows do not fit the registers");
  static constexpr int kRows = 16 * kAttentionWarps;
  static constexpr int kTile = kWidth <= 64 ? 64 : 32;
  static constexpr int kRowBytes = 2 * kWidth;
  // Offsets in shared memory: the block's own two matrices, then stages of two tiles, then what belongs to query rows.
  static constexpr int kOwnSecond = kRows * kRowBytes;
  static constexpr int kStages = 2 * kOwnSecond;
  static constexpr int kStageSecond = kTile * kRowBytes;  // within a stage
  static constexpr int kStageStatistics = 2 * kStageSecond;
  static constexpr int kStageKeys = kStageStatistics + kTile * static_cast<int>(sizeof(RowStatistics));
  static constexpr int kStageBytes = kStageKeys + kTile * static_cast<int>(sizeof(QueryKeys));
  static constexpr int kQueryKeys = kStages + 2 * kStageBytes;
  static constexpr int kWarpKeys = kQueryKeys + kRows * static_cast<int>(sizeof(QueryKeys));
  static constexpr int kBytes = kWarpKeys + kAttentionWarps * static_cast<int>(sizeof(TileKeys));
};

}  // namespace mdmcorrect::cuda
