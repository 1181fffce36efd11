// select_positions on the CPU: one key per position, then radix selection; O(L) per row.
#include "core/select_key.h"
#include "cpu/kernels.h"
#include "cpu/radix_select.h"

namespace MDM_NAMESPACE {

void select_positions(const SelectPositionsParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  const int64_t length = params.length;
  const int bits = params.temperature == 0.0 ? kScoreKeyBits : kGumbelKeyBits;
  uint64_t* keys = scratch;
  uint64_t* candidates = scratch + length;
  for (int64_t row = begin; row < end; ++row) {
    int64_t participants = 0;
    for (int64_t col = 0; col < length; ++col) {
      keys[col] = position_key(params, row, col);
      participants += keys[col] != kLeftOut;
    }
    uint8_t* selected = params.selected + row * length;
    select_largest(
        keys, length, participants, row_value(params.k, row), bits, candidates,
        [selected](int64_t col) { selected[col] = 1; }, [selected](int64_t col) { selected[col] = 0; });
  }
}

}  // namespace MDM_NAMESPACE
