// score_tokens, one row at a time: one pass over the logits for every statistic and for the draw (cpu/row_scores.h).
//
// top_k and top_p come between: they read the row again to find the kept set (proposal_filter.h), then only chunks that
// hold some of it.
#include "cpu/kernels.h"
#include "cpu/row_scores.h"

namespace MDM_NAMESPACE {

// The proposal's statistics and draw from the kept set alone.
static void scan_kept(const ProposalRow& row, const float* chunk_max, RowScores* scores) {
  const ScanPlan& plan = scores->plan;
  OnlineStats* proposal = &scores->proposal;
  const Scanner scanner = scanner_of(FloatType::float32, plan.kept, plan.scale, Terms::none, 1.0f);
  *proposal = empty_stats(plan.scale);
  for (int64_t index = 0; index < row.chunks; ++index) {
    if (!(chunk_max[index] >= scores->kept.threshold)) continue;
    const FloatChunk kept = read_proposal_chunk(row, index, &scores->kept);
    if (kept.max == -__builtin_inff()) continue;
    const Chunk chunk{kept.values, FloatType::float32, kept.padded};
    Laws laws{proposal, nullptr, 1.0};
    ChunkScan scan;
    take_chunk(row, scanner, chunk, index, plan.second, &laws, &scan);
    add_sums(proposal, scan.first);
    draw_from_chunk(row, chunk, index, laws.shrink, scan.max, scan.first.sum, scores);
  }
}

static void score_row(const ProposalRow& row, int64_t b, int64_t l, uint64_t* scratch) {
  RowScores scores = begin_row(*row.params, b, l);
  const ScanPlan& plan = scores.plan;
  FilterScratch filter{};
  if (plan.filtered) filter = carve_filter_scratch(scratch, row.params->vocab);
  scan_chunks(row, 0, row.chunks, filter.chunk_max, &scores);
  if (plan.filtered && scores.valid && scores.proposal.argmax >= 0) {
    scores.kept = find_kept(row, filter, scores.proposal.max, scores.proposal.sum, plan.scale, plan.top_k, plan.top_p);
    scan_kept(row, filter.chunk_max, &scores);
  }
  choose_token(row, b, l, &scores);
  see_current(row, 0, row.chunks, b, l, &scores);
  write_row(*row.params, &scores, b, l);
}

void score_tokens(const ScoreTokensParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  RowReader reader;
  prepare_reader(params, &reader);
  const int64_t chunks = (params.vocab + kChunk - 1) / kChunk;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t place = params.row_index == nullptr ? i : params.row_index[i];
    const int64_t b = place / params.length, l = place % params.length;
    const bool packed = params.row_stride != 0;
    const int64_t source = l > params.shift ? l - params.shift : 0;
    const int64_t offset = packed ? i * params.row_stride : b * params.batch_stride + source * params.position_stride;
    const uint8_t* data = static_cast<const uint8_t*>(params.logits) + offset * reader.element_size;
    ProposalRow row{&params, &reader, data, chunks};
    const double guidance = params.uncond_logits == nullptr ? 0.0 : at(params.guidance, b, l);
    if (guidance != 0.0) {
      const int64_t beside = b * params.uncond_batch_stride + source * params.uncond_position_stride;
      row.uncond = static_cast<const uint8_t*>(params.uncond_logits) + beside * reader.element_size;
      row.strength = static_cast<float>(guidance + 1.0);
    }
    score_row(row, b, l, scratch);
  }
}

}  // namespace MDM_NAMESPACE
