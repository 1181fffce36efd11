// The closing of a step: its update of the canvas and of the row's fields, given the scores. One row, by a team of threads
// (step_open.h), which also ranks:
//
//   Team::rank(key_of)                  keeps the keys of all positions; how many of them are not kLeftOut
//   Team::key(col)                      the key that was kept
//   Team::select(count, take)           take(col, chosen) for every position, chosen for the `count` largest of those keys,
//                                       ties to the lowest index
//   Team::admitted(rule, bound, at_least, takes_part, score_of)
//                                       how many scores a CountRule admits (count_positions)
//
// The definition is the plans' `__call__`, the engine's `_fill`, `_apply` and `close`, and the window's `advance`.
#pragma once

#include "core/round_to.h"
#include "core/select_key.h"
#include "core/step_counts.h"

namespace MDM_NAMESPACE {

// A float32 result as a tensor of that type would hold it.
MDM_INLINE float as_stored(float value, FloatType type) {
  if (type == FloatType::bfloat16) return bfloat16_to_float(float_to_bfloat16(value));
  if (type == FloatType::float16) return float16_to_float(float_to_float16(value));
  return value;
}

MDM_INLINE float ordering_uniform(const StepCanvas& canvas, int64_t call, int64_t col) {
  return uniform_from_bits(canvas.bits(Purpose::ORDER, call, col));
}

// What masked positions are ranked by (Unmask.rank, Pool._score).
MDM_INLINE float unmask_rank(const StepCanvas& canvas, int64_t col) {
  const SamplerStepParams& params = *canvas.params;
  const bool pool = params.ints.plan == static_cast<int64_t>(PlanKind::pool);
  if (params.ints.order == static_cast<int64_t>(Order::random)) {
    const float drawn = ordering_uniform(canvas, 0, col);
    return pool ? logf(drawn) : drawn;
  }
  if (params.rank.data == nullptr) return __builtin_nanf("");
  float rank = at(params.rank, canvas.row, col);
  if (params.ints.order == static_cast<int64_t>(Order::negated)) rank = -rank;
  if (params.reals.order_temperature > 0.0) {
    rank = as_stored(rank / static_cast<float>(params.reals.order_temperature), params.rank.type);
    rank += gumbel_from_bits(canvas.bits(Purpose::POSITION, 0, col));
  }
  return rank;
}

// What committed positions are ranked by: the lowest is masked first.
MDM_INLINE float keep_rank(const StepCanvas& canvas, int64_t col) {
  const SamplerStepParams& params = *canvas.params;
  if (params.ints.remask_by == static_cast<int64_t>(Order::random)) return ordering_uniform(canvas, 1, col);
  if (params.ints.remask_by == static_cast<int64_t>(Order::committed)) {
    const float score = params.out_commit_score[canvas.place(col)];
    return score != score ? __builtin_inff() : score;
  }
  return params.keep.data == nullptr ? __builtin_nanf("") : at(params.keep, canvas.row, col);
}

// What a committed position of a pool is ranked by, before noise.
MDM_INLINE float pool_keep_rank(const StepCanvas& canvas, int64_t col) {
  const SamplerStepParams& params = *canvas.params;
  const float eta = static_cast<float>(params.reals.keep_eta);
  if (params.ints.keep_order == static_cast<int64_t>(Order::stays)) return __builtin_inff() * eta;
  if (params.ints.keep_order == static_cast<int64_t>(Order::random))
    return logf(ordering_uniform(canvas, 0, col)) * eta;
  if (params.keep.data == nullptr) return __builtin_nanf("");
  return as_stored(at(params.keep, canvas.row, col) * eta, params.keep.type);
}

// The noise of a pool's scores (Noise).
MDM_INLINE float pool_noise(const StepCanvas& canvas, int64_t col) {
  const SamplerStepParams& params = *canvas.params;
  const bool uniform = params.ints.noise == static_cast<int64_t>(PoolNoise::uniform);
  float drawn =
      uniform ? ordering_uniform(canvas, 1, col) - 0.5f : gumbel_from_bits(canvas.bits(Purpose::POSITION, 0, col));
  const int64_t step = canvas.window.step;
  if (params.noise_scales != nullptr) {
    drawn *= params.noise_scales[step < params.noise_steps ? step : params.noise_steps - 1];
  } else {
    drawn *= static_cast<float>(params.reals.noise_scale);
  }
  if (params.ints.annealed != 0) {
    const float left = 1.0f - static_cast<float>(step + 1) / static_cast<float>(canvas.window.steps_or_one());
    drawn *= left > 0.0f ? left : 0.0f;
  }
  return drawn;
}

// A negative proposal (no admissible token) is never committed, nor is the mask itself, which would be no commit at all.
MDM_INLINE bool can_commit(const StepCanvas& canvas, int64_t col) {
  if (!canvas.masked(col) || canvas.params->token.data == nullptr) return false;
  const int64_t proposal = at(canvas.params->token, canvas.row, col);
  return proposal >= 0 && proposal != canvas.params->ints.mask_id;
}

MDM_INLINE bool can_remask(const StepCanvas& canvas, int64_t col) {
  return canvas.eligible(col) && !canvas.is_mask(col);
}

// How many masked positions the scores let a ranked step commit, of `asked` before them (Unmask.how_many).
template <class Team>
MDM_INLINE int64_t scored_count(const StepCanvas& canvas, Team& team, int64_t asked) {
  const SamplerStepParams& params = *canvas.params;
  const StepInts& plan = params.ints;
  if (plan.score_rule == 0) return asked;
  const CountRule rule = static_cast<CountRule>(plan.score_rule - 1);
  const bool by_rank = plan.order == static_cast<int64_t>(Order::random);
  const FloatGrid& scores = params.confidence;
  // A threshold is compared in the scores' type, as torch compares a tensor with a number.
  double bound = params.reals.score_bound;
  if (rule == CountRule::threshold || rule == CountRule::strict_threshold) {
    bound = static_cast<double>(as_stored(static_cast<float>(bound), by_rank ? FloatType::float32 : scores.type));
  }
  // A bound on entropies goes with the order of the same.
  const FloatGrid& read = rule == CountRule::entropy_bound ? params.rank : scores;
  const int64_t count = team.admitted(
      rule, bound, plan.at_least > 0 ? plan.at_least : 0, [&](int64_t col) { return canvas.masked(col); },
      [&](int64_t col) {
        if (by_rank) return ordering_uniform(canvas, 0, col);  // as unmask_rank
        return read.data == nullptr ? __builtin_nanf("") : at(read, canvas.row, col);
      });
  if (plan.at_least < 0) return count > asked ? count : asked;
  if (plan.last_free == 0) return count;
  const int64_t masks = team.count([&](int64_t col) { return canvas.masked(col); });
  return count == masks - 1 ? masks : count;
}

// Commit the best masked positions, mask the worst committed ones, and commit as many more.
template <class Team>
MDM_INLINE void update_ranked(const StepCanvas& canvas, Team& team) {
  const SamplerStepParams& params = *canvas.params;
  const StepInts& plan = params.ints;
  const bool spends = plan.spend_on_masks != 0;  // on positions that propose the mask, which then are not committed
  const int64_t asked = scored_count(canvas, team, canvas.given(kUnmask)) + canvas.given(kRemask);
  const int64_t found = team.rank([&](int64_t col) {
    const bool takes_part = spends ? canvas.masked(col) : can_commit(canvas, col);
    return takes_part ? score_key(unmask_rank(canvas, col), true) : kLeftOut;
  });
  team.select(asked, [&](int64_t col, bool chosen) {
    canvas.mark(kCommitted, col) = chosen && (!spends || can_commit(canvas, col));
    canvas.mark(kRemasked, col) = 0;
  });
  if (plan.remask == static_cast<int64_t>(RemaskCount::none)) return;
  const int64_t scored = team.rank(
      [&](int64_t col) { return can_remask(canvas, col) ? score_key(keep_rank(canvas, col), false) : kLeftOut; });
  int64_t count = canvas.given(kRemask);
  if (plan.refill_if_short != 0 && !spends && asked > found) {
    count = (count < scored ? count : scored) - (asked - found);
  }
  team.select(count, [&](int64_t col, bool chosen) { canvas.mark(kRemasked, col) = chosen; });
}

// Commit and mask what was drawn when the step opened.
template <class Team>
MDM_INLINE void update_drawn(const StepCanvas& canvas, Team& team) {
  const SamplerStepParams& params = *canvas.params;
  const int64_t plane = params.batch * params.length;
  team.each([&](int64_t col) {
    const uint8_t* drawn = params.drawn + canvas.place(col);
    canvas.mark(kCommitted, col) = drawn[kCommitDrawn * plane] != 0 && can_commit(canvas, col);
    canvas.mark(kRemasked, col) = drawn[kRemaskDrawn * plane] != 0 && can_remask(canvas, col);
  });
}

// Masked and committed positions ranked together; the best hold a token afterwards.
template <class Team>
MDM_INLINE void update_pool(const StepCanvas& canvas, Team& team) {
  const StepInts& plan = canvas.params->ints;
  const bool strict = plan.strict != 0;
  // The best first; by a strict cut the worst, and a NaN, which is never masked, last.
  const int64_t total = team.rank([&](int64_t col) {
    if (!(strict ? canvas.eligible(col) : can_commit(canvas, col) || can_remask(canvas, col))) return kLeftOut;
    float value = canvas.is_mask(col) ? unmask_rank(canvas, col) : pool_keep_rank(canvas, col);
    if (plan.noise != static_cast<int64_t>(PoolNoise::none)) value += pool_noise(canvas, col);
    return score_key(strict && value != value ? __builtin_inff() : value, !strict);
  });
  if (!strict) {
    team.select(canvas.given(kUnmask), [&](int64_t col, bool chosen) {
      canvas.mark(kCommitted, col) = chosen && can_commit(canvas, col);
      canvas.mark(kRemasked, col) = !chosen && can_remask(canvas, col) && team.key(col) != kLeftOut;
    });
    return;
  }
  // What scores strictly below the best of the others is masked.
  const int64_t below = total - canvas.given(kUnmask);
  double cut = 0.0;  // keys are integers of 32 bits
  if (below >= total) {
    cut = static_cast<double>(score_key(__builtin_inff(), false));
  } else {
    team.select((below > 0 ? below : 0) + 1, [&](int64_t col, bool chosen) { canvas.mark(kRemasked, col) = chosen; });
    cut = -team.largest([&](int64_t col) {
      return canvas.mark(kRemasked, col) != 0 ? -static_cast<double>(team.key(col)) : -__builtin_inf();
    });
  }
  team.each([&](int64_t col) {
    const bool low = canvas.eligible(col) && static_cast<double>(team.key(col)) > cut;
    canvas.mark(kCommitted, col) = !low && can_commit(canvas, col);
    canvas.mark(kRemasked, col) = low && can_remask(canvas, col);
  });
}

// A row that has used its steps: what is left is filled with the argmax.
template <class Team>
MDM_INLINE void fill(const StepCanvas& canvas, Team& team) {
  const Grid<int64_t>& argmax = canvas.params->argmax;
  team.each([&](int64_t col) {
    const int64_t best = argmax.data == nullptr ? -1 : at(argmax, canvas.row, col);
    canvas.mark(kCommitted, col) =
        canvas.generated(col) && canvas.is_mask(col) && best >= 0 && best != canvas.params->ints.mask_id;
    canvas.mark(kRemasked, col) = 0;
  });
}

// Writes what was decided: tokens, their scores, how often they were committed.
template <class Team>
MDM_INLINE void write_update(const StepCanvas& canvas, Team& team) {
  const SamplerStepParams& params = *canvas.params;
  const Grid<int64_t>& source = canvas.window.finishing ? params.argmax : params.token;
  team.each([&](int64_t col) {
    const int64_t place = canvas.place(col);
    const bool committed = canvas.mark(kCommitted, col) != 0, remasked = canvas.mark(kRemasked, col) != 0;
    params.out_commits[place] = at(params.commits, canvas.row, col) + committed;
    if (committed) {
      params.out_tokens[place] = at(source, canvas.row, col);
      params.out_commit_score[place] =
          params.confidence.data == nullptr ? __builtin_nanf("") : at(params.confidence, canvas.row, col);
    } else if (remasked) {
      params.out_tokens[place] = params.ints.mask_id;
      params.out_commit_score[place] = __builtin_nanf("");
    }
  });
}

MDM_INLINE bool row_goes_on(const StepInts& plan, const int64_t* fields) {
  const Waiting waiting = static_cast<Waiting>(plan.waiting);
  return waiting == Waiting::all || (waiting == Waiting::until_settled && fields[kSettled] == 0);
}

MDM_INLINE bool is_end(const StepInts& plan, int64_t token) {
  for (int i = 0; i < kMostEnds; ++i) {
    if (plan.ends[i] == token && token >= 0) return true;
  }
  return false;
}

// Marks a row done that has ended (Engine.close). fields: its own, as they are after the step.
template <class Team>
MDM_INLINE void end_row(const StepCanvas& canvas, Team& team, int64_t* fields) {
  const SamplerStepParams& params = *canvas.params;
  const StepInts& plan = params.ints;
  const int64_t length = params.length;
  const int64_t first_mask = team.first([&](int64_t col) { return canvas.generated(col) && canvas.is_mask(col); });
  const bool spent = fields[kWindow] >= canvas.given(kWindows);
  bool done = fields[kDone] != 0 || (first_mask == length && (spent || !row_goes_on(plan, fields)));
  if (plan.finish == 0) done = done || spent;
  if (plan.ends[0] >= 0) {
    const int64_t end = team.first(
        [&](int64_t col) { return col < first_mask && canvas.generated(col) && is_end(plan, canvas.token(col)); });
    team.each([&](int64_t col) {  // which end it was stays; of rows that are done otherwise too
      if (col > end && canvas.generated(col)) params.out_tokens[canvas.place(col)] = plan.ends[0];
    });
    done = done || end < length;
  }
  fields[kDone] = done;
}

// The step that ends: corrections, update, and the row's fields after it.
template <class Team>
MDM_INLINE void close_step(StepCanvas& canvas, Team& team, int64_t* fields) {
  const SamplerStepParams& params = *canvas.params;
  const StepInts& plan = params.ints;
  const StepWindow window = canvas.window;
  if (window.finishing) {
    fill(canvas, team);
  } else if (static_cast<PlanKind>(plan.plan) == PlanKind::ranked) {
    update_ranked(canvas, team);
  } else if (static_cast<PlanKind>(plan.plan) == PlanKind::pool) {
    update_pool(canvas, team);
  } else {
    update_drawn(canvas, team);
  }
  write_update(canvas, team);

  if (plan.settles != 0) {
    const bool written = team.count([&](int64_t col) {
      return (canvas.mark(kCommitted, col) | canvas.mark(kRemasked, col) | canvas.mark(kCorrected, col)) != 0;
    }) > 0;
    fields[kSettled] = (fields[kSettled] != 0 || canvas.given(kCorrect) != 0) && !written;
  }
  if (params.nfe.data != nullptr) {
    fields[kNfe] += row_value(params.nfe, canvas.row);
  } else {
    fields[kNfe] += canvas.given(kNeed) * params.forwards;
  }
  fields[kDone] = fields[kDone] != 0 || window.finishing;
  if (fields[kDone] != 0 || !window.live) return;
  const bool mask_left = team.count([&](int64_t col) { return canvas.own(col) && canvas.is_mask(col); }) > 0;
  const bool leave = window.step + 1 >= window.limit || !(mask_left || row_goes_on(plan, fields));
  fields[kStep] += 1;
  fields[kWindow] += leave;
  fields[kWindowStep] = leave ? 0 : fields[kWindowStep] + 1;
}

}  // namespace MDM_NAMESPACE
