// The seed of each sequence of a batch.
#pragma once

#include "core/philox.h"
#include "core/tensor_view.h"

namespace MDM_NAMESPACE {

// Sequence b's own seed where there is one for each; where one is given for all (stride 0), philox(seed, b).
MDM_INLINE int64_t sequence_seed(const RowInts& seed, int64_t b) {
  const int64_t given = row_value(seed, b);
  return seed.row_stride != 0 ? given : static_cast<int64_t>(philox_bits(given, b, b >> 32, 0, Purpose::SEED, 0));
}

}  // namespace MDM_NAMESPACE
