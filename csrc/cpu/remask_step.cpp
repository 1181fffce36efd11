// remask_step on the CPU. Per row: a key for every masked position that may be committed and for every committed one that
// may be masked again, radix selection on each, and one pass that writes the new tokens; O(L).
#include "cpu/kernels.h"
#include "cpu/radix_select.h"
#include "cpu/rows.h"

namespace MDM_NAMESPACE {

namespace {

// One row of every argument, contiguous, and the row's results.
struct RemaskRow {
  int64_t length;
  int64_t mask_id;
  const int64_t* tokens;
  const int64_t* proposals;
  uint8_t* can_commit;  // masked, open to change, and with a proposal that is a token
  uint8_t* can_remask;  // not masked and open to change
  uint32_t* keys;
  uint32_t* candidates;
  uint8_t* committed;
  uint8_t* remasked;
};

// A negative proposal (no admissible token) is never committed, nor is the mask itself, which would be no commit at all.
static inline void find_candidates(const RemaskRow& r, const uint8_t* fixed, const uint8_t* eligible) {
  for (int64_t i = 0; i < r.length; ++i) {
    const bool masked = r.tokens[i] == r.mask_id;
    const bool open = fixed[i] == 0 && eligible[i] != 0;
    r.can_commit[i] = open && masked && r.proposals[i] >= 0 && r.proposals[i] != r.mask_id;
    r.can_remask[i] = open && !masked;
  }
}

// chosen: the `count` of the candidates that are best by score (largest or smallest first). Returns how many have a score
// that is a number and so could have been chosen.
static inline int64_t rank(const RemaskRow& r, const uint8_t* candidates, const float* scores, bool largest,
                           int64_t count, uint8_t* chosen) {
  int64_t participants = 0;
  for (int64_t i = 0; i < r.length; ++i) {
    const uint32_t key = score_key(scores[i], largest);
    r.keys[i] = candidates[i] != 0 ? key : kLeftOut;
    participants += r.keys[i] != kLeftOut;
  }
  mark_largest(r.keys, r.length, count, r.candidates, chosen);
  return participants;
}

static inline void two_bands(const RemaskStepParams& p, int64_t row, const RemaskRow& r, Scratch room) {
  float* widened = room.take<float>(r.length);
  uint8_t* given = room.take<uint8_t>(r.length);
  int64_t shortage = 0;  // positions that were to be committed but do not exist
  if (p.commit.data != nullptr) {
    const uint8_t* commit = row_of<uint8_t>(p.commit, row, r.length, 0, given);
    for (int64_t i = 0; i < r.length; ++i) r.committed[i] = r.can_commit[i] & (commit[i] != 0);
  } else {
    const float* scores = row_of(p.unmask_score, row, r.length, widened);
    const int64_t asked = row_value(p.unmask_count, row);
    const int64_t found = rank(r, r.can_commit, scores, true, asked, r.committed);
    shortage = asked > found ? asked - found : 0;
  }

  if (p.remask.data != nullptr) {
    const uint8_t* remask = row_of<uint8_t>(p.remask, row, r.length, 0, given);
    for (int64_t i = 0; i < r.length; ++i) r.remasked[i] = r.can_remask[i] & (remask[i] != 0);
    return;
  }
  if (p.remask_count.data == nullptr) {
    for (int64_t i = 0; i < r.length; ++i) r.remasked[i] = 0;
    return;
  }
  const float* scores = row_of(p.keep_score, row, r.length, widened);
  int64_t count = row_value(p.remask_count, row);
  if (p.refill_if_short && shortage > 0) {
    int64_t scored = 0;
    for (int64_t i = 0; i < r.length; ++i) scored += r.can_remask[i] & (scores[i] == scores[i]);
    count = (count < scored ? count : scored) - shortage;
  }
  rank(r, r.can_remask, scores, false, count, r.remasked);
}

// Masked and committed positions ranked together; the keep_count best hold a token afterwards.
static inline void one_pool(const RemaskStepParams& p, int64_t row, const RemaskRow& r, Scratch room) {
  const float* unmask = row_of(p.unmask_score, row, r.length, room.take<float>(r.length));
  const float* keep = row_of(p.keep_score, row, r.length, room.take<float>(r.length));
  for (int64_t i = 0; i < r.length; ++i) {
    const uint32_t key = score_key(r.can_commit[i] != 0 ? unmask[i] : keep[i], true);
    r.keys[i] = (r.can_commit[i] | r.can_remask[i]) != 0 ? key : kLeftOut;
  }
  uint8_t* kept = r.committed;
  mark_largest(r.keys, r.length, row_value(p.keep_count, row), r.candidates, kept);
  for (int64_t i = 0; i < r.length; ++i) {
    r.remasked[i] = r.can_remask[i] & (kept[i] == 0) & (r.keys[i] != kLeftOut);
    r.committed[i] = kept[i] & r.can_commit[i];
  }
}

}  // namespace

void remask_step(const RemaskStepParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  const int64_t length = params.length;
  for (int64_t row = begin; row < end; ++row) {
    Scratch room{scratch};
    RemaskRow r{};
    r.length = length;
    r.mask_id = params.mask_id;
    r.tokens = row_of<int64_t>(params.tokens, row, length, 0, room.take<int64_t>(length));
    r.proposals = row_of<int64_t>(params.proposals, row, length, 0, room.take<int64_t>(length));
    r.can_commit = room.take<uint8_t>(length);
    r.can_remask = room.take<uint8_t>(length);
    r.keys = room.take<uint32_t>(length);
    r.candidates = room.take<uint32_t>(length);
    r.committed = params.out_committed + row * length;
    r.remasked = params.out_remasked + row * length;
    const uint8_t* fixed = row_of<uint8_t>(params.fixed, row, length, 0, room.take<uint8_t>(length));
    const uint8_t* eligible = row_of<uint8_t>(params.eligible, row, length, 1, room.take<uint8_t>(length));
    find_candidates(r, fixed, eligible);

    if (params.keep_count.data != nullptr) {
      one_pool(params, row, r, room);
    } else {
      two_bands(params, row, r, room);
    }
    int64_t* out = params.out_tokens + row * length;
    for (int64_t i = 0; i < length; ++i) {
      const int64_t kept = r.remasked[i] != 0 ? r.mask_id : r.tokens[i];
      out[i] = r.committed[i] != 0 ? r.proposals[i] : kept;
    }
  }
}

}  // namespace MDM_NAMESPACE
