// What a scored row's chunks leave behind, and the arguments of score_tokens' kernels; for host and device.
#pragma once

#include "core/score_tokens_params.h"

namespace mdmcorrect::cuda {

constexpr int kScoreThreads = 256;
constexpr int64_t kScoreSharedBytes = 2816;  // shared memory of a row beside its partials
constexpr int64_t kSharedChunks = 512;       // rows of more chunks keep their partials in the workspace

// Of one law (raw or proposal) in one chunk, relative to the chunk's own maximum.
struct ChunkPartial {
  float max;     // NaN or +inf: the row is invalid; -inf: nothing there
  float second;  // as argmax
  float sum;     // of e^y, y = scale (x - max)
  float dot;     // of y e^y
  int argmax;    // id within the chunk; -1 where an earlier chunk of the warp has as large a value
};

struct ScoreTokensKernel {
  ScoreTokensParams params;
  ChunkPartial* partials;  // [row_count, 2, chunks], or null: in shared memory
  int64_t pieces;          // of a row
};

// score_hidden: what a row keeps of logits that are gone, for each of the pieces into which its blocks are cut.
struct HiddenRow {
  double winner_noise;  // as ChunkEntry has it, of the chunk that leads the race
  int64_t winner;       // -1: none
  float winner_max;
  float current;  // the logit of `tokens`; NaN where another piece has it
};

struct ScoreHiddenKernel {
  ScoreTokensParams params;  // logits: of the ids from first_id on, rows row_stride apart
  int64_t first_id;          // a multiple of the chunk's ids
  int64_t last_id;
  ChunkPartial* partials;  // [row_count, 2, chunks]
  HiddenRow* rows;         // [row_count, pieces]
  uint8_t* winners;        // [row_count, pieces, 512]: logits of the chunk that leads the race
  int64_t pieces;
};

}  // namespace mdmcorrect::cuda
