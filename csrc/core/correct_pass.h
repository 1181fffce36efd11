// One row of correct_pass, by a team of threads (step_open.h).
#pragma once

#include "core/correct_pass_params.h"
#include "core/sampler_step_params.h"

namespace MDM_NAMESPACE {

// Copies one value of either grid, whatever its type.
MDM_INLINE void keep_value(const FloatGrid& grid, int64_t row, int64_t col, void* out, int64_t place) {
  const int64_t offset = row * grid.row_stride + col * grid.col_stride;
  if (grid.type == FloatType::float32) {
    static_cast<uint32_t*>(out)[place] = static_cast<const uint32_t*>(grid.data)[offset];
  } else {
    static_cast<uint16_t*>(out)[place] = static_cast<const uint16_t*>(grid.data)[offset];
  }
}

template <class Team>
MDM_INLINE void correct_pass_row(const CorrectPassParams& params, int64_t row, Team& team) {
  const int64_t* fields = params.rows + row * kRowFields;
  const bool correct = fields[kCorrect] != 0;
  const int64_t moved = team.count([&](int64_t col) {
    const int64_t place = row * params.length + col, before = at(params.draft, row, col);
    const bool open = at(params.fixed, row, col) == 0, mask = before == params.mask_id;
    const bool reached = fields[kLive] != 0 && open &&
                         (at_or<int64_t>(params.block, row, col, 0) <= fields[kWindow] || fields[kFinishing] != 0);
    const int64_t proposal = at(params.proposal, row, col);
    bool takes = proposal >= 0;
    if (params.first) {
      takes = takes && correct && open && (mask || !params.carry_over);
      params.out_reach[place] = reached;
    } else {
      takes = takes && reached;
      const bool scored = at(params.token, row, col) >= 0;
      params.out_token[place] = at(scored ? params.token : params.earlier_token, row, col);
      for (int i = 0; i < kPassValues; ++i) {
        if (params.values[i].data == nullptr) continue;
        keep_value(scored ? params.values[i] : params.earlier_values[i], row, col, params.out_values[i], place);
      }
    }
    const int64_t after = takes ? proposal : before;
    params.out_draft[place] = after;
    return after != before;
  });
  if (team.leads()) params.out_moved[row] = moved > 0;
}

}  // namespace MDM_NAMESPACE
