// The opening of a step: what is known of it before its forward. One row, by a team of threads:
//
//   Team::each(f)                 f(col) for every position; a thread meets the same positions in every call
//   Team::count(f), first(f)      how many positions f holds for, and the first of them (L if there is none)
//   Team::sum(f), largest(f)      of float64 numbers
//   Team::leads()                 true in one thread
//
// Every thread of the team calls them and gets the same answer. The definition is the Python parts' `prepare`, the engine's
// `_needs` and `_wanted`.
#pragma once

#include "core/step_counts.h"
#include "core/step_posterior.h"

namespace MDM_NAMESPACE {

// Which positions an ancestral step commits and masks again; returns how many it commits.
template <class Team>
MDM_INLINE int64_t draw_ancestral(const StepCanvas& canvas, Team& team) {
  const SamplerStepParams& params = *canvas.params;
  const StepInts& plan = params.ints;
  const AncestralMoment moment = ancestral_moment(plan, params.reals, canvas.window);
  const SigmaKind kind = static_cast<SigmaKind>(plan.sigma);
  const double sigma = kind == SigmaKind::none ? 0.0 : remask_probability(plan, params.reals, moment);
  double gained = moment.alpha_s - moment.alpha_t, lowest = 0.0, total = 1.0;
  if (kind == SigmaKind::confidence) {  // softmax over committed positions of minus their probability when committed
    const float* scores = params.out_commit_score;
    const auto psi = [&](int64_t col) {
      const float score = scores[canvas.place(col)];
      return score != score ? 1.0 : static_cast<double>(score);
    };
    const auto stands = [&](int64_t col) { return canvas.eligible(col) && !canvas.is_mask(col); };
    lowest = -team.largest([&](int64_t col) { return stands(col) ? -psi(col) : -__builtin_inf(); });
    total = team.sum([&](int64_t col) { return stands(col) ? exp(lowest - psi(col)) : 0.0; });
  } else if (kind != SigmaKind::none) {
    gained = moment.alpha_s - (1.0 - sigma) * moment.alpha_t;
  }
  const double commit = gained / (1.0 - moment.alpha_t);
  const bool everything = plan.complete != 0 && canvas.window.step + 1 >= canvas.window.steps;
  return team.count([&](int64_t col) {
    const bool eligible = canvas.eligible(col), mask = canvas.is_mask(col);
    bool commits = false, remasks = false;
    if (eligible && mask) {
      commits = everything || double_uniform_from_bits(canvas.bits(Purpose::COMMIT, 0, col)) < commit;
    } else if (eligible && kind != SigmaKind::none) {
      double own = sigma;
      if (kind == SigmaKind::confidence) {
        const float score = params.out_commit_score[canvas.place(col)];
        own = exp(lowest - (score != score ? 1.0 : static_cast<double>(score))) / total * sigma;
      }
      remasks = double_uniform_from_bits(canvas.bits(Purpose::REMASK, 0, col)) < own;
    }
    canvas.mark(kCommitDrawn, col) = commits;
    canvas.mark(kRemaskDrawn, col) = remasks;
    return commits;
  });
}

// How many committed positions a ranked step masks again.
template <class Team>
MDM_INLINE int64_t remask_count(const StepCanvas& canvas, Team& team, int64_t masks, int64_t total) {
  const SamplerStepParams& params = *canvas.params;
  const StepInts& plan = params.ints;
  const RemaskCount kind = static_cast<RemaskCount>(plan.remask);
  if (kind == RemaskCount::none || masks == 0 || !remasking_is_on(plan, canvas.window)) return 0;
  if (kind == RemaskCount::constant) return feasible_count(plan.remask_number, total - masks, total);
  if (kind == RemaskCount::centred) return centred_count(plan.remask_number, canvas.window);
  const int64_t real = team.count([&](int64_t col) { return at_or<uint8_t>(params.real, canvas.row, col, 1) != 0; });
  const float share = binomial_share(params.reals.remask_eta, total - masks, real, canvas.window.steps_or_one());
  const int64_t number = team.count([&](int64_t col) {
    return canvas.eligible(col) && !canvas.is_mask(col) &&
           uniform_from_bits(canvas.bits(Purpose::COUNT, 0, col)) < share;
  });
  return feasible_count(number, total - masks, total);
}

// Opens the next step of a row, whose fields and canvas are in the outputs.
template <class Team>
MDM_INLINE void open_row(const SamplerStepParams& params, int64_t row, const int64_t* fields, int64_t* out,
                         Team& team) {
  const StepInts& plan = params.ints;
  const int64_t* given = params.rows + row * kRowFields;
  StepCanvas canvas{&params, row, step_window(plan, given, fields, fields[kQuota], params.open_mode), fields[kStep]};
  StepWindow& window = canvas.window;
  if (window.step == 0) {
    window.quota = team.count([&](int64_t col) { return canvas.own(col) && canvas.is_mask(col); });
    if (static_cast<WindowSteps>(plan.window_steps) == WindowSteps::until_filled) {
      window.steps = window.quota;
      window.limit = window.quota + plan.extra;
    }
  }
  const int64_t masks = team.count([&](int64_t col) { return canvas.masked(col); });
  const bool revisable = team.count([&](int64_t col) { return canvas.generated(col) && !canvas.is_mask(col); }) > 0;
  const PlanKind kind = static_cast<PlanKind>(plan.plan);

  int64_t unmask = 0, remask = 0;
  bool need = false, whole = false;  // whole: every eligible position is scored
  double time = 0.0;
  if (kind == PlanKind::drawn) {
    need = draw_ancestral(canvas, team) > 0;
    time = window.finishing ? params.reals.eps : ancestral_time(params.reals, window, window.step);
  } else {
    const int64_t total = team.count([&](int64_t col) { return canvas.eligible(col); });
    if (kind == PlanKind::pool) {
      unmask = kept_count(params, window, total, masks);
      whole = plan.steady == 0;
      need = masks > 0 || (whole && unmask < total);
    } else {
      unmask = commit_count(plan, params.reals, window, masks);
      remask = remask_count(canvas, team, masks, total);
      need = unmask + remask > 0 && masks > 0;
    }
    const int64_t unfilled = team.count([&](int64_t col) { return canvas.generated(col) && canvas.is_mask(col); });
    const int64_t generated = team.count([&](int64_t col) { return canvas.generated(col); });
    time = static_cast<double>(unfilled) / static_cast<double>(generated > 1 ? generated : 1);
  }

  const int64_t number = window.step + 1;
  const bool due = plan.correct_every > 0 && number % plan.correct_every == 0 && number >= plan.correct_start &&
                   !window.finishing && window.live;
  if (plan.use_cache == 0) {
    need = true;
  } else {
    need = need || window.finishing || (due && fields[kSettled] == 0 && revisable);
  }
  need = need && window.live;
  const bool correct = need && due;

  team.each([&](int64_t col) {
    const bool generated = canvas.generated(col), mask = canvas.is_mask(col), masked = canvas.masked(col);
    bool wanted = masked;
    if (kind == PlanKind::drawn) {
      const bool commits = canvas.mark(kCommitDrawn, col) != 0;
      wanted = commits || (masked && (window.finishing || plan.want_masked != 0));
    } else if (whole) {
      wanted = canvas.eligible(col);
    }
    wanted = wanted || (generated && (correct || (plan.want_committed != 0 && !mask)));
    canvas.mark(kWanted, col) = wanted && need;
  });

  int64_t start = 0, stop = 0;
  if (params.ints.want_span != 0) {
    const int64_t length = params.length;
    start = team.first([&](int64_t col) { return canvas.own(col); });
    stop = length - team.first([&](int64_t col) { return canvas.own(length - 1 - col); });
    if (plan.column_block > 0) {
      const int64_t first = given[kOrigin] + window.index * plan.column_block, end = first + plan.column_block;
      start = start < first ? start : first;
      if (stop > 0) stop = end < length ? end : length;
    }
    start = start < stop ? start : stop;
  }
  if (!team.leads()) return;
  out[kOpenQuota] = window.quota;
  out[kLive] = window.live;
  out[kNeed] = need;
  out[kCorrect] = correct;
  out[kFinishing] = window.finishing;
  out[kStart] = start;
  out[kStop] = stop;
  out[kUnmask] = unmask;
  out[kRemask] = remask;
  params.out_time[row] = time;
}

}  // namespace MDM_NAMESPACE
