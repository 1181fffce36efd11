// uniform on the CPU: sixteen positions at a time, as select_positions draws its noise.
#include "core/gumbel.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"
#include "cpu/vector_random.h"

namespace MDM_NAMESPACE {

namespace {

constexpr int64_t kBlock = 256;  // positions; a multiple of kLanes

static inline void draw_block(const PositionDraws& draws, const int64_t* positions, int64_t count, float* values) {
  uint32_t numbers[kBlock] = {};
  float drawn[kBlock];
  for (int64_t i = 0; i < count; ++i) numbers[i] = static_cast<uint32_t>(positions[i]);
  for (int64_t i = 0; i < count; i += kLanes) {
    Words high, low;
    position_bits16(draws, load(numbers + i), &high, &low);
    store(drawn + i, uniform_from_bits16(high, low));
  }
  for (int64_t i = 0; i < count; ++i) values[i] = drawn[i];
}

static inline void draw_block(const PositionDraws& draws, const int64_t* positions, int64_t count, double* values) {
  uint32_t highs[kBlock] = {}, lows[kBlock];  // highs hold the positions first
  for (int64_t i = 0; i < count; ++i) highs[i] = static_cast<uint32_t>(positions[i]);
  for (int64_t i = 0; i < count; i += kLanes) {
    Words high, low;
    position_bits16(draws, load(highs + i), &high, &low);
    store(highs + i, high);
    store(lows + i, low);
  }
  for (int64_t i = 0; i < count; ++i) {
    values[i] = double_uniform_from_bits(static_cast<uint64_t>(highs[i]) << 32 | lows[i]);
  }
}

template <class Float>
static inline void draw_row(const PositionDraws& draws, const int64_t* positions, int64_t length, Float* values) {
  for (int64_t first = 0; first < length; first += kBlock) {
    const int64_t count = length - first < kBlock ? length - first : kBlock;
    draw_block(draws, positions + first, count, values + first);
  }
}

}  // namespace

void uniform(const UniformParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  const int64_t length = params.length;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t* positions = row_of<int64_t>(params.positions, row, length, 0, reinterpret_cast<int64_t*>(scratch));
    const PositionDraws draws = position_draws(row_value(params.seed, row), row_value(params.step, row),
                                               static_cast<Purpose>(params.purpose), *params.call);
    if (params.type == FloatType::float32) {
      draw_row(draws, positions, length, static_cast<float*>(params.values) + row * length);
    } else {
      draw_row(draws, positions, length, static_cast<double*>(params.values) + row * length);
    }
  }
}

}  // namespace MDM_NAMESPACE
