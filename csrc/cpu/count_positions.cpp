// count_positions on the CPU: row after row (count_row.h).
#include "core/count_positions_params.h"

#include "cpu/count_row.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace MDM_NAMESPACE {

void count_positions(const CountPositionsParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  const int64_t length = params.length;
  for (int64_t row = begin; row < end; ++row) {
    Scratch room{scratch};
    const float* scores = row_of(params.scores, row, length, room.take<float>(length));
    const uint8_t* eligible = row_of<uint8_t>(params.eligible, row, length, 1, room.take<uint8_t>(length));
    uint32_t* keys = room.take<uint32_t>(length);
    params.counts[row] = count_row(params.rule, scores, eligible, length, count_bound(params, row), params.at_least,
                                   keys, room.take<uint32_t>(length));
  }
}

}  // namespace MDM_NAMESPACE
