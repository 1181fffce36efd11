// score_hidden: rows whose logits come in blocks of the vocabulary, scored by the code that scores whole rows
// (cpu/row_scores.h).
//
// The draw ends inside the chunk that wins the race, whose logits are gone by then: each row keeps those of the chunk
// that leads, which changes about log(vocab / 512) times.
#include "cpu/kernels.h"
#include "cpu/row_scores.h"

namespace MDM_NAMESPACE {

constexpr int64_t kStateWords = (sizeof(RowScores) + sizeof(uint64_t) - 1) / sizeof(uint64_t);

int64_t score_hidden_state_words() { return kStateWords; }

// The row as if it were whole: where its id 0 would lie if those of the block are at `block`. Only the block is read.
static ProposalRow whole_row(const ScoreTokensParams& params, RowReader* reader, const uint8_t* block, int64_t first) {
  const uint8_t* data =
      reinterpret_cast<const uint8_t*>(reinterpret_cast<uintptr_t>(block) - first * reader->element_size);
  return {&params, reader, data, (params.vocab + kChunk - 1) / kChunk};
}

void score_hidden(const ScoreHiddenParams& params, int64_t begin, int64_t end) {
  const ScoreTokensParams& options = params.scores;
  RowReader reader;
  prepare_reader(options, &reader);
  const int64_t size = reader.element_size;
  const int64_t first = params.first_id / kChunk, last = (params.last_id + kChunk - 1) / kChunk;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t place = options.row_index[i], b = place / options.length, l = place % options.length;
    RowScores* scores = reinterpret_cast<RowScores*>(params.states + i * kStateWords);
    uint8_t* kept = params.winners + i * kChunk * size;
    if (first == 0) *scores = begin_row(options, plan_scan(options, b, l), b, l);

    const uint8_t* block = static_cast<const uint8_t*>(options.logits) + i * options.row_stride * size;
    const ProposalRow row = whole_row(options, &reader, block, params.first_id);
    scan_chunks(row, first, last, nullptr, scores);
    see_current(row, first, last, b, l, scores);
    const int64_t winner = scores->race.winner;
    if (winner >= first) {
      const int64_t left = options.vocab - winner * kChunk;
      __builtin_memcpy(kept, row.data + winner * kChunk * size,
                       static_cast<size_t>((left < kChunk ? left : kChunk) * size));
    }
    if (params.last_id < options.vocab) continue;
    choose_token(whole_row(options, &reader, kept, winner * kChunk), b, l, scores);
    write_row(options, scores, b, l);
  }
}

}  // namespace MDM_NAMESPACE
