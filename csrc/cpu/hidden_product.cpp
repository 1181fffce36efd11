// Logits of a block of rows and a block of the vocabulary: weight rows are read where they are, once, and multiplied
// with hidden states that were packed before. (torch's product packs the weight, its right operand, in every call.)
#include "cpu/kernels.h"
#include "cpu/matmul_tile.h"

namespace MDM_NAMESPACE {

#if defined(__AVX512BF16__)

static_assert(kHiddenPanel == kPanel, "hidden states are packed for the tile");
constexpr int64_t kUnit = kHiddenProductIds;
static_assert(kUnit % kTileRows == 0 && kUnit % 2 == 0, "whole tiles and pairs of ids");

// c [ids][panel], rounded to bfloat16, to logits [rows][ids].
static void write_logits(const HiddenProductParams& params, const float* c, int64_t first, int64_t count, int64_t row,
                         uint32_t* pairs) {
  const auto rounded = [&](int64_t id, int64_t lane) {
    const float offset = params.bias == nullptr || id >= count
                             ? 0.0f
                             : bfloat16_to_float(params.bias[(first + id) * params.bias_stride]);
    const Floats x = add(load(c + id * kPanel + lane), broadcast(offset));
    return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v)));
  };
  const int64_t pair_count = (count + 1) / 2;
  for (int64_t pair = 0; pair < pair_count; ++pair) {
    for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
      const __m512i odd = _mm512_slli_epi32(rounded(2 * pair + 1, lane), 16);
      store(pairs + pair * kPanel + lane, Words{_mm512_or_si512(rounded(2 * pair, lane), odd)});
    }
  }
  const int64_t lanes = smaller(kPanel, params.rows - row);
  for (int64_t lane = 0; lane < lanes; ++lane) {
    uint16_t* out = params.logits + (row + lane) * params.logits_stride + first - params.first_id;
    for (int64_t pair = 0; pair < count / 2; ++pair) {
      __builtin_memcpy(out + 2 * pair, pairs + pair * kPanel + lane, sizeof(uint32_t));
    }
    if (count % 2 != 0) out[count - 1] = static_cast<uint16_t>(pairs[count / 2 * kPanel + lane]);
  }
}

void hidden_product(const HiddenProductParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  float* c = reinterpret_cast<float*>(scratch);
  uint32_t* pairs = reinterpret_cast<uint32_t*>(c + kUnit * kPanel);
  uint32_t* last_rows = pairs + kUnit / 2 * kPanel;
  const int64_t steps = params.size / 2, stride = params.weight_stride / 2;
  const TileRegisters tiles;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = params.first_id + unit * kUnit, count = smaller(kUnit, params.last_id - first);
    const auto* weight = reinterpret_cast<const uint32_t*>(params.weight + first * params.weight_stride);
    // A tile reads twelve rows. Where the weight has no more, they are copied beside zeros.
    const bool ends = first + padded(count, kTileRows) > params.vocab;
    const int64_t whole = ends ? count / kTileRows * kTileRows : count;
    if (ends) {
      __builtin_memset(last_rows, 0, static_cast<size_t>(kTileRows * steps) * sizeof(uint32_t));
      for (int64_t i = whole; i < count; ++i) {
        __builtin_memcpy(last_rows + (i - whole) * steps, weight + i * stride,
                         static_cast<size_t>(steps) * sizeof(uint32_t));
      }
    }
    for (int64_t row = 0; row < params.rows; row += kPanel) {
      const uint32_t* panel = params.panels + row / kPanel * steps * kPanel;
      multiply_panel<PairWord>(weight, stride, whole, panel, steps, c);
      if (ends) multiply_panel<PairWord>(last_rows, steps, count - whole, panel, steps, c + whole * kPanel);
      write_logits(params, c, first, count, row, pairs);
    }
  }
}

#else

// Never called: CpuKernels::bfloat16_pairs says so.
void hidden_product(const HiddenProductParams&, int64_t, int64_t, uint64_t*) {}

#endif

}  // namespace MDM_NAMESPACE
