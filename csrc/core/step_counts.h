// How many positions a step commits and masks again: samplers/counts.py, samplers/remask.py and samplers/pool.py, with
// their roundings.
#pragma once

#include "core/step_window.h"

namespace MDM_NAMESPACE {

// torch.linspace(1, eps, steps + 1)[step] in float32 (TimeGrid).
MDM_INLINE float grid_time(double eps, int64_t step, int64_t steps) {
  const float end = static_cast<float>(eps);
  const double width = static_cast<double>((end - 1.0f) / static_cast<float>(steps > 1 ? steps : 1));
  if (step < (steps + 1) / 2) return static_cast<float>(1.0 + width * static_cast<double>(step));
  return static_cast<float>(static_cast<double>(end) - width * static_cast<double>(steps - step));
}

// Masked positions to commit, of `masks` in the window, before a rule on the scores.
MDM_INLINE int64_t commit_count(const StepInts& plan, const StepReals& reals, const StepWindow& window, int64_t masks) {
  const int64_t steps = window.steps_or_one();
  switch (static_cast<CommitCount>(plan.count)) {
    case CommitCount::even:
      return window.quota / steps + (window.step < window.quota % steps);
    case CommitCount::ceil: {
      int64_t target = (window.quota * (window.step + 1) + steps - 1) / steps;
      target = target < window.quota ? target : window.quota;
      const int64_t missing = target - (window.quota - masks);
      return missing > 0 ? missing : 0;
    }
    case CommitCount::grid: {
      const float t = grid_time(reals.eps, window.step, window.steps);
      const float s = grid_time(reals.eps, window.step + 1, window.steps);
      const bool last = window.step + 1 >= window.steps;
      return last ? masks : static_cast<int64_t>(static_cast<float>(masks) * (1.0f - s / t));
    }
    default:
      return masks;
  }
}

MDM_INLINE bool remasking_is_on(const StepInts& plan, const StepWindow& window) {
  return window.step >= plan.remask_start && (plan.remask_stop < 0 || window.step < plan.remask_stop);
}

// 0 unless so many tokens exist to choose from and so many masks remain.
MDM_INLINE int64_t feasible_count(int64_t count, int64_t committed, int64_t total) {
  return count < committed && committed < total - count ? count : 0;
}

// Spread over the steps, the remainder to those nearest the centre.
MDM_INLINE int64_t centred_count(int64_t number, const StepWindow& window) {
  const int64_t steps = window.steps_or_one();
  const int64_t offset = 2 * window.step - (steps - 1), distance = offset < 0 ? -offset : offset;
  const int64_t nearer = (distance > 1 ? distance - 1 : 0) + (offset > 0);
  return number / steps + (nearer < number % steps);
}

// The probability with which each committed position counts towards a binomial number (Binomial).
MDM_INLINE float binomial_share(double eta, int64_t committed, int64_t real, int64_t steps) {
  const float alpha_t = static_cast<float>(committed) / static_cast<float>(real > 1 ? real : 1);
  float alpha_s = alpha_t + 1.0f / static_cast<float>(steps);
  alpha_s = alpha_s < 1.0f ? alpha_s : 1.0f;
  const float sigma = (1.0f - alpha_s) / alpha_t, most = static_cast<float>(eta);
  if (sigma != sigma) return 0.0f;
  return sigma < most ? sigma : most;
}

// How many of `total` positions hold a token after a pool's step (Kappa).
MDM_INLINE int64_t kept_count(const SamplerStepParams& params, const StepWindow& window, int64_t total, int64_t masks) {
  const int64_t steps = window.steps_or_one();
  const int64_t done = window.step + 1 < steps ? window.step + 1 : steps;
  int64_t masked;
  if (params.kept_share == nullptr) {
    masked = total * (steps - done) / steps;
  } else {
    const int64_t at_step = done < params.kept_steps ? done - 1 : params.kept_steps - 1;
    masked = static_cast<int64_t>(static_cast<float>(total) * params.kept_share[at_step]);
  }
  masked = masked < 0 ? 0 : masked < total ? masked : total;
  if (params.ints.advance != 0) {
    const int64_t fewer = masked < masks - 1 ? masked : masks - 1;
    masked = done == steps ? 0 : fewer > 1 ? fewer : 1;
    masked = masked < masks ? masked : masks;
  }
  return total - masked;
}

}  // namespace MDM_NAMESPACE
