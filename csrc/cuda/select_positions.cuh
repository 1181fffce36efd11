// select_positions on CUDA: one block per row. Each score is read once, its key kept, and radix_select.cuh does the rest.
#pragma once

#include "cuda/radix_select.cuh"

namespace MDM_NAMESPACE {

__device__ inline void select_positions(const SelectPositionsParams& params, uint64_t* workspace) {
  SelectState& state = *shared_at<SelectState>(0);
  const int64_t length = params.length;
  const int key_bits = params.temperature == 0.0 ? kScoreKeyBits : kGumbelKeyBits;
  // Thread t reads back only the keys t, t + blockDim.x, ... that it wrote itself: no barrier is needed for them.
  uint64_t* keys = row_keys(workspace, length);

  for (int64_t row = blockIdx.x; row < params.batch; row += gridDim.x) {
    const int64_t seed = sequence_seed(params.seed, row);
    unsigned own = 0;
    for (int64_t col = threadIdx.x; col < length; col += blockDim.x) {
      const uint64_t key = position_key(params, row, col, seed);
      keys[col] = key;
      own += key != kLeftOut;
    }
    const int64_t participants = block_sum(state, own);
    KeyCut cut = find_cut(state, length, row_value(params.k, row), participants, key_bits,
                          [=](int64_t col) { return keys[col]; });

    uint8_t* selected = params.selected + row * length;
    for (int64_t first = 0; first < length; first += blockDim.x) {  // the same number of turns for every thread
      const int64_t col = first + threadIdx.x;
      const bool chosen = is_selected(state, col < length ? keys[col] : kLeftOut, &cut);
      if (col < length) selected[col] = chosen;
    }
  }
}

}  // namespace MDM_NAMESPACE
