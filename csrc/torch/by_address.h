// The operators of a sampler's step, called by the addresses of their tensors.
//
// Handing a tensor through the dispatcher takes about half a microsecond, and these operators take and give thirty: on
// the CPU a step of a small canvas costs less than that. Python calls what is here (module.cpp) where its tensors are
// what they seem, on the CPU and contiguous, and the operators everywhere else; both run the same kernels.
//
// Every field is one number of eight bytes, in the order in which Python gives them (mdmcorrect/ops/_by_address.py).
#pragma once

#include "core/correct_pass_params.h"
#include "core/sampler_step_params.h"
#include "core/score_tokens_params.h"

namespace mdmcorrect {

// How to score, which is prepared once: what is a number for all positions is [], and null where it was not given.
struct ScoringAddresses {
  int64_t vocab, want;
  const double* temperature;
  const int64_t* top_k;
  const double* top_p;
  int64_t top_p_inclusive, top_p_first;
  const int64_t* suppress;  // ascending, each in [0, V)
  int64_t suppress_count;
  const int64_t* forbid;  // likewise
  int64_t forbid_count;
  int64_t proposal_law, probabilities, dense_noise, confidence_type;
};

struct ScoreTokensAddresses {
  const ScoringAddresses* how;
  int64_t batch, length;
  const void* logits;  // [B, L, V], last stride 1
  int64_t type, batch_stride, position_stride, shift;
  const int64_t* tokens;     // [B, L] or null
  const uint8_t* rows;       // [B, L] or null: all
  const int64_t* positions;  // [B, L] or null: 0, 1, 2, ...
  int64_t position_row_stride, position_col_stride;
  const int64_t* seed;  // [B]
  const int64_t* step;  // [B]
  int64_t step_stride;
  const int64_t* call;          // []
  void* rounded;                // [B, L]: the confidence in the type that it is rounded to, or null
  void* outputs[kTokenScores];  // [B, L] each: the wanted ones in their order, then null
};

struct SamplerStepAddresses {
  const char* plan;  // StepInts, then StepReals
  int64_t batch, length;
  const uint8_t* fixed;
  const int64_t* block;  // or null
  const int64_t* positions;
  const uint8_t* real;  // or null
  const float* kept_share;
  int64_t kept_steps;
  const float* noise_scales;
  int64_t noise_steps;

  const int64_t* rows;
  const int64_t* tokens;
  const float* commit_score;
  const int64_t* commits;
  const uint8_t* drawn;
  int64_t close_mode, open_mode;
  const int64_t* token;
  const int64_t* argmax;
  const void* confidence;
  int64_t confidence_type;
  const void* rank;
  int64_t rank_type;
  const void* keep;
  int64_t keep_type;
  const int64_t* revised;
  const void* revised_logprob;
  int64_t revised_logprob_type;
  const int64_t* nfe;  // [B]
  int64_t forwards;

  int64_t* out_rows;
  int64_t* out_tokens;
  float* out_commit_score;
  int64_t* out_commits;
  uint8_t* out_marks;
  double* out_time;
};

struct CorrectPassAddresses {
  int64_t batch, length, mask_id, first, carry_over;
  const int64_t* rows;
  const int64_t* draft;
  const uint8_t* fixed;
  const int64_t* block;  // or null
  const int64_t* proposal;
  const int64_t* token;  // null in the first pass, as all that follow but out_draft, out_reach and out_moved
  const int64_t* earlier_token;
  int64_t* out_draft;
  uint8_t* out_reach;
  uint8_t* out_moved;
  int64_t* out_token;
  struct Value {
    const void* value;
    const void* earlier;
    void* out;
    int64_t type;
  } values[kPassValues];
};

// Returns how many positions have a forbidden id as their argmax, which a caller may have to read again.
int64_t call_by_address(const ScoreTokensAddresses& at);
int64_t call_by_address(const SamplerStepAddresses& at);  // 0
int64_t call_by_address(const CorrectPassAddresses& at);  // how many rows changed

// A contiguous [B, L] of these.
template <class T>
Grid<T> grid_at(const T* data, int64_t length) {
  return {data, length, 1};
}

inline FloatGrid float_grid_at(const void* data, int64_t type, int64_t length) {
  return {data, length, 1, static_cast<FloatType>(type)};
}

}  // namespace mdmcorrect
