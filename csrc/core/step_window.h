// The window of a row and its positions: samplers/window.py (Blocks.view).
#pragma once

#include "core/sampler_step_params.h"

namespace MDM_NAMESPACE {

struct StepWindow {
  int64_t index, step, steps, limit, quota;
  bool live, left, finishing, behind;

  MDM_METHOD int64_t steps_or_one() const { return steps > 1 ? steps : 1; }
};

// Rows of FixedSteps that have used all their steps and wait for the last one. given: the row's fields as the call got them,
// fields: the state's, as they are.
MDM_INLINE bool row_waits(const int64_t* given, const int64_t* fields, int64_t mode) {
  return (mode & kFixedSteps) != 0 && (mode & kLastStep) == 0 && fields[kDone] == 0 &&
         fields[kWindow] >= given[kWindows];
}

MDM_INLINE StepWindow step_window(const StepInts& plan, const int64_t* given, const int64_t* fields, int64_t quota,
                                  int64_t mode) {
  StepWindow window{};
  window.index = fields[kWindow];
  window.step = fields[kWindowStep];
  window.quota = quota;
  window.live = fields[kDone] == 0 && !row_waits(given, fields, mode);
  window.left = window.live && window.index < given[kWindows];
  window.finishing = window.live && !window.left;
  switch (static_cast<WindowSteps>(plan.window_steps)) {
    case WindowSteps::until_filled:
      window.steps = window.quota;
      break;
    case WindowSteps::given:
      window.steps = plan.block_steps;
      break;
    default: {
      const int64_t share = given[kEach] + (window.index < given[kMore]);
      window.steps = share > 1 ? share : 1;
    }
  }
  window.limit = window.steps + plan.extra;
  const Behind behind = static_cast<Behind>(plan.behind);
  window.behind = window.left && (behind == Behind::always || (behind == Behind::first && window.step == 0));
  return window;
}

// One row of the positions that never change, and the canvas.
struct StepCanvas {
  const SamplerStepParams* params;
  int64_t row;
  StepWindow window;

  // A field as the call got it.
  MDM_METHOD int64_t given(RowField field) const { return params->rows[row * kRowFields + field]; }
  MDM_METHOD bool generated(int64_t col) const { return at(params->fixed, row, col) == 0; }
  MDM_METHOD int64_t block(int64_t col) const { return at_or<int64_t>(params->block, row, col, 0); }
  MDM_METHOD bool own(int64_t col) const { return window.left && generated(col) && block(col) == window.index; }
  MDM_METHOD bool eligible(int64_t col) const {
    if (!generated(col)) return false;
    if (window.finishing) return true;
    if (!window.left) return false;
    const int64_t here = block(col);
    return here == window.index || (window.behind && here < window.index);
  }
  // This and earlier windows.
  MDM_METHOD bool reached(int64_t col) const {
    return window.live && generated(col) && (window.finishing || block(col) <= window.index);
  }
  MDM_METHOD int64_t place(int64_t col) const { return row * params->length + col; }
  // The canvas after corrections, which the call has copied to its output.
  MDM_METHOD int64_t token(int64_t col) const { return params->out_tokens[place(col)]; }
  MDM_METHOD bool is_mask(int64_t col) const { return token(col) == params->ints.mask_id; }
  MDM_METHOD bool masked(int64_t col) const { return is_mask(col) && eligible(col); }
  MDM_METHOD uint8_t& mark(Mark which, int64_t col) const {
    return params->out_marks[which * params->batch * params->length + place(col)];
  }
  MDM_METHOD uint64_t bits(Purpose purpose, int64_t call, int64_t col) const {
    return philox_bits(given(kSeed), 0, at(params->positions, row, col), step_of_draws, purpose, call);
  }
  int64_t step_of_draws;  // the row's step
};

}  // namespace MDM_NAMESPACE
