// select_positions on the CPU: one key per position, then radix selection; O(L) per row.
#include "cpu/kernels.h"
#include "cpu/radix_select.h"
#include "cpu/rows.h"
#include "cpu/vector_random.h"

namespace MDM_NAMESPACE {

namespace {

// Gumbel variates of one row's positions, always sixteen at a time: a number never depends on where a row ends.
static inline void fill_gumbel(const SelectPositionsParams& params, int64_t row, const int64_t* positions, float* out) {
  const uint64_t seed = static_cast<uint64_t>(sequence_seed(params.seed, row));
  const Words step = words_from(static_cast<uint32_t>(row_value(params.step, row)));
  const Words stream = words_from(philox_stream(Purpose::POSITION, *params.call));
  for (int64_t first = 0; first < params.length; first += kLanes) {
    uint32_t low_words[kLanes] = {};
    const int64_t lanes = params.length - first < kLanes ? params.length - first : kLanes;
    for (int64_t i = 0; i < lanes; ++i) {
      low_words[i] = static_cast<uint32_t>(positions != nullptr ? positions[first + i] : first + i);
    }
    Words high, low;
    philox16(words_from(0), load(low_words), step, stream, static_cast<uint32_t>(seed),
             static_cast<uint32_t>(seed >> 32), &high, &low);
    const Floats exponential = exponential_from_uniform16(uniform_from_bits16(high, low));
    store(out + first, sub(broadcast(0.0f), log_normal(exponential)));
  }
}

}  // namespace

void select_positions(const SelectPositionsParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  const int64_t length = params.length;
  for (int64_t row = begin; row < end; ++row) {
    Scratch room{scratch};
    const float* scores = row_of(params.scores, row, length, room.take<float>(length));
    const uint8_t* eligible = row_of<uint8_t>(params.eligible, row, length, 1, room.take<uint8_t>(length));
    uint8_t* selected = params.selected + row * length;
    const int64_t count = row_value(params.k, row);

    if (params.temperature == 0.0) {
      uint32_t* keys = room.take<uint32_t>(length);
      for (int64_t col = 0; col < length; ++col) {
        keys[col] = eligible[col] != 0 ? score_key(scores[col], params.largest) : kLeftOut;
      }
      mark_largest(keys, length, count, room.take<uint32_t>(length), selected);
      continue;
    }
    const int64_t* positions = nullptr;
    if (params.positions.data != nullptr) {
      positions = row_of<int64_t>(params.positions, row, length, 0, room.take<int64_t>(length));
    }
    float* gumbel = room.take<float>(length + kLanes);
    fill_gumbel(params, row, positions, gumbel);
    uint64_t* keys = room.take<uint64_t>(length);
    for (int64_t col = 0; col < length; ++col) {
      const uint64_t key = gumbel_key(scores[col], params.largest, params.temperature, gumbel[col]);
      keys[col] = eligible[col] != 0 ? key : kLeftOut;
    }
    mark_largest(keys, length, count, room.take<uint64_t>(length), selected);
  }
}

}  // namespace MDM_NAMESPACE
