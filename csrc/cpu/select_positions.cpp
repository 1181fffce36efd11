// select_positions on the CPU: one key per position, then radix selection; O(L) per row.
#include "cpu/kernels.h"
#include "cpu/radix_select.h"
#include "cpu/rows.h"
#include "cpu/vector_random.h"

namespace MDM_NAMESPACE {

namespace {

constexpr int64_t kDrawBlock = 256;

// Keys of a draw. positions: null for 0, 1, 2, ...; eligible: null for all.
//
// One loop for each stage over a block in the first-level cache: random bits, logarithms and keys of one position depend on
// one another for over two hundred cycles, and short loops let the processor work on many positions at once.
static inline void fill_gumbel_keys(const SelectPositionsParams& params, int64_t row, const float* scores,
                                    const uint8_t* eligible, const int64_t* positions, uint64_t* keys) {
  const PositionDraws draws =
      position_draws(sequence_seed(params.seed, row), row_value(params.step, row), Purpose::POSITION, *params.call);
  const bool largest = params.largest;
  const double temperature = params.temperature;
  for (int64_t first = 0; first < params.length; first += kDrawBlock) {
    const int64_t count = params.length - first < kDrawBlock ? params.length - first : kDrawBlock;
    uint32_t numbers[kDrawBlock];
    float gumbel[kDrawBlock];
    for (int64_t i = 0; i < count; ++i) {
      numbers[i] = static_cast<uint32_t>(positions != nullptr ? positions[first + i] : first + i);
    }
    for (int64_t i = count; i % kLanes != 0; ++i) numbers[i] = 0;
    for (int64_t i = 0; i < count; i += kLanes) {
      Words high, low;
      position_bits16(draws, load(numbers + i), &high, &low);
      store(gumbel + i, uniform_from_bits16(high, low));
    }
    for (int64_t i = 0; i < count; i += kLanes) store(gumbel + i, exponential_from_uniform16(load(gumbel + i)));
    for (int64_t i = 0; i < count; i += kLanes) store(gumbel + i, sub(broadcast(0.0f), log_normal(load(gumbel + i))));
    if (temperature == 1.0) {  // x / 1 is x, and division the slowest instruction here
      for (int64_t i = 0; i < count; ++i) keys[first + i] = gumbel_key(scores[first + i], largest, 1.0, gumbel[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        keys[first + i] = gumbel_key(scores[first + i], largest, temperature, gumbel[i]);
      }
    }
  }
  if (eligible == nullptr) return;
  for (int64_t col = 0; col < params.length; ++col) keys[col] = eligible[col] != 0 ? keys[col] : kLeftOut;
}

static inline void fill_score_keys(const SelectPositionsParams& params, const float* scores, const uint8_t* eligible,
                                   uint32_t* keys) {
  for (int64_t col = 0; col < params.length; ++col) keys[col] = score_key(scores[col], params.largest);
  if (eligible == nullptr) return;
  for (int64_t col = 0; col < params.length; ++col) keys[col] = eligible[col] != 0 ? keys[col] : kLeftOut;
}

}  // namespace

void select_positions(const SelectPositionsParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  const int64_t length = params.length;
  for (int64_t row = begin; row < end; ++row) {
    Scratch room{scratch};
    const float* scores = row_of(params.scores, row, length, room.take<float>(length));
    const uint8_t* eligible = nullptr;
    if (params.eligible.data != nullptr) {
      eligible = row_of<uint8_t>(params.eligible, row, length, 1, room.take<uint8_t>(length));
    }
    uint8_t* selected = params.selected + row * length;
    const int64_t count = row_value(params.k, row);
    if (params.temperature == 0.0) {
      uint32_t* keys = room.take<uint32_t>(length);
      fill_score_keys(params, scores, eligible, keys);
      mark_largest(keys, length, count, room.take<uint32_t>(length), selected);
      continue;
    }
    const int64_t* positions = nullptr;
    if (params.positions.data != nullptr) {
      positions = row_of<int64_t>(params.positions, row, length, 0, room.take<int64_t>(length));
    }
    uint64_t* keys = room.take<uint64_t>(length);
    fill_gumbel_keys(params, row, scores, eligible, positions, keys);
    mark_largest(keys, length, count, room.take<uint64_t>(length), selected);
  }
}

}  // namespace MDM_NAMESPACE
