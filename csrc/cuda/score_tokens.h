// Launcher of score_tokens.cuh.
#pragma once

#include "cuda/chunk_partials.h"
#include "cuda/launch.h"

namespace mdmcorrect::cuda {

constexpr int64_t kResidentBlocks = 2;  // of kScoreThreads threads on a multiprocessor
constexpr int64_t kTurns = 4;           // of them, so that the last one does not leave many idle

inline int64_t score_chunks(const ScoreTokensParams& params) {
  return (params.vocab + kVocabularyChunk - 1) / kVocabularyChunk;
}

// Into how many pieces rows of so many chunks are cut, 1 where a block takes a row by itself: pieces of a chunk for each warp
// until there are blocks for all turns, and smaller ones where that does not give each multiprocessor its blocks.
inline int64_t row_pieces(int64_t rows, int64_t chunks, int multiprocessors) {
  constexpr int64_t kWarps = kScoreThreads / 32;
  const int64_t resident = kResidentBlocks * multiprocessors, filling = kTurns * resident;
  if (rows == 0 || 2 * rows > filling) return 1;
  const int64_t full = (chunks + kWarps - 1) / kWarps;
  if (rows * full >= resident) return full < filling / rows ? full : filling / rows;
  return chunks < resident / rows ? chunks : resident / rows;
}

inline int64_t score_pieces(const ScoreTokensParams& params, int multiprocessors) {
  return row_pieces(params.row_count, score_chunks(params), multiprocessors);
}

inline bool partials_in_workspace(const ScoreTokensParams& params, int multiprocessors) {
  return score_pieces(params, multiprocessors) > 1 || score_chunks(params) > kSharedChunks;
}

// Bytes of device memory a call needs as workspace; its content matters neither before nor after.
inline int64_t score_tokens_workspace(const ScoreTokensParams& params, int multiprocessors = kUsualMultiprocessors) {
  const int64_t partials = params.row_count * 2 * score_chunks(params);
  return partials_in_workspace(params, multiprocessors) ? partials * static_cast<int64_t>(sizeof(ChunkPartial)) : 0;
}

// All pointers are device pointers; suppress and forbid may be in any order and hold ids outside the vocabulary.
// params.rows or row_index say which rows are asked for.
inline void score_tokens(const ScoreTokensParams& params, void* workspace, Launcher& launch) {
  static constexpr const char* kRows[2][3] = {
      // without guidance and with it
      {"score_tokens_rows_float32", "score_tokens_rows_bfloat16", "score_tokens_rows_float16"},
      {"score_tokens_rows_guided_float32", "score_tokens_rows_guided_bfloat16", "score_tokens_rows_guided_float16"}};
  static constexpr const char* kScan[2][3] = {
      {"score_tokens_scan_float32", "score_tokens_scan_bfloat16", "score_tokens_scan_float16"},
      {"score_tokens_scan_guided_float32", "score_tokens_scan_guided_bfloat16", "score_tokens_scan_guided_float16"}};
  const int64_t rows = params.row_count;
  if (rows == 0) return;
  const int guided = params.uncond_logits != nullptr, type = static_cast<int>(params.type);
  const unsigned shared = static_cast<unsigned>(kScoreSharedBytes);
  const int multiprocessors = launch.multiprocessors();
  if (!partials_in_workspace(params, multiprocessors)) {
    const unsigned partial_bytes = static_cast<unsigned>(2 * score_chunks(params) * sizeof(ChunkPartial));
    const int64_t filling = kTurns * kResidentBlocks * multiprocessors;
    const unsigned blocks = static_cast<unsigned>(rows < filling ? rows : filling);
    launch({kRows[guided][type], blocks, 1, kScoreThreads, shared + partial_bytes},
           ScoreTokensKernel{params, nullptr, 1});
    return;
  }
  const ScoreTokensKernel kernel{params, static_cast<ChunkPartial*>(workspace), score_pieces(params, multiprocessors)};
  launch({kScan[guided][type], static_cast<unsigned>(rows * kernel.pieces), 1, kScoreThreads, 0}, kernel);
  launch({"score_tokens_conclude", static_cast<unsigned>(rows), 1, kScoreThreads, shared}, kernel);
}

}  // namespace mdmcorrect::cuda
