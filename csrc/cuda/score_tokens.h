// Launcher of score_tokens.cuh.
#pragma once

#include "cuda/chunk_partials.h"
#include "cuda/launch.h"

namespace mdmcorrect::cuda {

constexpr int64_t kFillingBlocks = 1024;     // enough of kScoreThreads threads for any GPU
constexpr int64_t kLeastChunksPerBlock = 8;  // one for each warp

inline int64_t score_chunks(const ScoreTokensParams& params) {
  return (params.vocab + kVocabularyChunk - 1) / kVocabularyChunk;
}

// Into how many pieces rows are cut: 1 where a block scores a row by itself.
inline int64_t score_pieces(const ScoreTokensParams& params) {
  const int64_t rows = params.row_count, chunks = score_chunks(params);
  if (rows == 0) return 1;
  const int64_t most = (chunks + kLeastChunksPerBlock - 1) / kLeastChunksPerBlock;
  const int64_t wanted = 2 * rows > kFillingBlocks ? 1 : kFillingBlocks / rows;
  return most < wanted ? most : wanted;
}

inline bool partials_in_workspace(const ScoreTokensParams& params) {
  return score_pieces(params) > 1 || score_chunks(params) > kSharedChunks;
}

// Bytes of device memory a call needs as workspace; its content matters neither before nor after.
inline int64_t score_tokens_workspace(const ScoreTokensParams& params) {
  const int64_t partials = params.row_count * 2 * score_chunks(params);
  return partials_in_workspace(params) ? partials * static_cast<int64_t>(sizeof(ChunkPartial)) : 0;
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
  if (!partials_in_workspace(params)) {
    const unsigned partial_bytes = static_cast<unsigned>(2 * score_chunks(params) * sizeof(ChunkPartial));
    const unsigned blocks = static_cast<unsigned>(rows < kFillingBlocks ? rows : kFillingBlocks);
    launch({kRows[guided][type], blocks, 1, kScoreThreads, shared + partial_bytes},
           ScoreTokensKernel{params, nullptr, 1});
    return;
  }
  const ScoreTokensKernel kernel{params, static_cast<ChunkPartial*>(workspace), score_pieces(params)};
  launch({kScan[guided][type], static_cast<unsigned>(rows * kernel.pieces), 1, kScoreThreads, 0}, kernel);
  launch({"score_tokens_conclude", static_cast<unsigned>(rows), 1, kScoreThreads, shared}, kernel);
}

}  // namespace mdmcorrect::cuda
