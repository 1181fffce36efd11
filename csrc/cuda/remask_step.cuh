// remask_step on CUDA: one block per row, which ranks the masked positions, then the committed ones (or both in one pool)
// by radix_select.cuh, and writes the new tokens in one pass.
//
// A position is in one band only: it can be committed, or masked again, or neither. So one array holds the keys of both
// rankings, with the band above the key. A mask given in place of a ranking is a key of 1 or 0, cut at 0.
#pragma once

#include "core/remask_step_params.h"
#include "cuda/radix_select.cuh"

namespace MDM_NAMESPACE {

constexpr int kBandShift = 32;
enum class Band : uint32_t { neither = 0, commit = 1, remask = 2 };

MDM_INLINE uint64_t banded_key(Band band, uint32_t key) { return static_cast<uint64_t>(band) << kBandShift | key; }

// The key within `band`, kLeftOut for positions of another.
MDM_INLINE uint64_t key_in(uint64_t banded, Band band) {
  return banded >> kBandShift == static_cast<uint64_t>(band) ? banded & 0xffffffffu : kLeftOut;
}

// The key whatever the band.
MDM_INLINE uint64_t key_in_pool(uint64_t banded) { return banded & 0xffffffffu; }

// A negative proposal (no admissible token) is never committed, nor is the mask itself, which would be no commit at all.
MDM_INLINE uint64_t remask_key(const RemaskStepParams& p, int64_t row, int64_t col) {
  const bool open = at_or<uint8_t>(p.fixed, row, col, 0) == 0 && at_or<uint8_t>(p.eligible, row, col, 1) != 0;
  if (!open) return kLeftOut;
  if (at(p.tokens, row, col) == p.mask_id) {
    const int64_t proposal = at(p.proposals, row, col);
    if (proposal < 0 || proposal == p.mask_id) return kLeftOut;
    if (p.commit.data != nullptr) return banded_key(Band::commit, at(p.commit, row, col) != 0);
    return banded_key(Band::commit, score_key(at(p.unmask_score, row, col), true));
  }
  if (p.remask.data != nullptr) return banded_key(Band::remask, at(p.remask, row, col) != 0);
  if (p.keep_score.data == nullptr) return kLeftOut;
  return banded_key(Band::remask, score_key(at(p.keep_score, row, col), p.keep_count.data != nullptr));
}

// Which keys of each band change their position.
struct RemaskCuts {
  KeyCut commit;
  KeyCut remask;
};

// Two bands: so many of the best masked positions, so many of the worst committed ones.
template <class Keys>
__device__ inline RemaskCuts cut_bands(const RemaskStepParams& p, int64_t row, SelectState& state, const Keys& keys,
                                       int64_t can_commit, int64_t can_remask) {
  RemaskCuts cuts{{kLeftOut, 0}, {kLeftOut, 0}};  // every key of 1
  int64_t shortage = 0;                           // positions that were to be committed but do not exist
  if (p.commit.data == nullptr) {
    const int64_t asked = row_value(p.unmask_count, row);
    shortage = asked > can_commit ? asked - can_commit : 0;
    cuts.commit = find_cut(state, p.length, asked, can_commit, kScoreKeyBits,
                           [&](int64_t col) { return key_in(keys[col], Band::commit); });
  }
  if (p.remask.data == nullptr) {
    int64_t count = p.remask_count.data == nullptr ? 0 : row_value(p.remask_count, row);
    if (p.refill_if_short && shortage > 0) count = (count < can_remask ? count : can_remask) - shortage;
    cuts.remask = find_cut(state, p.length, count, can_remask, kScoreKeyBits,
                           [&](int64_t col) { return key_in(keys[col], Band::remask); });
  }
  return cuts;
}

__device__ inline void remask_step(const RemaskStepParams& params, uint64_t* workspace) {
  SelectState& state = *shared_at<SelectState>(0);
  const int64_t length = params.length;
  const bool pool = params.keep_count.data != nullptr;
  uint64_t* keys = row_keys(workspace, length);  // thread t touches t, t + blockDim.x, ... only

  for (int64_t row = blockIdx.x; row < params.batch; row += gridDim.x) {
    unsigned commits = 0, remasks = 0;
    for (int64_t col = threadIdx.x; col < length; col += blockDim.x) {
      const uint64_t key = remask_key(params, row, col);
      keys[col] = key;
      commits += key_in(key, Band::commit) != kLeftOut;
      remasks += key_in(key, Band::remask) != kLeftOut;
    }
    const int64_t can_commit = block_sum(state, commits);
    const int64_t can_remask = block_sum(state, remasks);
    RemaskCuts cuts;
    if (pool) {  // the cut of those that hold a token afterwards
      cuts.commit = find_cut(state, length, row_value(params.keep_count, row), can_commit + can_remask, kScoreKeyBits,
                             [&](int64_t col) { return key_in_pool(keys[col]); });
    } else {
      cuts = cut_bands(params, row, state, keys, can_commit, can_remask);
    }

    for (int64_t first = 0; first < length; first += blockDim.x) {  // the same number of turns for every thread
      const int64_t col = first + threadIdx.x;
      const uint64_t key = col < length ? keys[col] : kLeftOut;
      bool committed, remasked;
      if (pool) {
        const bool kept = is_selected(state, key_in_pool(key), &cuts.commit);
        committed = kept && key_in(key, Band::commit) != kLeftOut;
        remasked = !kept && key_in(key, Band::remask) != kLeftOut;
      } else {
        committed = is_selected(state, key_in(key, Band::commit), &cuts.commit);
        remasked = is_selected(state, key_in(key, Band::remask), &cuts.remask);
      }
      if (col >= length) continue;
      const int64_t place = row * length + col;
      params.out_committed[place] = committed;
      params.out_remasked[place] = remasked;
      params.out_tokens[place] = committed  ? at(params.proposals, row, col)
                                 : remasked ? params.mask_id
                                            : at(params.tokens, row, col);
    }
  }
}

}  // namespace MDM_NAMESPACE
