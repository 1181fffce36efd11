// Launcher of score_hidden.cuh.
#pragma once

#include "core/score_hidden_params.h"
#include "cuda/launch.h"
#include "cuda/score_tokens.h"

namespace mdmcorrect::cuda {

// Bytes of device memory as workspace for params.row_count rows without filters, whatever the width of the blocks.
inline int64_t score_hidden_workspace(const ScoreTokensParams& params, int multiprocessors = kUsualMultiprocessors) {
  const int64_t winner = kVocabularyChunk * (params.type == FloatType::float32 ? 4 : 2);
  const int64_t partials = 2 * score_chunks(params) * static_cast<int64_t>(sizeof(ChunkPartial));
  return params.row_count *
         (score_pieces(params, multiprocessors) * (static_cast<int64_t>(sizeof(HiddenRow)) + winner) + partials);
}

// Scores rows from logits of `width` ids at a time, a multiple of 512. block(first, last) enqueues what makes the logits
// of these ids and says where they are; rows are params.row_stride apart. There are no filters among params.
template <class Block>
void score_hidden(const ScoreTokensParams& params, int64_t width, void* workspace, Launcher& launch,
                  const Block& block) {
  static constexpr const char* kScan[] = {"score_hidden_scan_float32", "score_hidden_scan_bfloat16",
                                          "score_hidden_scan_float16"};
  const int64_t rows = params.row_count;
  if (rows == 0) return;
  ScoreHiddenKernel kernel{};
  kernel.params = params;
  const int64_t chunks = score_chunks(params), chunks_at_once = width / kVocabularyChunk;
  kernel.pieces = row_pieces(rows, chunks < chunks_at_once ? chunks : chunks_at_once, launch.multiprocessors());
  kernel.rows = static_cast<HiddenRow*>(workspace);
  kernel.partials = reinterpret_cast<ChunkPartial*>(kernel.rows + rows * kernel.pieces);
  kernel.winners = reinterpret_cast<uint8_t*>(kernel.partials + rows * 2 * chunks);
  for (int64_t first = 0; first < params.vocab; first += width) {
    kernel.first_id = first;
    kernel.last_id = first + width < params.vocab ? first + width : params.vocab;
    kernel.params.logits = block(kernel.first_id, kernel.last_id);
    launch({kScan[static_cast<int>(params.type)], static_cast<unsigned>(rows * kernel.pieces), 1, kScoreThreads, 0},
           kernel);
  }
  launch({"score_hidden_conclude", static_cast<unsigned>(rows), 1, kScoreThreads,
          static_cast<unsigned>(kScoreSharedBytes)},
         kernel);
}

inline int64_t gather_rows_workspace(const GatherRowsParams&) { return 0; }

inline void gather_rows(const GatherRowsParams& params, void*, Launcher& launch) {
  if (params.row_count == 0 || params.row_bytes == 0) return;
  launch({"score_hidden_gather", static_cast<unsigned>(params.row_count), 1, kScoreThreads, 0}, params);
}

}  // namespace mdmcorrect::cuda
