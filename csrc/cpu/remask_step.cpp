// remask_step on the CPU. Per row: a key for every masked position that may be committed and for every committed one
// that may be masked again, then radix selection; O(L).
#include "core/select_key.h"
#include "cpu/kernels.h"
#include "cpu/radix_select.h"

namespace MDM_NAMESPACE {

namespace {

struct Keys {
  uint64_t* key;         // [L], kLeftOut where a position takes no part
  uint64_t* candidates;  // [L], scratch of the selection
  int64_t participants;
};

MDM_INLINE bool open_to_change(const RemaskStepParams& p, int64_t row, int64_t col) {
  return at_or<uint8_t>(p.fixed, row, col, 0) == 0 && at_or<uint8_t>(p.eligible, row, col, 1) != 0;
}

// A negative proposal (no admissible token) is never committed, nor is the mask itself, which would be no commit at
// all.
MDM_INLINE bool admissible(const RemaskStepParams& p, int64_t row, int64_t col) {
  const int64_t proposal = at(p.proposals, row, col);
  return proposal >= 0 && proposal != p.mask_id;
}

MDM_INLINE void commit_at(const RemaskStepParams& p, int64_t row, int64_t col) {
  const int64_t cell = row * p.length + col;
  p.out_tokens[cell] = at(p.proposals, row, col);
  p.out_committed[cell] = 1;
}

MDM_INLINE void remask_at(const RemaskStepParams& p, int64_t row, int64_t col) {
  const int64_t cell = row * p.length + col;
  p.out_tokens[cell] = p.mask_id;
  p.out_remasked[cell] = 1;
}

// Fills keys with key_of(col), which is asked only for positions open to change whose maskedness is `masked`.
template <class KeyOf>
static inline void fill_keys(const RemaskStepParams& p, int64_t row, bool masked, Keys& keys, const KeyOf& key_of) {
  keys.participants = 0;
  for (int64_t col = 0; col < p.length; ++col) {
    const bool is_masked = at(p.tokens, row, col) == p.mask_id;
    const uint64_t key = is_masked == masked && open_to_change(p, row, col) ? key_of(col) : kLeftOut;
    keys.key[col] = key;
    keys.participants += key != kLeftOut;
  }
}

// Commits, and returns how many positions were asked for but could not be found.
static inline int64_t commit_band(const RemaskStepParams& p, int64_t row, Keys& keys) {
  fill_keys(p, row, true, keys, [&](int64_t col) -> uint64_t {
    if (!admissible(p, row, col)) return kLeftOut;
    if (p.commit.data != nullptr) return at(p.commit, row, col);
    return score_key(at(p.unmask_score, row, col), true);
  });
  const int64_t asked = p.commit.data != nullptr ? keys.participants : row_value(p.unmask_count, row);
  select_largest(
      keys.key, p.length, keys.participants, asked, kScoreKeyBits, keys.candidates,
      [&](int64_t col) { commit_at(p, row, col); }, [](int64_t) {});
  return asked > keys.participants ? asked - keys.participants : 0;
}

static inline void remask_band(const RemaskStepParams& p, int64_t row, int64_t shortage, Keys& keys) {
  if (p.remask.data == nullptr && p.remask_count.data == nullptr) return;
  fill_keys(p, row, false, keys, [&](int64_t col) -> uint64_t {
    if (p.remask.data != nullptr) return at(p.remask, row, col);
    return score_key(at(p.keep_score, row, col), false);
  });
  int64_t count = keys.participants;
  if (p.remask.data == nullptr) {
    const int64_t asked = row_value(p.remask_count, row);
    count = asked < count ? asked : count;
    if (p.refill_if_short) count = count > shortage ? count - shortage : 0;
  }
  select_largest(
      keys.key, p.length, keys.participants, count, kScoreKeyBits, keys.candidates,
      [&](int64_t col) { remask_at(p, row, col); }, [](int64_t) {});
}

// Masked and committed positions ranked together; the keep_count best hold a token afterwards.
static inline void one_pool(const RemaskStepParams& p, int64_t row, Keys& keys) {
  keys.participants = 0;
  for (int64_t col = 0; col < p.length; ++col) {
    const bool masked = at(p.tokens, row, col) == p.mask_id;
    uint64_t key = kLeftOut;
    if (open_to_change(p, row, col) && (!masked || admissible(p, row, col))) {
      key = score_key(at(masked ? p.unmask_score : p.keep_score, row, col), true);
    }
    keys.key[col] = key;
    keys.participants += key != kLeftOut;
  }
  select_largest(
      keys.key, p.length, keys.participants, row_value(p.keep_count, row), kScoreKeyBits, keys.candidates,
      [&](int64_t col) {
        if (at(p.tokens, row, col) == p.mask_id) commit_at(p, row, col);
      },
      [&](int64_t col) {
        if (keys.key[col] != kLeftOut && at(p.tokens, row, col) != p.mask_id) remask_at(p, row, col);
      });
}

}  // namespace

void remask_step(const RemaskStepParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  Keys keys{scratch, scratch + params.length, 0};
  for (int64_t row = begin; row < end; ++row) {
    const int64_t first = row * params.length;
    for (int64_t col = 0; col < params.length; ++col) {
      params.out_tokens[first + col] = at(params.tokens, row, col);
      params.out_committed[first + col] = 0;
      params.out_remasked[first + col] = 0;
    }
    if (params.keep_count.data != nullptr) {
      one_pool(params, row, keys);
    } else {
      const int64_t shortage = commit_band(params, row, keys);
      remask_band(params, row, shortage, keys);
    }
  }
}

}  // namespace MDM_NAMESPACE
