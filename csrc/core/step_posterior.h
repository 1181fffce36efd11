// The posterior of absorbing diffusion, with and without remasking: samplers/ancestral.py and samplers/sigma.py.
#pragma once

#if !defined(__CUDACC_RTC__)
#include <math.h>
#endif

#include "core/step_window.h"

namespace MDM_NAMESPACE {

MDM_INLINE double ancestral_time(const StepReals& reals, const StepWindow& window, int64_t step) {
  const double share = static_cast<double>(step) / static_cast<double>(window.steps_or_one());
  return 1.0 - (1.0 - reals.eps) * (share < 1.0 ? share : 1.0);
}

// The share of clean tokens at time t: Straight, or Plateau.
MDM_INLINE double clean_share(const StepInts& plan, const StepReals& reals, double t) {
  if (plan.plateau == 0) return 1.0 - t;
  const double rising = (1.0 - t) / (1.0 - reals.plateau_on) * reals.plateau_alpha;
  const double before = rising < reals.plateau_alpha ? rising : reals.plateau_alpha;
  const double after = 1.0 - t / reals.plateau_off * (1.0 - reals.plateau_alpha);
  return before > after ? before : after;
}

// One step from time t to s.
struct AncestralMoment {
  double t, alpha_t, alpha_s;

  // sigma_max, beyond which the posterior is no distribution
  MDM_METHOD double limit() const {
    const double ratio = (1.0 - alpha_s) / alpha_t;
    return ratio > 1.0 ? 1.0 : ratio;
  }
};

MDM_INLINE AncestralMoment ancestral_moment(const StepInts& plan, const StepReals& reals, const StepWindow& window) {
  const double t = ancestral_time(reals, window, window.step), s = ancestral_time(reals, window, window.step + 1);
  return {t, clean_share(plan, reals, t), clean_share(plan, reals, s)};
}

// The probability that a committed position is masked, the same for all of them but for SigmaKind::confidence, whose
// positions have this times their share.
MDM_INLINE double remask_probability(const StepInts& plan, const StepReals& reals, const AncestralMoment& moment) {
  if (plan.during != 0 && !(moment.t > reals.during_off && moment.t <= reals.during_on)) return 0.0;
  const double limit = moment.limit();
  switch (static_cast<SigmaKind>(plan.sigma)) {
    case SigmaKind::rescale:
      return limit * reals.eta;
    case SigmaKind::detour: {
      const double spread = moment.t * (1.0 - moment.t);
      const double extra = reals.scale * pow(spread > 0.0 ? spread : 0.0, reals.power);
      const double back = extra * (moment.alpha_s - moment.alpha_t) / moment.alpha_t;
      if (back != back) return limit < 0.0 ? limit : 0.0;
      return back < limit ? back : limit;
    }
    default:
      return limit > reals.eta ? reals.eta : limit;
  }
}

}  // namespace MDM_NAMESPACE
