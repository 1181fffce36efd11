// One row of sampler_step, by a team of threads (step_open.h).
#pragma once

#include "core/step_close.h"
#include "core/step_open.h"

namespace MDM_NAMESPACE {

// The canvas as the step's corrections leave it, in the outputs.
template <class Team>
MDM_INLINE void take_corrections(const StepCanvas& canvas, Team& team, bool corrects) {
  const SamplerStepParams& params = *canvas.params;
  const int64_t row = canvas.row;
  team.each([&](int64_t col) {
    const int64_t place = canvas.place(col), before = at(params.tokens, row, col);
    const bool revises = corrects && before != params.ints.mask_id && canvas.reached(col);
    const int64_t token = revises ? at(params.revised, row, col) : before;
    params.out_tokens[place] = token;
    params.out_commit_score[place] =
        token == before ? at(params.commit_score, row, col) : expf(at(params.revised_logprob, row, col));
    params.out_commits[place] = at(params.commits, row, col);
    canvas.mark(kCommitted, col) = 0;
    canvas.mark(kRemasked, col) = 0;
    canvas.mark(kCorrected, col) = token != before;
    canvas.mark(kWanted, col) = 0;
    canvas.mark(kCommitDrawn, col) = 0;
    canvas.mark(kRemaskDrawn, col) = 0;
  });
}

template <class Team>
MDM_INLINE void sampler_step_row(const SamplerStepParams& params, int64_t row, Team& team) {
  const int64_t* given = params.rows + row * kRowFields;
  int64_t fields[kStateFields];  // few, so that each thread of a team can have them in registers
  for (int i = 0; i < kStateFields; ++i) fields[i] = given[i];
  StepCanvas canvas{&params, row, step_window(params.ints, given, fields, given[kOpenQuota], params.close_mode),
                    fields[kStep]};
  take_corrections(canvas, team, params.revised.data != nullptr && given[kCorrect] != 0);
  const bool closes = (params.close_mode & kClose) != 0, waits = closes && row_waits(given, fields, params.close_mode);
  const bool finished = closes && canvas.window.finishing;
  if (closes) fields[kQuota] = given[kOpenQuota];
  if (closes && !waits) close_step(canvas, team, fields);
  if (!waits) end_row(canvas, team, fields);

  // Rows just finished that hold masks still, or in the first opening those with negative ids.
  int64_t unfilled = 0;
  if (finished) {
    unfilled = team.count([&](int64_t col) { return canvas.generated(col) && canvas.is_mask(col); }) > 0;
  } else if ((params.open_mode & kFirst) != 0) {
    unfilled = team.count([&](int64_t col) { return canvas.token(col) < 0; }) > 0;
  }
  int64_t* out = params.out_rows + row * kRowFields;
  if (team.leads()) {
    for (int i = 0; i < kRowFields; ++i) out[i] = i < kStateFields ? fields[i] : given[i];
    out[kUnfilled] = unfilled;
    params.out_time[row] = 0.0;  // of a step that is not opened
  }
  if ((params.open_mode & kOpen) != 0) open_row(params, row, fields, out, team);
}

}  // namespace MDM_NAMESPACE
