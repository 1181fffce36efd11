// sampler_step: closes a step of a sampler, given its scores, and opens the next one.
//
// A sampler's parts lower to a StepPlan (mdmcorrect/samplers/lowering.py, which names the same fields in the same order).
// The definition of every part is the Python class it comes from; nothing here is another method's rule.
#pragma once

#include "core/count_positions_params.h"
#include "core/tensor_view.h"

namespace mdmcorrect {

// How a step writes the canvas.
enum class PlanKind : int64_t {
  ranked = 0,  // UnmaskThenRemask
  drawn = 1,   // Ancestral
  pool = 2,    // Pool
};

// How many steps a window has.
enum class WindowSteps : int64_t { share = 0, until_filled = 1, given = 2 };

// What a mask in an earlier window is to this one.
enum class Behind : int64_t { none = 0, always = 1, first = 2 };

// Which rows go on without a mask in sight.
enum class Waiting : int64_t { none = 0, all = 1, until_settled = 2 };

// How many masked positions a step commits.
enum class CommitCount : int64_t {
  even = 0,  // EvenSplit
  ceil = 1,  // CeilTarget
  grid = 2,  // TimeGrid
  all = 3,   // every one, before a rule on the scores
};

// Which of the scores a part ranks by.
enum class Order : int64_t { score = 0, negated = 1, random = 2, stays = 3, committed = 4 };

enum class RemaskCount : int64_t { none = 0, constant = 1, binomial = 2, centred = 3 };

enum class SigmaKind : int64_t { none = 0, cap = 1, rescale = 2, confidence = 3, detour = 4 };

enum class PoolNoise : int64_t { none = 0, gumbel = 1, uniform = 2 };

constexpr int kMostEnds = 8;  // ids that end a row

// Whole numbers of a plan, in the order in which they are packed.
struct StepInts {
  int64_t mask_id;
  int64_t plan;          // PlanKind
  int64_t window_steps;  // WindowSteps
  int64_t block_steps;   // WindowSteps::given
  int64_t extra;
  int64_t behind;             // Behind
  int64_t column_block;       // length of blocks cut by column; 0: others
  int64_t finish, use_cache;  // bool
  int64_t waiting;            // Waiting
  int64_t settles;            // bool
  int64_t correct_every;      // 0: no corrector
  int64_t correct_start;
  int64_t want_masked, want_committed, want_span;  // bool: what is asked beside the plan's own

  int64_t count;                            // CommitCount, before the forward
  int64_t score_rule;                       // CountRule + 1, after it; 0: none
  int64_t at_least;                         // of a rule; -1: what `count` says
  int64_t last_free;                        // bool
  int64_t order;                            // Order
  int64_t spend_on_masks, refill_if_short;  // bool

  int64_t remask;                                    // RemaskCount
  int64_t remask_number, remask_start, remask_stop;  // stop -1: no end
  int64_t remask_by;                                 // Order: score, committed, random

  int64_t sigma;                      // SigmaKind
  int64_t plateau, during, complete;  // bool

  int64_t keep_order;                         // Order: score, random, stays
  int64_t advance, strict, steady, annealed;  // bool; steady: committed positions of a pool are never masked
  int64_t noise;                              // PoolNoise

  int64_t ends[kMostEnds];  // -1: none
};

// Real numbers of a plan, likewise.
struct StepReals {
  double order_temperature;  // 0: none
  double score_bound;
  double remask_eta;
  double eps;
  double eta;
  double scale, power;  // SigmaKind::detour
  double during_on, during_off;
  double plateau_on, plateau_off, plateau_alpha;
  double keep_eta;
  double noise_scale;
};

// Columns of the row tensor.
enum RowField : int {
  kSeed,
  kOrigin,
  kStep,
  kWindow,
  kWindowStep,
  kQuota,
  kDone,
  kSettled,
  kNfe,  // of the state
  kWindows,
  kEach,
  kMore,  // of the layout
  kLive,
  kNeed,
  kCorrect,
  kFinishing,
  kUnfilled,
  kStart,
  kStop,  // what the host may ask
  kOpenQuota,
  kUnmask,
  kRemask,  // of the step that is open
  kRowFields,
  kStateFields = kWindows,  // the first ones; a step changes some
};

// Planes of the marks, bool [kMarks, B, L].
enum Mark : int { kCommitted, kRemasked, kCorrected, kWanted, kCommitDrawn, kRemaskDrawn, kMarks };

// What a call does, a bit each.
enum StepMode : int64_t {
  kClose = 1,       // the step whose scores are given
  kOpen = 2,        // the next
  kFixedSteps = 4,  // rows that have used their steps wait for the last step
  kLastStep = 8,    // ... which this is
  kFirst = 16,      // kUnfilled says which rows hold negative ids
};

struct SamplerStepParams {
  int64_t batch;                  // B
  int64_t length;                 // L
  int64_t close_mode, open_mode;  // StepMode of the step that ends, of the one that begins; 0: none
  StepInts ints;
  StepReals reals;

  const int64_t* rows;   // [B, kRowFields]
  Grid<int64_t> tokens;  // [B, L], as all grids
  Grid<uint8_t> fixed;
  Grid<int64_t> block;  // null: one window
  Grid<int64_t> positions;
  Grid<uint8_t> real;  // null: all
  FloatGrid commit_score;
  Grid<int64_t> commits;
  const uint8_t* drawn;  // marks of the opening; null: none

  Grid<int64_t> token, argmax;       // null: no forward
  FloatGrid confidence, rank, keep;  // null: not read, or no forward
  Grid<int64_t> revised;             // the corrector's draft, whose committed tokens are taken; null: no correction
  FloatGrid revised_logprob;
  RowInts nfe;  // forwards of each row; null: `forwards` for those that needed one
  int64_t forwards;
  const float* kept_share;  // [kept_steps], of a pool: 1 - kappa; null: linear
  int64_t kept_steps;
  const float* noise_scales;  // [noise_steps]; null: reals.noise_scale
  int64_t noise_steps;

  int64_t* out_rows;        // [B, kRowFields]
  int64_t* out_tokens;      // [B, L]
  float* out_commit_score;  // [B, L]
  int64_t* out_commits;     // [B, L]
  uint8_t* out_marks;       // [kMarks, B, L]
  double* out_time;         // [B]
};

}  // namespace mdmcorrect
