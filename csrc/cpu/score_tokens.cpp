// score_tokens, one row at a time: one pass over the logits for every statistic and for the draw (cpu/row_scores.h).
//
// top_k and top_p come between: they read the row again to find the kept set (nucleus_search.h), then only chunks that
// hold some of it.
#include "cpu/kernels.h"
#include "cpu/row_scores.h"

namespace MDM_NAMESPACE {

// The proposal's statistics and draw from the kept set alone, relative to the maximum, which it shares with everything
// proposable. Chunks are summed where they lie from the smallest kept value on; a copy without the others is made where
// the kept set ends between ids that tie, and for a dense draw. What decides between the two may not depend on which
// statistics are wanted: their sums run in other orders, and the draw depends on these.
static void scan_kept(const ProposalRow& row, const float* chunk_max, RowScores* scores) {
  const ScanPlan& plan = scores->plan;
  const KeptSet& kept = scores->kept;
  OnlineStats* proposal = &scores->proposal;
  const auto sums_of = plan.kept == Terms::sum_and_dot ? sums_from<true> : sums_from<false>;
  const float smallest = kept.threshold > kLowest ? kept.threshold : kLowest;
  proposal->sum = proposal->dot = 0.0;
  proposal->second = -__builtin_inff();
  for (int64_t index = 0; index < row.chunks; ++index) {
    if (!(chunk_max[index] >= smallest)) continue;
    const int64_t begin = index * kChunk, end = begin + kChunk;
    if (plan.second) {
      const FloatChunk copy = read_proposal_chunk(row, index, &kept);
      const bool holds_max = proposal->argmax >= begin && proposal->argmax < end;
      const float second = holds_max ? second_largest(copy.values, copy.padded) : copy.max;
      if (second > proposal->second) proposal->second = second;
    }
    Chunk chunk;
    float floor;
    if (plan.dense || (kept.last_tie >= begin && kept.last_tie < end - 1)) {
      const FloatChunk copy = read_proposal_chunk(row, index, &kept);
      chunk = {copy.values, FloatType::float32, copy.padded};
      floor = kLowest;
    } else {
      chunk = read_allowed_chunk(row, index);
      floor = kept.last_tie >= end - 1 ? smallest : next_larger(smallest);
    }
    const ChunkSums sums = sums_of(chunk, proposal->max, plan.scale, floor);
    add_sums(proposal, sums);
    draw_from_chunk(row, chunk, index, 1.0, chunk_max[index], sums.sum, scores);
  }
}

static void score_row(const ProposalRow& row, const ScanPlan& plan, int64_t b, int64_t l, uint64_t* scratch) {
  RowScores scores = begin_row(*row.params, plan, b, l);
  FilterScratch filter{};
  if (plan.filtered) filter = carve_filter_scratch(scratch, row.params->vocab);
  scan_chunks(row, 0, row.chunks, filter.chunk_max, &scores);
  if (plan.filtered && scores.valid && scores.proposal.argmax >= 0) {
    scores.kept =
        find_kept(row, filter, {scores.proposal.max, plan.scale}, scores.proposal.sum, plan.top_k, plan.top_p);
    scan_kept(row, filter.chunk_max, &scores);
  }
  choose_token(row, b, l, &scores);
  see_current(row, 0, row.chunks, b, l, &scores);
  write_row(*row.params, &scores, b, l);
}

// Whether all rows have one plan.
static bool plan_is_shared(const ScoreTokensParams& params) {
  const auto shared = [](const auto& grid) { return grid.data == nullptr || (grid.row_stride | grid.col_stride) == 0; };
  return shared(params.temperature) && shared(params.top_k) && shared(params.top_p);
}

void score_tokens(const ScoreTokensParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  RowReader reader;
  prepare_reader(params, &reader);
  const int64_t chunks = (params.vocab + kChunk - 1) / kChunk;
  const bool shared = plan_is_shared(params);
  ScanPlan plan = plan_scan(params, 0, 0);
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
    if (!shared) plan = plan_scan(params, b, l);
    score_row(row, plan, b, l, scratch);
  }
}

}  // namespace MDM_NAMESPACE
